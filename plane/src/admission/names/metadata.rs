//! Checks of an object's metadata.

use serde_json::Value;

use super::{dns1123_label, dns1123_subdomain, label_value, qualified_name};
use crate::admission::error::{ErrorKind, FieldError};
use crate::admission::gofmt;

const ANNOTATIONS_LIMIT: usize = 256 * 1024;

/// Replaces a trailing dash, so that a prefix for generated names can be checked as a name.
fn mask_trailing_dash(name: &str) -> String {
    match name.strip_suffix('-') {
        Some(stem) if !stem.is_empty() => {
            let mut chars = stem.chars();
            chars.next_back();
            format!("{}a", chars.as_str())
        }
        _ => name.to_owned(),
    }
}

fn path_segment(name: &str) -> Vec<String> {
    if matches!(name, "." | "..") {
        return vec![format!("may not be '{name}'")];
    }
    let found = ["/", "%"].into_iter().filter(|part| name.contains(part));
    found.map(|part| format!("may not contain '{part}'")).collect()
}

/// What names a kind's objects may bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomains: most kinds.
    Subdomain,
    /// RFC 1123 labels: Namespace.
    Label,
    /// What may stand in a path: Event.
    Segment,
}

impl NameRule {
    /// Returns the rule for a kind.
    pub fn of(kind: &str) -> Self {
        match kind {
            "Namespace" => Self::Label,
            "Event" => Self::Segment,
            _ => Self::Subdomain,
        }
    }

    /// Checks a name; returns what is wrong.
    pub fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::Subdomain => dns1123_subdomain(name),
            Self::Label => dns1123_label(name),
            Self::Segment => path_segment(name),
        }
    }
}

/// Checks `metadata` of a new object: name, namespace, labels, annotations, owner
/// references, finalizers. Name generation must have happened.
pub fn validate_metadata(metadata: &Value, namespaced: bool, rule: NameRule) -> Vec<FieldError> {
    let text = |key: &str| metadata.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut errors = Vec::new();
    let generate = text("generateName");
    if !generate.is_empty() {
        for message in rule.check(&mask_trailing_dash(generate)) {
            errors.push(FieldError::invalid("metadata.generateName", generate, message));
        }
    }
    let name = text("name");
    if name.is_empty() {
        errors.push(FieldError::required(
            "metadata.name",
            "name or generateName is required",
        ));
    } else {
        for message in rule.check(name) {
            errors.push(FieldError::invalid("metadata.name", name, message));
        }
    }
    let namespace = text("namespace");
    if namespaced {
        if namespace.is_empty() {
            errors.push(FieldError::required("metadata.namespace", ""));
        } else {
            for message in dns1123_label(namespace) {
                errors.push(FieldError::invalid("metadata.namespace", namespace, message));
            }
        }
    } else if !namespace.is_empty() {
        errors.push(FieldError::forbidden("metadata.namespace", "not allowed on this type"));
    }
    errors.extend(validate_maps(metadata));
    errors.extend(validate_finalizers(metadata));
    errors
}

/// Checks the finalizers of a built-in kind, of which those without a domain must be known ones.
pub fn validate_builtin_finalizers(metadata: &Value) -> Vec<FieldError> {
    validate_finalizers_at(metadata, "metadata")
}

/// Checks the finalizers that an object has at a path.
pub fn validate_finalizers_at(owner: &Value, path: &str) -> Vec<FieldError> {
    let list = owner.get("finalizers").and_then(Value::as_array);
    let names = list.into_iter().flatten().filter_map(Value::as_str).enumerate();
    names
        .filter(|(_, name)| !name.contains('/') && !matches!(*name, "kubernetes" | "orphan" | "foregroundDeletion"))
        .map(|(i, name)| {
            FieldError::invalid(
                format!("{path}.finalizers[{i}]"),
                name,
                "name is neither a standard finalizer name nor is it fully qualified",
            )
        })
        .collect()
}

/// Checks `metadata` of an object that replaces another.
///
/// `resourceVersion` is not checked here: what a missing one means depends on the kind.
pub fn validate_metadata_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let finalizers = |m: &Value| -> Vec<String> {
        let mut list: Vec<String> = m
            .get("finalizers")
            .and_then(Value::as_array)
            .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            .unwrap_or_default();
        list.sort();
        list.dedup();
        list
    };
    if old.get("deletionTimestamp").is_some_and(|t| !t.is_null()) {
        let before = finalizers(old);
        let added: Vec<String> = finalizers(new).into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let shown: Vec<String> = added.iter().map(|f| gofmt::quote(f)).collect();
            errors.push(FieldError::forbidden(
                "metadata.finalizers",
                format!(
                    "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            ));
        }
    }

    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        let (now, then) = (new.get(key), old.get(key));
        let empty = |v: Option<&Value>| v.is_none_or(|v| v.is_null() || v == "");
        if now != then && !(empty(now) && empty(then)) {
            let shown = now.cloned().unwrap_or_else(|| match key {
                "name" | "namespace" | "uid" => "".into(),
                _ => Value::Null,
            });
            errors.push(FieldError::invalid(
                format!("metadata.{key}"),
                shown,
                "field is immutable",
            ));
        }
    }
    errors.extend(validate_maps(new));
    errors
}

