//! The kind AgenticTask: one schedulable step of work.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::shared::{
    Budget, DiffStat, EvidenceRef, FreeForm, GateProfile, LocalRef, RequiredCapability, Usage, Verdict, VerdictPolicy,
    conditions_schema, free_form_schema, untyped_list_schema,
};

/// Seconds that a verifier may take: three tries of a gate of thirty minutes.
pub const VERIFY_SECONDS: i64 = 3 * 1800;

/// One schedulable step of work.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "AgenticTask",
    plural = "agentictasks",
    shortname = "at",
    namespaced,
    status = "AgenticTaskStatus",
    derive = "Default",
    derive = "PartialEq",
    selectable = ".spec.kind",
    selectable = ".status.phase",
    selectable = ".status.assignedNode",
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Kind","type":"string","jsonPath":".spec.kind"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.assignedNode"}"#,
    printcolumn = r#"{"name":"Verdict","type":"string","jsonPath":".status.verdict"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    printcolumn = r#"{"name":"Waiting","type":"string","jsonPath":".status.waiting.reason","priority":1}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AgenticTaskSpec {
    /// Agent that runs the task; unset means the node's default executor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_ref: Option<LocalRef>,
    /// Tasks of the same namespace that must end well first: names, or objects with a name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "untyped_list_schema")]
    pub depends_on: Vec<Dependency>,
    /// What the gate runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_profile: Option<GateProfile>,
    /// Kind of work.
    pub kind: TaskKind,
    /// Whether MCP tools are offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp_enabled: Option<bool>,
    /// Model that replaces the Agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_ref: Option<String>,
    /// What is to be done, where.
    pub payload: Payload,
    /// Tasks of higher priority start first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i64>,
    /// What a node must offer, where no Agent says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_capability: Option<RequiredCapability>,
    /// Seconds that the whole run may take; 0 or unset means 2700.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub timeout_seconds: Option<i64>,
    /// Which verdicts the coder may give on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict_policy: Option<VerdictPolicy>,

    /// Workload whose text (`spec.intent`) is the prompt where the payload has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload_ref: Option<LocalRef>,
    /// Run of the Workload that made this task; from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub run: Option<i64>,
    /// Round of that run; from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub round: Option<i64>,
    /// Commit that the branch is cut from and the gate compares with; unset means the base branch's tip at the claim.
    #[serde(default, rename = "baseSHA", skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-9a-f]{40}$"))]
    pub base_sha: Option<String>,
    /// Task whose result (the tail of a gate's log, a reviewer's words) the coder gets as feedback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback_from: Option<String>,
    /// What this task may spend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

impl AgenticTaskSpec {
    /// Returns how many seconds the whole run may take.
    pub fn timeout(&self) -> i64 {
        let own = self.timeout_seconds.filter(|seconds| *seconds > 0).unwrap_or(2700);
        match self.budget.as_ref().and_then(|budget| budget.seconds) {
            Some(seconds) => own.min(seconds),
            None => own,
        }
    }

    /// Returns how long a node may work on the task, from its claim: a verifier has time for every try of its gate.
    ///
    /// Node agents end a run by it, and the operator takes a claim for dead some time after it.
    pub fn limit(&self) -> Duration {
        let own = self.timeout().max(1);
        let seconds = match self.kind {
            TaskKind::Verify => own.max(VERIFY_SECONDS),
            _ => own,
        };
        Duration::from_secs(seconds.unsigned_abs())
    }
}

/// The kind of work that a task is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Change code so that an issue or a prompt is dealt with.
    IssueFix,
    /// Run the gate.
    Verify,
    /// Read a change.
    Review,
    /// Whatever the prompt says.
    #[default]
    Freeform,
    /// Unite slice branches.
    Integrate,
    /// Check pinned identifiers across slices.
    Reconcile,
}

impl TaskKind {
    /// Returns the published spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IssueFix => "issue-fix",
            Self::Verify => "verify",
            Self::Review => "review",
            Self::Freeform => "freeform",
            Self::Integrate => "integrate",
            Self::Reconcile => "reconcile",
        }
    }
}

/// An entry of `dependsOn`, in either published shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Dependency {
    /// A name in the same namespace.
    Name(String),
    /// An object with a name and perhaps a namespace.
    Object {
        /// Name.
        name: String,
        /// Namespace; a foreign one is refused by a condition.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
    },
    /// Anything else: kept as it is and refused by a condition.
    Other(Value),
}

