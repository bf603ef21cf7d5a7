//! The tier of tests that need real servers and programs; what is missing fails its test.
//!
//! `cargo xtask test --real` starts the servers and says by variables where everything is.

mod chart_admission;
mod chart_agents;
mod chart_rbac;
mod chart_refusals;
mod chart_render;
mod chart_schemas;
mod cluster;
mod helm;
