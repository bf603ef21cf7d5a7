//! Reading the fields of an object that is checked, and the checks that many fields share.

use serde_json::Value;

use crate::admission::error::FieldError;

/// Returns a text field, empty where there is none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Returns a list field, empty where there is none.
pub(super) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Returns the entries of a map field in the order of their keys.
pub(super) fn entries(value: &Value, key: &str) -> Vec<(String, Value)> {
    let mut found: Vec<(String, Value)> = value
        .get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

/// Refuses a number below zero.
pub(super) fn non_negative(value: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = value.get(key).and_then(Value::as_i64).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(
            format!("{path}.{key}"),
            number,
            "must be greater than or equal to 0",
        ));
    }
}

/// Refuses a number outside of a range.
pub(super) fn between(value: &Value, key: &str, range: (i64, i64), path: &str, errors: &mut Vec<FieldError>) {
    let (least, most) = range;
    if let Some(number) = value.get(key).and_then(Value::as_i64)
        && !(least..=most).contains(&number)
    {
        let words = format!("must be between {least} and {most}, inclusive");
        errors.push(FieldError::invalid(format!("{path}.{key}"), number, words));
    }
}

/// Refuses a text that is missing or none of those listed.
pub(super) fn one_of(value: &Value, key: &str, supported: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    if text(value, key).is_empty() {
        errors.push(FieldError::required(format!("{path}.{key}"), ""));
    } else {
        known(value, key, supported, path, errors);
    }
}

/// Refuses a text that is given and none of those listed.
pub(super) fn known(value: &Value, key: &str, supported: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let found = text(value, key);
    if !found.is_empty() && !supported.contains(&found) {
        let supported: Vec<String> = supported.iter().map(|s| (*s).to_owned()).collect();
        errors.push(FieldError::not_supported(format!("{path}.{key}"), found, &supported));
    }
}

/// Adds what a rule for texts says of one.
pub(super) fn named(found: &str, wrong: Vec<String>, path: &str, errors: &mut Vec<FieldError>) {
    let wrong = wrong.into_iter();
    errors.extend(wrong.map(|message| FieldError::invalid(path, found, message)));
}

/// Requires a text.
pub(super) fn needed(value: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if text(value, key).is_empty() {
        errors.push(FieldError::required(format!("{path}.{key}"), ""));
    }
}
