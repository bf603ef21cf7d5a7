//! Labels, annotations and finalizers that Foreman sets and reads.

use std::collections::BTreeMap;

use crate::names;

/// Label: name of the TaskQueue that made an object.
pub const QUEUE: &str = "foreman.llmkube.dev/queue";
/// Annotation: UID of the TaskQueue that made an object.
pub const QUEUE_UID: &str = "foreman.llmkube.dev/queue-uid";
/// Annotation: path of the task file that an object came from.
pub const SOURCE_PATH: &str = "foreman.llmkube.dev/source-path";
/// Annotation: `branch@sha1:<hex>` at which the task file was read.
pub const SOURCE_REVISION: &str = "foreman.llmkube.dev/source-revision";
/// Annotation: run key of the task file that an object came from.
pub const RUN_KEY: &str = "foreman.llmkube.dev/run-key";
/// Label: name of the Workload that a task belongs to.
pub const WORKLOAD: &str = "foreman.llmkube.dev/workload";
/// Label: pipeline step that a task carries out.
pub const STEP: &str = "foreman.llmkube.dev/step";
/// Label: run that a task belongs to.
pub const RUN: &str = "foreman.llmkube.dev/run";
/// Label: round that a task belongs to.
pub const ROUND: &str = "foreman.llmkube.dev/round";
/// Label: UID of the AgenticTask that a Job or Pod works for.
pub const TASK_UID: &str = "foreman.llmkube.dev/task-uid";
/// Label: name of the AgenticTask that a Job or Pod works for.
pub const TASK: &str = "foreman.llmkube.dev/task";
/// Label: epoch of the claim that a Job or Pod works for.
pub const EPOCH: &str = "foreman.llmkube.dev/epoch";
/// Label: FleetNode whose agent made a Job.
pub const NODE: &str = "foreman.llmkube.dev/node";
/// Annotation: id of a request to cancel; echoed in status.
pub const CANCEL: &str = "foreman.llmkube.dev/cancel";
/// Annotation: id of a request to run again; echoed in status.
pub const RETRY: &str = "foreman.llmkube.dev/retry";
/// Annotation: asks a TaskQueue to look now; echoed in `status.lastHandledReconcileAt`.
pub const REQUESTED_AT: &str = "foreman.llmkube.dev/requestedAt";

/// Prefix of the Lease that a node agent holds, followed by the node's name.
pub const NODE_LEASE_PREFIX: &str = "foreman-node-";
/// Name of the Lease by which one operator leads.
pub const OPERATOR_LEASE: &str = "foreman-operator.llmkube.dev";

/// Git ref under which verdicts are noted where there is no forge.
pub const NOTES_REF: &str = "refs/notes/foreman";

/// Returns the label selector of a Workload's tasks. A name is a label's value only up to a length.
pub fn tasks_of_workload(name: &str) -> String {
    format!("{WORKLOAD}={}", names::label_value(name))
}

/// Returns the annotations that tell Argo CD to leave alone what Foreman makes, also where such an object bears the mark of
/// an application: it is no difference, and it is not pruned.
pub fn left_alone() -> BTreeMap<String, String> {
    [
        ("argocd.argoproj.io/compare-options", "IgnoreExtraneous"),
        ("argocd.argoproj.io/sync-options", "Prune=false"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
