//! Strategic merge patches: lists of maps merge by a key, and directives say what else to do.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::PatchError;
use crate::admission::gofmt;
use crate::admission::types::{Strategy, Type, TypeInfo};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList";
const ORDER: &str = "$setElementOrder";

type Object = Map<String, Value>;

/// Applies a strategic merge patch.
///
/// # Errors
/// A directive or list entry that does not fit the type.
pub fn strategic_merge_patch(types: &TypeInfo, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::BadRequest("invalid JSON document".to_owned()));
    };
    let original = target.as_object().cloned().unwrap_or_default();
    merge_map(original, patch.clone(), types.root()).map(Value::Object)
}

fn internal<T>(words: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Internal(words.into()))
}

fn bad(what: &str) -> PatchError {
    PatchError::BadRequest(format!("invalid patch format of {what}"))
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "%!s(<nil>)",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn no_merge_key(map: &Object, key: &str) -> PatchError {
    PatchError::Internal(format!(
        "map: {} does not contain declared merge key: {key}",
        gofmt::plain(&Value::Object(map.clone()))
    ))
}

fn merge_map(mut original: Object, mut patch: Object, of: &Type) -> Result<Object, PatchError> {
    if let Some(directive) = patch.get(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => {
                patch.shift_remove(DIRECTIVE);
                Ok(patch)
            }
            Some("delete") => Ok(Object::new()),
            _ => internal(format!(
                "unknown patch type: {} in map: {}",
                gofmt::plain(directive),
                gofmt::plain(&Value::Object(patch.clone()))
            )),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_lists(&mut original, &mut patch, of)?;
    for (key, value) in patch {
        let (key, delete) = match key.strip_prefix(DELETE_FROM) {
            Some(rest) => (
                rest.strip_prefix('/').ok_or_else(|| bad("primitive list"))?.to_owned(),
                true,
            ),
            None => (key, false),
        };
        if value.is_null() {
            original.shift_remove(&key);
            continue;
        }
        let merged = match (original.get(&key), value) {
            (None, _) | (Some(Value::Null), _) if delete => continue,
            (Some(Value::Object(before)), Value::Object(patch)) => {
                Some(Value::Object(merge_map(before.clone(), patch, of.field(&key))?))
            }
            (Some(Value::Array(before)), Value::Array(patch)) => {
                Some(Value::Array(merge_list(before.clone(), patch, of.field(&key), delete)?))
            }
            _ if delete => continue,
            (_, value) => without_directives(without_nulls(value)),
        };
        match merged {
            Some(merged) => {
                original.insert(key, merged);
            }
            None => {
                original.shift_remove(&key);
            }
        }
    }
    Ok(original)
}

fn without_nulls(value: Value) -> Value {
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
fn without_directives(value: Value) -> Option<Value> {
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

fn retain_keys(original: &mut Object, patch: &mut Object) -> Result<(), PatchError> {
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

fn strategy(of: &Type) -> &Strategy {
    match of {
        Type::List(list) => &list.strategy,
        _ => &Strategy::Replace,
    }
}

fn merge_key(of: &Type) -> Option<&str> {
    match strategy(of) {
        Strategy::Key(key) => Some(key),
        _ => None,
    }
}

fn expect_list(value: Option<Value>) -> Result<Option<Vec<Value>>, PatchError> {
    match value {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => internal(format!(
            "expected a []interface {{}}, but received a {}",
            go_type(&other)
        )),
    }
}

/// Merges the lists whose order the patch sets, and takes them out of it.
fn order_lists(original: &mut Object, patch: &mut Object, of: &Type) -> Result<(), PatchError> {
    let orders: Vec<String> = patch.keys().filter(|k| k.starts_with(ORDER)).cloned().collect();
    for name in orders {
        let Some(order) = expect_list(patch.shift_remove(&name))? else {
            continue;
        };
        let field = name[ORDER.len()..]
            .strip_prefix('/')
            .ok_or_else(|| bad("setElementOrder list"))?;
        let below = of.field(field);
        let key = merge_key(below);
        let before = expect_list(original.get(field).cloned())?;
        let change = expect_list(patch.get(field).cloned())?;
        check_order(change.as_deref().unwrap_or_default(), &order, key)?;
        let merged = match (&before, &change) {
            (None, None) => continue,
            (Some(before), None) => before.clone(),
            (None, Some(change)) => change.iter().cloned().filter_map(without_directives).collect(),
            (Some(before), Some(change)) => merge_list(before.clone(), change.clone(), below, false)?,
        };
        let both = arranged(merged, &order, before.as_deref().unwrap_or_default(), key)?;
        original.insert(field.to_owned(), Value::Array(both));
        patch.shift_remove(field);
    }
    Ok(())
}

fn key_of<'a>(item: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    match item {
        Value::Object(map) => map.get(key).ok_or_else(|| no_merge_key(map, key)),
        other => internal(format!(
            "expected a map[string]interface {{}}, but received a {}",
            go_type(other)
        )),
    }
}

fn same_entry(a: &Value, b: &Value, key: Option<&str>) -> Result<bool, PatchError> {
    match key {
        None => Ok(a == b),
        Some(key) => Ok(key_of(a, key)? == key_of(b, key)?),
    }
}

/// The order must name the patch's entries, in the patch's order.
fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let kept: Vec<&Value> = change.iter().filter(|v| v.get(DIRECTIVE).is_none()).collect();
    let mut at = 0;
    for entry in order {
        if at < kept.len() && same_entry(kept[at], entry, key)? {
            at += 1;
        }
    }
    if at < kept.len() {
        return internal(format!(
            "The order in patch list:\n{}\n doesn't match {ORDER} list:\n{}\n",
            gofmt::plain(&Value::from(change.to_vec())),
            gofmt::plain(&Value::from(order.to_vec()))
        ));
    }
    Ok(())
}

fn place(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| match key {
        None => other == item,
        Some(key) => other.get(key).is_some() && other.get(key) == item.get(key),
    })
}

/// Sorts entries by `order`, and those that it does not name by where they stood in `before`.
fn arranged(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    if let Some(key) = key {
        for item in merged.iter().chain(order).chain(before) {
            key_of(item, key)?;
        }
    }
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|v| place(order, v, key).is_some());
    let by = |list: &[Value], a: &Value, b: &Value| match (place(list, a, key), place(list, b, key)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (None, None) => Ordering::Equal,
    };
    named.sort_by(|a, b| by(order, a, b));
    rest.sort_by(|a, b| by(before, a, b));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let mut named = named.into_iter().peekable();
    let mut rest = rest.into_iter().peekable();
    while let (Some(other), Some(one)) = (rest.peek(), named.peek()) {
        let first = matches!((place(before, other, key), place(before, one, key)), (Some(o), Some(n)) if o < n);
        out.extend(if first { rest.next() } else { named.next() });
    }
    out.extend(rest);
    out.extend(named);
    Ok(out)
}

