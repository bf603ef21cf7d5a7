//! The gate definition: `.foreman/gate.yaml`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What proves or refutes a change, as `.foreman/gate.yaml` says it at the base commit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateDefinition {
    /// Image in which prepare and steps run; on one machine it means the host's tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Command with network through an allow-list that fills the caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare: Option<Prepare>,
    /// Steps, in order; all of them run, even after a failure.
    #[serde(default)]
    pub steps: Vec<GateStep>,
    /// Globs of paths that a change must not touch, beside `.foreman/**`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protected_paths: Vec<String>,
    /// Resources of the gate's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<GateResources>,
    /// Seconds that the whole gate may take; unset means 1800.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub deadline_seconds: Option<i64>,
    /// What happens to a verdict when the base moves.
    #[serde(default)]
    pub on_base_move: OnBaseMove,
}

/// The command that fills the caches.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Prepare {
    /// Command, run as `sh -c` in the work tree of the base commit.
    pub command: String,
    /// Hosts that it may reach: `host`, `host:port` or `*.suffix`.
    #[serde(default)]
    pub allow_hosts: Vec<String>,
    /// Seconds that it may take; unset means 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<i64>,
    /// Files whose content the cache is keyed by beside the command; unset means every manifest and lock file of the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_key: Option<Vec<String>>,
}

/// One step of a gate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateStep {
    /// Name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Command, run as `sh -c` in the work tree.
    #[schemars(length(min = 1))]
    pub command: String,
    /// Seconds that it may take; unset means 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 86400))]
    pub timeout_seconds: Option<i64>,
    /// Whether a failure is only remarked.
    #[serde(default)]
    pub advisory: bool,
}

/// Resources of the gate's container, as Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GateResources {
    /// Processor limit, such as `4` or `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<String>,
    /// Memory limit, such as `8Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
}

/// What happens to a verdict when the base moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBaseMove {
    /// It stays true of the base it names.
    #[default]
    Keep,
    /// The gate runs again.
    Rerun,
}
