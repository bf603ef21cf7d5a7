//! Pruning of unknown fields and filling in of defaults.

use serde_json::{Map, Value};

use super::node::{Additional, Node};

/// Fields of `ObjectMeta`.
const METADATA: [&str; 15] = [
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
];
const OWNER: [&str; 6] = ["apiVersion", "kind", "name", "uid", "controller", "blockOwnerDeletion"];
const MANAGED: [&str; 7] = [
    "manager",
    "operation",
    "apiVersion",
    "time",
    "fieldsType",
    "fieldsV1",
    "subresource",
];

fn is_meta(key: &str) -> bool {
    matches!(key, "apiVersion" | "kind" | "metadata")
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Removes what the schema does not know and returns the removed paths, sorted.
pub(super) fn prune_root(root: &Node, object: &mut Value) -> Vec<String> {
    let mut paths = Vec::new();
    prune(object, Some(root), true, "", &mut paths);
    paths.sort();
    paths
}

fn prune(value: &mut Value, node: Option<&Node>, root: bool, path: &str, paths: &mut Vec<String>) {
    let resource = root || node.is_some_and(|n| n.embedded);
    if resource && let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        prune_metadata(metadata, &join(path, "metadata"), paths);
    }
    if let Some(node) = node.filter(|n| n.preserve) {
        keep(value, node, resource, path, paths);
        return;
    }
    match value {
        Value::Object(map) => {
            let keys: Vec<String> = map.keys().cloned().collect();
            for key in keys {
                if resource && is_meta(&key) {
                    continue;
                }
                let known =
                    node.is_some_and(|n| n.properties.contains_key(&key) || !matches!(n.additional, Additional::None));
                if !known {
                    map.shift_remove(&key);
                    if !(is_meta(&key) && path.is_empty()) {
                        paths.push(join(path, &key));
                    }
                } else if let Some(child) = map.get_mut(&key) {
                    prune(child, node.and_then(|n| n.child(&key)), false, &join(path, &key), paths);
                }
            }
        }
        Value::Array(items) => {
            for (i, item) in items.iter_mut().enumerate() {
                prune(
                    item,
                    node.and_then(|n| n.items.as_deref()),
                    false,
                    &format!("{path}[{i}]"),
                    paths,
                );
            }
        }
        _ => {}
    }
}

/// Keeps unknown fields, and prunes below known ones.
fn keep(value: &mut Value, node: &Node, resource: bool, path: &str, paths: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (key, child) in map.iter_mut() {
                if resource && is_meta(key) {
                    continue;
                }
                if node.properties.contains_key(key) || !matches!(node.additional, Additional::None) {
                    prune(child, node.child(key), false, &join(path, key), paths);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = node.items.as_deref() {
                for (i, item) in items.iter_mut().enumerate() {
                    keep(item, below, below.embedded, &format!("{path}[{i}]"), paths);
                }
            }
        }
        _ => {}
    }
}

/// Removes what `ObjectMeta` does not know.
pub(in crate::admission) fn prune_metadata(metadata: &mut Map<String, Value>, path: &str, paths: &mut Vec<String>) {
    retain(metadata, &METADATA, path, paths);
    for (list, known) in [("ownerReferences", &OWNER[..]), ("managedFields", &MANAGED[..])] {
        for (i, entry) in metadata
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .enumerate()
        {
            if let Some(entry) = entry.as_object_mut() {
                retain(entry, known, &format!("{path}.{list}[{i}]"), paths);
            }
        }
    }
}

fn retain(map: &mut Map<String, Value>, known: &[&str], path: &str, paths: &mut Vec<String>) {
    map.retain(|key, _| {
        let keep = known.contains(&key.as_str());
        if !keep {
            paths.push(format!("{path}.{key}"));
        }
        keep
    });
}

/// Writes floats without a fraction as the integers that they are.
pub(super) fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(n) if n.is_f64() => {
            let float = n.as_f64().unwrap_or(f64::NAN);
            if float.fract() == 0.0 && float.abs() < 9_007_199_254_740_992.0 {
                *value = (float as i64).into();
            }
        }
        // What is larger than Go's integers is a float to it, which is written with as many digits as it has.
        Value::Number(n) if n.as_i64().is_none() => {
            let written = n.as_f64().map(|float| format!("{float}"));
            if let Some(rounded) = written.and_then(|text| text.parse::<u64>().ok()) {
                *value = rounded.into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Drops nulls where none may stand and no default follows, then fills in defaults.
pub(super) fn default_root(root: &Node, object: &mut Value) {
    drop_nulls(object, Some(root));
    fill(object, root);
}

fn refuses_null(node: Option<&Node>) -> bool {
    node.is_some_and(|n| !n.nullable && n.default.is_none())
}

fn drop_nulls(value: &mut Value, node: Option<&Node>) {
    match value {
        Value::Object(map) => map.retain(|key, child| {
            let below = node.and_then(|n| n.child(key));
            if child.is_null() && refuses_null(below) {
                return false;
            }
            drop_nulls(child, below);
            true
        }),
        Value::Array(items) => {
            for item in items {
                drop_nulls(item, node.and_then(|n| n.items.as_deref()));
            }
        }
        _ => {}
    }
}

fn replaces(value: &Value, node: &Node) -> bool {
    value.is_null() && !node.nullable
}

/// Fills in defaults below `value`.
pub(super) fn fill(value: &mut Value, node: &Node) {
    match value {
        Value::Object(map) => {
            for (key, property) in &node.properties {
                if let Some(default) = &property.default
                    && map.get(key).is_none_or(|v| replaces(v, property))
                {
                    map.insert(key.clone(), default.clone());
                }
            }
            for (key, child) in map.iter_mut() {
                if let Some(below) = node.child(key) {
                    if !node.properties.contains_key(key) && replaces(child, below) {
                        *child = below.default.clone().unwrap_or(Value::Null);
                    }
                    fill(child, below);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = node.items.as_deref() {
                for item in items {
                    if replaces(item, below) {
                        *item = below.default.clone().unwrap_or(Value::Null);
                    }
                    fill(item, below);
                }
            }
        }
        _ => {}
    }
}
