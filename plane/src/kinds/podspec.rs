//! The Pod specification that Pods and Job templates share.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::admission::names::{dns1123_label, dns1123_subdomain};
use crate::admission::error::{ErrorKind, FieldError};
use crate::status::unsupported;

fn set(map: &mut Map<String, Value>, field: &str, value: impl Into<Value>) {
    if map.get(field).is_none_or(Value::is_null) {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets the defaults of a Pod specification.
pub fn default(spec: &mut Map<String, Value>) {
    set(spec, "restartPolicy", "Always");
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "schedulerName", "default-scheduler");
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", 30);
    for field in ["initContainers", "containers"] {
        for container in spec
            .get_mut(field)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
            .filter_map(Value::as_object_mut)
        {
            default_container(container);
        }
    }
    for volume in spec
        .get_mut("volumes")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        if volume.len() == 1 {
            volume.insert("emptyDir".into(), json!({}));
        }
        for source in ["configMap", "secret", "projected", "downwardAPI"] {
            if let Some(Value::Object(source)) = volume.get_mut(source) {
                set(source, "defaultMode", 420);
            }
        }
        if let Some(Value::Object(path)) = volume.get_mut("hostPath") {
            set(path, "type", "");
        }
    }
}

fn default_container(container: &mut Map<String, Value>) {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or("")
        .to_owned();
    set(container, "imagePullPolicy", pull_policy(&image));
    set(container, "resources", json!({}));
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    for port in container
        .get_mut("ports")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
    {
        set(port, "protocol", "TCP");
    }
    for env in container
        .get_mut("env")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        if let Some(Value::Object(field)) = env.pointer_mut("/valueFrom/fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
    // What is limited and not requested is requested.
    if let Some(Value::Object(resources)) = container.get_mut("resources")
        && let Some(Value::Object(limits)) = resources.get("limits").cloned()
    {
        let requests = resources.entry("requests").or_insert_with(|| json!({}));
        if let Some(requests) = requests.as_object_mut() {
            for (name, amount) in limits {
                requests.entry(name).or_insert(amount);
            }
        }
    }
}

fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let tagged = last.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    if tagged { "IfNotPresent" } else { "Always" }
}

/// Checks a Pod specification found at `path`.
pub fn validate(spec: &Value, path: &str) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let mut volumes = HashSet::new();
    for (index, volume) in array(spec, "volumes").enumerate() {
        let at = format!("{path}.volumes[{index}].name");
        let name = volume["name"].as_str().unwrap_or("");
        if name.is_empty() {
            problems.push(FieldError::required(at, ""));
        } else if let Some(detail) = dns1123_label(name).into_iter().next() {
            problems.push(FieldError::invalid(at, name, detail));
        } else if !volumes.insert(name) {
            problems.push(duplicate(at, name));
        }
    }
    if array(spec, "containers").next().is_none() {
        problems.push(FieldError::required(format!("{path}.containers"), ""));
    }
    let mut names = HashSet::new();
    for field in ["initContainers", "containers"] {
        for (index, container) in array(spec, field).enumerate() {
            let at = format!("{path}.{field}[{index}]");
            check_container(container, &at, &volumes, &mut problems);
            let name = container["name"].as_str().unwrap_or("");
            if !name.is_empty() && !names.insert(name) {
                problems.push(duplicate(format!("{at}.name"), name));
            }
        }
    }
    const POLICIES: [&str; 3] = ["Always", "OnFailure", "Never"];
    let policy = spec["restartPolicy"].as_str().unwrap_or("");
    if !POLICIES.contains(&policy) {
        problems.push(unsupported(
            format!("{path}.restartPolicy"),
            policy,
            &POLICIES,
        ));
    }
    if let Some(seconds) = spec["activeDeadlineSeconds"].as_i64()
        && seconds < 1
    {
        problems.push(FieldError::invalid(
            format!("{path}.activeDeadlineSeconds"),
            seconds,
            "must be between 1 and 2147483647, inclusive",
        ));
    }
    if let Some(name) = spec["nodeName"].as_str()
        && !name.is_empty()
        && let Some(detail) = dns1123_subdomain(name).into_iter().next()
    {
        problems.push(FieldError::invalid(format!("{path}.nodeName"), name, detail));
    }
    problems
}

fn array<'a>(spec: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    spec[field].as_array().into_iter().flatten()
}

fn duplicate(path: String, name: &str) -> FieldError {
    FieldError {
        path,
        kind: ErrorKind::Duplicate,
        value: Some(name.into()),
        detail: String::new(),
    }
}

