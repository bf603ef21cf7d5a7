//! What a program tells of itself: its log, its metrics, and whether it is ready and alive.
//!
//! Each program has one table of [`metrics::Description`]s, which is all that it can ever count:
//! the reference page, the alerts and the dashboard are checked against it. [`health::Health`] says in words what is
//! missing, and keeps apart what waiting cures from what only a restart does.

pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
