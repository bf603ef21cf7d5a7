//! `cargo xtask test`: the tests in three tiers.
//!
//! A test of the tools tier is marked `#[ignore = "needs …"]`. It is left out by `cargo xtask test`, and
//! `cargo xtask test --tools` runs nothing else. A test that needs a real control plane is marked likewise and lies in a
//! module named `real`; `cargo xtask test --real` starts one and runs nothing else. No test skips itself, so that a
//! missing tool is a failed test.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::real::{self, Program, Tier, Which};
use crate::{images, process, static_gate};

/// The module whose ignored tests need a real control plane.
const REAL: &str = "real";
/// The modules, below that one, whose tests need more than a control plane, or one whose kinds no other test uses
/// meanwhile.
const MORE: [(Tier, &[&str]); 2] = [
    (Tier::Node, &["node", "pods", "servers", "clocks"]),
    (Tier::Argocd, &["argocd", "kustomize", "upgrade"]),
];
/// Test programs with tests that speak to the API which they are given, and the modules that these lie in, where not all
/// of the program are of them. Without `FOREMAN_REAL_KUBECONFIG` they speak to a plane of their own.
const SUITE: [(&str, &[&str]); 2] = [("plane", &[]), ("runner", &["commands", "processes"])];
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

/// Runs the tests that need a real control plane, and those that else run on a plane; fails where none was run. Stops the
/// servers where it started them.
pub fn run_real(root: &Path, filter: Option<&str>) -> Result<()> {
    build(root)?;
    let mut runs = Vec::new();
    for (program, modules) in SUITE {
        let suite = || {
            process::cargo(
                root,
                &["test", "--workspace", "--no-fail-fast", "--test", program, "--"],
            )
        };
        let belongs = |name: &str| modules.is_empty() || modules.iter().any(|module| is_in(name, module));
        let chosen = named(suite(), |name| {
            belongs(name) && !is_in(name, REAL) && matches(name, filter)
        })?;
        runs.push((Tier::Api, suite(), chosen));
    }
    let mut on_api = named(ignored(root), |name| is_in(name, REAL) && matches(name, filter))?;
    for (tier, modules) in MORE {
        let (more, others) = on_api
            .into_iter()
            .partition(|name| modules.iter().any(|module| is_in(name, module)));
        on_api = others;
        runs.push((tier, ignored(root), more));
    }
    runs.insert(0, (Tier::Api, ignored(root), on_api));
    runs.retain(|(_, _, chosen)| !chosen.is_empty());
    if runs.is_empty() {
        bail!("there is no such test; those that need a real control plane lie in a module named `{REAL}`");
    }
    let programs = [
        (Program::Kubectl, "FOREMAN_KUBECTL"),
        (Program::Helm, "FOREMAN_HELM"),
        (Program::Kubeconform, "FOREMAN_KUBECONFORM"),
    ];
    let paths = real::paths(root, &programs.map(|(program, _)| program), Which::Pinned)?;
    for ((program, _), path) in programs.iter().zip(&paths) {
        println!("{}: {}", program.name(), path.display());
    }
    for (_, command, chosen) in &mut runs {
        command.arg("--exact").args(chosen.iter());
        command.envs(programs.iter().map(|(_, variable)| variable).zip(&paths));
    }
    // Every tier runs, so that one run shows all that is wrong.
    let mut ran = Ok(());
    while let Some((tier, ..)) = runs.first() {
        let tier = *tier;
        let (these, others): (Vec<_>, Vec<_>) = runs.into_iter().partition(|(of, ..)| *of == tier);
        runs = others;
        let commands = these.into_iter().map(|(_, command, _)| command).collect();
        ran = ran.and(run_on(root, tier, commands));
    }
    ran
}

/// Runs tests on servers of a tier.
fn run_on(root: &Path, tier: Tier, commands: Vec<Command>) -> Result<()> {
    let archive = match tier {
        Tier::Node => Some(images::build(root, &images::Build::DEV)?),
        Tier::Api | Tier::Argocd => None,
    };
    let argocd = match tier {
        Tier::Argocd => Some(real::path(root, Program::Argocd, Which::Pinned)?),
        Tier::Api | Tier::Node => None,
    };
    let servers = real::Servers::up(root, tier)?;
    let ran = || {
        if let Some(archive) = &archive {
            servers.load(archive)?;
        }
        let kubeconfig = servers.kubeconfig()?;
        let mut ran = Ok(());
        for mut command in commands {
            command.env("FOREMAN_REAL_KUBECONFIG", &kubeconfig);
            command.envs(argocd.iter().map(|argocd| ("FOREMAN_ARGOCD", argocd)));
            ran = ran.and(run_counted(command, &format!("tests that need tier {tier}")));
        }
        ran
    };
    let ran = ran();
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
    let chosen = named(ignored(root), wanted)?;
    if chosen.is_empty() {
        // Without names everything would run.
        bail!("there is no such test; `#[ignore = \"needs …\"]` marks those that need more than Rust and Git");
    }
    Ok(chosen)
}

/// Asks test programs for the names of the tests that a command would run, and returns the wanted ones.
fn named(mut command: Command, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    command.args(["--list", "--format", "terse"]);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .context("failed to start cargo test")?;
    if !output.status.success() {
        bail!("failed to list the tests: {}", output.status);
    }
    let text = String::from_utf8(output.stdout).context("failed to read the names of the tests")?;
    let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names
        .filter(|name| name.rsplit("::").next() != Some(CHILD) && wanted(name))
        .map(str::to_owned)
        .collect())
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
