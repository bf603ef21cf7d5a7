//! What is wrong with a field, in kube-apiserver's words.

use serde_json::Value;

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

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path as kube-apiserver writes it: `spec.containers[0].name`; may be empty.
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
    pub fn new(
        path: impl Into<String>,
        kind: ErrorKind,
        value: Option<Value>,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            path: path.into(),
            kind,
            value,
            detail: detail.into(),
        }
    }
}

/// Builds the 422 `Status` object that answers an invalid object.
///
/// `group` and `kind` are those of the object, e.g. `("apps", "Deployment")`.
pub fn invalid_status(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Value {
    let _ = (group, kind, name, errors);
    Value::Null
}
