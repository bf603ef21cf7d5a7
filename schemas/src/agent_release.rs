//! The kind AgentRelease: a version of the node agent on its way through the fleet.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::fleet_node::AgentKind;
use crate::shared::conditions_schema;

/// A version of the node agent on its way through the fleet.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "AgentRelease",
    plural = "agentreleases",
    shortname = "agr",
    status = "AgentReleaseStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Version","type":"string","jsonPath":".spec.version"}"#,
    printcolumn = r#"{"name":"Approved","type":"boolean","jsonPath":".spec.approved"}"#,
    printcolumn = r#"{"name":"Updated","type":"integer","jsonPath":".status.updatedNodes"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AgentReleaseSpec {
    /// Program that is released.
    pub agent_kind: AgentKind,
    /// Whether somebody approved it.
    #[serde(default)]
    pub approved: bool,
    /// Files, one per platform.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifacts: Option<Vec<Artifact>>,
    /// Nodes updated at once.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1))]
    pub concurrency: i64,
    /// When an updated node counts as healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_gate: Option<HealthGate>,
    /// Whether the release rests.
    #[serde(default)]
    pub paused: bool,
    /// Nodes that are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<NodeSelector>,
    /// Version.
    pub version: String,
}

fn default_concurrency() -> i64 {
    1
}
fn default_min_healthy() -> i64 {
    60
}
fn default_health_timeout() -> i64 {
    600
}

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// x86-64.
    Amd64,
    /// 64-bit Arm.
    Arm64,
}

/// An operating system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Os {
    /// macOS.
    Darwin,
    /// Linux.
    Linux,
}

/// A file of a release.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Artifact {
    /// Architecture.
    pub arch: Arch,
    /// Operating system.
    pub os: Os,
    /// SHA-256.
    #[schemars(regex(pattern = r"^[0-9a-f]{64}$"))]
    pub sha256: String,
    /// Where it lies.
    pub url: String,
}

/// When an updated node counts as healthy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthGate {
    /// Seconds that it must be Ready.
    #[serde(default = "default_min_healthy")]
    #[schemars(range(min = 0))]
    pub min_healthy_seconds: i64,
    /// Seconds after which the update failed.
    #[serde(default = "default_health_timeout")]
    #[schemars(range(min = 1))]
    pub timeout_seconds: i64,
}

/// A selector over FleetNode labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeSelector {
    /// Requirements.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Option<Vec<SelectorRequirement>>,
    /// Labels that must be equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SelectorRequirement {
    /// Label key.
    pub key: String,
    /// In, NotIn, Exists or DoesNotExist.
    pub operator: String,
    /// Values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub values: Option<Vec<String>>,
}

/// Where a node is in a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeUpdatePhase {
    /// Not begun.
    Pending,
    /// Begun.
    Updating,
    /// Done.
    Updated,
    /// Not done.
    Failed,
}

/// Why a node's update failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NodeUpdateReason {
    /// It took too long.
    NodeUpdateTimeout,
    /// No artifact fits the node.
    NoMatchingArtifact,
}

/// One node's part in a release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeUpdate {
    /// When the request was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatched_at: Option<Time>,
    /// When the phase changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// Message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// FleetNode.
    pub name: String,
    /// Version that was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_version: Option<String>,
    /// Phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<NodeUpdatePhase>,
    /// Reason of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<NodeUpdateReason>,
}

/// Where a release is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ReleasePhase {
    /// Not begun.
    Pending,
    /// Somebody has to approve it.
    AwaitingApproval,
    /// Under way.
    InProgress,
    /// Rests.
    Paused,
    /// Done.
    Succeeded,
    /// Not done.
    Failed,
}

/// What is known about a release.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentReleaseStatus {
    /// Conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
    /// Version that is wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired_version: Option<String>,
    /// Nodes under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub in_flight_nodes: Option<Vec<String>>,
    /// Nodes one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_statuses: Option<Vec<NodeUpdate>>,
    /// Generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ReleasePhase>,
    /// Nodes that are meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_nodes: Option<i64>,
    /// Nodes that are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated_nodes: Option<i64>,
}
