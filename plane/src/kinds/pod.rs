//! Pods.

use serde_json::{Value, json};

use super::builtin::Stamp;

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
            !resources["limits"][*name].is_null() && resources["limits"][*name] == resources["requests"][*name]
        })
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// Tells whether a Pod can be removed at once: nothing runs that must be stopped first.
pub fn removable(pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty()
        || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_of_service_follows_limits() {
        let spec = |resources: Value| json!({"containers": [{"resources": resources}]});
        assert_eq!(quality(&spec(json!({}))), "BestEffort");
        assert_eq!(quality(&spec(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(quality(&spec(json!({"limits": both, "requests": both}))), "Guaranteed");
    }
}
