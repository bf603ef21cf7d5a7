#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::document;
use serde_json::json;

fn check(kind: &str, text: &str) -> (Value, Vec<String>) {
    let (documents, errors) = document::read("f.yaml", text, 0);
    assert!(errors.is_empty(), "{errors:?}");
    let mut checker = Checker::new("f.yaml", &[]);
    let value = checker.check(&documents[0], spec_of(kind).unwrap(), "spec");
    (value, checker.into_errors().iter().map(ToString::to_string).collect())
}

#[test]
fn every_pattern_of_our_schemas_can_be_read() {
    fn walk(schema: &Value) {
        if let Some(pattern) = schema.get("pattern").and_then(Value::as_str) {
            assert!(Regex::new(pattern).is_ok(), "{pattern}");
        }
        match schema {
            Value::Object(map) => map.values().for_each(walk),
            Value::Array(items) => items.iter().for_each(walk),
            _ => {}
        }
    }
    crds::all()
        .iter()
        .for_each(|crd| walk(&serde_json::to_value(crd).unwrap()));
}

#[test]
fn a_good_spec_comes_back_without_nulls_and_without_defaults() {
    let (value, errors) = check(
        "AgenticTask",
        "kind: verify\npriority: null\npayload: {branch: b}\ndependsOn: [a, {name: b, namespace: c}]\n",
    );
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        value,
        json!({"kind": "verify", "payload": {"branch": "b"}, "dependsOn": ["a", {"name": "b", "namespace": "c"}]})
    );
}

#[test]
fn all_errors_are_reported_each_with_place_expectation_and_advice() {
    let text = "kind: verfy\npayload:\n  isue: 4\n  issue: '5'\n  openPullRequest: yes\n  branch: 7\nprompt: x\npriority: [1]\ntimeoutSeconds: -1\n";
    let (_, errors) = check("AgenticTask", text);
    let expected = [
        "f.yaml:1:7: spec.kind is the string \"verfy\"; expected one of issue-fix, verify, review, freeform, integrate, reconcile; did you mean \"verify\"?",
        "f.yaml:3:3: unknown key \"isue\" in spec.payload; did you mean \"issue\"?",
        "f.yaml:4:10: spec.payload.issue is the string \"5\"; expected a whole number of at least 1; remove the quotes",
        "f.yaml:5:20: spec.payload.openPullRequest is the string \"yes\"; expected true or false; write true",
        "f.yaml:6:11: spec.payload.branch is the number 7; expected a string; put it in quotes: \"7\"",
        "f.yaml:7:1: unknown key \"prompt\" in spec; \"prompt\" belongs at spec.payload.prompt",
        "f.yaml:8:11: spec.priority is a list; expected a whole number",
        "f.yaml:9:17: spec.timeoutSeconds is the number -1; expected a whole number of at least 0",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn what_is_missing_is_named_with_what_it_should_be() {
    let (_, errors) = check("Agent", "model: m\n");
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(
        errors[0].contains("spec.role is missing; expected one of coder"),
        "{errors:?}"
    );
    assert!(
        errors[1].contains("spec.tools is missing; expected a list of strings"),
        "{errors:?}"
    );
}

#[test]
fn free_form_parts_are_left_alone() {
    let (value, errors) = check(
        "Agent",
        "role: coder\ntools: [bash]\nexecution: {resources: {limits: {cpu: 1, x: null}}}\nchatTemplateKwargs: {a: {b: [1]}}\n",
    );
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        value["execution"]["resources"],
        json!({"limits": {"cpu": 1, "x": null}})
    );
}
