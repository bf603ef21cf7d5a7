//! What restricts values: types, bounds, patterns, and the branches of `allOf` and its kin.

use serde_json::{Map, Value};

use super::given::{self, count, flag, text};
use crate::admission::error::FieldError;
use crate::admission::schema::node::{Bound, Node, Pattern};
use crate::admission::schema::{format, pattern};

/// Reads what restricts values; shared by structural nodes and those under `allOf` and its kin.
pub(super) fn values(map: &Map<String, Value>, path: &str, depth: usize, errors: &mut Vec<FieldError>) -> Node {
    let mut node = Node {
        kind: text(map, "type").to_owned(),
        nullable: flag(map, "nullable"),
        ..Node::default()
    };
    if !matches!(
        node.kind.as_str(),
        "" | "object" | "array" | "string" | "integer" | "number" | "boolean"
    ) {
        let supported = ["array", "boolean", "integer", "number", "object", "string"].map(str::to_owned);
        errors.push(FieldError::not_supported(
            format!("{path}.type"),
            node.kind.as_str(),
            &supported,
        ));
    }
    let format = text(map, "format");
    if format::is_known(format) {
        node.format = format.to_owned();
    }
    node.options = map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default();
    let pattern = text(map, "pattern");
    if !pattern.is_empty() {
        let regex = match pattern::compile(pattern) {
            Ok(regex) => Some(regex),
            Err(shown) => {
                errors.push(FieldError::invalid(
                    format!("{path}.pattern"),
                    pattern,
                    format!("must be a valid regular expression, but isn't: {shown}"),
                ));
                None
            }
        };
        node.pattern = Some(Pattern {
            text: pattern.to_owned(),
            regex,
        });
    }
    let bound = |key: &str, exclusive: &str| {
        map.get(key).and_then(Value::as_f64).map(|limit| Bound {
            limit,
            exclusive: flag(map, exclusive),
        })
    };
    node.maximum = bound("maximum", "exclusiveMaximum");
    node.minimum = bound("minimum", "exclusiveMinimum");
    node.multiple_of = map.get("multipleOf").and_then(Value::as_f64);
    node.max_length = count(map, "maxLength");
    node.min_length = count(map, "minLength");
    node.max_items = count(map, "maxItems");
    node.min_items = count(map, "minItems");
    node.max_properties = count(map, "maxProperties");
    node.min_properties = count(map, "minProperties");
    node.required = map
        .get("required")
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let branches = |key: &str, errors: &mut Vec<FieldError>| -> Vec<Node> {
        let Some(list) = map.get(key).and_then(Value::as_array) else {
            return Vec::new();
        };
        let pattern = key == "anyOf" && is_int_or_string(list) && flag(map, "x-kubernetes-int-or-string");
        list.iter()
            .enumerate()
            .map(|(i, s)| {
                let first = key == "allOf" && i == 0 && flag(map, "x-kubernetes-int-or-string");
                nested(s, &format!("{path}.{key}[{i}]"), depth + 1, pattern, first, errors)
            })
            .collect()
    };
    node.all_of = branches("allOf", errors);
    node.any_of = branches("anyOf", errors);
    node.one_of = branches("oneOf", errors);
    if let Some(not) = map.get("not") {
        node.not = Some(Box::new(nested(
            not,
            &format!("{path}.not"),
            depth + 1,
            false,
            false,
            errors,
        )));
    }
    if flag(map, "uniqueItems") {
        errors.push(FieldError::forbidden(
            format!("{path}.uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    for key in [
        "$ref",
        "definitions",
        "dependencies",
        "patternProperties",
        "additionalItems",
        "id",
    ] {
        if map.contains_key(key) {
            errors.push(FieldError::forbidden(
                format!("{path}.{key}"),
                format!("{key} is not supported"),
            ));
        }
    }
    node
}

fn is_int_or_string(list: &[Value]) -> bool {
    let only = |v: &Value, kind: &str| {
        v.as_object()
            .is_some_and(|m| m.len() == 1 && m.get("type").is_some_and(|t| t == kind))
    };
    matches!(list, [a, b] if only(a, "integer") && only(b, "string"))
}

/// Reads a node under `allOf`, `anyOf`, `oneOf` or `not`, where structure may not be declared.
fn nested(
    schema: &Value,
    path: &str,
    depth: usize,
    type_allowed: bool,
    first_all_of: bool,
    errors: &mut Vec<FieldError>,
) -> Node {
    let Some(map) = given::fields(schema, path, depth, errors) else {
        return Node::default();
    };
    // The one place where types may stand deeper: allOf[0].anyOf of an int-or-string.
    let inner = if first_all_of
        && map
            .get("anyOf")
            .and_then(Value::as_array)
            .is_some_and(|l| is_int_or_string(l))
    {
        let mut inner = map.clone();
        inner.insert("x-kubernetes-int-or-string".to_owned(), true.into());
        Some(inner)
    } else {
        None
    };
    let mut node = values(inner.as_ref().unwrap_or(map), path, depth, errors);
    if !type_allowed && !node.kind.is_empty() {
        errors.push(FieldError::forbidden(
            format!("{path}.type"),
            "must be empty to be structural",
        ));
    }
    for key in [
        "additionalProperties",
        "nullable",
        "default",
        "title",
        "description",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
        "x-kubernetes-validations",
    ] {
        let set = match map.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(s)) => !s.is_empty(),
            Some(Value::Array(l)) => !l.is_empty(),
            Some(_) => true,
        };
        if set {
            errors.push(FieldError::forbidden(
                format!("{path}.{key}"),
                "must be empty to be structural",
            ));
        }
    }
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        for (key, value) in properties {
            let at = format!("{path}.properties[{key}]");
            node.properties
                .insert(key.clone(), nested(value, &at, depth + 1, false, false, errors));
        }
    }
    if let Some(items) = map.get("items") {
        node.items = Some(Box::new(nested(
            items,
            &format!("{path}.items"),
            depth + 1,
            false,
            false,
            errors,
        )));
    }
    node
}
