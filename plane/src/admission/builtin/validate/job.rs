//! Validation of Jobs.

use serde_json::Value;

use super::field::{known, list, named, non_negative, one_of, text};
use super::pod;
use crate::admission::error::{ErrorKind, FieldError};
use crate::admission::names;

/// Validates a Job.
pub(in crate::admission::builtin) fn job(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        non_negative(spec, key, "spec", &mut errors);
    }
    for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        non_negative(spec, key, "spec", &mut errors);
    }
    policies(spec, &mut errors);
    let mode = text(spec, "completionMode");
    if !matches!(mode, "" | "Indexed" | "NonIndexed") {
        let supported = ["NonIndexed", "Indexed"].map(str::to_owned);
        errors.push(FieldError::not_supported("spec.completionMode", mode, &supported));
    }
    if mode == "Indexed" && spec.get("completions").is_none() {
        errors.push(FieldError::required(
            "spec.completions",
            "when completion mode is Indexed",
        ));
    }
    indexed(spec, mode == "Indexed", &mut errors);
    let template = &spec["template"]["spec"];
    if old.is_none() {
        pod::pod_spec(template, "spec.template.spec", &mut errors);
    }
    let policy = text(template, "restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        let supported = ["Never", "OnFailure"].map(str::to_owned);
        if policy == "Always" {
            errors.push(FieldError::required(
                "spec.template.spec.restartPolicy",
                "valid values: \"OnFailure\", \"Never\"",
            ));
        } else {
            errors.push(FieldError::not_supported(
                "spec.template.spec.restartPolicy",
                policy,
                &supported,
            ));
        }
    }
    if let Some(old) = old {
        // A job that has not started yet may be sent elsewhere.
        let waiting = old["spec"]["suspend"] == true && old["status"].get("startTime").is_none_or(Value::is_null);
        let fixed = |object: &Value, key: &str| {
            let value = object["spec"].get(key).cloned();
            if key == "template" && waiting {
                value.map(without_scheduling)
            } else {
                value
            }
        };
        for key in [
            "completions",
            "selector",
            "template",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
        ] {
            if fixed(new, key) != fixed(old, key) {
                errors.push(FieldError::invalid(
                    format!("spec.{key}"),
                    spec.get(key).cloned().unwrap_or_default(),
                    "field is immutable",
                ));
            }
        }
    }
    errors
}

/// Checks what only Jobs of numbered Pods have.
fn indexed(spec: &Value, indexed: bool, errors: &mut Vec<FieldError>) {
    if !indexed && spec.get("successPolicy").is_some() {
        let given = spec["successPolicy"].clone();
        let words = "requires indexed completion mode";
        errors.push(FieldError::invalid("spec.successPolicy", given, words));
    }
    const MOST: i64 = 100_000;
    let number = |key: &str| spec.get(key).and_then(Value::as_i64);
    let (per_index, failed) = (number("backoffLimitPerIndex"), number("maxFailedIndexes"));
    if !indexed {
        for (key, given) in [("backoffLimitPerIndex", per_index), ("maxFailedIndexes", failed)] {
            if let Some(given) = given {
                let words = "requires indexed completion mode";
                errors.push(FieldError::invalid(format!("spec.{key}"), given, words));
            }
        }
        return;
    }
    let (completions, parallelism) = (number("completions"), number("parallelism"));
    if let Some(parallelism) = parallelism.filter(|number| *number > MOST) {
        let words = format!("must be less than or equal to {MOST} when completion mode is Indexed");
        errors.push(FieldError::invalid("spec.parallelism", parallelism, words));
    }
    if let Some(failed) = failed {
        if per_index.is_none() {
            let words = "when maxFailedIndexes is specified";
            errors.push(FieldError::required("spec.backoffLimitPerIndex", words));
        }
        if completions.is_some_and(|completions| failed > completions) {
            let words = "must be less than or equal to completions";
            errors.push(FieldError::invalid("spec.maxFailedIndexes", failed, words));
        }
    }
}

/// Checks who counts, and what becomes of Pods that fail.
fn policies(spec: &Value, errors: &mut Vec<FieldError>) {
    let replacement = ["Failed", "TerminatingOrFailed"];
    let policy = &spec["podFailurePolicy"];
    if policy.is_null() {
        known(spec, "podReplacementPolicy", &replacement, "spec", errors);
    } else {
        known(spec, "podReplacementPolicy", &["Failed"], "spec", errors);
        if text(&spec["template"]["spec"], "restartPolicy") != "Never" {
            let found = text(&spec["template"]["spec"], "restartPolicy");
            let words = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid("spec.template.spec.restartPolicy", found, words));
        }
    }
    let manager = text(spec, "managedBy");
    if !manager.is_empty() && !manager.contains('/') {
        let words = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.push(FieldError::invalid("spec.managedBy", manager, words));
    }
    for (i, rule) in list(policy, "rules").iter().enumerate() {
        failure_rule(
            rule,
            &spec["template"]["spec"],
            &format!("spec.podFailurePolicy.rules[{i}]"),
            errors,
        );
    }
}

fn failure_rule(rule: &Value, template: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
    one_of(rule, "action", &actions, path, errors);
    let codes = &rule["onExitCodes"];
    if !codes.is_null() {
        let at = format!("{path}.onExitCodes");
        one_of(codes, "operator", &["In", "NotIn"], &at, errors);
        let container = text(codes, "containerName");
        let mut all = ["containers", "initContainers"]
            .into_iter()
            .flat_map(|key| list(template, key));
        if !container.is_empty() && !all.any(|one| text(one, "name") == container) {
            let words = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(format!("{at}.containerName"), container, words));
        }
        let values = list(codes, "values");
        if values.is_empty() {
            let words = "at least one value is required";
            errors.push(FieldError::invalid(
                format!("{at}.values"),
                Value::Array(Vec::new()),
                words,
            ));
        }
        for (i, value) in values.iter().enumerate() {
            let at = format!("{at}.values[{i}]");
            if values[..i].contains(value) {
                errors.push(FieldError::duplicate(at, value.clone()));
            } else if *value == 0 && text(codes, "operator") == "In" {
                errors.push(FieldError::invalid(at, 0, "must not be 0 for the In operator"));
            }
        }
    }
    let conditions = list(rule, "onPodConditions");
    for (i, condition) in conditions.iter().enumerate() {
        let (kind, at) = (text(condition, "type"), format!("{path}.onPodConditions[{i}]"));
        named(kind, names::qualified_name(kind), &format!("{at}.type"), errors);
        one_of(condition, "status", &["False", "True", "Unknown"], &at, errors);
    }
    let words = match (codes.is_null(), conditions.is_empty()) {
        (true, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        (false, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        _ => return,
    };
    // The rule itself is not shown.
    errors.push(FieldError::new(path, ErrorKind::Invalid, None, words));
}

/// Drops from a template what decides where its pods run, and its labels and annotations.
fn without_scheduling(mut template: Value) -> Value {
    let mut drop = |part: &str, keys: &[&str]| {
        if let Some(part) = template.get_mut(part).and_then(Value::as_object_mut) {
            for key in keys {
                part.shift_remove(*key);
            }
        }
    };
    drop("metadata", &["labels", "annotations"]);
    drop("spec", &["affinity", "nodeSelector", "tolerations", "schedulingGates"]);
    template
}
