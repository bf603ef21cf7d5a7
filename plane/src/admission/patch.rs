//! JSON patch, merge patch, strategic merge patch.

use super::types::TypeInfo;
use serde_json::Value;

/// Why a patch cannot be applied, in kube-apiserver's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself cannot be read: 400 BadRequest.
    #[error("{0}")]
    BadRequest(String),
    /// The patch does not fit the object: 422 Invalid.
    #[error("{0}")]
    Unprocessable(String),
    /// The patch makes the server fail: 500 InternalError.
    #[error("{0}")]
    Internal(String),
}

/// Applies an RFC 6902 patch.
///
/// # Errors
/// A patch that is malformed or whose `test`, `remove` or path does not fit.
pub fn json_patch(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = patch;
    Ok(target.clone())
}
/// Applies an RFC 7386 patch.
pub fn merge_patch(target: &Value, patch: &Value) -> Value {
    let _ = patch;
    target.clone()
}
/// Applies a strategic merge patch.
///
/// # Errors
/// A directive or list entry that does not fit the type.
pub fn strategic_merge_patch(
    types: &TypeInfo,
    target: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let _ = (types, patch);
    Ok(target.clone())
}
