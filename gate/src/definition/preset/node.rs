//! The preset for Node.js.

use serde_json::Value;

use super::{BaseTree, Parts, prepare, text};

const HOSTS: &[&str] = &["registry.npmjs.org"];
const KEY: &[&str] = &["package-lock.json", "npm-shrinkwrap.json", "package.json", ".npmrc"];

pub(super) fn parts(tree: &dyn BaseTree) -> Parts {
    let manifest: Value = text(tree, "package.json")
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let locked = tree.exists("package-lock.json") || tree.exists("npm-shrinkwrap.json");
    let depends = ["dependencies", "devDependencies", "optionalDependencies"]
        .iter()
        .any(|key| manifest[*key].as_object().is_some_and(|packages| !packages.is_empty()))
        || !manifest["workspaces"].is_null();
    let install = if locked { "npm ci" } else { "npm install --no-save" };
    let quiet = "--no-audit --no-fund";
    let script = |names: &[&str]| {
        names
            .iter()
            .find(|name| manifest["scripts"][**name].is_string())
            .map(|name| format!("npm run {name}"))
    };
    Parts {
        prepare: depends.then(|| prepare(&format!("{install} --ignore-scripts {quiet}"), HOSTS, KEY)),
        install: depends.then(|| format!("{install} --offline {quiet}")),
        format: script(&["format:check", "format-check", "check:format"]),
        lint: script(&["lint"]),
        build: script(&["build"]),
        test: Some("npm test".to_owned()),
        codegen_check: None,
    }
}
