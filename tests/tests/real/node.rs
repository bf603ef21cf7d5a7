//! Foreman on a real node: its images, installed by the runbook's commands, at work in pods.
//!
//! The tests share one release and its namespaces, as a cluster has one; they run one after the other.

pub mod barrier;
mod coder_job;
mod gates;
mod model;
pub mod outside;
mod pace;
mod page;
mod replicas;
mod runbook;
pub mod site;
