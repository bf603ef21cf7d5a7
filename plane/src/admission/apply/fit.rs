//! Whether a configuration fits its type, in kube-apiserver's words.

use serde_json::Value;

use super::fieldset::Step;
use super::walk::step_of;
use crate::admission::gofmt;
use crate::admission::types::{Relation, Scalar as ScalarType, Type};

/// Checks that a value fits its type; `Err` holds one line per error.
pub(super) fn check(of: &Type, value: &Value) -> Result<(), String> {
    let mut errors = Vec::new();
    check_at(of, value, "", &mut errors);
    match errors.as_slice() {
        [] => Ok(()),
        [one] => Err(one.clone()),
        many => Err(format!(
            "errors:\n{}",
            many.iter().map(|e| format!("  {e}")).collect::<Vec<_>>().join("\n")
        )),
    }
}

fn raw(value: &Value) -> String {
    match value {
        Value::String(s) => gofmt::quote(s),
        Value::Object(_) => format!("map[string]interface {{}}{}", gofmt::json(value)),
        Value::Array(_) => format!("[]interface {{}}{}", gofmt::json(value)),
        other => gofmt::plain(other),
    }
}

fn check_at(of: &Type, value: &Value, path: &str, errors: &mut Vec<String>) {
    let at = |words: String| {
        if path.is_empty() {
            words
        } else {
            format!("{path}: {words}")
        }
    };
    if value.is_null() {
        return;
    }
    match of {
        Type::Any => {}
        Type::Scalar(scalar) => {
            let fits = match scalar {
                ScalarType::Number => value.is_number(),
                ScalarType::Text => value.is_string(),
                ScalarType::Bool => value.is_boolean(),
                ScalarType::Untyped => !value.is_array() && !value.is_object(),
            };
            if !fits {
                let kind = match value {
                    Value::Bool(_) => "bool",
                    Value::String(_) => "string",
                    Value::Array(_) => "[]interface {}",
                    Value::Object(_) => "map[string]interface {}",
                    Value::Number(n) if n.is_i64() => "int64",
                    _ => "float64",
                };
                errors.push(at(match scalar {
                    ScalarType::Number => format!("expected numeric (int or float), got {kind}"),
                    ScalarType::Text => {
                        format!("expected string, got &value.valueUnstructured{{Value:{}}}", raw(value))
                    }
                    ScalarType::Bool => {
                        format!("expected boolean, got &{{{}}}", gofmt::plain(value))
                    }
                    ScalarType::Untyped => {
                        format!("expected any scalar, got &{{{}}}", gofmt::plain(value))
                    }
                }));
            }
        }
        Type::List(list) => {
            let Value::Array(entries) = value else {
                errors.push(at(format!("expected list, got &{{{}}}", gofmt::plain(value))));
                return;
            };
            let mut seen = Vec::new();
            for (i, item) in entries.iter().enumerate() {
                let step = if list.relation == Relation::Atomic {
                    Step::Index(i as i64)
                } else {
                    match step_of(list, item) {
                        Ok(step) => step,
                        Err(words) => {
                            errors.push(at(format!("element {i}: {words}")));
                            return;
                        }
                    }
                };
                if list.relation != Relation::Atomic && seen.contains(&step) {
                    errors.push(at(format!("duplicate entries for key {step}")));
                }
                check_at(&list.element, item, &format!("{path}{step}"), errors);
                seen.push(step);
            }
        }
        Type::Map(map) => {
            let Value::Object(object) = value else {
                errors.push(at(format!("expected map, got &{{{}}}", gofmt::plain(value))));
                return;
            };
            for (key, item) in object {
                let below = format!("{path}.{key}");
                match map.fields.get(key).or(map.element.as_deref()) {
                    Some(of) => check_at(of, item, &below, errors),
                    None => {
                        errors.push(format!("{below}: field not declared in schema"));
                        return;
                    }
                }
            }
        }
    }
}
