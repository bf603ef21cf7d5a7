//! The preset for Node.js.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{BaseTree, Judge, Parts, ResolvedStep, prepare, rules, text};
use crate::pinned::Pinned;

const HOSTS: &[&str] = &["registry.npmjs.org"];

pub(super) fn parts(tree: &dyn BaseTree) -> Parts {
    let manifest = manifest(tree);
    let locked = tree.exists("package-lock.json") || tree.exists("npm-shrinkwrap.json");
    let depends = depends(&manifest);
    let install = if locked { "npm ci" } else { "npm install --no-save" };
    let quiet = "--no-audit --no-fund";
    let script = |names: &[&str]| {
        names
            .iter()
            .find(|name| manifest["scripts"][**name].is_string())
            .map(|name| format!("npm run {name}"))
    };
    Parts {
        prepare: depends.then(|| prepare(&format!("{install} --ignore-scripts {quiet}"), HOSTS)),
        // What the branch has there of its own would be run in the place of what is installed.
        install: depends.then(|| format!("rm -rf node_modules && {install} --offline {quiet}")),
        format: script(&["format:check", "format-check", "check:format"]),
        lint: script(&["lint"]),
        build: script(&["build"]),
        test: Some("npm test".to_owned()),
        codegen_check: None,
    }
}

fn manifest(tree: &dyn BaseTree) -> Value {
    text(tree, "package.json")
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

fn depends(manifest: &Value) -> bool {
    ["dependencies", "devDependencies", "optionalDependencies"]
        .iter()
        .any(|key| manifest[*key].as_object().is_some_and(|packages| !packages.is_empty()))
        || !manifest["workspaces"].is_null()
}

/// Settings of npm, which name the shell of scripts, and of the usual test runners, which select the tests.
const SETTINGS: &[&str] = &[
    "/.npmrc",
    "/.mocharc*",
    "/jest.config.*",
    "/vitest.config.*",
    "/vitest.workspace.*",
];
/// Settings of test runners in the manifest.
const RUNNERS: &[&str] = &["jest", "mocha", "ava"];
/// Scripts that an install runs.
const LIFECYCLE: &[&str] = &[
    "preinstall",
    "install",
    "postinstall",
    "prepublish",
    "preprepare",
    "prepare",
    "postprepare",
    "dependencies",
];

pub(super) fn judge(tree: &dyn BaseTree, steps: &[ResolvedStep]) -> Judge {
    let manifest = manifest(tree);
    let mut protected = rules(SETTINGS);
    if manifest.to_string().contains("vitest") {
        // Read where there are no settings of its own.
        protected.push("/vite.config.*".to_owned());
    }
    let mut scripts = scripts_of(&manifest, steps);
    if depends(&manifest) {
        scripts.extend(LIFECYCLE.iter().map(|&name| name.to_owned()));
    } else {
        // Nothing is installed, so nothing replaces it, and npm looks there for every program of a script.
        protected.push("/node_modules/**".to_owned());
    }
    let scripts = scripts.into_iter().map(|name| format!("scripts.{name}"));
    Judge {
        protected,
        pinned: vec![Pinned {
            file: "package.json".to_owned(),
            parts: scripts.chain(RUNNERS.iter().map(|&key| key.to_owned())).collect(),
        }],
    }
}

/// Returns the scripts that the steps run, those that these run, and what npm runs before and after each. A script is
/// taken for run where its name stands as a word of its own.
fn scripts_of(manifest: &Value, steps: &[ResolvedStep]) -> BTreeSet<String> {
    let none = Map::new();
    let all = manifest["scripts"].as_object().unwrap_or(&none);
    // The preset runs it even where the base has none.
    let mut run = vec!["test".to_owned()];
    run.extend(steps.iter().flat_map(|step| named_in(&step.command, all)));
    let mut found = BTreeSet::new();
    while let Some(name) = run.pop() {
        for name in [format!("pre{name}"), format!("post{name}"), name] {
            let script = all.get(&name).and_then(Value::as_str);
            if found.insert(name) {
                run.extend(script.into_iter().flat_map(|script| named_in(script, all)));
            }
        }
    }
    found
}

/// Returns the scripts that a command names; `run-s test:*` names all that begin so.
fn named_in<'a>(command: &str, all: &'a Map<String, Value>) -> impl Iterator<Item = String> + use<'a> {
    let words: Vec<String> = command
        .split(|c: char| c.is_whitespace() || "\"'`&|;()".contains(c))
        .map(str::to_owned)
        .collect();
    let named = move |name: &String| {
        words.iter().any(|word| {
            word == name
                || word
                    .split_once('*')
                    .is_some_and(|(start, _)| !start.is_empty() && name.starts_with(start))
        })
    };
    all.keys().filter(move |name| named(name)).cloned()
}
