//! The node's own object: its FleetNode, and the heartbeats in its status.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use schemas::fleet_node::{AgentKind, Capability, FleetNode, FleetNodeSpec, NodePhase};
use serde_json::json;

use super::Error;
use crate::config::Config;

/// The field manager of everything that the agent writes.
pub const FIELD_MANAGER: &str = "foreman-agent";

/// Builds the spec that the flags ask for.
pub fn build_spec(config: &Config) -> FleetNodeSpec {
    FleetNodeSpec {
        node_name: config.host_name.clone(),
        roles: config.roles.clone(),
        tailscale_addr: config.tailscale_addr.clone(),
    }
}

/// Returns the labels to be written: those that are wanted and not there, and as null those that an agent wrote before
/// and that are not wanted any more. What others wrote stays.
fn labels_to_write<'a>(
    live: &'a FleetNode,
    wanted: &'a BTreeMap<String, String>,
) -> BTreeMap<&'a str, Option<&'a String>> {
    let missing = wanted
        .iter()
        .filter(|(key, value)| live.labels().get(*key) != Some(value))
        .map(|(key, value)| (key.as_str(), Some(value)));
    let written = live
        .managed_fields()
        .iter()
        .filter(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER) && entry.subresource.is_none())
        .filter_map(|entry| entry.fields_v1.as_ref()?.0.pointer("/f:metadata/f:labels")?.as_object())
        .flat_map(|labels| labels.keys().filter_map(|key| key.strip_prefix("f:")));
    let old = written.filter(|key| !wanted.contains_key(*key) && live.labels().contains_key(*key));
    missing.chain(old.map(|key| (key, None))).collect()
}

/// Creates the FleetNode, or updates it where the flags changed; writes nothing otherwise.
pub async fn register(client: &Client, config: &Config) -> Result<FleetNode, Error> {
    let nodes: Api<FleetNode> = Api::all(client.clone());
    let spec = build_spec(config);
    let failed = |source| Error::Register {
        node: config.node_name.clone(),
        source,
    };
    loop {
        match nodes.get_opt(&config.node_name).await.map_err(failed)? {
            Some(live) => {
                let labels = labels_to_write(&live, &config.node_labels);
                if live.spec == spec && labels.is_empty() {
                    return Ok(live);
                }
                let patch = json!({
                    "metadata": { "labels": labels, "resourceVersion": live.resource_version() },
                    "spec": { "nodeName": spec.node_name, "roles": spec.roles, "tailscaleAddr": spec.tailscale_addr },
                });
                match nodes.patch(&config.node_name, &params(), &Patch::Merge(patch)).await {
                    Ok(node) => return Ok(node),
                    Err(kube::Error::Api(status)) if status.code == 409 => continue,
                    Err(error) => return Err(failed(error)),
                }
            }
            None => {
                let mut node = FleetNode::new(&config.node_name, spec.clone());
                node.metadata.labels = Some(config.node_labels.clone()).filter(|labels| !labels.is_empty());
                let post = PostParams {
                    field_manager: Some(FIELD_MANAGER.into()),
                    ..PostParams::default()
                };
                match nodes.create(&post, &node).await {
                    Ok(node) => return Ok(node),
                    Err(kube::Error::Api(status)) if status.code == 409 => continue,
                    Err(error) => return Err(failed(error)),
                }
            }
        }
    }
}

/// What a heartbeat says beside the time.
pub struct Beat<'a> {
    /// Phase.
    pub phase: NodePhase,
    /// Capability as it is now.
    pub capability: &'a Capability,
    /// Tasks in hand, by name.
    pub tasks: &'a [String],
    /// Repositories with a mirror on this node.
    pub repositories: &'a [String],
}

/// Builds the status patch of one heartbeat.
pub fn build_heartbeat(beat: &Beat<'_>, now: Timestamp) -> serde_json::Value {
    json!({ "status": {
        "phase": beat.phase,
        "lastHeartbeatTime": Time(now),
        "capability": beat.capability,
        "currentTask": beat.tasks.first(),
        "runningTasks": beat.tasks.len(),
        "cachedRepositories": beat.repositories.iter().take(50).collect::<Vec<_>>(),
        "agentKind": AgentKind::ForemanAgent,
        "agentVersion": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "arch": match std::env::consts::ARCH { "x86_64" => "amd64", "aarch64" => "arm64", other => other },
    }})
}

/// Writes one heartbeat.
pub async fn heartbeat(client: &Client, node: &str, beat: &Beat<'_>, now: Timestamp) -> Result<(), kube::Error> {
    let nodes: Api<FleetNode> = Api::all(client.clone());
    nodes
        .patch_status(node, &params(), &Patch::Merge(build_heartbeat(beat, now)))
        .await
        .map(drop)
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_label_that_is_no_longer_wanted_goes_if_an_agent_wrote_it() {
        let wrote = |manager: &str, label: &str| {
            let fields = json!({ "f:metadata": { "f:labels": { ".": {}, format!("f:{label}"): {} } } });
            json!({ "manager": manager, "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields })
        };
        let node: FleetNode = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "spec": { "nodeName": "n" },
            "metadata": {
                "name": "n", "labels": { "gpu": "a100", "disk": "ssd", "rack": "7" },
                "managedFields": [wrote(FIELD_MANAGER, "gpu"), wrote(FIELD_MANAGER, "disk"), wrote("kubectl", "rack")],
            },
        }))
        .unwrap();
        let wanted = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect()
        };
        let same = wanted(&[("gpu", "a100"), ("disk", "ssd")]);
        assert!(labels_to_write(&node, &same).is_empty());
        let other = wanted(&[("gpu", "h100"), ("zone", "b")]);
        let patch = json!(labels_to_write(&node, &other));
        assert_eq!(patch, json!({ "gpu": "h100", "zone": "b", "disk": null }));
    }
}
