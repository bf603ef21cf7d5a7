//! Schemas of the built-in kinds served.

use super::error::FieldError;
pub mod definitions;

use serde_json::Value;

/// Returns the paths in `object` that the kind does not know, and removes them.
pub fn prune(api_version: &str, kind: &str, object: &mut Value) -> Vec<String> {
    let _ = (api_version, kind, object);
    Vec::new()
}
/// Checks JSON types as decoding into the kind would; `Err` holds kube-apiserver's message (400).
///
/// # Errors
/// The decoder's message.
pub fn check_types(api_version: &str, kind: &str, object: &Value) -> Result<(), String> {
    let _ = (api_version, kind, object);
    Ok(())
}
/// Fills in the kind's defaults.
pub fn default(api_version: &str, kind: &str, object: &mut Value) {
    let _ = (api_version, kind, object);
}
/// Validates an object of a built-in kind.
pub fn validate(
    api_version: &str,
    kind: &str,
    new: &Value,
    old: Option<&Value>,
) -> Vec<FieldError> {
    let _ = (api_version, kind, new, old);
    Vec::new()
}
