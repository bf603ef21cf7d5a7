//! Topology: what is one value, and how the entries of lists are told apart.

use serde_json::{Map, Value};

use super::given::text;
use crate::admission::error::FieldError;
use crate::admission::schema::node::{ListType, Node};

/// Reads how the entries of lists and maps are told apart.
pub(super) fn extensions(node: &mut Node, map: &Map<String, Value>, path: &str, errors: &mut Vec<FieldError>) {
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
        "set" => {
            node.list_type = ListType::Set;
            set_items(node, path, errors);
        }
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
            let unknown = |items: &Node| keys.iter().any(|key| !items.properties.contains_key(key));
            if node.items.as_deref().is_some_and(unknown) {
                errors.push(FieldError::invalid(
                    format!("{path}.x-kubernetes-list-map-keys"),
                    keys.as_slice(),
                    "entries must all be names of item properties",
                ));
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
            let supported = ["atomic", "set", "map"].map(str::to_owned);
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

/// Refuses a set of maps of which each field is owned by itself.
fn set_items(node: &Node, path: &str, errors: &mut Vec<FieldError>) {
    let Some(items) = node.items.as_deref() else { return };
    if items.kind == "object" && !items.map_atomic {
        let words = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let at = format!("{path}.items.x-kubernetes-map-type");
        errors.push(FieldError::invalid(at, Value::Null, words));
    }
}
