//! The kind FleetNode: a machine whose agent takes tasks.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::conditions_schema;

/// A machine whose agent takes tasks.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "FleetNode",
    plural = "fleetnodes",
    shortname = "fn",
    status = "FleetNodeStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".status.agentVersion"}"#,
    printcolumn = r#"{"name":"Accelerator","type":"string","jsonPath":".status.capability.accelerator"}"#,
    printcolumn = r#"{"name":"RAM","type":"integer","jsonPath":".status.capability.availableRAMGB"}"#,
    printcolumn = r#"{"name":"Current Task","type":"string","jsonPath":".status.currentTask"}"#,
    printcolumn = r#"{"name":"Heartbeat","type":"date","jsonPath":".status.lastHeartbeatTime"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct FleetNodeSpec {
    /// Name of the machine.
    pub node_name: String,
    /// Roles that the node takes; without any it takes every role.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
    /// Address in a tailnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tailscale_addr: Option<String>,
}

/// The program that runs on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AgentKind {
    /// Foreman's own agent.
    #[default]
    ForemanAgent,
    /// The agent of Metal machines.
    MetalAgent,
}

/// The accelerator that a node has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// Apple Metal.
    Metal,
    /// NVIDIA CUDA.
    Cuda,
    /// Vulkan.
    Vulkan,
    /// None.
    None,
}

/// What a node offers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    /// Accelerator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accelerator: Option<Accelerator>,
    /// Available RAM in GiB.
    #[serde(default, rename = "availableRAMGB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub available_ram_gb: Option<i64>,
    /// Models that are installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub installed_models: Option<Vec<String>>,
    /// Largest context window in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_context_tokens: Option<i64>,
    /// Tokens per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub tokens_per_second: Option<i64>,
    /// RAM in GiB.
    #[serde(default, rename = "totalRAMGB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub total_ram_gb: Option<i64>,
    /// Tasks that the node takes at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub slots: Option<i64>,
    /// GPUs that were found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpus: Option<Vec<Gpu>>,
}

/// One GPU.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// Memory in MiB.
    #[serde(rename = "memoryMiB")]
    pub memory_mib: i64,
    /// Free memory in MiB.
    #[serde(default, rename = "freeMemoryMiB", skip_serializing_if = "Option::is_none")]
    pub free_memory_mib: Option<i64>,
}

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodePhase {
    /// Takes tasks.
    Ready,
    /// Ends what it has and takes nothing new.
    Draining,
    /// Has not been heard of.
    NotReady,
    /// Nothing is known.
    #[default]
    Unknown,
}

/// An agent version that the node is asked to take.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UpdateRequest {
    /// SHA-256 of the artifact.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// Version.
    pub target_version: String,
    /// Where the artifact lies.
    pub url: String,
}

/// What is known about a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FleetNodeStatus {
    /// Program that runs on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_kind: Option<AgentKind>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// Processor architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arch: Option<String>,
    /// What the node offers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<Capability>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
    /// Task that the node works on; the first of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current_task: Option<String>,
    /// When the agent was last heard of, by its own clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Time>,
    /// Operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<NodePhase>,
    /// Version that the node is asked to take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update_request: Option<UpdateRequest>,
    /// Tasks that the node holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_tasks: Option<i64>,
    /// Repositories that the node has a mirror of (at most 50, by URL).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_repositories: Option<Vec<String>>,
}
