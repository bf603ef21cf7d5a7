//! Strategic merge patches: lists of maps merge by a key, and directives say what else to do.

mod directive;
mod entry;
mod order;

use serde_json::Value;

use self::directive::{DELETE_FROM, DIRECTIVE, ORDER, directives, retain_keys, without_directives, without_nulls};
use self::entry::{Object, bad, expect_list, internal, key_of, one_kind};
use self::order::{arranged, check_order};
use super::error::PatchError;
use crate::admission::gofmt;
use crate::admission::types::{Strategy, Type, TypeInfo};

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
