//! What is wrong with a field, in kube-apiserver's words.

use std::collections::HashSet;
use std::fmt;

use serde_json::{Value, json};

use super::gofmt;

/// Class of a field error, as a client sees it in `details.causes[].reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The value does not satisfy a rule.
    Invalid,
    /// A value is missing.
    Required,
    /// The value is not one of those listed.
    NotSupported,
    /// The value has another JSON type.
    TypeInvalid,
    /// The value occurs twice.
    Duplicate,
    /// The value must not be given, or must not be changed.
    Forbidden,
    /// The string is too long.
    TooLong,
    /// The list or map has too many entries.
    TooMany,
    /// The value refers to something that does not exist.
    NotFound,
    /// The failure is the server's own.
    Internal,
}

impl ErrorKind {
    /// Returns the reason that a `Status` carries for it.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::NotSupported => "FieldValueNotSupported",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::Required => "Required value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        }
    }

    fn shows_value(self) -> bool {
        !matches!(self, Self::Required | Self::Forbidden | Self::TooLong | Self::Internal)
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path as kube-apiserver writes it: `spec.containers[0].name`; empty for the object itself.
    pub path: String,
    /// Class of the error.
    pub kind: ErrorKind,
    /// The offending value, where it is shown.
    pub value: Option<Value>,
    /// What was expected.
    pub detail: String,
}

impl FieldError {
    /// Makes an error from its four parts.
    pub fn new(path: impl Into<String>, kind: ErrorKind, value: Option<Value>, detail: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            kind,
            value,
            detail: detail.into(),
        }
    }

    /// Makes an error about a value that breaks a rule.
    pub fn invalid(path: impl Into<String>, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorKind::Invalid, Some(value.into()), detail)
    }

    /// Makes an error about a missing value.
    pub fn required(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorKind::Required, None, detail)
    }

    /// Makes an error about a value that must not be given.
    pub fn forbidden(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(path, ErrorKind::Forbidden, None, detail)
    }

    /// Makes an error about a value that occurs twice.
    pub fn duplicate(path: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::new(path, ErrorKind::Duplicate, Some(value.into()), "")
    }

    /// Makes an error about a value outside a list.
    pub fn not_supported(path: impl Into<String>, value: impl Into<Value>, supported: &[String]) -> Self {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|s| gofmt::quote(s)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        Self::new(path, ErrorKind::NotSupported, Some(value.into()), detail)
    }

    /// Makes an error about a string longer than `max` bytes.
    pub fn too_long(path: impl Into<String>, max: u64) -> Self {
        let unit = if max == 1 { "byte" } else { "bytes" };
        Self::new(
            path,
            ErrorKind::TooLong,
            None,
            format!("may not be more than {max} {unit}"),
        )
    }

    /// Makes an error about a list of `actual` entries where at most `max` may stand.
    pub fn too_many(path: impl Into<String>, actual: u64, max: u64) -> Self {
        let unit = if max == 1 { "item" } else { "items" };
        Self::new(
            path,
            ErrorKind::TooMany,
            Some(actual.into()),
            format!("must have at most {max} {unit}"),
        )
    }

    /// Words the error without its path.
    pub fn body(&self) -> String {
        let mut text = self.kind.words().to_owned();
        if self.kind.shows_value()
            && let Some(value) = &self.value
        {
            text.push_str(": ");
            text.push_str(&match value {
                Value::String(s) => gofmt::quote(s),
                Value::Bool(_) | Value::Number(_) => gofmt::plain(value),
                _ => gofmt::json(value),
            });
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }

    /// Returns the path as it is shown.
    pub fn shown_path(&self) -> &str {
        if self.path.is_empty() { "<nil>" } else { &self.path }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.shown_path(), self.body())
    }
}

/// Words several errors as one message; repeated ones once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut seen = HashSet::new();
    let messages: Vec<String> = errors
        .iter()
        .map(ToString::to_string)
        .filter(|m| seen.insert(m.clone()))
        .collect();
    if let [one] = messages.as_slice() {
        one.clone()
    } else {
        format!("[{}]", messages.join(", "))
    }
}

/// Builds the 422 `Status` object that answers an invalid object.
///
/// `group` and `kind` are those of the object, e.g. `("apps", "Deployment")`.
pub fn invalid_status(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Value {
    let qualified = if group.is_empty() {
        kind.to_owned()
    } else {
        format!("{kind}.{group}")
    };
    let mut message = format!("{qualified} {} is invalid", gofmt::quote(name));
    if !errors.is_empty() {
        message.push_str(": ");
        message.push_str(&aggregate(errors));
    }
    let causes: Vec<Value> = errors
        .iter()
        .map(|e| json!({"reason": e.kind.reason(), "message": e.body(), "field": e.shown_path()}))
        .collect();
    let mut details = serde_json::Map::new();
    for (key, text) in [("name", name), ("group", group), ("kind", kind)] {
        if !text.is_empty() {
            details.insert(key.to_owned(), text.into());
        }
    }
    if !causes.is_empty() {
        details.insert("causes".to_owned(), causes.into());
    }
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Invalid", "details": details, "code": 422,
    })
}

/// Builds the 422 `Status` that answers a JSON or merge patch of a built-in kind whose result
/// (`patched`, as text) cannot be decoded; of a strategic merge patch `patched` is the patch,
/// as [`gofmt::plain`] writes it.
pub fn patch_undecodable_status(patched: &str, words: &str) -> Value {
    invalid_status("", "", "", &[FieldError::invalid("patch", patched, words)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_is_worded_as_the_server_words_it() {
        let table = [
            (
                FieldError::not_supported("spec.role", "x", &["coder".into(), "verifier".into()]),
                r#"spec.role: Unsupported value: "x": supported values: "coder", "verifier""#,
            ),
            (FieldError::required("spec.tools", ""), "spec.tools: Required value"),
            (
                FieldError::too_long("spec.name", 63),
                "spec.name: Too long: may not be more than 63 bytes",
            ),
            (
                FieldError::too_many("spec.l", 3, 1),
                "spec.l: Too many: 3: must have at most 1 item",
            ),
            (
                FieldError::duplicate("spec.l[1]", json!({"b": 1, "a": 2})),
                r#"spec.l[1]: Duplicate value: {"a":2,"b":1}"#,
            ),
            (
                FieldError::invalid("", Value::Null, "no"),
                "<nil>: Invalid value: null: no",
            ),
            (
                FieldError::forbidden("metadata.namespace", "not allowed on this type"),
                "metadata.namespace: Forbidden: not allowed on this type",
            ),
        ];
        for (error, expected) in table {
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn status_lists_every_cause_and_repeats_no_message() {
        let e = FieldError::required("spec.a", "");
        let status = invalid_status("example.com", "Widget", "w", &[e.clone(), e]);
        assert_eq!(
            status["message"],
            r#"Widget.example.com "w" is invalid: spec.a: Required value"#
        );
        assert_eq!(status["details"]["causes"].as_array().map(Vec::len), Some(2));
        assert_eq!(status["code"], 422);
    }
}
