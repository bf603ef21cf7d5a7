//! Validation of Pods and their templates.

use std::collections::HashSet;

use schemas::quantity::Quantity;
use serde_json::Value;

use super::{list, non_negative, text};
use crate::admission::error::{ErrorKind, FieldError};
use crate::admission::names;

/// Validates a Pod; of its specification an update may change little.
pub(in crate::admission::builtin) fn pod(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    pod_spec(&new["spec"], "spec", &mut errors);
    let Some(old) = old else { return errors };
    let open = |object: &Value| {
        let mut spec = object["spec"].clone();
        if let Some(map) = spec.as_object_mut() {
            for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates", "nodeName"] {
                map.shift_remove(key);
            }
            for key in ["containers", "initContainers"] {
                for container in map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten() {
                    if let Some(container) = container.as_object_mut() {
                        container.shift_remove("image");
                    }
                }
            }
        }
        spec
    };
    let bound =
        !text(&old["spec"], "nodeName").is_empty() && new["spec"].get("nodeName") != old["spec"].get("nodeName");
    let deadline = |object: &Value| object["spec"]["activeDeadlineSeconds"].as_i64();
    let wrong = match (deadline(old), deadline(new)) {
        (Some(before), Some(now)) if now > before => Some("must be less than or equal to previous value"),
        (Some(_), None) => Some("must not update from a positive integer to nil value"),
        _ => None,
    };
    if let Some(words) = wrong {
        let given = new["spec"]["activeDeadlineSeconds"].clone();
        errors.push(FieldError::invalid("spec.activeDeadlineSeconds", given, words));
    }
    let kept = |gone: &Value| {
        let found = list(&new["spec"], "tolerations").iter();
        found.into_iter().any(|now| untimed(now) == untimed(gone))
    };
    if !list(&old["spec"], "tolerations").iter().all(kept) {
        errors.push(FieldError::forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        ));
    }
    if open(new) != open(old) || bound {
        errors.push(FieldError::forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        ));
    }
    errors
}

/// Returns a toleration without how long it tolerates.
fn untimed(toleration: &Value) -> Value {
    let mut toleration = toleration.clone();
    if let Some(map) = toleration.as_object_mut() {
        map.shift_remove("tolerationSeconds");
    }
    toleration
}

