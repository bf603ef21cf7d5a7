//! Whether a task may start: what its dependencies came to.

use crate::agentic_task::{AgenticTaskStatus, FailureReason, Phase};
use crate::shared::Verdict;
use crate::workload::WorkloadPhase;

/// What `result.extra.outcome` says where the work was done before the coder came.
pub const ALREADY_RESOLVED: &str = "ALREADY-RESOLVED";

/// What others need to know about a task's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskFacts {
    /// Phase.
    pub phase: Phase,
    /// Verdict.
    pub verdict: Option<Verdict>,
    /// Why it failed.
    pub failure_reason: Option<FailureReason>,
    /// Whether a NO-GO means that the work was already done.
    pub already_resolved: bool,
}

/// How a task ended, as its dependents see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Not yet.
    Open,
    /// With GO or GATE-PASS.
    Well,
    /// It was not needed.
    NotNeeded,
    /// In any other way.
    Badly,
}

impl TaskFacts {
    /// Reads the facts from a task's status; no status is Pending.
    pub fn of(status: Option<&AgenticTaskStatus>) -> Self {
        let Some(status) = status else {
            return Self::default();
        };
        let outcome = status
            .result
            .as_ref()
            .and_then(|result| result.get("extra"))
            .and_then(|extra| extra.get("outcome"))
            .and_then(serde_json::Value::as_str);
        Self {
            phase: status.phase.unwrap_or_default(),
            verdict: status.verdict,
            failure_reason: status.failure_reason,
            already_resolved: status.verdict == Some(Verdict::NoGo) && outcome == Some(ALREADY_RESOLVED),
        }
    }

    /// Says how the task ended.
    pub fn ending(&self) -> Ending {
        match (self.phase, self.verdict) {
            (Phase::Succeeded, Some(Verdict::Go | Verdict::GatePass)) => Ending::Well,
            (Phase::Succeeded, Some(Verdict::Skipped)) => Ending::NotNeeded,
            (Phase::Succeeded, Some(Verdict::NoGo)) if self.already_resolved => Ending::NotNeeded,
            (Phase::Succeeded | Phase::Failed, _) => Ending::Badly,
            _ => Ending::Open,
        }
    }

    /// Describes the end in a word or two: the verdict, else the failure reason, else the phase.
    pub fn describe(&self) -> String {
        match (self.phase, self.verdict, self.failure_reason) {
            (Phase::Failed, Some(verdict), Some(reason)) => format!("Failed / {} ({verdict})", reason.as_str()),
            (Phase::Failed, None, Some(reason)) => format!("Failed / {}", reason.as_str()),
            (Phase::Succeeded, Some(verdict), _) => verdict.to_string(),
            (phase, Some(verdict), _) => format!("{} / {verdict}", phase.as_str()),
            (phase, None, _) => phase.as_str().to_owned(),
        }
    }
}

/// Whether a task may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DependencyState {
    /// Every dependency ended well.
    Ready,
    /// For what the task waits.
    Waiting(String),
    /// Which dependency did not end well: the task fails without running.
    UpstreamFailed(String),
    /// Which dependency was not needed, so that this task is not either.
    Skip(String),
}

/// Evaluates a task's dependencies, each with its facts or `None` where it does not exist.
///
/// A failed dependency decides before one that is not needed, that before one that is still open.
pub fn dependency_state<'a>(upstream: impl IntoIterator<Item = (&'a str, Option<&'a TaskFacts>)>) -> DependencyState {
    let (mut waiting, mut skip) = (None, None);
    for (name, facts) in upstream {
        let Some(facts) = facts else {
            waiting.get_or_insert_with(|| format!("dependency {name} does not exist"));
            continue;
        };
        match facts.ending() {
            Ending::Badly => {
                return DependencyState::UpstreamFailed(format!("dependency {name} ended {}", facts.describe()));
            }
            Ending::NotNeeded => {
                skip.get_or_insert_with(|| format!("dependency {name} was not needed: {}", facts.describe()));
            }
            Ending::Open => {
                // Not its phase, which would have to be told anew with each step of the other task.
                waiting.get_or_insert_with(|| format!("dependency {name} has not ended"));
            }
            Ending::Well => {}
        }
    }
    match (skip, waiting) {
        (Some(reason), _) => DependencyState::Skip(reason),
        (None, Some(reason)) => DependencyState::Waiting(reason),
        (None, None) => DependencyState::Ready,
    }
}

/// Whether a Workload's current run may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadDependencyState {
    /// Every Workload that it depends on is Completed.
    Ready,
    /// For what it waits.
    Waiting(String),
    /// Which Workload failed; it starts once that one is Completed in a later run.
    Blocked(String),
}

