//! Validation of values against a schema, without its CEL rules.
//!
//! The order of checks and what a failed branch of `anyOf` or `oneOf` reports
//! follow kube-apiserver, which picks the branch that matched most.

use serde_json::Value;

use super::correlate;
use super::format;
use super::node::{Additional, Bound, Node};
use crate::admission::error::{ErrorKind, FieldError};
use crate::admission::gofmt;

/// What a node's validation found, and how much of it matched.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) errors: Vec<FieldError>,
    matched: usize,
}

impl Outcome {
    fn add(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Outcome) {
        self.matched += other.matched;
        for error in other.errors {
            self.add(error);
        }
    }

    fn valid(&self) -> bool {
        self.errors.is_empty()
    }
}

/// Validates `new`; errors in what equals its old value are forgiven when `old` is given.
pub(super) fn validate(node: &Node, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut outcome = node_outcome(node, new, "", old);
    if old.is_some_and(|o| correlate::equal(Some(node), new, o)) {
        outcome.errors.clear();
    }
    for error in &mut outcome.errors {
        if let Some(rest) = error.path.strip_prefix('.') {
            error.path = rest.to_owned();
        }
    }
    outcome.errors
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_whole(value: &Value) -> bool {
    value
        .as_f64()
        .is_some_and(|f| f.is_finite() && f.trunc() == f && f.abs() <= 9_007_199_254_740_991.0)
}

/// Validates a child; what equals its correlated old value is forgiven.
fn child(node: &Node, value: &Value, path: &str, old: Option<&Value>) -> Outcome {
    let mut outcome = node_outcome(node, value, path, old);
    if !outcome.valid() && old.is_some_and(|o| correlate::equal(Some(node), value, o)) {
        outcome.errors.clear();
    }
    outcome
}

fn node_outcome(node: &Node, value: &Value, path: &str, old: Option<&Value>) -> Outcome {
    let mut out = Outcome::default();
    if value.is_null() {
        out.merge(type_check(node, value, path));
        out.merge(options(node, value, path));
        return out;
    }
    let mut steps = vec![type_check(node, value, path), branches(node, value, path, old)];
    match value {
        Value::String(text) => {
            steps.push(string(node, text, path));
            if !node.format.is_empty() {
                steps.push(formatted(node, text, path));
            }
        }
        Value::Number(_) => steps.push(number(node, value, path)),
        Value::Array(items) => steps.push(list(node, items, path, old)),
        _ => {}
    }
    steps.push(options(node, value, path));
    if let Value::Object(_) = value {
        steps.push(object(node, value, path, old));
    }
    for step in steps {
        out.merge(step);
        out.matched += 1;
    }
    out.matched += 1;
    out
}

fn type_error(path: &str, expected: &str, found: &str) -> FieldError {
    let detail = format!("{path} in body must be of type {expected}: {}", gofmt::quote(found));
    FieldError::new(path, ErrorKind::TypeInvalid, Some(found.into()), detail)
}

fn type_check(node: &Node, value: &Value, path: &str) -> Outcome {
    let mut out = Outcome {
        matched: 1,
        ..Outcome::default()
    };
    if node.type_words().is_empty() {
        return out;
    }
    let found = kind_of(value);
    if value.is_null() {
        if !node.nullable {
            out.matched = 0;
            out.add(type_error(path, node.type_words(), "null"));
        }
        return out;
    }
    let fits = node.allows(found)
        || (found == "number" && node.allows("integer") && is_whole(value))
        || (found == "integer" && node.allows("number"));
    let numeric = node.allows("number") || node.allows("integer");
    if !numeric && !node.format.is_empty() && matches!(value, Value::String(_) | Value::Array(_)) {
        return out;
    }
    if !fits {
        out.matched = 0;
        out.add(type_error(path, node.type_words(), found));
    }
    out
}

fn branch_error(detail: String) -> FieldError {
    FieldError::invalid("", "", detail)
}

fn branches(node: &Node, value: &Value, path: &str, old: Option<&Value>) -> Outcome {
    let mut out = Outcome::default();
    let quoted = gofmt::quote(path);
    if !node.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut passed = None;
        for branch in &node.any_of {
            let result = node_outcome(branch, value, path, old);
            if result.valid() {
                passed = Some(result);
                break;
            }
            if best.as_ref().is_none_or(|b| result.matched > b.matched) {
                best = Some(result);
            }
        }
        match (passed, best) {
            (Some(result), _) => out.merge(result),
            (None, best) => {
                out.add(branch_error(format!(
                    "{quoted} must validate at least one schema (anyOf)"
                )));
                out.merge(best.unwrap_or_default());
            }
        }
    }
    if !node.one_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut first = None;
        let mut passed = 0;
        for branch in &node.one_of {
            let result = node_outcome(branch, value, path, old);
            if result.valid() {
                passed += 1;
                best = None;
                first.get_or_insert(result);
            } else if passed == 0 && best.as_ref().is_none_or(|b| result.matched > b.matched) {
                best = Some(result);
            }
        }
        if passed == 1 {
            out.merge(first.unwrap_or_default());
        } else {
            let found = if passed == 0 {
                "Found none valid".to_owned()
            } else {
                format!("Found {passed} valid alternatives")
            };
            out.add(branch_error(format!(
                "{quoted} must validate one and only one schema (oneOf). {found}"
            )));
            out.merge(best.unwrap_or_default());
        }
    }
    if !node.all_of.is_empty() {
        let mut passed = 0;
        for branch in &node.all_of {
            let result = node_outcome(branch, value, path, old);
            passed += usize::from(result.valid());
            out.merge(result);
        }
        if passed != node.all_of.len() {
            let found = if passed == 0 { ". None validated" } else { "" };
            out.add(branch_error(format!(
                "{quoted} must validate all the schemas (allOf){found}"
            )));
        }
    }
    if let Some(not) = &node.not
        && node_outcome(not, value, path, old).valid()
    {
        out.add(branch_error(format!("{quoted} must not validate the schema (not)")));
    }
    out.matched += 1;
    out
}

