//! Reading a CRD version's `openAPIV3Schema`, and refusing what is not structural.

mod completeness;
mod extensions;
mod given;
mod values;

use serde_json::{Map, Value};

use self::given::flag;
use super::node::{Additional, Node};
use super::rule::Rule;
use crate::admission::error::FieldError;

/// Where in a schema a node stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

/// Reads a schema; `errors` is empty when it is structural.
pub(super) fn parse(schema: &Value, path: &str, errors: &mut Vec<FieldError>) -> Node {
    let node = read(schema, path, Level::Root, 0, errors);
    errors.sort_by_cached_key(ToString::to_string);
    node
}

fn read(schema: &Value, path: &str, level: Level, depth: usize, errors: &mut Vec<FieldError>) -> Node {
    let Some(map) = given::fields(schema, path, depth, errors) else {
        return Node::default();
    };
    let mut node = values::values(map, path, depth, errors);
    structure(&mut node, map, path, level, depth, errors);
    extensions::extensions(&mut node, map, path, errors);
    node.default = map.get("default").cloned();
    if level == Level::Root {
        completeness::completeness(&node, Some(&node), path, path, errors);
    }
    if let Some(rules) = map.get("x-kubernetes-validations").and_then(Value::as_array) {
        for (i, rule) in rules.iter().enumerate() {
            match Rule::compile(rule, &format!("{path}.x-kubernetes-validations[{i}]")) {
                Ok(rule) => node.rules.push(rule),
                Err(error) => errors.push(*error),
            }
        }
    }
    node
}

fn structure(
    node: &mut Node,
    map: &Map<String, Value>,
    path: &str,
    level: Level,
    depth: usize,
    errors: &mut Vec<FieldError>,
) {
    node.preserve = flag(map, "x-kubernetes-preserve-unknown-fields");
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(
            format!("{path}.x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        ));
    }
    node.int_or_string = flag(map, "x-kubernetes-int-or-string");
    node.embedded = flag(map, "x-kubernetes-embedded-resource");
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        for (key, value) in properties {
            // metadata at the root restricts names only; its structure is the server's own
            if level == Level::Root && key == "metadata" {
                let mut metadata = read(
                    value,
                    &format!("{path}.properties[{key}]"),
                    Level::Field,
                    depth + 1,
                    &mut Vec::new(),
                );
                metadata.preserve = true;
                node.properties.insert(key.clone(), metadata);
                continue;
            }
            let at = format!("{path}.properties[{key}]");
            node.properties
                .insert(key.clone(), read(value, &at, Level::Field, depth + 1, errors));
        }
    }
    match map.get("additionalProperties") {
        None | Some(Value::Null) => {}
        Some(Value::Bool(true)) => node.additional = Additional::Any,
        Some(Value::Bool(false)) => node.additional = Additional::Forbidden,
        Some(schema) => {
            let at = format!("{path}.additionalProperties");
            node.additional = Additional::Node(Box::new(read(schema, &at, Level::Field, depth + 1, errors)));
        }
    }
    if map.contains_key("additionalProperties") {
        if level == Level::Root {
            errors.push(FieldError::forbidden(
                format!("{path}.additionalProperties"),
                "must not be used at the root",
            ));
        }
        if !node.properties.is_empty()
            && map
                .get("additionalProperties")
                .is_some_and(|a| *a != Value::Bool(false))
        {
            errors.push(FieldError::forbidden(
                format!("{path}.additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            ));
        }
        if node.embedded {
            errors.push(FieldError::forbidden(
                format!("{path}.additionalProperties"),
                "must not be used if x-kubernetes-embedded-resource is set",
            ));
        }
    }
    match map.get("items") {
        Some(Value::Array(_)) => {
            errors.push(FieldError::forbidden(
                format!("{path}.items"),
                "items must be a schema object and not an array",
            ));
        }
        Some(items) => {
            node.items = Some(Box::new(read(
                items,
                &format!("{path}.items"),
                Level::Item,
                depth + 1,
                errors,
            )));
        }
        None if node.kind == "array" => errors.push(FieldError::required(format!("{path}.items"), "must be specified")),
        None => {}
    }
    let at = format!("{path}.type");
    if node.embedded && node.kind != "object" {
        let words = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if node.kind.is_empty() {
            FieldError::required(at.clone(), words)
        } else {
            FieldError::invalid(at.clone(), node.kind.as_str(), words)
        });
    } else if node.kind.is_empty() && !node.int_or_string && !node.preserve && !map.contains_key("$ref") {
        let words = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(at.clone(), words));
    }
    if level == Level::Root && !node.kind.is_empty() && node.kind != "object" {
        errors.push(FieldError::invalid(
            at,
            node.kind.as_str(),
            "must be object at the root",
        ));
    }
    if node.embedded && !node.preserve && node.properties.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ));
    }
    if node.int_or_string && node.preserve {
        errors.push(FieldError::invalid(
            format!("{path}.x-kubernetes-preserve-unknown-fields"),
            true,
            "must be false if x-kubernetes-int-or-string is true",
        ));
    }
}
