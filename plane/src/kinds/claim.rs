//! PersistentVolumeClaims.

use serde_json::{Value, json};

use super::builtin::Stamp;
use crate::object::map_mut;
use crate::admission::error::FieldError;
use crate::status::unsupported;

/// Sets defaults.
pub fn default(claim: &mut Value) {
    let spec = map_mut(claim, "spec");
    if !spec.contains_key("volumeMode") {
        spec.insert("volumeMode".into(), json!("Filesystem"));
    }
}

/// Makes a new claim wait for its volume.
pub fn create(claim: &mut Value, _: &Stamp) {
    claim["status"] = json!({"phase": "Pending"});
    let metadata = crate::object::meta_mut(claim);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    // No controller here protects claims in use: the finalizer would never be taken off.
    if let Some(list) = finalizers.as_array_mut() {
        list.retain(|name| name != "kubernetes.io/pvc-protection");
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}

/// Checks a claim.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let spec = &new["spec"];
    let modes = spec["accessModes"].as_array();
    if modes.is_none_or(Vec::is_empty) {
        problems.push(FieldError::required(
            "spec.accessModes",
            "at least 1 access mode is required",
        ));
    }
    for mode in modes.into_iter().flatten() {
        const MODES: [&str; 4] = [
            "ReadOnlyMany",
            "ReadWriteMany",
            "ReadWriteOnce",
            "ReadWriteOncePod",
        ];
        if !mode.as_str().is_some_and(|mode| MODES.contains(&mode)) {
            problems.push(unsupported("spec.accessModes", mode.clone(), &MODES));
        }
    }
    if spec["resources"]["requests"].get("storage").is_none() {
        problems.push(FieldError::required("spec.resources[storage]", ""));
    }
    if let Some(old) = old {
        let fixed = |claim: &Value| {
            let mut spec = claim["spec"].clone();
            if let Some(map) = spec.as_object_mut() {
                map.remove("resources");
                map.remove("volumeName");
            }
            spec
        };
        if fixed(new) != fixed(old) {
            problems.push(FieldError::forbidden(
                "spec",
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            ));
        }
    }
    problems
}