fn invalid(path: &str, value: impl Into<Value>, words: String) -> FieldError {
    FieldError::invalid(path, value, format!("{} in body {words}", path))
}

fn failure(error: FieldError) -> Outcome {
    Outcome {
        errors: vec![error],
        matched: 0,
    }
}

fn string(node: &Node, text: &str, path: &str) -> Outcome {
    let length = text.chars().count() as u64;
    if let Some(max) = node.max_length.filter(|max| length > *max) {
        return failure(FieldError::too_long(path, max));
    }
    if let Some(min) = node.min_length.filter(|min| length < *min) {
        return failure(invalid(path, text, format!("should be at least {min} chars long")));
    }
    if let Some(pattern) = &node.pattern {
        // A pattern that cannot be read matches nothing: fail closed.
        if !pattern.regex.as_ref().is_some_and(|r| r.is_match(text)) {
            return failure(invalid(path, text, format!("should match '{}'", pattern.text)));
        }
    }
    Outcome::default()
}

fn formatted(node: &Node, text: &str, path: &str) -> Outcome {
    if format::matches(&node.format, text) {
        return Outcome::default();
    }
    failure(type_error(path, &node.format, text))
}

fn number(node: &Node, value: &Value, path: &str) -> Outcome {
    let mut out = Outcome::default();
    let whole = value.as_i64();
    let float = value.as_f64().unwrap_or(f64::NAN);
    let words = |bound: Bound| match whole {
        Some(_) => (bound.limit as i64).to_string(),
        None => gofmt::number(bound.limit),
    };
    if let Some(factor) = node.multiple_of {
        let fits = match whole {
            Some(i) if factor.trunc() == factor && factor != 0.0 => i % (factor as i64) == 0,
            _ => {
                let quotient = if factor < 1.0 {
                    1.0 / factor * float
                } else {
                    float / factor
                };
                is_whole(&quotient.into())
            }
        };
        if !fits {
            out.add(invalid(
                path,
                value.clone(),
                format!("should be a multiple of {}", gofmt::number(factor)),
            ));
        }
    }
    let limit = |bound: Bound| {
        if whole.is_some() {
            (bound.limit as i64) as f64
        } else {
            bound.limit
        }
    };
    if let Some(bound) = node.minimum {
        let fits = if bound.exclusive {
            float > limit(bound)
        } else {
            float >= limit(bound)
        };
        if !fits {
            let than = if bound.exclusive {
                "greater than"
            } else {
                "greater than or equal to"
            };
            out.add(invalid(
                path,
                value.clone(),
                format!("should be {than} {}", words(bound)),
            ));
        }
    }
    if let Some(bound) = node.maximum {
        let fits = if bound.exclusive {
            float < limit(bound)
        } else {
            float <= limit(bound)
        };
        if !fits {
            let than = if bound.exclusive {
                "less than"
            } else {
                "less than or equal to"
            };
            out.add(invalid(
                path,
                value.clone(),
                format!("should be {than} {}", words(bound)),
            ));
        }
    }
    out.matched += 1;
    out
}

