//! Checks of whole places in an object: no entry of a set or list map stands twice, and
//! embedded resources say what they are.

use std::collections::HashSet;

use serde_json::Value;

use super::node::{ListType, Node};
use crate::admission::error::FieldError;
use crate::admission::{gofmt, names};

/// Checks that sets and list maps hold no entry twice.
pub(super) fn list_types(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Array(items) => {
            match &node.list_type {
                ListType::Atomic => {}
                ListType::Set => {
                    for i in repeated(items.iter().map(gofmt::json)) {
                        errors.push(FieldError::duplicate(format!("{path}[{i}]"), items[i].clone()));
                    }
                }
                ListType::Map(keys) => {
                    if let Some(i) = items.iter().position(|v| !v.is_object() && !v.is_null()) {
                        errors.push(FieldError::invalid(
                            format!("{path}[{i}]"),
                            items[i].clone(),
                            "must be an object for an array of list-type map",
                        ));
                    } else {
                        let key = |v: &Value| -> Value {
                            keys.iter()
                                .filter_map(|k| v.get(k).map(|found| (k.clone(), found.clone())))
                                .collect::<serde_json::Map<_, _>>()
                                .into()
                        };
                        for i in repeated(items.iter().map(|v| gofmt::json(&key(v)))) {
                            errors.push(FieldError::duplicate(format!("{path}[{i}]"), key(&items[i])));
                        }
                    }
                }
            }
            if let Some(below) = node.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    list_types(below, item, &format!("{path}[{i}]"), errors);
                }
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                if let Some(below) = node.properties.get(key) {
                    let at = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    list_types(below, item, &at, errors);
                } else if let Some(below) = node.additional.node() {
                    list_types(below, item, &format!("{path}[{key}]"), errors);
                }
            }
        }
        _ => {}
    }
}

/// Finds the second occurrence of each repeated text; further ones are not reported.
fn repeated(texts: impl Iterator<Item = String>) -> Vec<usize> {
    let (mut once, mut twice) = (HashSet::new(), HashSet::new());
    let mut found = Vec::new();
    for (i, text) in texts.enumerate() {
        if !once.insert(text.clone()) && twice.insert(text) {
            found.push(i);
        }
    }
    found
}

/// Checks `apiVersion`, `kind` and `metadata` of embedded resources.
pub(super) fn embedded(node: &Node, value: &Value, path: &str, errors: &mut Vec<FieldError>) {
    match value {
        Value::Object(map) => {
            if node.embedded {
                for key in ["apiVersion", "kind"] {
                    let at = if path.is_empty() {
                        key.to_owned()
                    } else {
                        format!("{path}.{key}")
                    };
                    match map.get(key) {
                        None => errors.push(FieldError::required(at, "")),
                        Some(Value::String(s)) if s.is_empty() => {
                            errors.push(FieldError::invalid(at, "", "must not be empty"))
                        }
                        Some(Value::String(s)) if key == "kind" => {
                            let wrong = names::dns1035_label(&s.to_lowercase());
                            if !wrong.is_empty() {
                                errors.push(FieldError::invalid(
                                    at,
                                    s.as_str(),
                                    format!("may have mixed case, but should otherwise match: {}", wrong.join(",")),
                                ));
                            }
                        }
                        Some(Value::String(s)) => {
                            if s.matches('/').count() > 1 {
                                errors.push(FieldError::invalid(
                                    at,
                                    s.as_str(),
                                    format!("unexpected GroupVersion string: {s}"),
                                ));
                            }
                        }
                        Some(other) => errors.push(FieldError::invalid(at, other.clone(), "must be a string")),
                    }
                }
            }
            for (key, item) in map {
                if let Some(below) = node.properties.get(key) {
                    let at = if path.is_empty() {
                        key.clone()
                    } else {
                        format!("{path}.{key}")
                    };
                    embedded(below, item, &at, errors);
                } else if let Some(below) = node.additional.node() {
                    embedded(below, item, &format!("{path}[{key}]"), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = node.items.as_deref() {
                for (i, item) in items.iter().enumerate() {
                    embedded(below, item, &format!("{path}[{i}]"), errors);
                }
            }
        }
        _ => {}
    }
}
