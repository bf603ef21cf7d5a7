//! RFC 6902 patches.

use serde_json::{Map, Value};

use super::error::PatchError;
use crate::admission::{depth, gofmt};

/// Largest number of operations that is served.
const MAX_OPERATIONS: usize = 10_000;
/// The most bytes of JSON that the operations `copy` of one patch may add, as kube-apiserver limits them.
const MAX_COPIED: usize = 3 << 20;

/// Applies an RFC 6902 patch.
///
/// Negative indices count from the end of a list, as kube-apiserver has it.
///
/// # Errors
/// A patch that is malformed, that does not fit the object, or that makes it grow beyond measure.
pub fn json_patch(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = patch else {
        return Err(PatchError::BadRequest(format!(
            "error decoding patch: json: cannot unmarshal {} into Go value of type []handlers.jsonPatchOp",
            gofmt::json_type(patch)
        )));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut object = target.clone();
    let mut copied = 0;
    for operation in operations {
        let Value::Object(operation) = operation else {
            return Err(PatchError::BadRequest(format!(
                "error decoding patch: json: cannot unmarshal {} into Go value of type handlers.jsonPatchOp",
                gofmt::json_type(operation)
            )));
        };
        measure(&object, operation, &mut copied)?;
        run(&mut object, operation).map_err(PatchError::Unprocessable)?;
    }
    Ok(object)
}

/// Refuses an operation that copies too much, or nests the object too deeply: a few operations could otherwise double
/// either as often as they like.
fn measure(object: &Value, operation: &Map<String, Value>, copied: &mut usize) -> Result<(), PatchError> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let placed = match text("op") {
        Some("add" | "replace") => operation.get("value"),
        Some("move" | "copy") => text("from").and_then(|from| get(object, from)),
        _ => None,
    };
    // What is missing is told by the operation itself.
    let (Some(path), Some(placed)) = (text("path"), placed) else {
        return Ok(());
    };
    if text("op") == Some("copy") {
        *copied += placed.to_string().len();
        if *copied > MAX_COPIED {
            return Err(PatchError::Unprocessable(format!(
                "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
            )));
        }
    }
    if path.matches('/').count() + depth::of(placed) > depth::MOST_WITH_MANAGERS {
        return Err(PatchError::BadRequest(format!(
            "the patch nests the object deeper than {} levels at {path}",
            depth::MOST_WITH_MANAGERS
        )));
    }
    Ok(())
}

fn run(object: &mut Value, operation: &Map<String, Value>) -> Result<(), String> {
    let text = |key: &str| operation.get(key).and_then(Value::as_str);
    let name = text("op").unwrap_or("unknown");
    let path = text("path").ok_or_else(|| format!("{name} operation failed to decode path: missing value"))?;
    let value = || operation.get("value").cloned().unwrap_or(Value::Null);
    match name {
        "add" => add(object, path, value(), "add"),
        "remove" => remove(object, path).map(|_| ()),
        "replace" => replace(object, path, value()),
        "test" => test(object, path, &value()),
        "move" => {
            let from = text("from").ok_or("move operation failed to decode from: missing value")?;
            if path != from && path.starts_with(&format!("{from}/")) {
                return Err(format!("error in move for path: '{path}': invalid state detected"));
            }
            let moved = remove(object, from)?;
            add(object, path, moved, "move")
        }
        "copy" => {
            let from = text("from").ok_or("copy operation failed to decode from: missing value")?;
            let copied = get(object, from).cloned().ok_or_else(|| {
                format!("copy operation does not apply: doc is missing from path: {from}: missing value")
            })?;
            add(object, path, copied, "copy")
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

/// Splits a pointer into its parent's keys and its own.
fn split(path: &str) -> Option<(Vec<String>, String)> {
    let rest = path.strip_prefix('/')?;
    let mut keys: Vec<String> = rest
        .split('/')
        .map(|k| k.replace("~1", "/").replace("~0", "~"))
        .collect();
    let last = keys.pop()?;
    Some((keys, last))
}

fn index(key: &str, len: usize) -> Option<usize> {
    let at: i64 = key.parse().ok()?;
    let at = if at < 0 { at + i64::try_from(len).ok()? } else { at };
    usize::try_from(at).ok()
}

fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(map) => map.get_mut(key),
        Value::Array(list) => {
            let at = index(key, list.len())?;
            list.get_mut(at)
        }
        _ => None,
    }
}

fn parent<'a>(object: &'a mut Value, path: &str) -> Option<(&'a mut Value, String)> {
    let (keys, last) = split(path)?;
    let mut at = object;
    for key in &keys {
        at = child(at, key)?;
    }
    (at.is_object() || at.is_array()).then_some((at, last))
}

