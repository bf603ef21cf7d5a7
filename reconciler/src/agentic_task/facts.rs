//! What a task says of itself, as the scheduler reads it. Pure.

use std::sync::Arc;
use std::time::Duration;

use schemas::agentic_task::{AgenticTaskStatus, Phase, TaskKind};
use schemas::{AgenticTask, phase};

use crate::cache::Cached;

/// One step of priority, and one running task of the same repository, weigh as much as this much waiting.
pub const PRIORITY_STEP: Duration = Duration::from_secs(600);

/// How long an assigned task may stay unclaimed by a node that is alive.
pub const CLAIM_TIME: Duration = Duration::from_secs(120);
/// How long beyond its own time limit a task may be worked on before its claim counts as dead.
pub const OVERTIME: Duration = Duration::from_secs(120);

/// A task as it was last seen.
pub type TaskObject = Arc<Cached<AgenticTask>>;

/// How long a task may stay in a phase in which it is worked on.
pub(super) fn time_limit(task: &TaskObject, phase: Phase) -> Option<Duration> {
    if phase == Phase::Scheduled {
        return Some(CLAIM_TIME);
    }
    Some(task.readable()?.spec.limit().saturating_add(OVERTIME))
}

/// Returns a task's status; an empty one where it has none or cannot be read.
pub(super) fn status_of(task: &TaskObject) -> &AgenticTaskStatus {
    static EMPTY: std::sync::OnceLock<AgenticTaskStatus> = std::sync::OnceLock::new();
    let status = task.readable().and_then(|object| object.status.as_ref());
    status.unwrap_or_else(|| EMPTY.get_or_init(AgenticTaskStatus::default))
}

/// Returns the phase of a task; none is Pending.
pub(super) fn phase_of(task: &TaskObject) -> Phase {
    phase::phase_of(task.readable().and_then(|object| object.status.as_ref()))
}

pub(super) fn agent_name(task: &AgenticTask) -> Option<&str> {
    task.spec.agent_ref.as_ref().and_then(|agent| agent.named())
}

/// Says whether a task is a verifier's, as node agents see it.
pub(super) fn is_verifier(task: &AgenticTask) -> bool {
    task.spec.kind == TaskKind::Verify
}

pub(super) fn repo_of(task: &AgenticTask) -> String {
    task.spec.payload.repo.clone().unwrap_or_default()
}

/// When the task would have come if every task had the same priority, in milliseconds.
///
/// Waiting makes all tasks older at the same rate, so the order never changes: ageing costs nothing.
pub(super) fn virtual_start(task: &AgenticTask) -> i64 {
    let created = task
        .metadata
        .creation_timestamp
        .as_ref()
        .map_or(0, |time| time.0.as_millisecond());
    let step = i64::try_from(PRIORITY_STEP.as_millis()).unwrap_or(i64::MAX);
    created.saturating_sub(task.spec.priority.unwrap_or(0).saturating_mul(step))
}
