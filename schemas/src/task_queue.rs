//! The kind TaskQueue: where work comes from.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::shared::{Budget, GateProfile, LocalRef, conditions_schema};

/// Where work comes from: a folder of task files in a Git repository, or a forge's issues.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "TaskQueue",
    plural = "taskqueues",
    shortname = "tq",
    namespaced,
    status = "TaskQueueStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Revision","type":"string","jsonPath":".status.observedRevision"}"#,
    printcolumn = r#"{"name":"Files","type":"integer","jsonPath":".status.files"}"#,
    printcolumn = r#"{"name":"Invalid","type":"integer","jsonPath":".status.invalidFileCount"}"#,
    printcolumn = r#"{"name":"Message","type":"string","priority":1,"jsonPath":".status.conditions[?(@.type==\"Ready\")].message"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.git) || has(self.issues)").message("a queue needs spec.git or spec.issues"))]
pub struct TaskQueueSpec {
    /// A folder of task files in a Git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
    /// A forge's issues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issues: Option<IssueSource>,
    /// What a task inherits unless it says otherwise; resolved once, when a run starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defaults: Option<QueueDefaults>,
    /// Whether a removed file ends what it made.
    #[serde(default = "default_true")]
    pub prune: bool,
    /// Whether the queue rests.
    #[serde(default)]
    pub suspend: bool,
}

fn default_true() -> bool {
    true
}
fn default_path() -> String {
    "tasks".to_owned()
}
fn default_interval() -> String {
    "60s".to_owned()
}

/// A folder of task files in a Git repository.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// URL of the repository. In `.foreman/queue.yaml`, `.` is the repository that holds the file.
    #[schemars(length(min = 1))]
    pub url: String,
    /// Branch; unset means `main`. In `.foreman/queue.yaml` unset means the branch that is checked out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Folder of the task files.
    #[serde(default = "default_path")]
    pub path: String,
    /// Time between two looks, such as `60s` or `5m`.
    #[serde(default = "default_interval")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: String,
    /// Secret with `username` and `password`, or `token`, or `sshKey`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
}

/// Issues of a forge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssueSource {
    /// Forge.
    pub forge_ref: LocalRef,
    /// Repositories, as `owner/name`.
    #[schemars(length(min = 1))]
    pub repositories: Vec<String>,
    /// Labels of which an issue must carry one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<String>>,
    /// Time between two looks.
    #[serde(default = "default_interval")]
    #[schemars(regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub interval: String,
    /// Whom the queue trusts to start work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<Trust>,
}

/// Whom a queue trusts to start work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Trust {
    /// Users by login.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<String>>,
    /// Least permission on the repository: read, write or admin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
}

/// What a task inherits unless it says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueDefaults {
    /// Target repository; `.` in `.foreman/queue.yaml` is the repository that holds the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Branch that work branches are cut from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_branch: Option<String>,
    /// Coder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coder_agent_ref: Option<LocalRef>,
    /// Verifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier_agent_ref: Option<LocalRef>,
    /// Reviewers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewer_agent_refs: Option<Vec<LocalRef>>,
    /// What the gate runs; unset means `.foreman/gate.yaml` at the base, then a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_profile: Option<GateProfile>,
    /// What a piece of work may spend; three rounds unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Work of higher priority starts first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Whether a pull request is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_pull_request: Option<bool>,
}

/// A task file that could not be used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvalidFile {
    /// Path in the repository.
    pub path: String,
    /// Line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<i64>,
    /// Column, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<i64>,
    /// What was found and what was expected.
    pub message: String,
}

/// What is known about a queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskQueueStatus {
    /// Revision that was last acted on, as `branch@sha1:<40 hex>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_revision: Option<String>,
    /// Generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Echo of the annotation `foreman.llmkube.dev/requestedAt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_handled_reconcile_at: Option<String>,
    /// Task files that were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<i64>,
    /// Objects by phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<BTreeMap<String, i64>>,
    /// The first twenty files that could not be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_files: Option<Vec<InvalidFile>>,
    /// How many files could not be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_file_count: Option<i64>,
    /// Conditions: Ready, Fetched, Stalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
}
