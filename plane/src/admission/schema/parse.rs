//! Reading a CRD version's `openAPIV3Schema`, and refusing what is not structural.

use serde_json::{Map, Value};

use super::cel::Rule;
use super::format;
use super::node::{Additional, Bound, ListType, MAX_DEPTH, Node, Pattern};
use super::pattern;
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

fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn flag(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or_default()
}

fn count(map: &Map<String, Value>, key: &str) -> Option<u64> {
    map.get(key).and_then(Value::as_u64)
}

fn read(schema: &Value, path: &str, level: Level, depth: usize, errors: &mut Vec<FieldError>) -> Node {
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::invalid(path, schema.clone(), "must be an object"));
        return Node::default();
    };
    if depth > MAX_DEPTH {
        errors.push(FieldError::forbidden(
            path,
            format!("schemas nested deeper than {MAX_DEPTH} are not served"),
        ));
        return Node::default();
    }
    let mut node = values(map, path, depth, errors);
    structure(&mut node, map, path, level, depth, errors);
    extensions(&mut node, map, path, errors);
    node.default = map.get("default").cloned();
    if level == Level::Root {
        completeness(&node, Some(&node), path, path, errors);
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

/// Reads what restricts values; shared by structural nodes and those under `allOf` and its kin.
fn values(map: &Map<String, Value>, path: &str, depth: usize, errors: &mut Vec<FieldError>) -> Node {
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
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::invalid(path, schema.clone(), "must be an object"));
        return Node::default();
    };
    if depth > MAX_DEPTH {
        errors.push(FieldError::forbidden(
            path,
            format!("schemas nested deeper than {MAX_DEPTH} are not served"),
        ));
        return Node::default();
    }
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

fn structure(
    node: &mut Node,
    map: &Map<String, Value>,
    path: &str,
    level: Level,
    depth: usize,
    errors: &mut Vec<FieldError>,
) {
    node.preserve = flag(map, "x-kubernetes-preserve-unknown-fields");
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
    } else if node.kind.is_empty() && !node.int_or_string && !node.preserve {
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

fn extensions(node: &mut Node, map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
    let keys: Vec<String> = map
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
        .unwrap_or_default();
    let list_type = text(map, "x-kubernetes-list-type");
    if !list_type.is_empty() && node.kind != "array" {
        errors.push(if node.kind.is_empty() {
            FieldError::required(
                format!("{path}.type"),
                "must be array if x-kubernetes-list-type is specified",
            )
        } else {
            FieldError::invalid(
                format!("{path}.type"),
                node.kind.as_str(),
                "must be array if x-kubernetes-list-type is specified",
            )
        });
    }
    if list_type != "map" && !keys.is_empty() {
        errors.push(FieldError::required(
            format!("{path}.x-kubernetes-list-type"),
            "must be map if x-kubernetes-list-map-keys is non-empty",
        ));
    }
    match list_type {
        "" | "atomic" => {}
        "set" => node.list_type = ListType::Set,
        "map" => {
            if keys.is_empty() {
                errors.push(FieldError::required(
                    format!("{path}.x-kubernetes-list-map-keys"),
                    "must not be empty if x-kubernetes-list-type is map",
                ));
            }
            if node.items.as_ref().is_some_and(|i| i.kind != "object") {
                let found = node.items.as_ref().map(|i| i.kind.clone()).unwrap_or_default();
                errors.push(FieldError::invalid(
                    format!("{path}.items.type"),
                    found,
                    "must be object if parent array's x-kubernetes-list-type is map",
                ));
            }
            for (i, key) in keys.iter().enumerate() {
                if node
                    .items
                    .as_ref()
                    .is_some_and(|items| !items.properties.contains_key(key))
                {
                    errors.push(FieldError::invalid(
                        format!("{path}.x-kubernetes-list-map-keys[{i}]"),
                        key.as_str(),
                        "entries must all be names of item properties",
                    ));
                }
            }
            if let Some(items) = &node.items {
                for key in &keys {
                    let property = items.properties.get(key);
                    if property.is_some_and(|p| p.default.is_none()) && !items.required.contains(key) {
                        errors.push(FieldError::required(
                            format!("{path}.items.properties[{key}].default"),
                            "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                        ));
                    }
                }
            }
            node.list_type = ListType::Map(keys);
        }
        other => {
            let supported = ["atomic", "map", "set"].map(str::to_owned);
            errors.push(FieldError::not_supported(
                format!("{path}.x-kubernetes-list-type"),
                other,
                &supported,
            ));
        }
    }
    match text(map, "x-kubernetes-map-type") {
        "" | "granular" => {}
        "atomic" => node.map_atomic = true,
        other => {
            let supported = ["atomic", "granular"].map(str::to_owned);
            errors.push(FieldError::not_supported(
                format!("{path}.x-kubernetes-map-type"),
                other,
                &supported,
            ));
        }
    }
}

/// Whatever a branch at the root mentions must also be declared outside of it.
fn completeness(branches: &Node, outer: Option<&Node>, path: &str, at: &str, errors: &mut Vec<FieldError>) {
    let lists = [
        ("allOf", &branches.all_of),
        ("anyOf", &branches.any_of),
        ("oneOf", &branches.one_of),
    ];
    for (word, list) in lists {
        for (i, branch) in list.iter().enumerate() {
            covered(branch, outer, path, &format!("{at}.{word}[{i}]"), errors);
        }
    }
    if let Some(not) = &branches.not {
        covered(not, outer, path, &format!("{at}.not"), errors);
    }
}

fn covered(branch: &Node, outer: Option<&Node>, path: &str, at: &str, errors: &mut Vec<FieldError>) {
    let Some(outer) = outer else {
        errors.push(FieldError::required(path, format!("because it is defined in {at}")));
        return;
    };
    completeness(branch, Some(outer), path, at, errors);
    if let Some(items) = &branch.items {
        covered(
            items,
            outer.items.as_deref(),
            &format!("{path}.items"),
            &format!("{at}.items"),
            errors,
        );
    }
    for (key, child) in &branch.properties {
        let (path, at) = (format!("{path}.properties[{key}]"), format!("{at}.properties[{key}]"));
        covered(child, outer.properties.get(key), &path, &at, errors);
    }
}
