//! The crate against real servers: the git program, its daemon, its HTTP backend, and an ssh program.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod daemon;
mod http;
mod http_server;
mod local;
mod mirror;
mod ssh;
mod support;
mod work_tree;
