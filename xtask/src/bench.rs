//! `cargo xtask bench`: speed and memory, in a release build.

use std::path::Path;

use anyhow::Result;

use crate::{process, real};

/// The measurement that needs a real control plane beside it.
const BESIDE_REAL: &str = "plane";

/// Builds the released program, then measures it and its rooms; the measuring itself is `tests/benches/thread.rs`.
pub fn run(root: &Path, names: &[String]) -> Result<()> {
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