/// Evaluates `Workload.spec.dependsOn`: each name with the phase of its current run, or `None` where it is missing.
pub fn workload_dependency_state<'a>(
    upstream: impl IntoIterator<Item = (&'a str, Option<WorkloadPhase>)>,
) -> WorkloadDependencyState {
    let mut waiting = None;
    for (name, phase) in upstream {
        match phase {
            Some(WorkloadPhase::Completed) => {}
            Some(WorkloadPhase::Failed) => {
                return WorkloadDependencyState::Blocked(format!("workload {name} failed"));
            }
            Some(_) => {
                waiting.get_or_insert_with(|| format!("workload {name} has not ended"));
            }
            None => {
                waiting.get_or_insert_with(|| format!("workload {name} does not exist"));
            }
        }
    }
    waiting.map_or(WorkloadDependencyState::Ready, WorkloadDependencyState::Waiting)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn ended(phase: Phase, verdict: Option<Verdict>) -> TaskFacts {
        TaskFacts {
            phase,
            verdict,
            ..Default::default()
        }
    }

    fn state(facts: &[TaskFacts]) -> DependencyState {
        dependency_state(facts.iter().map(|facts| ("up", Some(facts))))
    }

    #[test]
    fn only_go_and_gate_pass_let_a_dependent_start() {
        for verdict in [Verdict::Go, Verdict::GatePass] {
            assert_eq!(state(&[ended(Phase::Succeeded, Some(verdict))]), DependencyState::Ready);
        }
        for verdict in [
            Verdict::Incomplete,
            Verdict::NoGo,
            Verdict::GateFail,
            Verdict::GateError,
        ] {
            let state = state(&[ended(Phase::Succeeded, Some(verdict))]);
            assert!(
                matches!(state, DependencyState::UpstreamFailed(ref r) if r.contains(verdict.as_str())),
                "{state:?}"
            );
        }
        assert!(matches!(
            state(&[ended(Phase::Succeeded, None)]),
            DependencyState::UpstreamFailed(_)
        ));
        assert!(matches!(
            state(&[ended(Phase::Failed, Some(Verdict::Go))]),
            DependencyState::UpstreamFailed(_)
        ));
    }

    #[test]
    fn open_and_missing_dependencies_are_waited_for() {
        for phase in [Phase::Pending, Phase::Scheduled, Phase::Running, Phase::Verifying] {
            assert!(
                matches!(state(&[ended(phase, None)]), DependencyState::Waiting(ref r) if r.ends_with("has not ended"))
            );
        }
        assert_eq!(
            dependency_state([("x", None)]),
            DependencyState::Waiting("dependency x does not exist".into())
        );
        assert_eq!(dependency_state([]), DependencyState::Ready);
    }

    #[test]
    fn work_that_was_already_done_skips_its_dependents_and_theirs() {
        let mut status = AgenticTaskStatus {
            phase: Some(Phase::Succeeded),
            verdict: Some(Verdict::NoGo),
            ..Default::default()
        };
        assert!(matches!(
            state(&[TaskFacts::of(Some(&status))]),
            DependencyState::UpstreamFailed(_)
        ));
        status.result = json!({"extra": {"outcome": "ALREADY-RESOLVED"}}).as_object().cloned();
        assert!(matches!(
            state(&[TaskFacts::of(Some(&status))]),
            DependencyState::Skip(_)
        ));
        assert!(matches!(
            state(&[ended(Phase::Succeeded, Some(Verdict::Skipped))]),
            DependencyState::Skip(_)
        ));
    }

    #[test]
    fn a_failed_dependency_decides_before_an_open_one() {
        let (open, failed) = (ended(Phase::Running, None), ended(Phase::Failed, None));
        let skipped = ended(Phase::Succeeded, Some(Verdict::Skipped));
        assert!(matches!(
            state(&[open.clone(), skipped.clone(), failed]),
            DependencyState::UpstreamFailed(_)
        ));
        assert!(matches!(state(&[open, skipped]), DependencyState::Skip(_)));
    }

    #[test]
    fn a_workload_waits_for_completed_and_is_blocked_by_failed() {
        use WorkloadDependencyState as State;
        assert_eq!(
            workload_dependency_state([("a", Some(WorkloadPhase::Completed))]),
            State::Ready
        );
        assert!(matches!(
            workload_dependency_state([("a", Some(WorkloadPhase::Dispatched))]),
            State::Waiting(_)
        ));
        assert!(
            matches!(workload_dependency_state([("a", None), ("b", Some(WorkloadPhase::Failed))]), State::Blocked(ref r) if r.contains('b'))
        );
    }
}
