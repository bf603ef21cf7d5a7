//! The chart, as far as it can be checked without Helm.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::foreman::program;

fn chart(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/foreman")
        .join(path)
}

fn flags(text: &str) -> BTreeSet<String> {
    let flag = regex::Regex::new(r"--[a-z][a-z-]+").unwrap();
    flag.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn the_chart_passes_only_flags_that_the_programs_have() {
    for (template, name) in [
        ("templates/agent.yaml", "foreman-agent"),
        ("templates/operator.yaml", "foreman-operator"),
    ] {
        let output = Command::new(program().with_file_name(name))
            .arg("--help")
            .output()
            .unwrap();
        let known = flags(&String::from_utf8(output.stdout).unwrap());
        let passed = flags(&std::fs::read_to_string(chart(template)).unwrap());
        assert!(passed.len() > 5, "{template} passes {passed:?}");
        let unknown: Vec<_> = passed.difference(&known).collect();
        assert!(
            unknown.is_empty(),
            "{template} passes {unknown:?}, which {name} does not have"
        );
    }
}

#[test]
fn every_value_stands_in_the_schema_and_every_value_that_is_used_exists() {
    let values = std::fs::read_to_string(chart("values.yaml")).unwrap();
    let values = schemas::yaml::parse_value(&values).unwrap();
    let schema: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(chart("values.schema.json")).unwrap()).unwrap();
    check(&values, &schema, &schema, "");
    let used = regex::Regex::new(r"\.Values\.([A-Za-z.]+)").unwrap();
    for entry in std::fs::read_dir(chart("templates")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        for found in used.captures_iter(&std::fs::read_to_string(&path).unwrap()) {
            let pointer = format!("/{}", found[1].replace('.', "/"));
            assert!(
                values.pointer(&pointer).is_some(),
                "{} uses {}, which values.yaml lacks",
                path.display(),
                &found[1]
            );
        }
    }
}

fn check(values: &serde_json::Value, schema: &serde_json::Value, whole: &serde_json::Value, at: &str) {
    if let Some(target) = schema["$ref"].as_str() {
        let target = whole.pointer(target.trim_start_matches('#'));
        return check(
            values,
            target.unwrap_or_else(|| panic!("{at}: nothing is at {schema}")),
            whole,
            at,
        );
    }
    let (Some(values), Some(properties)) = (values.as_object(), schema["properties"].as_object()) else {
        return;
    };
    for (name, value) in values {
        let known = properties.get(name);
        assert!(known.is_some(), "values.schema.json does not know {at}{name}");
        check(value, &known.unwrap().clone(), whole, &format!("{at}{name}."));
    }
    for name in properties.keys().filter(|name| *name != "global") {
        assert!(
            values.contains_key(name),
            "values.yaml lacks {at}{name}, which values.schema.json knows"
        );
    }
}

#[test]
fn the_chart_carries_the_version_of_the_programs() {
    let text = std::fs::read_to_string(chart("Chart.yaml")).unwrap();
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        text.contains(&format!("appVersion: {version}\n")) && text.contains(&format!("\nversion: {version}\n")),
        "{text}"
    );
}
