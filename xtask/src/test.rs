//! `cargo xtask test`: the tests in three tiers.
//!
//! A test of the tools tier is marked `#[ignore = "needs …"]`. It is left out by `cargo xtask test`, and
//! `cargo xtask test --tools` runs nothing else. A test that needs a real control plane is marked likewise and lies in a
//! module named `real`; `cargo xtask test --real` starts one and runs nothing else. No test skips itself, so that a
//! missing tool is a failed test.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::real::{self, Program, Tier, Which};
use crate::{images, process, static_gate};

/// The module whose ignored tests need a real control plane.
const REAL: &str = "real";
/// The module, below that one, whose tests need a node that runs pods.
const NODE: &str = "node";
/// The modules, below that one too, whose tests need Argo CD, or a cluster whose kinds no other test uses meanwhile.
const ARGOCD: [&str; 3] = ["argocd", "kustomize", "upgrade"];
/// A test of this name is the process that another test starts and kills.
const CHILD: &str = "child";

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
    let chosen = chosen(root, |name| !is_in(name, REAL) && matches(name, filter))?;
    let kubectl = real::path(root, Program::Kubectl, Which::Found)?;
    println!("kubectl: {}", kubectl.display());
    let gate = static_gate::build(root, &static_gate::Build { dev: true })?;
    println!(
        "static foreman-gate: {} ({:.1} MB)",
        gate.path.display(),
        gate.bytes as f64 / 1e6
    );
    let mut command = ignored(root);
    command
        .arg("--exact")
        .args(chosen)
        .env("FOREMAN_KUBECTL", kubectl)
        .env("FOREMAN_STATIC_GATE", gate.path);
    run_counted(command, "tests that need tools")
}

/// Runs the tests that need a real control plane, and fails where none was run. Stops the servers where it started them.
pub fn run_real(root: &Path, filter: Option<&str>) -> Result<()> {
    build(root)?;
    let chosen = chosen(root, |name| is_in(name, REAL) && matches(name, filter))?;
    let (node, chosen): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|name| is_in(name, NODE));
    let (argocd, api): (Vec<_>, Vec<_>) = chosen.into_iter().partition(|name| ARGOCD.iter().any(|module| is_in(name, module)));
    let named = [
        (Program::Kubectl, "FOREMAN_KUBECTL"),
        (Program::Helm, "FOREMAN_HELM"),
        (Program::Kubeconform, "FOREMAN_KUBECONFORM"),
    ];
    let paths = real::paths(root, &named.map(|(program, _)| program), Which::Pinned)?;
    let programs: Vec<_> = named.iter().map(|(_, variable)| *variable).zip(paths).collect();
    for (variable, path) in &programs {
        println!("{variable}: {}", path.display());
    }
    // All run, so that one run shows all that is wrong.
    let on_api = run_on(root, Tier::Api, api, &programs);
    let on_node = run_on(root, Tier::Node, node, &programs);
    let on_argocd = run_on(root, Tier::Argocd, argocd, &programs);
    on_api.and(on_node).and(on_argocd)
}

/// Runs tests on servers of a tier, where there are such tests.
fn run_on(root: &Path, tier: Tier, chosen: Vec<String>, programs: &[(&str, PathBuf)]) -> Result<()> {
    if chosen.is_empty() {
        return Ok(());
    }
    let mut command = ignored(root);
    command.arg("--exact").args(chosen).envs(programs.iter().cloned());
    let archive = match tier {
        Tier::Node => Some(images::build(root, &images::Build::DEV)?),
        Tier::Api | Tier::Argocd => None,
    };
    if tier == Tier::Argocd {
        command.env("FOREMAN_ARGOCD", real::path(root, Program::Argocd, Which::Pinned)?);
    }
    let servers = real::Servers::up(root, tier)?;
    let ran = match &archive {
        Some(archive) => servers.load(archive),
        None => Ok(()),
    };
    let ran = ran.and_then(|()| {
        command.env("FOREMAN_REAL_KUBECONFIG", servers.kubeconfig()?);
        run_counted(command, &format!("tests that need tier {tier}"))
    });
    // What a test did wrong comes first, but a server that goes on is an error of its own.
    match (ran, servers.down()) {
        (Err(error), Err(stopping)) => Err(error.context(format!("{stopping:#}"))),
        (ran, stopped) => ran.and(stopped),
    }
}

/// Runs `cargo test`, prints what it prints, and fails where it fails or ran nothing.
fn run_counted(mut command: Command, what: &str) -> Result<()> {
    let mut running = command
        .stdout(Stdio::piped())
        .spawn()
        .context("failed to start cargo test")?;
    let output = running.stdout.take().context("cargo test has no output")?;
    let mut ran = 0;
    for line in BufReader::new(output).lines() {
        let line = line.context("failed to read what cargo test prints")?;
        ran += passed(&line).unwrap_or(0);
        println!("{line}");
    }
    let status = running.wait().context("failed to wait for cargo test")?;
    if !status.success() {
        bail!("the {what} failed: {status}");
    }
    if ran == 0 {
        bail!("none of the {what} ran");
    }
    println!("{ran} {what} passed");
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

/// Prepares a run of ignored tests.
fn ignored(root: &Path) -> Command {
    process::cargo(
        root,
        &[
            "test",
            "--workspace",
            "--no-fail-fast",
            "--lib",
            "--bins",
            "--tests",
            "--",
            "--ignored",
        ],
    )
}

/// Asks the test programs for the names of their ignored tests, and returns the wanted ones.
fn chosen(root: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut command = ignored(root);
    command.args(["--list", "--format", "terse"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo test")?;
    if !output.status.success() {
        bail!("failed to list the ignored tests: {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("failed to read the names of the ignored tests")?;
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    let chosen: Vec<String> = names
        .filter(|name| name.rsplit("::").next() != Some(CHILD) && wanted(name))
        .map(str::to_owned)
        .collect();
    if chosen.is_empty() {
        // Without names everything would run.
        bail!("there is no such test; `#[ignore = \"needs …\"]` marks those that need more than Rust and Git");
    }
    Ok(chosen)
}

/// Returns whether a test lies in a module of this name.
fn is_in(test: &str, module: &str) -> bool {
    let mut parts = test.rsplit("::");
    parts.next();
    parts.any(|part| part == module)
}

fn matches(test: &str, filter: Option<&str>) -> bool {
    filter.is_none_or(|filter| test.contains(filter))
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

    #[test]
    fn a_test_belongs_to_the_real_tier_by_its_module_and_not_by_its_name() {
        assert!(is_in("real::crds::established", REAL));
        assert!(is_in("queue::real::scale", REAL));
        assert!(!is_in("tools::kubectl::real", REAL));
        assert!(!is_in("surreal::x", REAL));
    }

    #[test]
    fn a_filter_narrows_a_tier_and_does_not_widen_it() {
        assert!(matches("real::crds::x", None));
        assert!(matches("real::crds::x", Some("crds")));
        assert!(!matches("real::crds::x", Some("chart")));
    }
}
