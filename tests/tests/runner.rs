//! The integration tests: one program, its modules listed here.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

#[path = "runner/git_server.rs"]
mod git_server;
#[path = "runner/stage.rs"]
mod stage;

#[path = "runner/chaos.rs"]
mod chaos;
#[path = "runner/disk_full.rs"]
mod disk_full;
#[path = "runner/idle.rs"]
mod idle;
#[path = "runner/tasks_repo.rs"]
mod tasks_repo;
