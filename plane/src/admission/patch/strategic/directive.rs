//! Directives: what a patch says beside what it changes.

use serde_json::Value;

use super::entry::{Object, bad, internal, key_of};
use crate::admission::gofmt;
use crate::admission::patch::error::PatchError;

pub(super) const DIRECTIVE: &str = "$patch";
pub(super) const RETAIN_KEYS: &str = "$retainKeys";
pub(super) const DELETE_FROM: &str = "$deleteFromPrimitiveList";
pub(super) const ORDER: &str = "$setElementOrder";

pub(super) fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(_, v)| !v.is_null())
                .map(|(k, v)| (k, without_nulls(v)))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(without_nulls).collect()),
        other => other,
    }
}

/// Drops what carries a directive.
pub(super) fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            Some(Value::Object(
                map.into_iter()
                    .filter_map(|(k, v)| Some((k, without_directives(v)?)))
                    .collect(),
            ))
        }
        Value::Array(list) => Some(Value::Array(list.into_iter().filter_map(without_directives).collect())),
        other => Some(other),
    }
}

pub(super) fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
    let Some(keys) = patch.shift_remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(bad("retainKeys"));
    };
    let kept = |name: &str| keys.iter().any(|k| k == name);
    for (name, value) in patch.iter() {
        if !value.is_null() && !name.starts_with(DELETE_FROM) && !name.starts_with(ORDER) && !kept(name) {
            return Err(bad("retainKeys"));
        }
    }
    original.retain(|name, _| kept(name));
    Ok(())
}

/// Carries out `$patch` in entries of a list.
pub(super) fn directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut rest = Vec::new();
    let mut replace = false;
    for item in patch {
        let Some(directive) = item.get(DIRECTIVE).cloned() else {
            rest.push(item);
            continue;
        };
        match directive.as_str() {
            Some("delete") => {
                let value = key_of(&item, key)?;
                original.retain(|v| v.get(key) != Some(value));
            }
            Some("replace") => replace = true,
            Some("merge") => return internal("merging lists cannot yet be specified in the patch"),
            _ => {
                return internal(format!(
                    "unknown patch type: {} in map: {}",
                    gofmt::plain(&directive),
                    gofmt::plain(&item)
                ));
            }
        }
    }
    Ok(if replace { (rest, Vec::new()) } else { (original, rest) })
}
