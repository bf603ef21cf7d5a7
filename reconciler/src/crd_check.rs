//! The check that the CRDs that are served keep our fields.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde_json::Value;

/// Why the operator cannot work with the CRDs that are served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// CRDs are missing.
    #[error(
        "failed to start: the API does not serve {names}; apply Foreman's CRDs first (charts/foreman/templates/crds, or `foreman up`, which applies its own)"
    )]
    Missing {
        /// Names of the CRDs.
        names: String,
    },
    /// CRDs would drop fields.
    #[error(
        "failed to start: the CRDs that are served would drop fields that Foreman needs: {fields}; they come from another release, apply this one's (the published chart and this one cannot be installed side by side)"
    )]
    Prunes {
        /// `<crd>: <field>, …` for each CRD.
        fields: String,
    },
    /// The API could not be asked.
    #[error("failed to read the CRD {name}: {source}")]
    Read {
        /// Name of the CRD.
        name: String,
        /// What the API said.
        source: Box<kube::Error>,
    },
}

/// Compares every CRD that is served with ours. Where reading CRDs is forbidden it is logged and nothing is checked.
pub async fn check(client: &Client) -> Result<(), Error> {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let (mut missing, mut pruned) = (Vec::new(), Vec::new());
    for ours in schemas::crds::all() {
        let name = ours.name_any();
        match api.get(&name).await {
            Ok(served) => {
                let fields = dropped_fields(&ours, &served.data);
                if !fields.is_empty() {
                    pruned.push(format!("{name}: {}", short_list(&fields)));
                }
            }
            Err(kube::Error::Api(status)) if status.code == 404 => missing.push(name),
            Err(kube::Error::Api(status)) if status.code == 403 => {
                tracing::warn!("CRDs may not be read, so whether they keep Foreman's fields is not checked");
                return Ok(());
            }
            Err(source) => {
                return Err(Error::Read {
                    name,
                    source: Box::new(source),
                });
            }
        }
    }
    if !missing.is_empty() {
        return Err(Error::Missing {
            names: missing.join(", "),
        });
    }
    if !pruned.is_empty() {
        return Err(Error::Prunes {
            fields: pruned.join("; "),
        });
    }
    Ok(())
}

fn short_list(fields: &[String]) -> String {
    let mut text = fields.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if fields.len() > 5 {
        text.push_str(&format!(" and {} more", fields.len() - 5));
    }
    text
}

/// Lists the fields of `ours` that `served` would drop from an object.
fn dropped_fields(ours: &CustomResourceDefinition, served: &Value) -> Vec<String> {
    let ours = serde_json::to_value(ours).unwrap_or_default();
    let schema = |crd: &Value| -> Value {
        let versions = crd
            .pointer("/spec/versions")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let ours = versions.into_iter().find(|version| version["name"] == schemas::VERSION);
        ours.and_then(|mut version| version.pointer_mut("/schema/openAPIV3Schema").map(Value::take))
            .unwrap_or_default()
    };
    let mut dropped = Vec::new();
    compare(&schema(&ours), &schema(served), String::new(), &mut dropped);
    dropped
}

fn compare(ours: &Value, served: &Value, path: String, dropped: &mut Vec<String>) {
    if served["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    if let Some(properties) = ours["properties"].as_object() {
        // A map in place of an object keeps every key.
        if served["additionalProperties"].is_object() || served["additionalProperties"] == true {
            return;
        }
        for (name, schema) in properties {
            let path = format!("{path}.{name}");
            match served["properties"].get(name) {
                Some(theirs) => compare(schema, theirs, path, dropped),
                // The API server keeps these three without a schema.
                None if matches!(path.as_str(), ".apiVersion" | ".kind" | ".metadata") => {}
                None => dropped.push(path.trim_start_matches('.').to_owned()),
            }
        }
    }
    if ours["items"].is_object() {
        compare(&ours["items"], &served["items"], format!("{path}[]"), dropped);
    }
    if ours["additionalProperties"].is_object() {
        compare(
            &ours["additionalProperties"],
            &served["additionalProperties"],
            format!("{path}.*"),
            dropped,
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn task_crd() -> (CustomResourceDefinition, Value) {
        let crd = schemas::crds::all()
            .into_iter()
            .find(|crd| crd.name_any().starts_with("agentictasks"))
            .unwrap();
        let served = serde_json::to_value(&crd).unwrap();
        (crd, served)
    }

    #[test]
    fn our_own_crds_drop_nothing() {
        for crd in schemas::crds::all() {
            let served = serde_json::to_value(&crd).unwrap();
            assert_eq!(
                dropped_fields(&crd, &served),
                Vec::<String>::new(),
                "{}",
                crd.name_any()
            );
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let (crd, mut served) = task_crd();
        let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
        served.pointer_mut(spec).unwrap().as_object_mut().unwrap().remove("run");
        let payload = format!("{spec}/payload/properties");
        served
            .pointer_mut(&payload)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .remove("prompt");
        let mut dropped = dropped_fields(&crd, &served);
        dropped.sort();
        assert_eq!(dropped, ["spec.payload.prompt", "spec.run"]);
    }
}