fn one_kind(lists: [&[Value]; 2]) -> Result<bool, PatchError> {
    let mut kind: Option<&str> = None;
    for item in lists.into_iter().flatten() {
        if item.is_array() {
            return Err(PatchError::Unprocessable("lists of lists are not supported".to_owned()));
        }
        let found = go_type(item);
        if kind.is_some_and(|k| k != found) {
            let shown: Vec<String> = lists.iter().map(|l| gofmt::plain(&Value::from(l.to_vec()))).collect();
            return internal(format!("list element types are not identical: [{}]", shown.join(" ")));
        }
        kind = Some(found);
    }
    Ok(kind == Some("map[string]interface {}"))
}

fn merge_list(original: Vec<Value>, patch: Vec<Value>, of: &Type, delete: bool) -> Result<Vec<Value>, PatchError> {
    let strategy = strategy(of);
    if *strategy == Strategy::Replace && !delete {
        return Ok(patch);
    }
    if original.is_empty() && patch.is_empty() {
        return Ok(original);
    }
    let maps = one_kind([&original, &patch])?;
    if !maps {
        if delete {
            return Ok(original.into_iter().filter(|v| !patch.contains(v)).collect());
        }
        let mut merged = Vec::new();
        for item in original.iter().chain(&patch) {
            if !merged.contains(item) {
                merged.push(item.clone());
            }
        }
        return arranged(merged, &patch, &original, None);
    }
    let Strategy::Key(key) = strategy else {
        return internal("cannot merge lists without merge key for the type of their entries");
    };
    let (original, patch) = directives(original, patch, key)?;
    let mut merged = original.clone();
    for item in &patch {
        let Value::Object(change) = item else {
            continue;
        };
        let value = key_of(item, key)?;
        match merged.iter().position(|v| v.get(key) == Some(value)) {
            Some(at) => {
                let before = merged[at].as_object().cloned().unwrap_or_default();
                merged[at] = Value::Object(merge_map(before, change.clone(), of.element())?);
            }
            None => merged.push(item.clone()),
        }
    }
    arranged(merged, &patch, &original, Some(key))
}