fn validate_maps(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(labels) = metadata.get("labels").and_then(Value::as_object) {
        let mut labels: Vec<_> = labels.iter().collect();
        labels.sort_by_key(|(k, _)| *k);
        for (key, value) in labels {
            for message in qualified_name(key) {
                errors.push(FieldError::invalid("metadata.labels", key.as_str(), message));
            }
            for message in label_value(value.as_str().unwrap_or_default()) {
                errors.push(FieldError::invalid("metadata.labels", value.clone(), message));
            }
        }
    }
    if let Some(annotations) = metadata.get("annotations").and_then(Value::as_object) {
        let mut size = 0;
        let mut annotations: Vec<_> = annotations.iter().collect();
        annotations.sort_by_key(|(k, _)| *k);
        for (key, value) in annotations {
            size += key.len() + value.as_str().map_or(0, str::len);
            for message in qualified_name(&key.to_lowercase()) {
                errors.push(FieldError::invalid("metadata.annotations", key.as_str(), message));
            }
        }
        if size > ANNOTATIONS_LIMIT {
            errors.push(FieldError::too_long("metadata.annotations", ANNOTATIONS_LIMIT as u64));
        }
    }
    errors.extend(validate_owners(metadata));
    errors.extend(validate_managed_fields(metadata));
    errors
}

fn validate_owners(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(owners) = metadata.get("ownerReferences").and_then(Value::as_array) else {
        return errors;
    };
    let mut controller: Option<String> = None;
    for owner in owners {
        let text = |key: &str| owner.get(key).and_then(Value::as_str).unwrap_or_default();
        let path = "metadata.ownerReferences";
        let api_version = text("apiVersion");
        let version = api_version.rsplit('/').next().unwrap_or_default();
        if version.is_empty() {
            errors.push(FieldError::invalid(
                format!("{path}.apiVersion"),
                api_version,
                "version must not be empty",
            ));
        }
        for key in ["kind", "name", "uid"] {
            if text(key).is_empty() {
                errors.push(FieldError::invalid(format!("{path}.{key}"), "", "must not be empty"));
            }
        }
        if api_version == "v1" && text("kind") == "Event" {
            errors.push(FieldError::invalid(
                path,
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            ));
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text("kind"), text("name"));
            if let Some(first) = &controller {
                errors.push(FieldError::invalid(
                    path,
                    Value::Array(owners.clone()),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"),
                ));
            } else {
                controller = Some(this);
            }
        }
    }
    errors
}

fn validate_finalizers(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(list) = metadata.get("finalizers").and_then(Value::as_array) else {
        return errors;
    };
    for name in list.iter().filter_map(Value::as_str) {
        for message in qualified_name(name) {
            errors.push(FieldError::invalid("metadata.finalizers", name, message));
        }
    }
    if list.iter().any(|f| f == "orphan") && list.iter().any(|f| f == "foregroundDeletion") {
        errors.push(FieldError::invalid(
            "metadata.finalizers",
            Value::Array(list.clone()),
            "finalizer orphan and foregroundDeletion cannot be both set",
        ));
    }
    errors
}

fn validate_managed_fields(metadata: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(list) = metadata.get("managedFields").and_then(Value::as_array) else {
        return errors;
    };
    for (i, entry) in list.iter().enumerate() {
        let path = format!("metadata.managedFields[{i}]");
        let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
        if !matches!(text("operation"), "Apply" | "Update") {
            errors.push(FieldError::invalid(
                format!("{path}.operation"),
                text("operation"),
                "must be `Apply` or `Update`",
            ));
        }
        if !text("fieldsType").is_empty() && text("fieldsType") != "FieldsV1" {
            errors.push(FieldError::invalid(
                format!("{path}.fieldsType"),
                text("fieldsType"),
                "must be `FieldsV1`",
            ));
        }
        errors.extend(field_manager(text("manager"), &format!("{path}.manager")));
    }
    errors
}

/// Checks the name of a field manager.
pub fn field_manager(manager: &str, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if manager.len() > 128 {
        errors.push(FieldError::new(
            path,
            ErrorKind::TooLong,
            None,
            "may not be more than 128 bytes",
        ));
    }
    for (i, c) in manager.chars().enumerate() {
        if c.is_control() || (c.is_whitespace() && c != ' ') {
            errors.push(FieldError::invalid(
                path,
                manager,
                format!("invalid character U+{:04X} (at position {i})", c as u32),
            ));
        }
    }
    errors
}
