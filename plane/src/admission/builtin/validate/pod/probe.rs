//! Validation of probes, and of what is done when a container starts and stops.

use serde_json::Value;

use super::super::field::{list, non_negative, one_of, text};
use crate::admission::error::FieldError;
use crate::admission::names;

/// What a probe or hook may do.
const HANDLERS: [&str; 5] = ["exec", "grpc", "httpGet", "sleep", "tcpSocket"];

/// Checks the probes and hooks of a container.
pub(super) fn probes(container: &Value, path: &str, is_init: bool, errors: &mut Vec<FieldError>) {
    let fields = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];
    if is_init && text(container, "restartPolicy") != "Always" {
        for field in fields.iter().filter(|field| container.get(**field).is_some()) {
            let words = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(format!("{path}.{field}"), words));
        }
        return;
    }
    for hook in ["postStart", "preStop"] {
        if let Some(given) = container["lifecycle"].get(hook) {
            handler(given, &format!("{path}.lifecycle.{hook}"), errors);
        }
    }
    for field in &fields[1..] {
        if let Some(given) = container.get(*field) {
            probe(given, field, &format!("{path}.{field}"), errors);
        }
    }
}

fn probe(probe: &Value, name: &str, path: &str, errors: &mut Vec<FieldError>) {
    handler(probe, path, errors);
    for key in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        non_negative(probe, key, path, errors);
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if name == "readinessProbe" {
        if let Some(seconds) = grace {
            let at = format!("{path}.terminationGracePeriodSeconds");
            errors.push(FieldError::invalid(
                at,
                seconds.clone(),
                "must not be set for readinessProbes",
            ));
        }
        return;
    }
    if let Some(seconds) = grace.and_then(Value::as_i64).filter(|seconds| *seconds <= 0) {
        let at = format!("{path}.terminationGracePeriodSeconds");
        errors.push(FieldError::invalid(at, seconds, "must be greater than 0"));
    }
    if let Some(count) = probe
        .get("successThreshold")
        .and_then(Value::as_i64)
        .filter(|count| *count > 1)
    {
        errors.push(FieldError::invalid(
            format!("{path}.successThreshold"),
            count,
            "must be 1",
        ));
    }
}

/// Checks that one thing is done, and that it can be.
fn handler(given: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let done: Vec<&str> = HANDLERS.into_iter().filter(|name| given.get(*name).is_some()).collect();
    if done.is_empty() {
        errors.push(FieldError::required(path, "must specify a handler type"));
    }
    for (i, name) in done.into_iter().enumerate() {
        let at = format!("{path}.{name}");
        if i > 0 {
            errors.push(FieldError::forbidden(at, "may not specify more than 1 handler type"));
            continue;
        }
        let action = &given[name];
        match name {
            "exec" if list(action, "command").is_empty() => {
                errors.push(FieldError::required(format!("{at}.command"), ""));
            }
            "httpGet" => {
                port(&action["port"], &at, errors);
                let schemes = ["HTTP", "HTTPS"];
                one_of(action, "scheme", &schemes, &at, errors);
            }
            "tcpSocket" => port(&action["port"], &at, errors),
            _ => {}
        }
    }
}

fn port(port: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let at = format!("{path}.port");
    match port {
        Value::String(name) => {
            let wrong = names::port_name(name).into_iter();
            errors.extend(wrong.map(|message| FieldError::invalid(at.clone(), name.as_str(), message)));
        }
        number if (1..=65535).contains(&number.as_i64().unwrap_or(0)) => {}
        number => {
            let number = number.as_i64().unwrap_or(0);
            errors.push(FieldError::invalid(
                at,
                number,
                "must be between 1 and 65535, inclusive",
            ));
        }
    }
}
