//! `metadata.managedFields` of an object: taken off, put on, compared.

use serde_json::{Map, Value};

use super::managed::Managers;
use super::walk;
use crate::admission::gofmt;

pub(super) fn empty_object() -> Value {
    Value::Object(Map::new())
}

pub(super) fn without_managed(object: &Value) -> Value {
    let mut out = object.clone();
    if let Some(metadata) = out.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    out
}

pub(super) fn set_managed(object: &mut Value, managed: Option<Value>) {
    let Some(root) = object.as_object_mut() else {
        return;
    };
    let metadata = root.entry("metadata").or_insert_with(empty_object);
    if let Some(metadata) = metadata.as_object_mut() {
        match managed {
            Some(managed) => {
                metadata.insert("managedFields".to_owned(), managed);
            }
            None => {
                metadata.shift_remove("managedFields");
            }
        }
    }
}

pub(super) fn write_managers(object: &mut Value, managers: &Managers) {
    if managers.0.is_empty() && object.get("metadata").is_none() {
        return;
    }
    set_managed(object, managers.encode());
}

/// An empty list, or a list of one empty entry, asks to forget all managers.
pub(super) fn resets_managers(object: &Value) -> bool {
    match &object["metadata"]["managedFields"] {
        Value::Array(list) => match list.as_slice() {
            [] => true,
            [Value::Object(one)] => one.is_empty(),
            _ => false,
        },
        _ => false,
    }
}

/// Says whether two objects differ in nothing but the times of their managers.
pub(super) fn unchanged(a: &Value, b: &Value) -> bool {
    let timeless = |object: &Value| -> Value {
        let list = object["metadata"]["managedFields"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.into_iter()
            .map(|mut entry| {
                if let Some(entry) = entry.as_object_mut() {
                    entry.shift_remove("time");
                }
                gofmt::json(&entry)
            })
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    walk::same(&without_managed(a), &without_managed(b)) && timeless(a) == timeless(b)
}
