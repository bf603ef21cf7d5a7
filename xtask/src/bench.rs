//! `cargo xtask bench`: speed and memory, in a release build.

use std::path::Path;

use anyhow::Result;

use crate::process;

/// Builds the released program, then measures it and its rooms; the measuring itself is `tests/benches/thread.rs`.
pub fn run(root: &Path, names: &[String]) -> Result<()> {
    process::run(process::cargo(
        root,
        &["build", "--release", "--package", "foreman", "--bin", "foreman"],
    ))?;
    let mut command = process::cargo(root, &["bench", "--package", "tests", "--bench", "thread", "--"]);
    command.args(names);
    process::run(command)
}
