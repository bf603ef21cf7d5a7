//! Server-side apply and managed fields.

use super::types::TypeInfo;
use serde_json::Value;

/// One field that somebody else manages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The other side, as kube-apiserver describes it: `"kubectl" using v1`.
    pub manager: String,
    /// The field: `.data.key`.
    pub path: String,
}

/// Why an apply was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409: somebody else manages fields that would change.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400: the request is not an apply configuration.
    #[error("{0}")]
    BadRequest(String),
    /// 500, as kube-apiserver answers a configuration that does not fit the type.
    #[error("{0}")]
    Internal(String),
}

/// Words the message of an apply conflict.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    format!("{}", conflicts.len())
}

/// Builds the 409 `Status` object that answers an apply conflict.
pub fn conflict_status(conflicts: &[Conflict]) -> Value {
    let _ = conflicts;
    Value::Null
}

/// Who writes, how and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// `apiVersion` through which the request came.
    pub api_version: &'a str,
    /// Subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Now, as an RFC 3339 time in seconds with `Z`.
    pub now: &'a str,
}

/// Applies a configuration; an unchanged object comes back equal to `live`.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    force: bool,
    types: &TypeInfo,
    writer: &Writer<'_>,
) -> Result<Value, ApplyError> {
    let _ = (live, force, types, writer);
    Ok(applied.clone())
}

/// Tracks a create, update or patch in `after.metadata.managedFields`.
pub fn update_managed_fields(
    before: Option<&Value>,
    after: &mut Value,
    types: &TypeInfo,
    writer: &Writer<'_>,
) {
    let _ = (before, after, types, writer);
}