fn get<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(object);
    }
    let (mut keys, last) = split(path)?;
    keys.push(last);
    let mut at = object;
    for key in &keys {
        at = match at {
            Value::Object(map) => map.get(key)?,
            Value::Array(list) => list.get(index(key, list.len())?)?,
            _ => return None,
        };
    }
    Some(at)
}

fn add(object: &mut Value, path: &str, value: Value, name: &str) -> Result<(), String> {
    let (at, key) = parent(object, path)
        .ok_or_else(|| format!("{name} operation does not apply: doc is missing path: \"{path}\": missing value"))?;
    match at {
        Value::Object(map) => {
            map.insert(key, value);
        }
        Value::Array(list) if key == "-" => list.push(value),
        Value::Array(list) => {
            let bad = || {
                format!(
                    "error in {name} for path: '{path}': Unable to access invalid index: {key}: invalid index referenced"
                )
            };
            // Counting from the end, -1 stands for the place behind the last entry.
            let at = index(&key, list.len() + usize::from(key.starts_with('-')))
                .filter(|i| *i <= list.len())
                .ok_or_else(bad)?;
            list.insert(at, value);
        }
        _ => {}
    }
    Ok(())
}

fn remove(object: &mut Value, path: &str) -> Result<Value, String> {
    let (at, key) = parent(object, path)
        .ok_or_else(|| format!("remove operation does not apply: doc is missing path: \"{path}\": missing value"))?;
    match at {
        Value::Object(map) => map.shift_remove(&key).ok_or_else(|| {
            format!("error in remove for path: '{path}': Unable to remove nonexistent key: {key}: missing value")
        }),
        Value::Array(list) => match index(&key, list.len()).filter(|i| *i < list.len()) {
            Some(i) => Ok(list.remove(i)),
            None => Err(format!(
                "error in remove for path: '{path}': Unable to access invalid index: {key}: invalid index referenced"
            )),
        },
        _ => Ok(Value::Null),
    }
}

fn replace(object: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        if !value.is_object() && !value.is_array() {
            return Err("replace operation value must be object or array".to_owned());
        }
        *object = value;
        return Ok(());
    }
    let (at, key) = parent(object, path)
        .ok_or_else(|| format!("replace operation does not apply: doc is missing path: {path}: missing value"))?;
    // kube-apiserver replaces a missing key of a map like any other.
    if let Value::Object(map) = at {
        map.insert(key, value);
        return Ok(());
    }
    match child(at, &key) {
        Some(found) => {
            *found = value;
            Ok(())
        }
        None => Err(format!(
            "replace operation does not apply: doc is missing key: {path}: missing value"
        )),
    }
}

