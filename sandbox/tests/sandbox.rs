//! Sandboxes as their callers use them. One binary, which is its own helper.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

#[path = "sandbox/basics.rs"]
mod basics;
#[path = "sandbox/escapes.rs"]
mod escapes;
#[path = "sandbox/files.rs"]
mod files;
#[path = "sandbox/fixture.rs"]
mod fixture;
#[path = "sandbox/lifecycle.rs"]
mod lifecycle;
#[path = "sandbox/limits.rs"]
mod limits;
#[path = "sandbox/network.rs"]
mod network;
#[path = "sandbox/part.rs"]
mod part;

sandbox::test_helper!();

use sandbox::{Backend, Command, Sandbox, Toolchain};

/// Returns a sandbox for each backend that this machine's probe says works, at least one.
fn backends() -> Vec<Sandbox> {
    let probe = sandbox::probe();
    let works: Vec<Sandbox> = [Backend::Namespaces, Backend::Landlock]
        .into_iter()
        .filter(|backend| probe.availability(*backend).works())
        .map(|backend| Sandbox::with_backend(backend).unwrap())
        .collect();
    assert!(!works.is_empty(), "no backend works here: {probe:?}");
    works
}

/// A shell command line with the host's tools.
fn shell(script: &str) -> Command {
    Command::new("sh").args(["-c", script]).toolchain(&Toolchain::host())
}
