//! Gates for repositories that write none.
//!
//! What names another program for a step to run, or other tests, is protected: the judge would lie in the branch
//! otherwise. The lists are short, for honest work must go through: sources, tests and dependencies are free. What runs
//! inside of the judge's own process, a test as much as `conftest.py` or `build.rs`, no list can hold off; a
//! repository that wants more kept writes a gate file, and with one none of this holds.

mod go;
mod node;
mod python;
mod rust;

use schemas::shared::{GateCommands, GateLanguage};

use super::{BaseTree, ResolvedGate, ResolvedPrepare, ResolvedStep, STEP_SECONDS, of_preset};
use crate::pinned::Pinned;

/// Largest manifest that is read to choose a preset's commands.
const MANIFEST_MAX: usize = 1 << 20;

/// The commands of a preset, in the order in which they run.
#[derive(Default)]
struct Parts {
    prepare: Option<ResolvedPrepare>,
    install: Option<String>,
    format: Option<String>,
    lint: Option<String>,
    build: Option<String>,
    test: Option<String>,
    codegen_check: Option<String>,
}

/// What a change must leave alone, so that the steps judge as they do at the base.
#[derive(Default)]
pub(super) struct Judge {
    pub(super) protected: Vec<String>,
    pub(super) pinned: Vec<Pinned>,
}

/// Tells the language of a tree by its manifests.
pub(super) fn detect(tree: &dyn BaseTree) -> Option<GateLanguage> {
    [
        ("go.mod", GateLanguage::Go),
        ("Cargo.toml", GateLanguage::Rust),
        ("pyproject.toml", GateLanguage::Python),
        ("setup.py", GateLanguage::Python),
        ("requirements.txt", GateLanguage::Python),
        ("package.json", GateLanguage::Node),
    ]
    .into_iter()
    .find(|(path, _)| tree.exists(path))
    .map(|(_, language)| language)
}

/// Tells whether a command only compiles what the branch holds, to the letter: then what the compiler keeps of its work is
/// the compiler's own word. Of any other command nobody knows whether it runs something of the branch.
pub(crate) fn compiles_only(command: &str) -> bool {
    go::COMPILES_ONLY.contains(&command)
}

/// Returns the published spelling of a language.
pub(super) fn name(language: GateLanguage) -> &'static str {
    match language {
        GateLanguage::Go => "go",
        GateLanguage::Python => "python",
        GateLanguage::Rust => "rust",
        GateLanguage::Node => "node",
        GateLanguage::Generic => "generic",
    }
}

/// Returns the image of a language's toolchain.
pub(super) fn image(language: GateLanguage) -> &'static str {
    match language {
        GateLanguage::Go => "docker.io/library/golang:1-bookworm",
        GateLanguage::Python => "docker.io/library/python:3-bookworm",
        GateLanguage::Rust => "docker.io/library/rust:1-bookworm",
        GateLanguage::Node => "docker.io/library/node:22-bookworm",
        GateLanguage::Generic => "docker.io/library/debian:bookworm",
    }
}

/// Builds the gate of a language; every command that is given replaces the preset's, and an empty
/// one leaves the step out.
///
/// Format and lint of the preset itself are advisory: nobody said that this repository keeps to them.
pub(super) fn build(language: GateLanguage, tree: &dyn BaseTree, commands: &GateCommands) -> ResolvedGate {
    let parts = match language {
        GateLanguage::Go => go::parts(tree),
        GateLanguage::Python => python::parts(tree),
        GateLanguage::Rust => rust::parts(tree),
        GateLanguage::Node => node::parts(tree),
        GateLanguage::Generic => Parts::default(),
    };
    let steps: Vec<ResolvedStep> = [
        ("install", None, parts.install),
        ("format", commands.format.as_ref(), parts.format),
        ("lint", commands.lint.as_ref(), parts.lint),
        ("build", commands.build.as_ref(), parts.build),
        ("test", commands.test.as_ref(), parts.test),
        ("codegenCheck", commands.codegen_check.as_ref(), parts.codegen_check),
    ]
    .into_iter()
    .filter_map(|(name, given, preset)| Some((name, given.is_some(), given.cloned().or(preset)?)))
    .filter(|(_, _, command)| !command.trim().is_empty())
    .map(|(name, given, command)| ResolvedStep {
        name: name.to_owned(),
        command,
        timeout_seconds: STEP_SECONDS,
        advisory: !given && matches!(name, "format" | "lint"),
    })
    .collect();
    let judge = match language {
        GateLanguage::Python => python::judge(&steps),
        GateLanguage::Rust => rust::judge(),
        GateLanguage::Node => node::judge(tree, &steps),
        // Go has no configuration in a tree that names another program.
        GateLanguage::Go | GateLanguage::Generic => Judge::default(),
    };
    of_preset(language, parts.prepare, steps, judge)
}

fn rules(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|&rule| rule.to_owned()).collect()
}

fn prepare(command: &str, hosts: &[&str]) -> ResolvedPrepare {
    ResolvedPrepare {
        command: command.to_owned(),
        allow_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
        timeout_seconds: STEP_SECONDS,
        cache_key: Vec::new(),
    }
}

fn text(tree: &dyn BaseTree, path: &str) -> Option<String> {
    tree.read(path, MANIFEST_MAX)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}
