//! Pods.

use serde_json::{Value, json};

use super::builtin::Stamp;
use super::podspec;
use crate::object::map_mut;
use crate::admission::error::FieldError;

/// Sets defaults.
pub fn default(pod: &mut Value) {
    let spec = map_mut(pod, "spec");
    podspec::default(spec);
    if !spec.contains_key("enableServiceLinks") {
        spec.insert("enableServiceLinks".into(), json!(true));
    }
}

/// Makes a new Pod pending.
pub fn create(pod: &mut Value, _: &Stamp) {
    let class = quality(&pod["spec"]);
    pod["status"] = json!({"phase": "Pending", "qosClass": class});
}

fn quality(spec: &Value) -> &'static str {
    let containers = || {
        ["initContainers", "containers"]
            .into_iter()
            .flat_map(|field| spec[field].as_array().into_iter().flatten())
    };
    let count = |container: &Value, field: &str| {
        container["resources"][field]
            .as_object()
            .map_or(0, serde_json::Map::len)
    };
    if containers().all(|c| count(c, "limits") == 0 && count(c, "requests") == 0) {
        return "BestEffort";
    }
    let guaranteed = containers().all(|container| {
        let resources = &container["resources"];
        ["cpu", "memory"].iter().all(|name| {
            !resources["limits"][*name].is_null()
                && resources["limits"][*name] == resources["requests"][*name]
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// Checks a Pod.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let Some(old) = old else {
        return podspec::validate(&new["spec"], "spec");
    };
    if fixed(new, old) == fixed(old, old) {
        return Vec::new();
    }
    vec![FieldError::forbidden(
        "spec",
        "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
    )]
}

/// The part of a Pod's specification that may not change. A Pod that no node has yet
/// may be given one.
fn fixed(pod: &Value, old: &Value) -> Value {
    let mut spec = pod["spec"].clone();
    if let Some(map) = spec.as_object_mut() {
        map.remove("activeDeadlineSeconds");
        map.remove("tolerations");
        if old["spec"]["nodeName"].as_str().unwrap_or("").is_empty() {
            map.remove("nodeName");
        }
    }
    for field in ["initContainers", "containers"] {
        for container in spec[field].as_array_mut().into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    spec
}

/// Tells whether a Pod can be removed at once: nothing runs that must be stopped first.
pub fn removable(pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty()
        || matches!(
            pod["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_named_parts_of_a_pod_may_change() {
        let old = json!({"spec": {"nodeName": "n", "containers": [{"name": "a", "image": "i", "command": ["x"]}]}});
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = json!("j");
        new["spec"]["activeDeadlineSeconds"] = json!(3);
        assert_eq!(validate(&new, Some(&old)), []);
        new["spec"]["containers"][0]["command"] = json!(["y"]);
        assert_eq!(validate(&new, Some(&old)).len(), 1);
        let mut moved = old.clone();
        moved["spec"]["nodeName"] = json!("m");
        assert_eq!(validate(&moved, Some(&old)).len(), 1);
    }

    #[test]
    fn quality_of_service_follows_limits() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(quality(&spec(json!({}))), "BestEffort");
        assert_eq!(
            quality(&spec(json!({"requests": {"cpu": "1"}}))),
            "Burstable"
        );
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(
            quality(&spec(json!({"limits": both, "requests": both}))),
            "Guaranteed"
        );
    }
}
