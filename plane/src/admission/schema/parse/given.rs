//! Reading what a schema gives under a keyword.

use serde_json::{Map, Value};

use crate::admission::error::FieldError;
use crate::admission::schema::node::MAX_DEPTH;

/// Returns the keywords of a schema that can be read; of any other it is said why not.
pub(super) fn fields<'a>(
    schema: &'a Value,
    path: &str,
    depth: usize,
    errors: &mut Vec<FieldError>,
) -> Option<&'a Map<String, Value>> {
    let Some(map) = schema.as_object() else {
        errors.push(FieldError::invalid(path, schema.clone(), "must be an object"));
        return None;
    };
    if depth > MAX_DEPTH {
        errors.push(FieldError::forbidden(
            path,
            format!("schemas nested deeper than {MAX_DEPTH} are not served"),
        ));
        return None;
    }
    Some(map)
}

/// Returns a text, empty where there is none.
pub(super) fn text<'a>(map: &'a Map<String, Value>, key: &str) -> &'a str {
    map.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Tells whether something is said to be true.
pub(super) fn flag(map: &Map<String, Value>, key: &str) -> bool {
    map.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// Returns a number that counts something.
pub(super) fn count(map: &Map<String, Value>, key: &str) -> Option<u64> {
    map.get(key).and_then(Value::as_u64)
}