impl Dependency {
    /// Returns the name, or why the entry cannot be one in `namespace`.
    pub fn resolve(&self, namespace: &str) -> Result<&str, String> {
        match self {
            Self::Name(name) if !name.is_empty() => Ok(name),
            Self::Object { name, namespace: None } if !name.is_empty() => Ok(name),
            Self::Object {
                name,
                namespace: Some(other),
            } if !name.is_empty() && (other == namespace || other.is_empty()) => Ok(name),
            Self::Object {
                namespace: Some(other), ..
            } if other != namespace => Err(format!(
                "dependsOn names namespace {other:?}; only {namespace:?} can be waited for"
            )),
            other => Err(format!(
                "dependsOn has {}; expected a task's name or {{name, namespace}}",
                serde_json::to_string(other).unwrap_or_default()
            )),
        }
    }
}

/// How an earlier attempt's branch is treated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BranchStrategy {
    /// Cut fresh from the base.
    #[default]
    Reset,
    /// The earlier attempt is restored and rebased.
    Rebase,
}

/// What is to be done, where.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// Agent that the text addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// Whether a stale branch of the same name may be replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_overwrite: Option<bool>,
    /// Branch that the work branch is cut from; unset means `main`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_branch: Option<String>,
    /// Work branch; required for kind verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Prefix of a generated branch name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch_prefix: Option<String>,
    /// How an earlier attempt's branch is treated.
    #[serde(default)]
    pub branch_strategy: BranchStrategy,
    /// Contract that slices keep to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contract: Option<String>,
    /// Remarks of a gate that the coder sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_advisories: Option<Vec<GateAdvisory>>,
    /// Paths of images in the work tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub images: Option<Vec<String>>,
    /// Number of the issue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub issue: Option<i64>,
    /// Whether a pull request is opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_pull_request: Option<bool>,
    /// Prompt; replaces the issue's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// Text that goes before the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_prefix: Option<String>,
    /// Target repository: `owner/name` or a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// Branch whose files the work starts from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revise_from_branch: Option<String>,
    /// Identifiers that slices share.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_identifiers: Option<Vec<SharedIdentifier>>,
    /// Slices to unite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<Vec<Slice>>,
}

/// A remark of a gate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GateAdvisory {
    /// Check that remarked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// What it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An identifier that several slices use.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedIdentifier {
    /// Slice that defines it.
    #[schemars(length(min = 1))]
    pub defined_by: String,
    /// The identifier.
    #[schemars(length(min = 1))]
    pub id: String,
    /// Slices that refer to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referenced_by: Option<Vec<String>>,
}

/// A slice of work on a branch of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Slice {
    /// Branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// Files that it may touch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<String>>,
    /// Name.
    #[schemars(length(min = 1))]
    pub name: String,
}

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Waits for dependencies or a node.
    #[default]
    Pending,
    /// Has a node.
    Scheduled,
    /// Is being worked on.
    Running,
    /// Its gate Job runs.
    Verifying,
    /// Came to an end with an outcome.
    Succeeded,
    /// Could not come to an outcome.
    Failed,
}

impl Phase {
    /// Says whether nothing more happens to the task.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }

    /// Returns the published spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Scheduled => "Scheduled",
            Self::Running => "Running",
            Self::Verifying => "Verifying",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// Why a task could not come to an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum FailureReason {
    /// The Agent does not exist.
    AgentNotFound,
    /// No model server answered.
    InferenceServiceUnavailable,
    /// A credential is missing or was refused.
    AuthUnavailable,
    /// `owner/name` was given and no remote URL is set (also known as `GitRemoteURLNotConfigured`).
    GitRemoteNotConfigured,
    /// The repository could not be fetched.
    CloneFailed,
    /// The model's replies could not be understood.
    ModelMisunderstood,
    /// A tool could not be run.
    ToolFailed,
    /// The budget of turns is spent.
    MaxTurnsExhausted,
    /// A rule was broken, such as a change to a protected path.
    ConstraintViolated,
    /// The wall time is spent.
    Timeout,
    /// The infrastructure failed.
    InfrastructureError,
    /// The gate refuted the change in the last round.
    GateFailed,
    /// The gate could not tell, after all its tries.
    GateError,
    /// The model itself reported an error.
    ModelReportedError,
    /// A dependency did not end well.
    UpstreamFailed,
    /// Somebody cancelled the task.
    Cancelled,
    /// A budget other than turns or time is spent.
    BudgetExhausted,
    /// Claims were lost more often than is allowed.
    LostClaims,
    /// The branch belongs to somebody else, or the server refused the push.
    PushRejected,
    /// The task asks for something that is not built yet.
    NotSupportedYet,
    /// The Job of the run did not start in time; once it runs, its limit is `Timeout`.
    JobNotStarted,
}

