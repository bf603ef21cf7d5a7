//! The kind Workload: one piece of work and its rounds.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::agentic_task::{Dependency, FailureReason, Payload, TaskKind};
use crate::shared::{
    Budget, DiffStat, GateProfile, LocalRef, Usage, Verdict, VerdictPolicy, conditions_schema, untyped_list_schema,
};

/// One piece of work: its pipeline, its rounds, its outcome.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "Workload",
    plural = "workloads",
    shortname = "wl",
    namespaced,
    status = "WorkloadStatus",
    derive = "Default",
    derive = "PartialEq",
    selectable = ".status.phase",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Repo","type":"string","jsonPath":".spec.repo"}"#,
    printcolumn = r#"{"name":"Tasks","type":"integer","jsonPath":".status.succeededTasks"}"#,
    printcolumn = r#"{"name":"Failed","type":"integer","jsonPath":".status.failedTasks"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// Whether reviewers behind a cloud proxy may be used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_cloud_reviewers: Option<bool>,
    /// Whether stale branches may be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_overwrite: Option<bool>,
    /// Coder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coder_agent_ref: Option<LocalRef>,
    /// Whether the escalation coder also follows stuck, incomplete and failed runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalate_on_failure: Option<bool>,
    /// Coder that tries once more after a capability failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation_coder_agent_ref: Option<LocalRef>,
    /// Reviewers that follow a NO-GO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation_reviewer_agent_refs: Option<Vec<LocalRef>>,
    /// What the gate runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_profile: Option<GateProfile>,
    /// What is wanted, in words; the prompt of every step that has none.
    #[schemars(length(min = 1))]
    pub intent: String,
    /// Issues to work on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issues: Option<Vec<i64>>,
    /// Fix iterations after a reviewer's NO-GO; unset means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_review_iterations: Option<i64>,
    /// Number of tasks at which an issue batch is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_tasks: Option<i64>,
    /// Whether MCP tools are offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_enabled: Option<bool>,
    /// Whether a pull request is opened; unset means true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_pull_request: Option<bool>,
    /// Explicit steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<Vec<PipelineStep>>,
    /// Model of the planner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planner_model: Option<String>,
    /// Target repository: `owner/name` or a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Reviewers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewer_agent_refs: Option<Vec<LocalRef>>,
    /// Coder of fix iterations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision_coder_agent_ref: Option<LocalRef>,
    /// Which verdicts the coder may give on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_policy: Option<VerdictPolicy>,
    /// Verifier; unset means no gate step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verifier_agent_ref: Option<LocalRef>,

    /// Title, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Workloads of the same namespace whose current run must be Completed first: order only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depends_on: Option<Vec<String>>,
    /// Branch that work branches are cut from; unset means `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_branch: Option<String>,
    /// What the work may spend; one round unless it says otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Work of higher priority starts first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Run that is wanted; a queue raises it when the task file says something else. Unset means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run: Option<i64>,
    /// Hash of the parsed task file that this run came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_key: Option<String>,
}

/// One step of an explicit pipeline.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PipelineStep {
    /// Agent.
    pub agent_ref: LocalRef,
    /// Steps that must end well first: names, or objects with a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "untyped_list_schema")]
    pub depends_on: Vec<Dependency>,
    /// What the gate of this step runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_profile: Option<GateProfile>,
    /// Kind of work.
    pub kind: TaskKind,
    /// Name within the pipeline.
    #[schemars(length(min = 1), regex(pattern = r"^[a-z0-9][a-z0-9-]*$"))]
    pub name: String,
    /// What is to be done, where.
    pub payload: Payload,
    /// Tasks of higher priority start first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// Seconds that the whole run may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout_seconds: Option<i64>,
}

/// Where a Workload is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum WorkloadPhase {
    /// Its tasks are being worked out, or it waits for other Workloads.
    #[default]
    Planning,
    /// Its tasks are known.
    Planned,
    /// Its tasks exist.
    Dispatched,
    /// It ended well.
    Completed,
    /// It did not.
    Failed,
}

