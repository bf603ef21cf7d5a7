//! Validation of what the processes of a Pod may do.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};

use super::super::field::{between, known, list, one_of, text};
use crate::admission::error::FieldError;

const ID: (i64, i64) = (0, i32::MAX as i64);

/// Checks the security context of a Pod and the namespaces of the host that it shares.
pub(super) fn pod(spec: &Value, path: &str, errors: &mut Vec<FieldError>) {
    static SYSCTL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$")
            .expect("a constant pattern compiles")
    });
    let (context, at) = (&spec["securityContext"], format!("{path}.securityContext"));
    for key in ["fsGroup", "runAsUser", "runAsGroup"] {
        between(context, key, ID, &at, errors);
    }
    for (i, group) in list(context, "supplementalGroups").iter().enumerate() {
        let one = json!({ "group": group });
        let mut wrong = Vec::new();
        between(&one, "group", ID, "", &mut wrong);
        errors.extend(wrong.into_iter().map(|error| FieldError {
            path: format!("{at}.supplementalGroups[{i}]"),
            ..error
        }));
    }
    known(
        context,
        "fsGroupChangePolicy",
        &["Always", "OnRootMismatch"],
        &at,
        errors,
    );
    for (i, sysctl) in list(context, "sysctls").iter().enumerate() {
        let (name, at) = (text(sysctl, "name"), format!("{at}.sysctls[{i}].name"));
        if name.is_empty() {
            errors.push(FieldError::required(at.clone(), ""));
        } else if name.len() > 253 || !SYSCTL.is_match(name) {
            let words = r"must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            errors.push(FieldError::invalid(at.clone(), name, words));
        }
        let of_processes = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        for (shared, mine) in [
            ("hostIPC", of_processes.iter().any(|start| name.starts_with(start))),
            ("hostNetwork", name.starts_with("net.")),
        ] {
            if mine && spec[shared] == true {
                let words = format!("may not be specified when '{shared}' is true");
                errors.push(FieldError::invalid(at.clone(), name, words));
            }
        }
    }
    seccomp(context, &at, errors);
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let words = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(format!("{at}.shareProcessNamespace"), true, words));
    }
}

/// Checks the security context of a container.
pub(super) fn container(container: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let (context, at) = (&container["securityContext"], format!("{path}.securityContext"));
    for key in ["runAsUser", "runAsGroup"] {
        between(context, key, ID, &at, errors);
    }
    known(context, "procMount", &["Default", "Unmasked"], &at, errors);
    seccomp(context, &at, errors);
    if context["allowPrivilegeEscalation"] == false && context["privileged"] == true {
        let words = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
        errors.push(FieldError::invalid(at, context.clone(), words));
    }
}

fn seccomp(context: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let profile = &context["seccompProfile"];
    if profile.is_null() {
        return;
    }
    let at = format!("{path}.seccompProfile");
    let types = ["Localhost", "RuntimeDefault", "Unconfined"];
    one_of(profile, "type", &types, &at, errors);
    let (local, named) = (
        text(profile, "type") == "Localhost",
        profile.get("localhostProfile").is_some(),
    );
    match (local, named) {
        (true, false) => errors.push(FieldError::required(
            format!("{at}.localhostProfile"),
            "must be set when seccomp type is Localhost",
        )),
        (false, true) => errors.push(FieldError::invalid(
            format!("{at}.localhostProfile"),
            text(profile, "localhostProfile"),
            "can only be set when seccomp type is Localhost",
        )),
        _ => {}
    }
}
