//! Validation of Pods and their templates.

mod container;
mod placement;
mod probe;
mod security;
mod volume;

use std::collections::HashSet;

use serde_json::Value;

use super::field::{between, list, named, non_negative, one_of, text};
use crate::admission::error::FieldError;
use crate::admission::names;

/// Validates a Pod; of its specification an update may change little.
pub(in crate::admission::builtin) fn pod(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    pod_spec(&new["spec"], "spec", &mut errors);
    let Some(old) = old else { return errors };
    let count = |object: &Value, key: &str| list(&object["spec"], key).len();
    for key in ["containers", "initContainers"] {
        if count(new, key) != count(old, key) {
            let words = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(format!("spec.{key}"), words));
            return errors;
        }
    }
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
    let volumes = volume::volumes(spec, path, errors);
    let mut seen = HashSet::new();
    if list(spec, "containers").is_empty() {
        errors.push(FieldError::required(format!("{path}.containers"), ""));
    }
    for (key, is_init) in [("containers", false), ("initContainers", true)] {
        for (i, container) in list(spec, key).iter().enumerate() {
            let at = format!("{path}.{key}[{i}]");
            container::container(container, &at, &volumes, errors);
            probe::probes(container, &at, is_init, errors);
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
    between(spec, "activeDeadlineSeconds", (1, i64::from(i32::MAX)), path, errors);
    container::host_ports(spec, path, errors);
    placement::placement(spec, path, errors);
    security::pod(spec, path, errors);
    dns(spec, path, errors);
    for (key, check) in [
        ("nodeName", names::dns1123_subdomain as fn(&str) -> Vec<String>),
        ("serviceAccountName", names::dns1123_subdomain),
        ("hostname", names::dns1123_label),
        ("subdomain", names::dns1123_label),
        ("runtimeClassName", names::dns1123_subdomain),
    ] {
        let value = text(spec, key);
        if !value.is_empty() {
            named(value, check(value), &format!("{path}.{key}"), errors);
        }
    }
    let system = text(&spec["os"], "name");
    if !matches!(system, "" | "linux" | "windows") {
        let supported = ["linux", "windows"].map(str::to_owned);
        errors.push(FieldError::not_supported(format!("{path}.os"), system, &supported));
    }
    for (i, gate) in list(spec, "readinessGates").iter().enumerate() {
        let kind = text(gate, "conditionType");
        named(
            kind,
            names::qualified_name(kind),
            &format!("{path}.readinessGates[{i}].conditionType"),
            errors,
        );
    }
}

/// Checks where a Pod looks names up.
fn dns(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (config, at) = (&spec["dnsConfig"], format!("{path}.dnsConfig"));
    if text(spec, "dnsPolicy") == "None" && list(config, "nameservers").is_empty() {
        let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        let required = match config {
            Value::Null => FieldError::required(at.clone(), "must provide `dnsConfig` when `dnsPolicy` is None"),
            _ => FieldError::required(format!("{at}.nameservers"), words),
        };
        errors.push(required);
    }
    let servers = list(config, "nameservers");
    if servers.len() > 3 {
        let shown = config["nameservers"].clone();
        let words = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(format!("{at}.nameservers"), shown, words));
    }
    for (i, alias) in list(spec, "hostAliases").iter().enumerate() {
        let at = format!("{path}.hostAliases[{i}]");
        address(text(alias, "ip"), &format!("{at}.ip"), errors);
        for (j, name) in list(alias, "hostnames").iter().filter_map(Value::as_str).enumerate() {
            named(
                name,
                names::dns1123_subdomain(name),
                &format!("{at}.hostnames[{j}]"),
                errors,
            );
        }
    }
    for (i, server) in servers.iter().filter_map(Value::as_str).enumerate() {
        address(server, &format!("{at}.nameservers[{i}]"), errors);
    }
    for (i, search) in list(config, "searches").iter().filter_map(Value::as_str).enumerate() {
        let name = search.strip_suffix('.').unwrap_or(search);
        named(
            search,
            names::search_domain(name),
            &format!("{at}.searches[{i}]"),
            errors,
        );
    }
    for (i, option) in list(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.push(FieldError::required(format!("{at}.options[{i}]"), "must not be empty"));
        }
    }
}

fn address(found: &str, path: &str, errors: &mut Vec<FieldError>) {
    if found.parse::<std::net::IpAddr>().is_err() {
        let words = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid(path, found, words));
    }
}
