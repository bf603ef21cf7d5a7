//! Warnings of what is allowed and rarely meant.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::admission::gofmt::quote;
use crate::admission::names;
use crate::admission::schema::format;

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Warns of a Pod.
pub(super) fn pod(pod: &Value) -> Vec<String> {
    let mut said = named(pod, "the Pod's hostname");
    pod_spec(&pod["spec"], "spec", &mut said);
    said
}

/// Warns of a Job.
pub(super) fn job(job: &Value) -> Vec<String> {
    let mut said = named(job, "Pod names and hostnames");
    pod_spec(&job["spec"]["template"]["spec"], "spec.template.spec", &mut said);
    said
}

/// Warns of a PersistentVolumeClaim.
pub(super) fn claim(claim: &Value) -> Vec<String> {
    let mut said = Vec::new();
    let renamed = "volume.beta.kubernetes.io/storage-class";
    if claim["metadata"]["annotations"].get(renamed).is_some() {
        said.push(format!(
            "metadata.annotations[{renamed}]: deprecated since v1.8; use \"storageClassName\" attribute instead"
        ));
    }
    whole_bytes(&claim["spec"]["resources"], "storage", "spec.resources", &mut said);
    said
}

/// Warns of a name that is no host's.
fn named(object: &Value, what: &str) -> Vec<String> {
    let wrong = names::dns1123_label(text(&object["metadata"], "name"));
    if wrong.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in {what}, which can result in surprising behavior; a DNS label is recommended: [{}]",
        wrong.join(" ")
    )]
}

/// Labels of nodes that have other names now.
const RENAMED: [(&str, &str, &str); 2] = [
    ("beta.kubernetes.io/arch", "v1.14", "kubernetes.io/arch"),
    ("beta.kubernetes.io/os", "v1.14", "kubernetes.io/os"),
];

fn pod_spec(spec: &Value, path: &str, said: &mut Vec<String>) {
    for (old, since, new) in RENAMED {
        if spec["nodeSelector"].get(old).is_some() {
            said.push(format!(
                "{path}.nodeSelector[{old}]: deprecated since {since}; use {new:?} instead"
            ));
        }
    }
    for (i, secret) in list(spec, "imagePullSecrets").iter().enumerate() {
        if text(secret, "name").is_empty() {
            said.push(format!(
                "{path}.imagePullSecrets[{i}].name: invalid empty name {}",
                quote("")
            ));
        }
    }
    for key in ["initContainers", "containers"] {
        for (i, container) in list(spec, key).iter().enumerate() {
            self::container(container, &format!("{path}.{key}[{i}]"), said);
        }
    }
}

fn container(container: &Value, path: &str, said: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        whole_bytes(&container["resources"], name, &format!("{path}.resources"), said);
    }
    let variables = list(container, "env");
    for (i, variable) in variables.iter().enumerate() {
        let name = text(variable, "name");
        if variables[..i].iter().any(|before| text(before, "name") == name) {
            said.push(format!(
                "{path}.env[{i}]: hides previous definition of {}, which may be dropped when using apply",
                quote(name)
            ));
        }
    }
    let ports = list(container, "ports");
    let what = |port: &Value| ["containerPort", "protocol", "hostPort", "hostIP"].map(|key| port[key].clone());
    for (i, port) in ports.iter().enumerate() {
        if let Some(first) = ports[..i].iter().position(|before| what(before) == what(port)) {
            said.push(format!(
                "{path}.ports[{i}]: duplicate port definition with {path}.ports[{first}]"
            ));
        }
    }
}

/// Warns of a part of a byte.
fn whole_bytes(resources: &Value, name: &str, path: &str, said: &mut Vec<String>) {
    for field in ["limits", "requests"] {
        let Some(given) = resources[field].get(name).and_then(Value::as_str) else {
            continue;
        };
        if schemas::quantity::parse(given).is_ok_and(|quantity| quantity.milli() % 1000 != 0) {
            said.push(format!(
                "{path}.{field}[{name}]: fractional byte value {} is invalid, must be an integer",
                quote(given)
            ));
        }
    }
}

/// Warns of formats that are checked nowhere.
pub(super) fn definition(crd: &Value) -> Vec<String> {
    let mut found = BTreeSet::new();
    for version in list(&crd["spec"], "versions") {
        formats(&version["schema"]["openAPIV3Schema"], &mut found);
    }
    let unknown = found.into_iter().filter(|name| !format::is_named(name));
    unknown
        .map(|name| format!("unrecognized format {}", quote(name)))
        .collect()
}

fn formats<'a>(schema: &'a Value, found: &mut BTreeSet<&'a str>) {
    let Some(map) = schema.as_object() else { return };
    let named = text(schema, "format");
    if !named.is_empty() {
        found.insert(named);
    }
    for key in ["items", "additionalProperties", "not"] {
        map.get(key).into_iter().for_each(|below| formats(below, found));
    }
    for key in ["allOf", "anyOf", "oneOf"] {
        list(schema, key).iter().for_each(|below| formats(below, found));
    }
    let properties = map.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .for_each(|(_, below)| formats(below, found));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_rarely_meant_is_warned_of() {
        let container = json!({
            "name": "c",
            "env": [{"name": "a"}, {"name": "b"}, {"name": "a"}],
            "ports": [{"containerPort": 80}, {"containerPort": 80}],
            "resources": {"requests": {"memory": "500m"}},
        });
        let spec = json!({"containers": [container], "nodeSelector": {"beta.kubernetes.io/os": "linux"}});
        let said = pod(&json!({"metadata": {"name": "a.b"}, "spec": spec}));
        assert_eq!(said.len(), 5, "{said:?}");
        assert!(pod(&json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c"}]}})).is_empty());
        let schema = json!({"properties": {"a": {"format": "odd"}, "b": {"items": {"format": "int32"}}}});
        let crd = json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": schema}}]}});
        assert_eq!(definition(&crd), ["unrecognized format \"odd\""]);
    }
}
