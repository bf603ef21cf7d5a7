//! `cargo xtask bench`: speed and memory, in a release build.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::{process, real};

/// The measurement that needs a real control plane beside it.
const BESIDE_REAL: &str = "plane";
/// The measurements of the operator as a process, by `tests/benches/operator.rs`; further names choose among them.
const OPERATOR: &str = "operator";

/// Builds the released program where it is measured, then measures it and its rooms; the measuring itself is
/// `tests/benches/thread.rs`.
pub fn run(root: &Path, names: &[String]) -> Result<()> {
    if let Some((OPERATOR, chosen)) = names.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return operator(root, chosen);
    }
    let asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    if names.is_empty() || names.iter().any(|name| name != BESIDE_REAL) {
        release(root, "foreman")?;
    }
    let mut command = process::cargo(root, &["bench", "--workspace", "--bench", "thread", "--"]);
    command.args(names);
    if !asked(BESIDE_REAL) {
        return process::run(command);
    }
    let servers = real::Servers::up_durable(root, "bench")?;
    command.env(
        "FOREMAN_REAL_PROCESSES",
        servers.processes(&["etcd", "kube-apiserver"])?,
    );
    measure(command, servers)
}

/// Measures the operator on a real control plane whose etcd, as in the tests, does not wait for the disk.
fn operator(root: &Path, names: &[String]) -> Result<()> {
    release(root, "foreman-operator")?;
    let kubectl = real::path(root, real::Program::Kubectl, real::Which::Pinned)?;
    let mut command = process::cargo(root, &["bench", "--workspace", "--bench", "operator", "--"]);
    command.args(names).env("FOREMAN_KUBECTL", kubectl);
    measure(command, real::Servers::up(root, real::Tier::Api)?)
}

/// Builds a program as it is released. The whole workspace is named here and below, so that all share what is built.
fn release(root: &Path, program: &str) -> Result<()> {
    process::run(process::cargo(
        root,
        &["build", "--release", "--workspace", "--bin", program],
    ))
}

/// Measures beside servers, and stops them.
fn measure(mut command: Command, servers: real::Servers) -> Result<()> {
    command.env("FOREMAN_REAL_KUBECONFIG", servers.kubeconfig()?);
    let measured = process::run(command);
    // What went wrong first is what is told, but a server that goes on is an error of its own.
    match (measured, servers.down()) {
        (Err(error), Err(stopping)) => Err(error.context(format!("{stopping:#}"))),
        (measured, stopped) => measured.and(stopped),
    }
}
