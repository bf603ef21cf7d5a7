//! The CustomResourceDefinitions of every kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

/// Returns the CustomResourceDefinitions of every kind, in a stable order.
pub fn all() -> Vec<CustomResourceDefinition> {
    let crds = [
        crate::Agent::crd(),
        crate::AgentRelease::crd(),
        crate::AgenticTask::crd(),
        crate::FleetNode::crd(),
        crate::Forge::crd(),
        crate::ModelProfile::crd(),
        crate::TaskQueue::crd(),
        crate::Workload::crd(),
    ];
    crds.into_iter().map(tidied).collect()
}

fn tidied(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        else {
            continue;
        };
        let Ok(mut value) = serde_json::to_value(&*schema) else {
            continue;
        };
        tidy(&mut value);
        // What `kubectl explain` says of the kind is what its spec says of it.
        if let Some(description) = value["properties"]["spec"].get("description").cloned() {
            value["description"] = description;
        }
        if let Ok(tidy) = serde_json::from_value(value) {
            *schema = tidy;
        }
    }
    crd
}

/// Takes out of a schema what the published ones do not have: `nullable`, and null among an enum's words.
///
/// An absent field and one that is null mean the same to Foreman, and kube-apiserver drops the nulls of fields that are
/// not nullable.
pub fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let is_schema = map.contains_key("type") || map.contains_key("enum") || map.contains_key("anyOf");
            if is_schema && map.get("nullable").is_some_and(Value::is_boolean) {
                map.remove("nullable");
            }
            if let Some(Value::Array(words)) = map.get_mut("enum") {
                words.retain(|word| !word.is_null());
            }
            map.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}
