//! The operator of Foreman: queue, workload, scheduler, fleet, reports, evidence.
//!
//! Every controller reads the same way: a thin driver beside files named by step: observe, validate, plan, apply,
//! status. Plans are pure; everything that is written goes through [`writer::Writer`], which only the leader may use.

pub mod agent;
pub mod agentic_task;
pub mod bootstrap;
pub mod cache;
pub mod clock;
pub mod crd_check;
pub mod events;
pub mod evidence;
pub mod fleet_node;
pub mod lanes;
pub mod leader;
pub mod metrics;
pub mod operator;
pub mod probes;
pub mod reporter;
pub mod task_queue;
pub mod unsupported;
pub mod work_queue;
pub mod workload;
pub mod writer;

pub use schemas::conditions;
