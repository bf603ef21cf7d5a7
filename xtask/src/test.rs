//! `cargo xtask test`: the tests in two tiers.
//!
//! A test of the tools tier is marked `#[ignore = "needs …"]`. It is left out by `cargo xtask test`, and
//! `cargo xtask test --tools` runs nothing else; it never skips itself, so that a missing tool is a failed test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::{process, real, static_gate};

/// Runs every test that needs only Rust, Git and a C compiler.
pub fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    build(root)?;
    let mut command = process::cargo(root, &["test", "--workspace", "--no-fail-fast"]);
    command.args(filter);
    process::run(command)
}

/// Runs the tests that need more tools, and fails where none was run.
pub fn run_tools(root: &Path, filter: Option<&str>) -> Result<()> {
    build(root)?;
    let kubectl = real::path(root, real::Program::Kubectl, real::Which::Found)?;
    println!("kubectl: {}", kubectl.display());
    let gate = static_gate::build(root, &static_gate::Build { dev: true })?;
    println!(
        "static foreman-gate: {} ({:.1} MB)",
        gate.path.display(),
        gate.bytes as f64 / 1e6
    );
    let mut command = process::cargo(
        root,
        &["test", "--workspace", "--no-fail-fast", "--lib", "--bins", "--tests"],
    );
    command.args(filter);
    // A test named `child` is the process that another test starts and kills.
    command.args(["--", "--ignored", "--skip", "::child"]);
    command
        .env("FOREMAN_KUBECTL", kubectl)
        .env("FOREMAN_STATIC_GATE", gate.path)
        .stdout(Stdio::piped());
    let mut running = command.spawn().context("failed to start cargo test")?;
    let output = running.stdout.take().context("cargo test has no output")?;
    let mut ran = 0;
    for line in BufReader::new(output).lines() {
        let line = line.context("failed to read what cargo test prints")?;
        ran += passed(&line).unwrap_or(0);
        println!("{line}");
    }
    let status = running.wait().context("failed to wait for cargo test")?;
    if !status.success() {
        bail!("the tier of tests that need tools failed: {status}");
    }
    if ran == 0 {
        bail!("the tier of tests that need tools ran none");
    }
    println!("{ran} tests that need tools passed");
    Ok(())
}

/// Builds programs and tests with one choice of packages, so that dependencies are built once; the integration tests
/// start `foreman` as a program, which building tests alone does not make.
fn build(root: &Path) -> Result<()> {
    process::run(process::cargo(
        root,
        &["build", "--workspace", "--bins", "--tests", "--examples"],
    ))
}

/// Reads the number of passed tests from a test binary's last line.
fn passed(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("test result: ")?;
    let (_, rest) = rest.split_once(". ")?;
    rest.split_once(" passed")?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_tests_are_counted_whatever_the_result() {
        let line = "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s";
        assert_eq!(passed(line), Some(12));
        assert_eq!(passed("test result: FAILED. 3 passed; 1 failed; 0 ignored"), Some(3));
        assert_eq!(passed("test a::b ... ok"), None);
    }
}
