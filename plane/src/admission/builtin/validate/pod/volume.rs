//! Validation of a Pod's volumes.

use std::collections::HashMap;

use serde_json::Value;

use super::super::field::{known, list, needed, text};
use crate::admission::error::FieldError;
use crate::admission::names;

/// Checks the volumes and returns their names, each with whether it may be used as a block device.
pub(super) fn volumes(spec: &Value, path: &str, errors: &mut Vec<FieldError>) -> HashMap<String, bool> {
    let mut found = HashMap::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let at = format!("{path}.volumes[{i}]");
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else {
            for message in names::dns1123_label(name) {
                errors.push(FieldError::invalid(format!("{at}.name"), name, message));
            }
            let block = ["ephemeral", "persistentVolumeClaim"];
            let block = block.iter().any(|source| volume.get(*source).is_some());
            if found.insert(name.to_owned(), block).is_some() {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
        }
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k)
            .filter(|k| *k != "name")
            .collect();
        if sources.is_empty() {
            errors.push(FieldError::required(at.clone(), "must specify a volume type"));
        }
        for extra in sources.iter().skip(1) {
            errors.push(FieldError::forbidden(
                format!("{at}.{extra}"),
                "may not specify more than 1 volume type",
            ));
        }
        let needs = [
            ("hostPath", "path"),
            ("secret", "secretName"),
            ("configMap", "name"),
            ("persistentVolumeClaim", "claimName"),
        ];
        for (source, key) in needs {
            if volume.get(source).is_some_and(|s| text(s, key).is_empty()) {
                errors.push(FieldError::required(format!("{at}.{source}.{key}"), ""));
            }
        }
        parts(volume, &at, errors);
        if volume
            .get("hostPath")
            .is_some_and(|h| text(h, "path").split('/').any(|p| p == ".."))
        {
            errors.push(FieldError::invalid(
                format!("{at}.hostPath.path"),
                text(&volume["hostPath"], "path"),
                "must not contain '..'",
            ));
        }
    }
    found
}

const MODE: (i64, i64) = (0, 0o777);

/// Checks the parts of a volume's source.
fn parts(volume: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let negative = |quantity: &Value| quantity.as_str().is_some_and(|text| text.starts_with('-'));
    if negative(&volume["emptyDir"]["sizeLimit"]) {
        let words = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(format!("{path}.emptyDir.sizeLimit"), words));
    }
    if let Some(host) = volume.get("hostPath") {
        let types = [
            "",
            "BlockDevice",
            "CharDevice",
            "Directory",
            "DirectoryOrCreate",
            "File",
            "FileOrCreate",
            "Socket",
        ];
        known(host, "type", &types, &format!("{path}.hostPath"), errors);
    }
    for source in ["configMap", "secret"] {
        files(&volume[source], &format!("{path}.{source}"), errors);
    }
    if let Some(downward) = volume.get("downwardAPI") {
        let at = format!("{path}.downwardAPI");
        mode(downward, "defaultMode", &at, errors);
        facts(downward, &at, errors);
    }
    let at = format!("{path}.projected");
    mode(&volume["projected"], "defaultMode", &at, errors);
    for (i, source) in list(&volume["projected"], "sources").iter().enumerate() {
        for key in ["configMap", "secret"] {
            if let Some(given) = source.get(key) {
                let at = format!("{at}.sources[{i}].{key}");
                needed(given, "name", &at, errors);
                files(given, &at, errors);
            }
        }
        if let Some(downward) = source.get("downwardAPI") {
            facts(downward, &format!("{at}.sources[{i}].downwardAPI"), errors);
        }
    }
}

fn mode(source: &Value, key: &str, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(mode) = source.get(key).and_then(Value::as_i64)
        && !(MODE.0..=MODE.1).contains(&mode)
    {
        let words = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(format!("{path}.{key}"), mode, words));
    }
}

/// Checks the files that keys of a ConfigMap or Secret become.
fn files(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    mode(source, "defaultMode", path, errors);
    for (i, item) in list(source, "items").iter().enumerate() {
        let at = format!("{path}.items[{i}]");
        needed(item, "key", &at, errors);
        needed(item, "path", &at, errors);
        local(text(item, "path"), &format!("{at}.path"), errors);
        mode(item, "mode", &at, errors);
    }
}

/// Checks the files that say something of the Pod; here kube-apiserver leaves out which one it is.
fn facts(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for item in list(source, "items") {
        needed(item, "path", path, errors);
        local(text(item, "path"), &format!("{path}.path"), errors);
        match (item.get("fieldRef"), item.get("resourceFieldRef")) {
            (Some(field), _) => super::container::field_ref(field, &format!("{path}.fieldRef"), errors),
            (None, Some(_)) => {}
            (None, None) => {
                let words = "one of fieldRef and resourceFieldRef is required";
                errors.push(FieldError::required(path, words));
            }
        }
        mode(item, "mode", path, errors);
    }
}

/// Refuses a path that leaves the volume.
fn local(path: &str, at: &str, errors: &mut Vec<FieldError>) {
    if path.starts_with('/') {
        errors.push(FieldError::invalid(at, path, "must be a relative path"));
    }
    if path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(at, path, "must not contain '..'"));
    }
}
