//! The chart on a real API server, through a real Helm.

mod accounts;
mod admission;
mod agents;
pub mod cluster;
pub mod helm;
mod host_agent;
mod pod_security;
mod rbac;
mod refusals;
mod render;
mod schemas_of_api;
