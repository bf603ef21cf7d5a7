//! Validation of containers.

use std::collections::{HashMap, HashSet};

use schemas::quantity::Quantity;
use serde_json::Value;

use super::super::field::{between, entries, known, list, named, needed, one_of, text};
use super::security;
use crate::admission::error::{ErrorKind, FieldError};
use crate::admission::names;

fn plain(quantity: &Value) -> String {
    quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned)
}

fn amount(quantity: &Value) -> Option<Quantity> {
    match quantity {
        Value::Null => None,
        given => schemas::quantity::parse(&plain(given)).ok(),
    }
}

/// Checks a container; `volumes` are the names of those that it may mount.
pub(super) fn container(container: &Value, path: &str, volumes: &HashMap<String, bool>, errors: &mut Vec<FieldError>) {
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
    resources(&container["resources"], path, errors);
    self::ports(container, path, errors);
    environment(container, path, errors);
    mounts(container, path, volumes, errors);
    devices(container, path, volumes, errors);
    security::container(container, path, errors);
}

fn resources(resources: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for field in ["limits", "requests"] {
        for (name, quantity) in entries(resources, field) {
            let at = format!("{path}.resources.{field}[{name}]");
            resource_name(&name, &at, errors);
            if amount(&quantity).is_some_and(|amount| amount.milli() < 0) {
                let words = "must be greater than or equal to 0";
                errors.push(FieldError::invalid(at, plain(&quantity), words));
            } else if name.contains('/') && amount(&quantity).is_some_and(|amount| amount.milli() % 1000 != 0) {
                errors.push(FieldError::invalid(at, plain(&quantity), "must be an integer"));
            }
        }
    }
    for (name, limit) in entries(resources, "limits") {
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
}

/// Checks the name of something that containers are given.
fn resource_name(name: &str, path: &str, errors: &mut Vec<FieldError>) {
    named(name, names::qualified_name(name), path, errors);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        for words in [
            "must be a standard resource type or fully qualified",
            "must be a standard resource for containers",
        ] {
            errors.push(FieldError::invalid(path, name, words));
        }
    }
}

fn ports(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
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
        let name = text(port, "name");
        if !name.is_empty() {
            named(name, names::port_name(name), &format!("{at}.name"), errors);
            if !seen.insert(name) {
                errors.push(FieldError::duplicate(format!("{at}.name"), name));
            }
        }
        if port["hostPort"] != 0 {
            between(port, "hostPort", (1, 65535), &at, errors);
        }
    }
}

/// Checks the ports of the host that a Pod asks for.
pub(super) fn host_ports(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (c, container) in list(spec, "containers").iter().enumerate() {
        for (i, port) in list(container, "ports").iter().enumerate() {
            let host = port["hostPort"].as_i64().unwrap_or(0);
            let at = format!("{path}.containers[{c}].ports[{i}].hostPort");
            if host == 0 {
                continue;
            }
            let taken = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if seen.contains(&taken) {
                errors.push(FieldError::duplicate(at.clone(), taken.as_str()));
            }
            seen.insert(taken);
            if spec["hostNetwork"] == true && port["containerPort"] != host {
                let words = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(at, host, words));
            }
        }
    }
}

fn environment(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    for (i, env) in list(container, "env").iter().enumerate() {
        let at = format!("{path}.env[{i}]");
        let name = text(env, "name");
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !is_variable(name) {
            errors.push(FieldError::invalid(format!("{at}.name"), name, NO_VARIABLE));
        }
        if let Some(from) = env.get("valueFrom").and_then(Value::as_object) {
            source(&env["valueFrom"], &format!("{at}.valueFrom"), errors);
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
    for (i, from) in list(container, "envFrom").iter().enumerate() {
        let at = format!("{path}.envFrom[{i}]");
        let prefix = text(from, "prefix");
        if !is_variable(prefix) {
            errors.push(FieldError::invalid(format!("{at}.prefix"), prefix, NO_VARIABLE));
        }
        let given: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|key| from.get(*key).is_some())
            .collect();
        for key in &given {
            needed(&from[*key], "name", &format!("{at}.{key}"), errors);
        }
        let words = match given.len() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(format!("{path}.envFrom"), "", words));
    }
}

