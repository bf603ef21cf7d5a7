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
    // What is taken for the sake of published values, and does nothing, has no default.
    let has_default = |name: &str| name != "global" && properties[name]["deprecated"] != true;
    for name in properties.keys().filter(|name| has_default(name)) {
        assert!(
            values.contains_key(name),
            "values.yaml lacks {at}{name}, which values.schema.json knows"
        );
    }
}

#[test]
fn every_section_of_the_values_that_is_left_empty_is_refused_by_name() {
    // What these hold is the API's to say; without it they hold nothing.
    let free = [
        "resources",
        "podSecurityContext",
        "securityContext",
        "seccompProfile",
        "capabilities",
    ];
    let listed = std::fs::read_to_string(chart("templates/validate.yaml")).unwrap();
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut seen = 0;
    let text = std::fs::read_to_string(chart("values.yaml")).unwrap();
    for line in text.lines() {
        let name = line.trim_start();
        let indent = line.len() - name.len();
        let Some((name, rest)) = name.split_once(':').filter(|_| !name.starts_with('#')) else {
            continue;
        };
        path.retain(|(depth, _)| *depth < indent);
        path.push((indent, name));
        let within = path.iter().any(|(_, name)| free.contains(name));
        // The kinds' templates come before the one that refuses: of them the schema says it.
        if !rest.is_empty() || within || name == "crds" {
            continue;
        }
        seen += 1;
        let section = path.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(".");
        assert!(
            listed.contains(&format!("\"{section}\"")),
            "validate.yaml does not look whether {section} is null"
        );
    }
    assert!(seen > 20, "{seen}");
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

#[test]
fn the_application_of_argo_cd_installs_this_chart_with_values_that_exist() {
    let text = std::fs::read_to_string(chart("../../argocd/application.yaml")).unwrap();
    let application = schemas::yaml::parse_value(&text).unwrap();
    assert_eq!(application["spec"]["source"]["path"], "charts/foreman");
    let values = schemas::yaml::parse_value(&std::fs::read_to_string(chart("values.yaml")).unwrap()).unwrap();
    let mut open = vec![(
        "".to_owned(),
        application["spec"]["source"]["helm"]["valuesObject"].clone(),
    )];
    let mut seen = 0;
    while let Some((at, value)) = open.pop() {
        let Some(map) = value.as_object().filter(|map| !map.is_empty()) else {
            continue;
        };
        for (name, value) in map {
            seen += 1;
            let at = format!("{at}/{name}");
            assert!(values.pointer(&at).is_some(), "argocd/application.yaml sets {at}");
            open.push((at, value.clone()));
        }
    }
    assert!(seen >= 3, "{seen}");
}

/// Renders the reference of the values: every key with its default and what stands above it in values.yaml.
fn reference(text: &str) -> String {
    let values = schemas::yaml::parse_value(text).unwrap();
    let mut table = String::from("| Value | Default | Meaning |\n|---|---|---|\n");
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut remark: Vec<&str> = Vec::new();
    let mut told = usize::MAX;
    for line in text.lines() {
        let trimmed = line.trim_start();
        let indent = line.len() - trimmed.len();
        if let Some(words) = trimmed.strip_prefix('#') {
            remark.push(words.trim());
            continue;
        }
        let Some((name, rest)) = trimmed.split_once(':').filter(|_| !trimmed.starts_with('-')) else {
            remark.clear();
            continue;
        };
        path.retain(|(depth, _)| *depth < indent);
        path.push((indent, name.to_owned()));
        // What lies below a value that is told of as a whole needs no row.
        if indent > told {
            continue;
        }
        told = usize::MAX;
        let said = std::mem::take(&mut remark).join(" ");
        let pointer: String = path.iter().map(|(_, name)| format!("/{name}")).collect();
        let dotted = path.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>().join(".");
        let value = values
            .pointer(&pointer)
            .unwrap_or_else(|| panic!("{pointer} is no value"));
        let group = rest.trim().is_empty() && value.is_object();
        if group && (said.is_empty() || indent == 0) {
            continue;
        }
        if group {
            told = indent;
        }
        assert!(!said.is_empty(), "values.yaml does not say what {dotted} is for");
        let said = said.replace('|', "\\|").replace('<', "&lt;");
        table.push_str(&format!("| `{dotted}` | `{value}` | {said} |\n"));
    }
    table
}

#[test]
fn the_readme_tells_of_every_value() {
    let table = reference(&std::fs::read_to_string(chart("values.yaml")).unwrap());
    assert!(table.lines().count() > 100, "{table}");
    let readme = std::fs::read_to_string(chart("README.md")).unwrap();
    let (head, _) = readme.split_once("<!-- values -->\n").expect("README.md has the mark");
    let wanted = format!("{head}<!-- values -->\n{table}");
    if std::env::var_os("FOREMAN_WRITE").is_some() {
        std::fs::write(chart("README.md"), &wanted).unwrap();
    } else {
        assert!(
            readme == wanted,
            "charts/foreman/README.md is not what values.yaml says; run `FOREMAN_WRITE=1 cargo test -p tests the_readme_tells`"
        );
    }
}

#[test]
fn no_role_of_the_chart_has_a_wildcard() {
    for file in ["templates/rbac-operator.yaml", "templates/rbac-agent.yaml"] {
        let text = std::fs::read_to_string(chart(file)).unwrap();
        let rules = text
            .lines()
            .filter(|line| line.trim_start().starts_with("verbs:") || line.trim_start().starts_with("resources:"));
        let mut seen = 0;
        for line in rules {
            seen += 1;
            assert!(!line.contains('*'), "{file}: {line}");
        }
        assert!(seen > 10, "{file}: {seen}");
    }
}
