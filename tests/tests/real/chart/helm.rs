//! A real Helm.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::foreman::Said;

/// Returns what a variable of this tier says.
pub fn needed(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => value.into(),
        None => panic!("{name} is not set: run this tier by `cargo xtask test --real`"),
    }
}

/// Returns the folder of the chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/foreman")
}

/// Calls Helm, with no settings of the person who runs the tests.
pub fn helm(kubeconfig: Option<&Path>, arguments: &[&str]) -> Said {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(needed("FOREMAN_HELM"));
    command
        .args(arguments)
        .env("HOME", home.path())
        .env("XDG_CONFIG_HOME", home.path())
        .env("XDG_CACHE_HOME", home.path())
        .env("XDG_DATA_HOME", home.path())
        // Nothing listens there: a template must not ask a cluster.
        .env("KUBECONFIG", kubeconfig.unwrap_or(Path::new("/dev/null")));
    command.output().unwrap().into()
}

/// Renders the chart as release `foreman` in `foreman-system`.
pub fn template(arguments: &[&str]) -> Said {
    template_as("foreman", "foreman-system", arguments)
}

/// Renders the chart.
pub fn template_as(release: &str, namespace: &str, arguments: &[&str]) -> Said {
    let chart = chart();
    let mut all = vec![
        "template",
        release,
        chart.to_str().unwrap(),
        "--namespace",
        namespace,
        "--kube-version",
        "1.34.4",
    ];
    all.extend(arguments);
    helm(None, &all)
}

/// Renders what must render.
pub fn objects(arguments: &[&str]) -> Vec<Value> {
    let said = template(arguments);
    assert_eq!(said.code, Some(0), "{arguments:?}: {}", said.err);
    parse(&said.out)
}

/// Reads the documents of a rendering; those without an object are left out.
pub fn parse(text: &str) -> Vec<Value> {
    text.split("\n---")
        .map(|document| schemas::yaml::parse_value(document).unwrap_or_else(|error| panic!("{error}\n{document}")))
        .filter(|object| !object.is_null())
        .collect()
}

/// Finds an object by kind and name.
pub fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = objects
        .iter()
        .find(|object| object["kind"] == kind && object["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Collects the names of the objects of a kind.
pub fn names(objects: &[Value], kind: &str) -> Vec<String> {
    let names = objects.iter().filter(|object| object["kind"] == kind);
    names
        .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns the arguments of a Deployment's container.
pub fn arguments(objects: &[Value], deployment: &str) -> Vec<String> {
    let pod = &find(objects, "Deployment", deployment)["spec"]["template"]["spec"];
    let arguments = pod["containers"][0]["args"].as_array().unwrap();
    arguments.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}
