//! Validation of where a Pod may run.

use std::collections::HashSet;

use serde_json::Value;

use super::super::field::{entries, known, list, named, one_of, text};
use crate::admission::error::FieldError;
use crate::admission::names;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks everything that decides where a Pod may run.
pub(super) fn placement(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (key, value) in entries(spec, "nodeSelector") {
        let at = format!("{path}.nodeSelector");
        named(&key, names::qualified_name(&key), &at, errors);
        let value = value.as_str().unwrap_or_default();
        named(value, names::label_value(value), &at, errors);
    }
    for (i, toleration) in list(spec, "tolerations").iter().enumerate() {
        self::toleration(toleration, &format!("{path}.tolerations[{i}]"), errors);
    }
    affinity(&spec["affinity"], &format!("{path}.affinity"), errors);
    for (i, spread) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        self::spread(spread, &format!("{path}.topologySpreadConstraints[{i}]"), errors);
    }
    let mut seen = HashSet::new();
    for (i, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let (name, at) = (text(gate, "name"), format!("{path}.schedulingGates[{i}]"));
        named(name, names::qualified_name(name), &at, errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(at, name));
        }
    }
}

fn toleration(toleration: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let [key, operator, value, effect] = ["key", "operator", "value", "effect"].map(|field| text(toleration, field));
    if !key.is_empty() {
        named(key, names::qualified_name(key), &format!("{path}.key"), errors);
    }
    let at = format!("{path}.operator");
    if key.is_empty() && operator != "Exists" {
        let words = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(at.clone(), operator, words));
    }
    if toleration.get("tolerationSeconds").is_some() && effect != "NoExecute" {
        let words = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(format!("{path}.effect"), effect, words));
    }
    match operator {
        "" | "Equal" => named(value, names::label_value(value), &at, errors),
        "Exists" if !value.is_empty() => {
            errors.push(FieldError::invalid(
                at,
                value,
                "value must be empty when `operator` is 'Exists'",
            ));
        }
        _ => known(toleration, "operator", &["Equal", "Exists"], path, errors),
    }
    known(
        toleration,
        "effect",
        &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        path,
        errors,
    );
}

fn affinity(affinity: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (node, at) = (&affinity["nodeAffinity"], format!("{path}.nodeAffinity"));
    if let Some(required) = node.get(REQUIRED) {
        let at = format!("{at}.{REQUIRED}.nodeSelectorTerms");
        let terms = list(required, "nodeSelectorTerms");
        if terms.is_empty() {
            errors.push(FieldError::required(
                at.clone(),
                "must have at least one node selector term",
            ));
        }
        for (i, term) in terms.iter().enumerate() {
            expressions(term, &format!("{at}[{i}]"), errors);
        }
    }
    for (i, preferred) in list(node, PREFERRED).iter().enumerate() {
        let at = format!("{at}.{PREFERRED}[{i}]");
        weight(preferred, &at, errors);
        expressions(&preferred["preference"], &format!("{at}.preference"), errors);
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let (pods, at) = (&affinity[side], format!("{path}.{side}"));
        for (i, term) in list(pods, REQUIRED).iter().enumerate() {
            topology(term, &format!("{at}.{REQUIRED}[{i}]"), errors);
        }
        for (i, preferred) in list(pods, PREFERRED).iter().enumerate() {
            let at = format!("{at}.{PREFERRED}[{i}]");
            weight(preferred, &at, errors);
            topology(&preferred["podAffinityTerm"], &format!("{at}.podAffinityTerm"), errors);
        }
    }
}

fn weight(preferred: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let weight = preferred["weight"].as_i64().unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(
            format!("{path}.weight"),
            weight,
            "must be in the range 1-100",
        ));
    }
}

fn topology(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (key, at) = (text(term, "topologyKey"), format!("{path}.topologyKey"));
    if key.is_empty() {
        errors.push(FieldError::required(at.clone(), "can not be empty"));
    }
    named(key, names::qualified_name(key), &at, errors);
}

/// Checks what a node's labels must say.
fn expressions(term: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (i, expression) in list(term, "matchExpressions").iter().enumerate() {
        let at = format!("{path}.matchExpressions[{i}]");
        let (operator, values) = (text(expression, "operator"), list(expression, "values"));
        let wrong = match operator {
            "In" | "NotIn" if values.is_empty() => Some(FieldError::required(
                format!("{at}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => Some(FieldError::forbidden(
                format!("{at}.values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            )),
            "Gt" | "Lt" if values.len() != 1 => Some(FieldError::required(
                format!("{at}.values"),
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => None,
            _ => Some(FieldError::invalid(
                format!("{at}.operator"),
                operator,
                "not a valid selector operator",
            )),
        };
        errors.extend(wrong);
        let key = text(expression, "key");
        named(key, names::qualified_name(key), &format!("{at}.key"), errors);
    }
}

fn spread(spread: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let skew = spread["maxSkew"].as_i64().unwrap_or(0);
    if skew <= 0 {
        errors.push(FieldError::invalid(
            format!("{path}.maxSkew"),
            skew,
            "must be greater than zero",
        ));
    }
    if text(spread, "topologyKey").is_empty() {
        errors.push(FieldError::required(format!("{path}.topologyKey"), "can not be empty"));
    }
    let ways = ["DoNotSchedule", "ScheduleAnyway"];
    one_of(spread, "whenUnsatisfiable", &ways, path, errors);
}
