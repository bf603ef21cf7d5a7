//! The integration tests: one program, its modules listed here.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "runner/stage.rs"]
mod stage;

#[path = "runner/chaos.rs"]
mod chaos;
