//! Validation of the built-in kinds.

pub(super) mod claim;
pub(super) mod event;
mod field;
pub(super) mod job;
pub(super) mod pod;

use serde_json::Value;

use self::field::{entries, text};
use crate::admission::error::FieldError;
use crate::admission::names;

/// Largest ConfigMap or Secret, in bytes of data.
const MAX_DATA: usize = 1024 * 1024;

fn immutable(new: &Value, old: &Value, keys: &[&str], errors: &mut Vec<FieldError>) {
    if old["immutable"] != true {
        return;
    }
    if new["immutable"] != true {
        errors.push(FieldError::forbidden(
            "immutable",
            "field is immutable when `immutable` is set",
        ));
    }
    for key in keys {
        if new.get(*key) != old.get(*key) {
            errors.push(FieldError::forbidden(
                *key,
                "field is immutable when `immutable` is set",
            ));
        }
    }
}

/// Validates a ConfigMap.
pub(super) fn config_map(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in entries(new, "data") {
        for message in names::config_key(&key) {
            errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), message));
        }
        if new["binaryData"].get(&key).is_some() {
            errors.push(FieldError::invalid(
                format!("data[{key}]"),
                key.as_str(),
                "duplicate of key present in binaryData",
            ));
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in entries(new, "binaryData") {
        for message in names::config_key(&key) {
            errors.push(FieldError::invalid(format!("binaryData[{key}]"), key.as_str(), message));
        }
        size += value.as_str().map_or(0, |s| s.len() / 4 * 3);
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long("[]", MAX_DATA as u64));
    }
    if let Some(old) = old {
        immutable(new, old, &["data", "binaryData"], &mut errors);
    }
    errors
}

/// Keys of a secret for a user, of which one is needed.
const BASIC: [&str; 2] = ["username", "password"];

/// Validates a Secret.
pub(super) fn secret(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size = 0;
    for (key, value) in entries(new, "data") {
        for message in names::config_key(&key) {
            errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), message));
        }
        size += value.as_str().map_or(0, |s| s.len() / 4 * 3);
    }
    if size > MAX_DATA {
        errors.push(FieldError::too_long("data", MAX_DATA as u64));
    }
    let needs = |keys: &[&str], errors: &mut Vec<FieldError>| {
        for key in keys.iter().filter(|k| new["data"].get(**k).is_none()) {
            errors.push(FieldError::required(format!("data[{key}]"), ""));
        }
    };
    match text(new, "type") {
        "kubernetes.io/tls" => needs(&["tls.crt", "tls.key"], &mut errors),
        "kubernetes.io/basic-auth" if BASIC.iter().all(|key| new["data"].get(*key).is_none()) => {
            needs(&BASIC, &mut errors);
        }
        "kubernetes.io/service-account-token" => {
            let (annotations, name) = (&new["metadata"]["annotations"], "kubernetes.io/service-account.name");
            if text(annotations, name).is_empty() {
                errors.push(FieldError::required(format!("metadata.annotations[{name}]"), ""));
            }
        }
        "kubernetes.io/dockercfg" => {
            needs(&[".dockercfg"], &mut errors);
            if let Some(wrong) = no_json(&new["data"][".dockercfg"]) {
                let (path, hidden) = ("data[.dockercfg]", "<secret contents redacted>");
                errors.push(FieldError::invalid(path, hidden, wrong));
            }
        }
        "kubernetes.io/ssh-auth" => needs(&["ssh-privatekey"], &mut errors),
        "kubernetes.io/dockerconfigjson" => {
            needs(&[".dockerconfigjson"], &mut errors);
            if let Some(wrong) = no_json(&new["data"][".dockerconfigjson"]) {
                let (path, hidden) = ("data[.dockerconfigjson]", "<secret contents redacted>");
                errors.push(FieldError::invalid(path, hidden, wrong));
            }
        }
        _ => {}
    }
    if let Some(old) = old {
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid("type", new["type"].clone(), "field is immutable"));
        }
        immutable(new, old, &["data"], &mut errors);
    }
    errors
}

/// Says where data that should be JSON are none, without showing them.
fn no_json(data: &Value) -> Option<String> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.as_str()?).ok()?;
    let error = serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).err()?;
    if error.is_eof() {
        return Some("unexpected end of JSON input".to_owned());
    }
    Some(format!("not JSON at line {} column {}", error.line(), error.column()))
}

/// Validates a Lease.
pub(super) fn lease(new: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    if let Some(seconds) = spec
        .get("leaseDurationSeconds")
        .and_then(Value::as_i64)
        .filter(|s| *s <= 0)
    {
        errors.push(FieldError::invalid(
            "spec.leaseDurationSeconds",
            seconds,
            "must be greater than 0",
        ));
    }
    if let Some(count) = spec.get("leaseTransitions").and_then(Value::as_i64).filter(|s| *s < 0) {
        errors.push(FieldError::invalid(
            "spec.leaseTransitions",
            count,
            "must be greater than or equal to 0",
        ));
    }
    errors
}
