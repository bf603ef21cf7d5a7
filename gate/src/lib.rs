//! The gate: what proves or refutes a change.
//!
//! [`definition`] finds what the gate of a task is, from trusted places only. [`job`] turns it into
//! Kubernetes objects, [`program`] is what runs inside their containers, [`report`] is what it says
//! at its end, and [`verdict`] is the one place that turns a Job's end into a verdict. Everything but
//! [`program`] is pure.

pub mod binding;
pub mod cache;
pub mod definition;
pub mod fixlog;
pub mod job;
pub mod network;
pub mod pinned;
pub mod plan;
pub mod program;
pub mod protected;
pub mod report;
pub mod tail;
pub mod touched;
pub mod verdict;

pub use binding::Binding;
pub use definition::{GateError, ResolvedGate};
pub use plan::Plan;
pub use report::Report;
pub use verdict::Verdict;

/// The image whose entry point is `foreman-gate`.
///
/// On one machine it means the running executable, started under the name `foreman-gate`.
pub const IMAGE: &str = concat!("ghcr.io/foreman-ci/foreman-gate:", env!("CARGO_PKG_VERSION"));

/// The version of the plan and of the report; both sides of a Job refuse any other.
pub const FORMAT: &str = "foreman-gate/1";
