//! The real program in the containers of the Jobs that the builder makes, by a runner that puts
//! folders in the place of volumes.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "program/forgery.rs"]
mod forgery;
#[path = "program/packages.rs"]
mod packages;
#[path = "program/runner.rs"]
mod runner;
#[path = "program/sandboxed.rs"]
mod sandboxed;
#[path = "program/steps.rs"]
mod steps;

sandbox::test_helper!();
