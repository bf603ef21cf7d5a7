//! The built-in kinds served: how they are decoded, defaulted and validated.

pub mod crd;
pub(super) mod decode;
pub mod defaults;
pub mod definitions;
mod gotime;
mod quantity;
mod validate;
mod warn;

use serde_json::Value;

use super::error::FieldError;

/// Removes what the kind does not know and returns the removed paths, sorted.
pub fn prune(api_version: &str, kind: &str, object: &mut Value) -> Vec<String> {
    let mut paths = Vec::new();
    if let Some(schema) = definitions::name_of(api_version, kind).and_then(definitions::get) {
        decode::prune(schema, object, "", &mut paths);
    }
    paths.sort();
    paths
}

/// Checks JSON types as decoding into the kind would.
///
/// # Errors
/// kube-apiserver's message for a 400.
pub fn check_types(api_version: &str, kind: &str, object: &Value) -> Result<(), String> {
    let Some(name) = definitions::name_of(api_version, kind) else {
        return Ok(());
    };
    decode::check(name, object).map_err(|found| {
        let version = api_version.rsplit('/').next().unwrap_or_default();
        format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {found}")
    })
}

/// Checks the JSON types of an object's metadata, whatever its kind.
///
/// # Errors
/// What kube-apiserver's decoder says.
pub fn check_metadata(metadata: &Value) -> Result<(), String> {
    decode::check(definitions::OBJECT_META, metadata)
}

/// Returns what the maker of an object should know of it, though it is allowed.
pub fn warnings(api_version: &str, kind: &str, new: &Value) -> Vec<String> {
    match (api_version, kind) {
        ("v1", "Pod") => warn::pod(new),
        ("batch/v1", "Job") => warn::job(new),
        ("v1", "PersistentVolumeClaim") => warn::claim(new),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => warn::definition(new),
        _ => Vec::new(),
    }
}

/// Fills in what decoding and defaulting fill in, and drops what they drop (nulls, empty maps
/// and lists that are not written). Decided by the object alone: nothing of it needs an identity,
/// a clock or other objects.
pub fn default(api_version: &str, kind: &str, object: &mut Value) {
    if let Some(schema) = definitions::name_of(api_version, kind).and_then(definitions::get) {
        decode::normalize(schema, object, true);
        defaults::fill(api_version, kind, object);
    }
}

/// Validates an object of a built-in kind; with `old` it is an update.
///
/// Metadata is checked by [`super::names::validate_metadata`].
pub fn validate(api_version: &str, kind: &str, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    match (api_version, kind) {
        ("v1", "ConfigMap") => validate::config_map(new, old),
        ("v1", "Secret") => validate::secret(new, old),
        ("v1", "Pod") => validate::pod::pod(new, old),
        ("batch/v1", "Job") => validate::job::job(new, old),
        ("v1", "PersistentVolumeClaim") => validate::claim::claim(new, old),
        ("coordination.k8s.io/v1", "Lease") => validate::lease(new),
        ("v1", "Event") => validate::event::core(new, old),
        ("events.k8s.io/v1", "Event") => validate::event::new(new, old),
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => crd::validate(new, old),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests;
