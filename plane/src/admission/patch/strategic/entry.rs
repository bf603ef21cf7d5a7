//! Entries of lists, and what is said of those that do not fit.

use serde_json::{Map, Value};

use crate::admission::gofmt;
use crate::admission::patch::error::PatchError;

pub(super) type Object = Map<String, Value>;

pub(super) fn internal<T>(words: impl Into<String>) -> Result<T, PatchError> {
    Err(PatchError::Internal(words.into()))
}

pub(super) fn bad(what: &str) -> PatchError {
    PatchError::BadRequest(format!("invalid patch format of {what}"))
}

pub(super) fn go_type(value: &Value) -> &'static str {
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

pub(super) fn no_merge_key(map: &Object, key: &str) -> PatchError {
    PatchError::Internal(format!(
        "map: {} does not contain declared merge key: {key}",
        gofmt::plain(&Value::Object(map.clone()))
    ))
}

pub(super) fn expect_list(value: Option<Value>) -> Result<Option<Vec<Value>>, PatchError> {
    match value {
        None => Ok(None),
        Some(Value::Array(list)) => Ok(Some(list)),
        Some(other) => internal(format!(
            "expected a []interface {{}}, but received a {}",
            go_type(&other)
        )),
    }
}

pub(super) fn key_of<'a>(item: &'a Value, key: &str) -> Result<&'a Value, PatchError> {
    match item {
        Value::Object(map) => map.get(key).ok_or_else(|| no_merge_key(map, key)),
        other => internal(format!(
            "expected a map[string]interface {{}}, but received a {}",
            go_type(other)
        )),
    }
}

pub(super) fn same_entry(a: &Value, b: &Value, key: Option<&str>) -> Result<bool, PatchError> {
    match key {
        None => Ok(a == b),
        Some(key) => Ok(key_of(a, key)? == key_of(b, key)?),
    }
}

pub(super) fn one_kind(lists: [&[Value]; 2]) -> Result<bool, PatchError> {
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