/// Carries out `$patch` in entries of a list.
fn directives(mut original: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::admission::schema::tests::any_json;
    use proptest::prelude::*;
    use serde_json::json;

    fn pod() -> &'static TypeInfo {
        TypeInfo::builtin("v1", "Pod").unwrap()
    }

    #[test]
    fn lists_merge_as_their_type_says() {
        let table = [
            // containers merge by name, and the patch's come first
            (
                json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"name": "b", "image": "y"}]}}),
                json!({"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}),
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}]}}),
                json!({"spec": {"containers": [{"name": "c"}]}}),
                json!({"spec": {"containers": [{"name": "c"}, {"name": "a"}]}}),
            ),
            // tolerations are replaced
            (
                json!({"spec": {"tolerations": [{"key": "a"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
                json!({"spec": {"tolerations": [{"key": "b"}]}}),
            ),
            // finalizers merge as a set
            (
                json!({"metadata": {"finalizers": ["a/a"]}}),
                json!({"metadata": {"finalizers": ["b/b", "a/a"]}}),
                json!({"metadata": {"finalizers": ["b/b", "a/a"]}}),
            ),
            (
                json!({"metadata": {"finalizers": ["a/a", "b/b"]}}),
                json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a/a"]}}),
                json!({"metadata": {"finalizers": ["b/b"]}}),
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
                json!({"spec": {"containers": [{"name": "b"}]}}),
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
                json!({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}}),
                json!({"spec": {"containers": [{"name": "c"}]}}),
            ),
            (
                json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]}}),
                json!({"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "a", "image": "x"}]}}),
                json!({"spec": {"containers": [{"name": "b"}, {"name": "c"}, {"name": "a", "image": "x"}]}}),
            ),
            (
                json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
                json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}, "$retainKeys": ["name", "hostPath"]}]}}),
                json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
            ),
            (
                json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
                json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
                json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
            ),
            (
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "replace", "z": "9"}}}),
                json!({"metadata": {"labels": {"z": "9"}}}),
            ),
            (
                json!({"metadata": {"labels": {"a": "1"}}}),
                json!({"metadata": {"labels": {"$patch": "delete"}}}),
                json!({"metadata": {"labels": {}}}),
            ),
        ];
        for (target, patch, expected) in table {
            assert_eq!(
                strategic_merge_patch(pod(), &target, &patch),
                Ok(expected),
                "{target} + {patch}"
            );
        }
    }

    #[test]
    fn patches_that_do_not_fit_are_refused() {
        let target = json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {}});
        let table = [
            (
                json!({"spec": {"containers": [{"image": "x"}]}}),
                500,
                "map: map[image:x] does not contain declared merge key: name",
            ),
            (
                json!({"metadata": {"$patch": "burn"}}),
                500,
                "unknown patch type: burn in map: map[$patch:burn]",
            ),
            (
                json!({"spec": {"$retainKeys": "x"}}),
                400,
                "invalid patch format of retainKeys",
            ),
            (
                json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
                400,
                "invalid patch format of retainKeys",
            ),
            (
                json!({"spec": {"$setElementOrder/containers": 3}}),
                500,
                "expected a []interface {}, but received a int64",
            ),
            (
                json!({"spec": {"containers": ["x"]}}),
                500,
                "list element types are not identical: [[map[name:a]] [x]]",
            ),
        ];
        for (patch, code, words) in table {
            let error = strategic_merge_patch(pod(), &target, &patch).unwrap_err();
            assert_eq!((error.code(), error.to_string().as_str()), (code, words), "{patch}");
        }
    }

    proptest! {
        #[test]
        fn no_patch_breaks_an_object(target in any_json(), patch in any_json()) {
            let _ = strategic_merge_patch(pod(), &target, &patch);
        }

        #[test]
        fn an_empty_patch_changes_nothing(target in any_json()) {
            if target.is_object() {
                prop_assert_eq!(strategic_merge_patch(pod(), &target, &json!({})), Ok(target));
            }
        }
    }
}