pub(super) fn pod_spec(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let volumes = volumes(spec, path, errors);
    let mut seen = HashSet::new();
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for (key, is_init) in [("containers", false), ("initContainers", true)] {
        for (i, container) in list(spec, key).iter().enumerate() {
            let at = format!("{path}.{key}[{i}]");
            self::container(container, &at, &volumes, errors);
            let name = text(container, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
            let policy = text(container, "restartPolicy");
            if is_init && !policy.is_empty() && policy != "Always" {
                errors.push(FieldError::not_supported(
                    format!("{at}.restartPolicy"),
                    policy,
                    &["Always".to_owned()],
                ));
            }
        }
    }
    let enums: [(&str, &[&str]); 2] = [
        ("restartPolicy", &["Always", "OnFailure", "Never"]),
        (
            "dnsPolicy",
            &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        ),
    ];
    for (key, supported) in enums {
        one_of(spec, key, supported, path, errors);
    }
    non_negative(spec, "terminationGracePeriodSeconds", path, errors);
    if let Some(seconds) = spec
        .get("activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .filter(|s| !(1..=i64::from(i32::MAX)).contains(s))
    {
        errors.push(FieldError::invalid(
            format!("{path}.activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    for (key, check) in [
        ("nodeName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
    ] {
        let value = text(spec, key);
        if !value.is_empty() {
            for message in check(value) {
                errors.push(FieldError::invalid(format!("{path}.{key}"), value, message));
            }
        }
    }
}

fn one_of(value: &Value, key: &str, supported: &[&str], path: &str, errors: &mut Vec<FieldError>) {
    let found = text(value, key);
    if found.is_empty() {
        errors.push(FieldError::required(format!("{path}.{key}"), ""));
    } else if !supported.contains(&found) {
        let supported: Vec<String> = supported.iter().map(|s| (*s).to_owned()).collect();
        errors.push(FieldError::not_supported(format!("{path}.{key}"), found, &supported));
    }
}

/// Checks the volumes and returns their names.
fn volumes(spec: &Value, path: &str, errors: &mut Vec<FieldError>) -> HashSet<String> {
    let mut names = HashSet::new();
    for (i, volume) in list(spec, "volumes").iter().enumerate() {
        let at = format!("{path}.volumes[{i}]");
        let name = text(volume, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else {
            for message in names::dns1123_label(name) {
                errors.push(FieldError::invalid(format!("{at}.name"), name, message));
            }
            if !names.insert(name.to_owned()) {
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
    names
}

fn plain(quantity: &Value) -> String {
    quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned)
}

fn amount(quantity: &Value) -> Option<Quantity> {
    match quantity {
        Value::Null => None,
        given => schemas::quantity::parse(&plain(given)).ok(),
    }
}

fn container(container: &Value, path: &str, volumes: &HashSet<String>, errors: &mut Vec<FieldError>) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.push(FieldError::required(format!("{path}.name"), ""));
    } else {
        for message in names::dns1123_label(name) {
            errors.push(FieldError::invalid(format!("{path}.name"), name, message));
        }
    }
    let image = text(container, "image");
    if image.is_empty() {
        errors.push(FieldError::required(format!("{path}.image"), ""));
    } else if image.trim() != image {
        errors.push(FieldError::invalid(
            format!("{path}.image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
    one_of(
        container,
        "imagePullPolicy",
        &["Always", "IfNotPresent", "Never"],
        path,
        errors,
    );
    one_of(
        container,
        "terminationMessagePolicy",
        &["FallbackToLogsOnError", "File"],
        path,
        errors,
    );
    let resources = &container["resources"];
    for (name, limit) in super::entries(resources, "limits") {
        let asked = &resources["requests"][&name];
        let (Some(most), Some(least)) = (amount(&limit), amount(asked)) else {
            continue;
        };
        if least > most {
            errors.push(FieldError::invalid(
                format!("{path}.resources.requests"),
                plain(asked),
                format!("must be less than or equal to {name} limit of {}", plain(&limit)),
            ));
        }
    }
    for (i, port) in list(container, "ports").iter().enumerate() {
        let at = format!("{path}.ports[{i}]");
        match port.get("containerPort").and_then(Value::as_i64).unwrap_or_default() {
            0 => errors.push(FieldError::required(format!("{at}.containerPort"), "")),
            number if !(1..=65535).contains(&number) => {
                errors.push(FieldError::invalid(
                    format!("{at}.containerPort"),
                    number,
                    "must be between 1 and 65535, inclusive",
                ));
            }
            _ => {}
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
    }
    for (i, env) in list(container, "env").iter().enumerate() {
        let at = format!("{path}.env[{i}]");
        let name = text(env, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if name.chars().any(|c| c == '=' || !(' '..='~').contains(&c)) {
            errors.push(FieldError::invalid(
                format!("{at}.name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ));
        }
        if let Some(from) = env.get("valueFrom").and_then(Value::as_object) {
            if from.is_empty() {
                errors.push(FieldError::invalid(
                    format!("{at}.valueFrom"),
                    "",
                    "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
                ));
            } else if from.len() > 1 {
                errors.push(FieldError::invalid(
                    format!("{at}.valueFrom"),
                    "",
                    "may not have more than one field specified at a time",
                ));
            }
            if !text(env, "value").is_empty() {
                errors.push(FieldError::invalid(
                    format!("{at}.valueFrom"),
                    "",
                    "may not be specified when `value` is not empty",
                ));
            }
        }
    }
    let mut paths = HashSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = format!("{path}.volumeMounts[{i}]");
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !volumes.contains(name) {
            errors.push(FieldError::new(
                format!("{at}.name"),
                ErrorKind::NotFound,
                Some(name.into()),
                "",
            ));
        }
        if target.is_empty() {
            errors.push(FieldError::required(format!("{at}.mountPath"), ""));
        } else if !paths.insert(target) {
            errors.push(FieldError::invalid(format!("{at}.mountPath"), target, "must be unique"));
        }
        let sub = text(mount, "subPath");
        if sub.starts_with('/') {
            errors.push(FieldError::invalid(
                format!("{at}.subPath"),
                sub,
                "must be a relative path",
            ));
        }
        if sub.split('/').any(|p| p == "..") {
            errors.push(FieldError::invalid(
                format!("{at}.subPath"),
                sub,
                "must not contain '..'",
            ));
        }
    }
}
