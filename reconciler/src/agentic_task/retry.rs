//! A bare task is asked to run again. Pure.
//!
//! A task that ended is never reopened: another one takes its work up, named `<name>-x<run>` and owned by it. What
//! still runs is cancelled first, as a Workload does with its earlier run.

use schemas::agentic_task::TaskKind;
use schemas::{AgenticTask, labels, names};
use serde_json::{Value, json};

use super::facts::{TaskObject, phase_of, status_of};
use super::index::Index;
use crate::cache::Key;
use crate::workload::plan::RETRIED;

/// Names that may be taken before a request is refused: the number of a run is whatever a file says.
const MOST_TAKEN: i64 = 1_000;

/// What follows a request to run a task again.
#[derive(Clone, Debug, PartialEq)]
pub enum Retry {
    /// The task has not ended: it is asked to, by this patch of the task.
    Cancel(Value),
    /// Another task is made.
    Create(Key, Value),
    /// The request is answered in the status: the task that runs instead, or why there is none.
    Answer(Result<String, String>),
    /// It was asked to end and has not yet.
    Wait,
}

/// Returns the id of a retry request that was not dealt with.
pub fn request(task: &TaskObject) -> Option<&str> {
    let id = task.annotation(labels::RETRY).filter(|id| !id.is_empty())?;
    (status_of(task).handled_retry.as_deref() != Some(id)).then_some(id)
}

/// Decides what follows the request `id`; the same request never makes two tasks.
pub(super) fn decide(index: &Index, key: &Key, task: &TaskObject, object: &AgenticTask, id: &str) -> Retry {
    if let Some(workload) = object.spec.workload_ref.as_ref().and_then(|workload| workload.named()) {
        return Retry::Answer(Err(format!(
            "it is a step of Workload {workload:?}; set the annotation {} on that",
            labels::RETRY
        )));
    }
    if !phase_of(task).is_terminal() {
        if task.annotation(labels::CANCEL).is_some_and(|asked| !asked.is_empty()) {
            return Retry::Wait;
        }
        let asked =
            json!({ "metadata": { "uid": task.uid(), "annotations": { labels::CANCEL: format!("retry-{id}") } } });
        return Retry::Cancel(asked);
    }
    let before = object.spec.run.unwrap_or(1).max(1);
    let base = key.name.strip_suffix(&format!("-x{before}")).unwrap_or(&key.name);
    for run in (before..=before.saturating_add(MOST_TAKEN)).skip(1) {
        let name = names::fit(&format!("{base}-x{run}"));
        let next = Key::new(key.namespace.clone(), name.clone());
        match index.tasks.get(&next) {
            None => return Retry::Create(next, build(task, object, id, before, run)),
            Some(made) if made.annotation(RETRIED) == Some(id) && is_owned(made, task.uid()) => {
                return Retry::Answer(Ok(name));
            }
            Some(_) => {}
        }
    }
    Retry::Answer(Err(format!(
        "{MOST_TAKEN} names after {base}-x{before} are taken; delete tasks that are done with"
    )))
}

fn is_owned(made: &TaskObject, uid: &str) -> bool {
    made.meta()
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid)
}

/// Builds the task that takes the work up. What a queue set stays behind: the file made the first one only.
fn build(task: &TaskObject, object: &AgenticTask, id: &str, before: i64, run: i64) -> Value {
    let mut spec = object.spec.clone();
    spec.run = Some(run);
    // The branch of the earlier run is another task's, which this one may not push to.
    if matches!(spec.kind, TaskKind::IssueFix | TaskKind::Freeform)
        && let Some(branch) = spec.payload.branch.take()
    {
        let stem = branch.strip_suffix(&format!("-x{before}")).unwrap_or(&branch);
        spec.payload.branch = Some(format!("{stem}-x{run}"));
    }
    let ours = format!("{}/", schemas::GROUP);
    let kept: serde_json::Map<String, Value> = task
        .meta()
        .labels
        .iter()
        .flatten()
        .filter(|(name, _)| !name.starts_with(&ours))
        .map(|(name, value)| (name.clone(), json!(value)))
        .collect();
    json!({
        "metadata": {
            "labels": kept,
            "annotations": { RETRIED: id },
            "ownerReferences": [{
                "apiVersion": format!("{}/{}", schemas::GROUP, schemas::VERSION),
                "kind": "AgenticTask",
                "name": task.meta().name,
                "uid": task.uid(),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": spec,
    })
}