fn list(node: &Node, items: &[Value], path: &str, old: Option<&Value>) -> Outcome {
    let mut out = Outcome::default();
    if let Some(below) = node.items.as_deref() {
        for (i, item) in items.iter().enumerate() {
            out.merge(child(
                below,
                item,
                &format!("{path}[{i}]"),
                correlate::entry(node, old, item),
            ));
        }
    }
    let size = items.len() as u64;
    if let Some(min) = node.min_items.filter(|min| size < *min) {
        out.add(invalid(path, size, format!("should have at least {min} items")));
    }
    if let Some(max) = node.max_items.filter(|max| size > *max) {
        out.add(FieldError::too_many(path, size, max));
    }
    out.matched += 1;
    out
}

fn same(option: &Value, value: &Value) -> bool {
    option == value || matches!((option.as_f64(), value.as_f64()), (Some(a), Some(b)) if a == b)
}

fn options(node: &Node, value: &Value, path: &str) -> Outcome {
    if node.options.is_empty() || node.options.iter().any(|o| !o.is_null() && same(o, value)) {
        return Outcome::default();
    }
    let words: Vec<String> = node
        .options
        .iter()
        .map(|o| match o {
            Value::String(s) => s.clone(),
            other => gofmt::json(other),
        })
        .collect();
    failure(FieldError::not_supported(path, value.clone(), &words))
}

fn object(node: &Node, value: &Value, path: &str, old: Option<&Value>) -> Outcome {
    let mut out = Outcome::default();
    let Value::Object(map) = value else {
        return out;
    };
    let size = map.len() as u64;
    if let Some(min) = node.min_properties.filter(|min| size < *min) {
        out.add(invalid(path, size, format!("should have at least {min} properties")));
    }
    if let Some(max) = node.max_properties.filter(|max| size > *max) {
        out.add(FieldError::too_many(path, size, max));
    }
    // The root's type fields never correlate: both sides were converted to one version.
    let before = |key: &str| {
        if path.is_empty() && matches!(key, "apiVersion" | "kind") {
            None
        } else {
            correlate::key(old, key)
        }
    };
    if matches!(node.additional, Additional::Forbidden) {
        for key in map.keys().filter(|k| !node.properties.contains_key(*k)) {
            out.add(FieldError::invalid(
                path,
                key.as_str(),
                format!("{path}.{key} in body is a forbidden property"),
            ));
        }
    }
    if let Additional::Node(below) = &node.additional {
        for (key, item) in map.iter().filter(|(k, _)| !node.properties.contains_key(*k)) {
            out.merge(child(below, item, &format!("{path}.{key}"), before(key)));
        }
    }
    for (key, below) in &node.properties {
        if let Some(item) = map.get(key) {
            let at = if path.is_empty() {
                key.clone()
            } else {
                format!("{path}.{key}")
            };
            out.merge(child(below, item, &at, before(key)));
        }
    }
    for key in node.required.iter().filter(|k| !map.contains_key(*k)) {
        out.add(FieldError::required(format!("{path}.{key}"), ""));
    }
    out
}
