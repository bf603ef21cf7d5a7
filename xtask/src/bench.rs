//! `cargo xtask bench`: speed and memory, in a release build.

use std::path::Path;

use anyhow::Result;

use crate::{process, real};

/// The measurement that needs a real control plane beside it.
const BESIDE_REAL: &str = "plane";

/// The measurements of the operator as a process, by `tests/benches/operator.rs`; further names choose among them.
const OPERATOR: &str = "operator";

/// Builds the released program, then measures it and its rooms; the measuring itself is `tests/benches/thread.rs`.
pub fn run(root: &Path, names: &[String]) -> Result<()> {
    if let Some((OPERATOR, chosen)) = names.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return operator(root, chosen);
    }
    process::run(process::cargo(
        root,
        &["build", "--release", "--package", "foreman", "--bin", "foreman"],
    ))?;
    let mut command = process::cargo(root, &["bench", "--package", "tests", "--bench", "thread", "--"]);
    command.args(names);
    if !names.is_empty() && names.iter().all(|name| name != BESIDE_REAL) {
        return process::run(command);
    }
    let servers = real::Servers::up_durable(root, "bench")?;
    command.env("FOREMAN_REAL_KUBECONFIG", servers.kubeconfig()?).env(
        "FOREMAN_REAL_PROCESSES",
        servers.processes(&["etcd", "kube-apiserver"])?,
    );
    let measured = process::run(command);
    // What went wrong first is what is told, but a server that goes on is an error of its own.
    match (measured, servers.down()) {
        (Err(error), Err(stopping)) => Err(error.context(format!("{stopping:#}"))),
        (measured, stopped) => measured.and(stopped),
    }
}

/// Measures the operator on a real control plane whose etcd, as in the tests, does not wait for the disk.
fn operator(root: &Path, names: &[String]) -> Result<()> {
    process::run(process::cargo(
        root,
        &["build", "--release", "--package", "reconciler", "--bin", "foreman-operator"],
    ))?;
    let kubectl = real::path(root, real::Program::Kubectl, real::Which::Pinned)?;
    let servers = real::Servers::up(root, real::Tier::Api)?;
    let mut command = process::cargo(root, &["bench", "--package", "tests", "--bench", "operator", "--"]);
    command
        .args(names)
        .env("FOREMAN_REAL_KUBECONFIG", servers.kubeconfig()?)
        .env("FOREMAN_KUBECTL", kubectl);
    let measured = process::run(command);
    match (measured, servers.down()) {
        (Err(error), Err(stopping)) => Err(error.context(format!("{stopping:#}"))),
        (measured, stopped) => measured.and(stopped),
    }
}
