//! Names, labels and annotations.

use super::error::FieldError;

/// Checks an RFC 1123 subdomain; returns what is wrong in kube-apiserver's words.
pub fn dns1123_subdomain(value: &str) -> Vec<String> {
    let _ = value;
    Vec::new()
}
/// Checks an RFC 1123 label.
pub fn dns1123_label(value: &str) -> Vec<String> {
    let _ = value;
    Vec::new()
}
/// Checks a qualified name such as a label's key.
pub fn qualified_name(value: &str) -> Vec<String> {
    let _ = value;
    Vec::new()
}
/// Checks a label's value.
pub fn label_value(value: &str) -> Vec<String> {
    let _ = value;
    Vec::new()
}
/// Makes a name of `base` and a five character suffix drawn from `random`.
pub fn generate_name(base: &str, random: u64) -> String {
    let _ = random;
    base.to_owned()
}
/// Checks `metadata` of an object (name, namespace, labels, annotations, owner
/// references, finalizers). `label_name`: the kind's names are DNS labels, not subdomains.
pub fn validate_metadata(
    metadata: &serde_json::Value,
    namespaced: bool,
    label_name: bool,
) -> Vec<FieldError> {
    let _ = (metadata, namespaced, label_name);
    Vec::new()
}