impl WorkloadPhase {
    /// Says whether the current run is over.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }

    /// Returns the published spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planning => "Planning",
            Self::Planned => "Planned",
            Self::Dispatched => "Dispatched",
            Self::Completed => "Completed",
            Self::Failed => "Failed",
        }
    }
}

/// What one round came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RoundRecord {
    /// Run.
    pub run: i64,
    /// Round.
    pub round: i64,
    /// Gate's or reviewer's verdict that ended the round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Commit that the round came to.
    #[serde(default, rename = "headSHA", skip_serializing_if = "Option::is_none")]
    pub head_sha: Option<String>,
    /// What was said of it, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// Commits of the round by SHA, where the run works on several branches at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heads: Option<BTreeMap<String, HeadRecord>>,
}

/// What a round came to on one of several branches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeadRecord {
    /// Branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Gate's or reviewer's verdict on the commit, else its coder's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What was said of it, in one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
}

/// A commit of which it was reported that its verdict is pending.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PendingHead {
    /// Run.
    pub run: i64,
    /// Repository that it was reported in.
    pub repo: String,
    /// Whether it was told; a commit is noted before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<bool>,
}

/// What the operator itself read of the Job behind a verifier's GATE-PASS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Confirmation {
    /// Run.
    pub run: i64,
    /// Commit that the gate tested.
    #[serde(rename = "headSHA")]
    pub head_sha: String,
    /// Commit that it was compared with.
    #[serde(default, rename = "baseSHA", skip_serializing_if = "Option::is_none")]
    pub base_sha: Option<String>,
    /// SHA-256 of the gate definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_digest: Option<String>,
    /// Job, as namespace and name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// Why the Job does not confirm the verdict; unset where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<String>,
}

/// What is known about a Workload: the ledger of its runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
    /// Tasks of the current run that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_tasks: Option<i64>,
    /// Tasks of the current run that ended before a verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incomplete_tasks: Option<i64>,
    /// Phase of the current run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<WorkloadPhase>,
    /// Model that planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub planner_model: Option<String>,
    /// Fix iterations after reviews.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_iterations: Option<i64>,
    /// Tasks of the current run that ended well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succeeded_tasks: Option<i64>,
    /// Tasks of the current run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<ObjectReference>>,

    /// Run that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<i64>,
    /// Run key that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_key: Option<String>,
    /// Round of that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<i64>,
    /// Base commit, pinned for all rounds of the run.
    #[serde(default, rename = "baseSHA", skip_serializing_if = "Option::is_none")]
    pub base_sha: Option<String>,
    /// Commit that the work came to.
    #[serde(default, rename = "headSHA", skip_serializing_if = "Option::is_none")]
    pub head_sha: Option<String>,
    /// SHA-256 of the gate definition that the verdict is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_digest: Option<String>,
    /// Work branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Outcome of the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Why the run failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<FailureReason>,
    /// The outcome in one line, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The latest twenty rounds, over all runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rounds: Option<Vec<RoundRecord>>,
    /// Tokens and calls of the current run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Size of the change against the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_stat: Option<DiffStat>,
    /// When the current run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the current run ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Verdict note, commit status or pull request that reported the run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<String>,
    /// Commits that were reported as pending and whose verdict is not reported yet, by SHA.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_heads: Option<BTreeMap<String, PendingHead>>,
    /// What gates' Jobs themselves say of their verifiers' GATE-PASS, by the UID of the verifier's AgenticTask. It is read
    /// when the verifier ends, and stands after the Job is gone. Only the operator writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<BTreeMap<String, Confirmation>>,
    /// Id of the cancel request that was dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_cancel: Option<String>,
    /// Id of the retry request that was dealt with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handled_retry: Option<String>,
    /// Generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