fn test(object: &Value, path: &str, value: &Value) -> Result<(), String> {
    match get(object, path) {
        Some(found) if found == value => Ok(()),
        // What is absent equals null.
        None if value.is_null()
            && split(path).is_some_and(|(keys, _)| {
                keys.is_empty() || get(object, path.rsplit_once('/').map_or("", |p| p.0)).is_some()
            }) =>
        {
            Ok(())
        }
        _ => Err(format!("testing value {path} failed: test failed")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::admission::schema::tests::any_json;
    use proptest::prelude::*;
    use serde_json::json;

    /// A patch that copies all there is below `/x` to a new place in it, over and over.
    fn doubling(times: usize, to: impl Fn(usize) -> String) -> Value {
        let copies = (0..times).map(|n| json!({"op": "copy", "from": "/x", "path": to(n)}));
        std::iter::once(json!({"op": "add", "path": "/x", "value": {"a": 1}}))
            .chain(copies)
            .collect()
    }

    #[test]
    fn what_doubles_with_each_copy_is_refused_before_it_is_large() {
        let wide = doubling(40, |n| format!("/x/k{n}"));
        let found = json_patch(&json!({}), &wide).unwrap_err();
        assert_eq!(found.code(), 422, "{found}");
        assert!(found.to_string().contains("exceeding the limit 3145728"), "{found}");
        // Each copy goes to the innermost place of the one before.
        let deep = doubling(40, |n| format!("/x{}", "/k".repeat((1 << n).min(1 << 12))));
        let found = json_patch(&json!({}), &deep).unwrap_err();
        assert_eq!(found.code(), 400, "{found}");
        assert!(found.to_string().contains("deeper than 110 levels"), "{found}");
        let few = json_patch(&json!({}), &doubling(5, |n| format!("/x/k{n}"))).unwrap();
        assert_eq!(few["x"]["k4"]["k3"]["k2"]["k1"]["k0"]["a"], 1);
    }

    #[test]
    fn a_list_is_not_moved_into_itself_level_by_level_without_end() {
        let steps = (0..300).flat_map(|_| {
            [
                json!({"op": "move", "from": "/x", "path": "/y"}),
                json!({"op": "add", "path": "/x", "value": {}}),
                json!({"op": "move", "from": "/y", "path": "/x/y"}),
            ]
        });
        let found = json_patch(&json!({"x": {}}), &steps.collect()).unwrap_err();
        assert_eq!(found.code(), 400, "{found}");
    }

    #[test]
    fn operations_do_what_they_say() {
        let table = [
            (
                json!([{"op": "add", "path": "/b", "value": 2}]),
                Ok(json!({"a": [1, 2], "b": 2, "c/d": 1})),
            ),
            (
                json!([{"op": "add", "path": "/a/1", "value": 9}]),
                Ok(json!({"a": [1, 9, 2], "c/d": 1})),
            ),
            (
                json!([{"op": "add", "path": "/a/-", "value": 9}]),
                Ok(json!({"a": [1, 2, 9], "c/d": 1})),
            ),
            (json!([{"op": "remove", "path": "/c~1d"}]), Ok(json!({"a": [1, 2]}))),
            (
                json!([{"op": "remove", "path": "/a/-1"}]),
                Ok(json!({"a": [1], "c/d": 1})),
            ),
            (
                json!([{"op": "replace", "path": "/a", "value": {}}]),
                Ok(json!({"a": {}, "c/d": 1})),
            ),
            (
                json!([{"op": "move", "from": "/a/0", "path": "/x"}]),
                Ok(json!({"a": [2], "c/d": 1, "x": 1})),
            ),
            (
                json!([{"op": "copy", "from": "/a", "path": "/x"}]),
                Ok(json!({"a": [1, 2], "c/d": 1, "x": [1, 2]})),
            ),
            (
                json!([{"op": "test", "path": "/a", "value": [1, 2]}]),
                Ok(json!({"a": [1, 2], "c/d": 1})),
            ),
            (
                json!([{"op": "test", "path": "/a", "value": 1}]),
                Err("testing value /a failed: test failed"),
            ),
            (
                json!([{"op": "remove", "path": "/q"}]),
                Err("error in remove for path: '/q': Unable to remove nonexistent key: q: missing value"),
            ),
            (
                json!([{"op": "add", "path": "/q/r", "value": 1}]),
                Err("add operation does not apply: doc is missing path: \"/q/r\": missing value"),
            ),
            (
                json!([{"op": "replace", "path": "/q", "value": 1}]),
                Ok(json!({"a": [1, 2], "c/d": 1, "q": 1})),
            ),
            (
                json!([{"op": "replace", "path": "/a/7", "value": 1}]),
                Err("replace operation does not apply: doc is missing key: /a/7: missing value"),
            ),
            (json!([{"op": "fly", "path": "/q"}]), Err("Unexpected kind: fly")),
        ];
        for (patch, expected) in table {
            let found = json_patch(&json!({"a": [1, 2], "c/d": 1}), &patch);
            assert_eq!(
                found,
                expected.map_err(|e: &str| PatchError::Unprocessable(e.to_owned())),
                "{patch}"
            );
        }
        assert_eq!(json_patch(&json!({}), &json!({})).unwrap_err().code(), 400);
    }

    #[test]
    fn the_answer_to_what_does_not_fit_says_no_more_than_the_servers() {
        let status = PatchError::Unprocessable("x".into()).status();
        assert_eq!(
            status["message"],
            "the server rejected our request due to an error in our request"
        );
        assert_eq!(status["reason"], "Invalid");
    }

    proptest! {
        #[test]
        fn no_patch_breaks_an_object(target in any_json(), path in "(/[a-c0-9~-]{0,2}){0,3}", from in "(/[a-c0-9-]{0,2}){0,3}", value in any_json(), op in 0..6usize) {
            let op = ["add", "remove", "replace", "move", "copy", "test"][op];
            let _ = json_patch(&target, &json!([{"op": op, "path": path, "from": from, "value": value}]));
            let _ = json_patch(&target, &value);
        }
    }
}
