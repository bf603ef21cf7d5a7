//! Validation of PersistentVolumeClaims.

use serde_json::Value;

use super::field::{entries, known, list, named, text};
use crate::admission::error::FieldError;
use crate::admission::names;

/// Validates a PersistentVolumeClaim.
pub(in crate::admission::builtin) fn claim(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    if list(spec, "accessModes").is_empty() {
        errors.push(FieldError::required(
            "spec.accessModes",
            "at least 1 access mode is required",
        ));
    }
    let supported = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    for mode in list(spec, "accessModes").iter().filter_map(Value::as_str) {
        if !supported.contains(&mode) {
            errors.push(FieldError::not_supported(
                "spec.accessModes",
                mode,
                &supported.map(str::to_owned),
            ));
        }
    }
    let modes = list(spec, "accessModes");
    if modes.len() > 1 && modes.iter().any(|mode| mode == "ReadWriteOncePod") {
        let words = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden("spec.accessModes", words));
    }
    known(spec, "volumeMode", &["Block", "Filesystem"], "spec", &mut errors);
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        named(
            class,
            names::dns1123_subdomain(class),
            "spec.storageClassName",
            &mut errors,
        );
    }
    for (key, value) in entries(&spec["selector"], "matchLabels") {
        let at = "spec.selector.matchLabels";
        named(&key, names::qualified_name(&key), at, &mut errors);
        let value = value.as_str().unwrap_or_default();
        named(value, names::label_value(value), at, &mut errors);
    }
    match spec.pointer("/resources/requests/storage") {
        None => errors.push(FieldError::required("spec.resources[storage]", "")),
        Some(size) if size.as_str().is_some_and(|s| s == "0" || s.starts_with('-')) => {
            errors.push(FieldError::invalid(
                "spec.resources[storage]",
                size.clone(),
                "must be greater than zero",
            ));
        }
        Some(_) => {}
    }
    if let Some(old) = old {
        // Only a claim that has its volume may grow.
        let bound = old["status"]["phase"] == "Bound";
        let fixed = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(spec) = spec.as_object_mut() {
                if bound {
                    spec.shift_remove("resources");
                }
                for key in ["volumeName", "volumeAttributesClassName"] {
                    spec.shift_remove(key);
                }
            }
            spec
        };
        let named = old["spec"].get("volumeName").is_some() && old["spec"].get("volumeName") != spec.get("volumeName");
        if fixed(new) != fixed(old) || named {
            errors.push(FieldError::forbidden(
                "spec",
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            ));
        }
    }
    errors
}