impl FailureReason {
    /// Returns the published spelling.
    pub fn as_str(self) -> String {
        format!("{self:?}")
    }
}

/// A node agent's exclusive hold on a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// FleetNode.
    pub node: String,
    /// Identity of the agent's process.
    pub agent: String,
    /// Epoch; +1 for each claim.
    pub epoch: i64,
    /// SHA-256, in hex, of a secret that only this claim knows.
    #[serde(rename = "secretSHA256")]
    pub secret_sha256: String,
}

/// A claim that was lost to a dead agent. A Job that was made for it goes on storing evidence under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EarlierClaim {
    /// Epoch.
    pub epoch: i64,
    /// SHA-256, in hex, of its secret.
    #[serde(rename = "secretSHA256")]
    pub secret_sha256: String,
}

/// Why a pending task waits, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// Place in the queue, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<i64>,
    /// Reason, for people.
    pub reason: String,
}

/// What is known about a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgenticTaskStatus {
    /// FleetNode that the scheduler chose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_node: Option<String>,
    /// Work branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// When the task was claimed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_at: Option<Time>,
    /// Commit that was pushed (coder) or tested (verifier).
    #[serde(default, rename = "commitSHA", skip_serializing_if = "Option::is_none")]
    pub commit_sha: Option<String>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
    /// Why the task could not come to an outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<FailureReason>,
    /// When the task ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Gate Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_name: Option<String>,
    /// Phase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Free-form result: kind, verdict, summary, elapsed, extra.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form_schema")]
    pub result: Option<FreeForm>,
    /// When the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// Where the transcript can be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transcript_ref: Option<String>,
    /// Outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,

    /// Epoch of the latest claim; 0 or unset before the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// The live claim; absent when nobody holds the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Claim>,
    /// Claims that were lost to dead agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_claims: Option<i64>,
    /// Those claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub earlier_claims: Option<Vec<EarlierClaim>>,
    /// Tries of the gate that ended in GATE-ERROR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_tries: Option<i64>,
    /// Base commit that the verdict is bound to.
    #[serde(default, rename = "baseSHA", skip_serializing_if = "Option::is_none")]
    pub base_sha: Option<String>,
    /// SHA-256 of the gate definition that the verdict is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate_digest: Option<String>,
    /// Tokens and calls used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Size of the change against the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diff_stat: Option<DiffStat>,
    /// Whether a recorded session was replayed in place of a model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<bool>,
    /// What the run left in the evidence store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Vec<EvidenceRef>>,
    /// Why evidence is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_error: Option<String>,
    /// Why a pending task waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_has_time_for_every_try_of_its_gate_and_others_have_what_they_ask_for() {
        let budget = |seconds| Budget {
            seconds: Some(seconds),
            ..Budget::default()
        };
        for (kind, timeout_seconds, budget, limit) in [
            (TaskKind::Freeform, None, None, 2700),
            (TaskKind::Freeform, Some(0), None, 2700),
            (TaskKind::IssueFix, Some(600), None, 600),
            (TaskKind::IssueFix, Some(600), Some(budget(60)), 60),
            (TaskKind::IssueFix, None, Some(budget(-1)), 1),
            (TaskKind::Verify, None, None, 5400),
            (TaskKind::Verify, Some(600), Some(budget(60)), 5400),
            (TaskKind::Verify, Some(9000), None, 9000),
        ] {
            let spec = AgenticTaskSpec {
                kind,
                timeout_seconds,
                budget,
                ..AgenticTaskSpec::default()
            };
            assert_eq!(spec.limit(), Duration::from_secs(limit), "{kind:?} {timeout_seconds:?}");
        }
    }
}