fn check_container(
    container: &Value,
    at: &str,
    volumes: &HashSet<&str>,
    problems: &mut Vec<FieldError>,
) {
    let name = container["name"].as_str().unwrap_or("");
    if name.is_empty() {
        problems.push(FieldError::required(format!("{at}.name"), ""));
    } else if let Some(detail) = dns1123_label(name).into_iter().next() {
        problems.push(FieldError::invalid(format!("{at}.name"), name, detail));
    }
    if container["image"].as_str().unwrap_or("").trim().is_empty() {
        problems.push(FieldError::required(format!("{at}.image"), ""));
    }
    for (index, env) in array(container, "env").enumerate() {
        let at = format!("{at}.env[{index}]");
        let name = env["name"].as_str().unwrap_or("");
        if name.is_empty() {
            problems.push(FieldError::required(format!("{at}.name"), ""));
        } else if name.contains('=') || name.bytes().any(|b| !(0x20..0x7f).contains(&b)) {
            problems.push(FieldError::invalid(
                format!("{at}.name"),
                name,
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            ));
        }
        if !env["valueFrom"].is_null() && env["value"].as_str().is_some_and(|v| !v.is_empty()) {
            problems.push(FieldError::invalid(
                format!("{at}.valueFrom"),
                "",
                "may not be specified when `value` is not empty",
            ));
        }
    }
    let mut paths = HashSet::new();
    for (index, mount) in array(container, "volumeMounts").enumerate() {
        let at = format!("{at}.volumeMounts[{index}]");
        let volume = mount["name"].as_str().unwrap_or("");
        if volume.is_empty() {
            problems.push(FieldError::required(format!("{at}.name"), ""));
        } else if !volumes.contains(volume) {
            problems.push(FieldError {
                path: format!("{at}.name"),
                kind: ErrorKind::NotFound,
                value: Some(volume.into()),
                detail: String::new(),
            });
        }
        let path = mount["mountPath"].as_str().unwrap_or("");
        if path.is_empty() {
            problems.push(FieldError::required(format!("{at}.mountPath"), ""));
        } else if !paths.insert(path) {
            problems.push(FieldError::invalid(
                format!("{at}.mountPath"),
                path,
                "must be unique",
            ));
        }
        let below = mount["subPath"].as_str().unwrap_or("");
        if below.starts_with('/') {
            problems.push(FieldError::invalid(
                format!("{at}.subPath"),
                below,
                "must be a relative path",
            ));
        } else if below.split('/').any(|part| part == "..") {
            problems.push(FieldError::invalid(
                format!("{at}.subPath"),
                below,
                "must not contain '..'",
            ));
        }
    }
    check_resources(container, at, problems);
}

fn check_resources(container: &Value, at: &str, problems: &mut Vec<FieldError>) {
    for field in ["limits", "requests"] {
        for (name, amount) in container["resources"][field]
            .as_object()
            .into_iter()
            .flatten()
        {
            let text = amount.as_str().unwrap_or("");
            if quantity(text).is_none() {
                problems.push(FieldError::invalid(
                    format!("{at}.resources.{field}[{name}]"),
                    text,
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                ));
            }
        }
    }
}

/// Reads a quantity such as `500m` or `1Gi` as a number of thousandths.
pub fn quantity(text: &str) -> Option<i128> {
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor: f64 = match suffix {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024f64.powi(2),
        "Gi" => 1024f64.powi(3),
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        other => {
            let exponent: i32 = other.strip_prefix(['e', 'E'])?.parse().ok()?;
            10f64.powi(exponent)
        }
    };
    let number: f64 = number.parse().ok()?;
    let thousandths = (number * factor * 1000.0).ceil();
    thousandths.is_finite().then_some(thousandths as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_their_suffix() {
        assert_eq!(quantity("1"), Some(1000));
        assert_eq!(quantity("500m"), Some(500));
        assert_eq!(quantity("1Ki"), Some(1_024_000));
        assert_eq!(quantity("1.5Gi"), Some(1_610_612_736_000));
        assert_eq!(quantity("1e3"), Some(1_000_000));
        for bad in ["", "x", "1x", "Gi", "1 Gi"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }

    #[test]
    fn latest_and_untagged_images_are_always_pulled() {
        assert_eq!(pull_policy("a"), "Always");
        assert_eq!(pull_policy("a:latest"), "Always");
        assert_eq!(pull_policy("host:5000/a"), "Always");
        assert_eq!(pull_policy("host:5000/a:1"), "IfNotPresent");
        assert_eq!(pull_policy("a@sha256:00"), "IfNotPresent");
    }

    #[test]
    fn a_bad_container_is_told_field_by_field() {
        let spec = json!({
            "restartPolicy": "Sometimes",
            "volumes": [{"name": "v"}, {"name": "v"}],
            "containers": [
                {"name": "a", "image": "i", "volumeMounts": [{"name": "w", "mountPath": "/x", "subPath": "../y"}]},
                {"name": "a", "env": [{"name": "A=B"}], "resources": {"limits": {"memory": "lots"}}}
            ]
        });
        let paths: Vec<String> = validate(&spec, "spec").into_iter().map(|p| p.path).collect();
        assert_eq!(
            paths,
            [
                "spec.volumes[1].name",
                "spec.containers[0].volumeMounts[0].name",
                "spec.containers[0].volumeMounts[0].subPath",
                "spec.containers[1].image",
                "spec.containers[1].env[0].name",
                "spec.containers[1].resources.limits[memory]",
                "spec.containers[1].name",
                "spec.restartPolicy",
            ]
        );
    }
}
