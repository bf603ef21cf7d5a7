//! What an updated value is compared with: the old value at the same place.

use serde_json::{Map, Value};

use super::node::{ListType, Node};

/// Finds the old value of a key. Maps correlate by key.
pub(super) fn key<'a>(old: Option<&'a Value>, key: &str) -> Option<&'a Value> {
    old?.as_object()?.get(key)
}

/// Finds the old entry that has the same list-map keys as `item`; other lists do not correlate.
pub(super) fn entry<'a>(node: &Node, old: Option<&'a Value>, item: &Value) -> Option<&'a Value> {
    let ListType::Map(keys) = &node.list_type else {
        return None;
    };
    let item = item.as_object()?;
    let same = |other: &Map<String, Value>| keys.iter().all(|k| other.get(k) == item.get(k));
    old?.as_array()?.iter().find(|o| o.as_object().is_some_and(same))
}

/// Compares as the server does for ratcheting: entries of list maps by their keys, in any order.
pub(super) fn equal(node: Option<&Node>, new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                return false;
            }
            match node {
                Some(n) if matches!(n.list_type, ListType::Map(_)) => a
                    .iter()
                    .all(|item| entry(n, Some(old), item).is_some_and(|o| equal(n.items.as_deref(), item, o))),
                _ => a == b,
            }
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len()
                && a.iter()
                    .all(|(k, v)| b.get(k).is_some_and(|o| equal(node.and_then(|n| n.child(k)), v, o)))
        }
        _ => new == old,
    }
}