const NO_VARIABLE: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";

fn is_variable(name: &str) -> bool {
    !name.chars().any(|c| c == '=' || !(' '..='~').contains(&c))
}

/// Checks where the value of a variable comes from.
fn source(from: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if let Some(field) = from.get("fieldRef") {
        field_ref(field, &format!("{path}.fieldRef"), errors);
    }
    if let Some(resource) = from.get("resourceFieldRef") {
        let known = [
            "limits.cpu",
            "limits.ephemeral-storage",
            "limits.memory",
            "requests.cpu",
            "requests.ephemeral-storage",
            "requests.memory",
        ];
        let pages = |name: &str| name.contains(".hugepages-");
        if !pages(text(resource, "resource")) {
            one_of(
                resource,
                "resource",
                &known,
                &format!("{path}.resourceFieldRef"),
                errors,
            );
        }
    }
    for key in ["configMapKeyRef", "secretKeyRef"] {
        let Some(chosen) = from.get(key) else { continue };
        let at = format!("{path}.{key}");
        let name = text(chosen, "name");
        named(name, names::dns1123_subdomain(name), &format!("{at}.name"), errors);
        needed(chosen, "key", &at, errors);
        let key = text(chosen, "key");
        if !key.is_empty() {
            named(key, names::config_key(key), &format!("{at}.key"), errors);
        }
    }
}

/// Checks a reference to a field of the Pod itself.
pub(super) fn field_ref(field: &Value, path: &str, errors: &mut Vec<FieldError>) {
    needed(field, "fieldPath", path, errors);
    let name = text(field, "fieldPath");
    let known = [
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "metadata.labels",
        "metadata.annotations",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "spec.hostNetwork",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    ];
    let of_map = ["metadata.labels['", "metadata.annotations['"];
    if !name.is_empty() && !known.contains(&name) && !of_map.iter().any(|start| name.starts_with(start)) {
        let words = format!("error converting fieldPath: field label not supported: {name}");
        errors.push(FieldError::invalid(format!("{path}.fieldPath"), name, words));
    }
}

fn mounts(container: &Value, path: &str, volumes: &HashMap<String, bool>, errors: &mut Vec<FieldError>) {
    let mut paths = HashSet::new();
    for (i, mount) in list(container, "volumeMounts").iter().enumerate() {
        let at = format!("{path}.volumeMounts[{i}]");
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            errors.push(FieldError::required(format!("{at}.name"), ""));
        } else if !volumes.contains_key(name) {
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
        if !sub.is_empty() && !text(mount, "subPathExpr").is_empty() {
            let words = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(
                format!("{at}.subPathExpr"),
                text(mount, "subPathExpr"),
                words,
            ));
        }
        // Here kube-apiserver leaves out which mount it is.
        let ways = ["Bidirectional", "HostToContainer", "None"];
        known(
            mount,
            "mountPropagation",
            &ways,
            &format!("{path}.volumeMounts"),
            errors,
        );
    }
}

/// Checks the volumes that a container uses as block devices.
fn devices(container: &Value, path: &str, volumes: &HashMap<String, bool>, errors: &mut Vec<FieldError>) {
    for (i, device) in list(container, "volumeDevices").iter().enumerate() {
        let at = format!("{path}.volumeDevices[{i}]");
        let name = text(device, "name");
        match volumes.get(name) {
            _ if name.is_empty() => errors.push(FieldError::required(format!("{at}.name"), "")),
            None => errors.push(FieldError::new(
                format!("{at}.name"),
                ErrorKind::NotFound,
                Some(name.into()),
                "",
            )),
            Some(false) => {
                let words = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.push(FieldError::invalid(format!("{at}.name"), name, words));
            }
            Some(true) => {}
        }
        needed(device, "devicePath", &at, errors);
    }
}
