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

fn labels_differ(live: &FleetNode, wanted: &BTreeMap<String, String>) -> bool {
    wanted.iter().any(|(key, value)| live.labels().get(key) != Some(value))
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
            Some(live) if live.spec == spec && !labels_differ(&live, &config.node_labels) => return Ok(live),
            Some(live) => {
                let patch = json!({
                    "metadata": { "labels": config.node_labels, "resourceVersion": live.resource_version() },
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
