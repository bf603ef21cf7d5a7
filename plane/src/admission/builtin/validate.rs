//! Validation of the built-in kinds.

pub(super) mod event;
pub(super) mod pod;

use serde_json::Value;

use crate::admission::error::FieldError;
use crate::admission::names;

/// Largest ConfigMap or Secret, in bytes of data.
const MAX_DATA: usize = 1024 * 1024;

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn entries(value: &Value, key: &str) -> Vec<(String, Value)> {
    let mut found: Vec<(String, Value)> = value
        .get(key)
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    found
}

fn non_negative(value: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(number) = value.get(key).and_then(Value::as_i64).filter(|n| *n < 0) {
        errors.push(FieldError::invalid(
            format!("{path}.{key}"),
            number,
            "must be greater than or equal to 0",
        ));
    }
}

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
    Some(format!("not JSON at line {} column {}", error.line(), error.column()))
}

/// Validates a Job.
pub(super) fn job(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &new["spec"];
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        non_negative(spec, key, "spec", &mut errors);
    }
    let mode = text(spec, "completionMode");
    if !matches!(mode, "" | "Indexed" | "NonIndexed") {
        let supported = ["NonIndexed", "Indexed"].map(str::to_owned);
        errors.push(FieldError::not_supported("spec.completionMode", mode, &supported));
    }
    if mode == "Indexed" && spec.get("completions").is_none() {
        errors.push(FieldError::required(
            "spec.completions",
            "when completion mode is Indexed",
        ));
    }
    let template = &spec["template"]["spec"];
    if old.is_none() {
        pod::pod_spec(template, "spec.template.spec", &mut errors);
    }
    let policy = text(template, "restartPolicy");
    if !matches!(policy, "OnFailure" | "Never") {
        let supported = ["Never", "OnFailure"].map(str::to_owned);
        if policy == "Always" {
            errors.push(FieldError::required(
                "spec.template.spec.restartPolicy",
                "valid values: \"OnFailure\", \"Never\"",
            ));
        } else {
            errors.push(FieldError::not_supported(
                "spec.template.spec.restartPolicy",
                policy,
                &supported,
            ));
        }
    }
    if let Some(old) = old {
        // A job that has not started yet may be sent elsewhere.
        let waiting = old["spec"]["suspend"] == true && old["status"].get("startTime").is_none_or(Value::is_null);
        let fixed = |object: &Value, key: &str| {
            let value = object["spec"].get(key).cloned();
            if key == "template" && waiting {
                value.map(without_scheduling)
            } else {
                value
            }
        };
        for key in [
            "completions",
            "selector",
            "template",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
        ] {
            if fixed(new, key) != fixed(old, key) {
                errors.push(FieldError::invalid(
                    format!("spec.{key}"),
                    spec.get(key).cloned().unwrap_or_default(),
                    "field is immutable",
                ));
            }
        }
    }
    errors
}

/// Drops from a template what decides where its pods run, and its labels and annotations.
fn without_scheduling(mut template: Value) -> Value {
    let mut drop = |part: &str, keys: &[&str]| {
        if let Some(part) = template.get_mut(part).and_then(Value::as_object_mut) {
            for key in keys {
                part.shift_remove(*key);
            }
        }
    };
    drop("metadata", &["labels", "annotations"]);
    drop("spec", &["affinity", "nodeSelector", "tolerations", "schedulingGates"]);
    template
}

/// Validates a PersistentVolumeClaim.
pub(super) fn claim(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
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
        let fixed = |object: &Value| {
            let mut spec = object["spec"].clone();
            if let Some(spec) = spec.as_object_mut() {
                for key in ["resources", "volumeName", "volumeAttributesClassName"] {
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
