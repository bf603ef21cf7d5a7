//! What is to be reported of a Workload. Pure.

use schemas::Workload;
use schemas::agentic_task::FailureReason;
use schemas::inert::{DESCRIPTION_CHARS, one_line};
use schemas::shared::Verdict;
use schemas::workload::WorkloadPhase;
use serde_json::{Value, json};

/// The states that are sent. There are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Work goes on.
    Pending,
    /// The gate proved the change.
    Success,
    /// The change was refuted or refused.
    Failure,
    /// Nobody can tell.
    Error,
}

impl State {
    /// Returns the published spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Error => "error",
        }
    }
}

/// A state of a commit.
#[derive(Clone, Debug, PartialEq)]
pub struct CommitStatus {
    /// Repository: `owner/name` or a URL.
    pub repo: String,
    /// Commit.
    pub head: String,
    /// Stable name of the check.
    pub context: String,
    /// State.
    pub state: State,
    /// At most 140 characters, reason first.
    pub description: String,
    /// What the verdict is bound to, for programs.
    pub details: Value,
    run: i64,
}

impl CommitStatus {
    /// Turns a success that the gate's Job does not confirm into an error.
    pub fn refute(&mut self, reason: &str) {
        self.state = State::Error;
        self.description = one_line(reason, DESCRIPTION_CHARS);
        self.details["state"] = json!("error");
        self.details["verdict"] = Value::Null;
        self.details["message"] = json!(self.description);
    }

    /// Returns what `status.reported` says once this was sent.
    pub fn receipt(&self) -> String {
        receipt(&self.head, self.run, self.wanted())
    }

    /// A refuted success was wanted as success, and is dealt with.
    fn wanted(&self) -> State {
        match self.details["wanted"].as_str() {
            Some("success") => State::Success,
            _ => self.state,
        }
    }
}

fn receipt(head: &str, run: i64, state: State) -> String {
    format!("{}@{head} run {run} {}", schemas::labels::NOTES_REF, state.as_str())
}

/// Decides which state a run's end is: PASS is success, a refuted or refused change is failure, all else is error.
pub fn state_of(phase: WorkloadPhase, verdict: Option<Verdict>, reason: Option<FailureReason>) -> Option<State> {
    match (phase, verdict, reason) {
        (WorkloadPhase::Completed, Some(Verdict::GatePass), None) => Some(State::Success),
        // Not verified: no commit status.
        (WorkloadPhase::Completed, Some(Verdict::Go | Verdict::Skipped), _) => None,
        (WorkloadPhase::Completed, ..) => Some(State::Error),
        (WorkloadPhase::Failed, _, Some(FailureReason::ConstraintViolated)) => Some(State::Failure),
        (
            WorkloadPhase::Failed,
            Some(Verdict::GateFail | Verdict::NoGo),
            None | Some(FailureReason::GateFailed | FailureReason::BudgetExhausted),
        ) => Some(State::Failure),
        (WorkloadPhase::Failed, ..) => Some(State::Error),
        (WorkloadPhase::Planning | WorkloadPhase::Planned | WorkloadPhase::Dispatched, ..) => Some(State::Pending),
    }
}

/// Returns what has to be reported now; `None` when nothing has, or it was.
pub fn plan(workload: &Workload) -> Option<CommitStatus> {
    let status = workload.status.as_ref()?;
    let run = status.run.unwrap_or(1);
    if workload.spec.run.unwrap_or(1) != run {
        return None;
    }
    let repo = workload.spec.repo.clone().or_else(|| {
        workload
            .spec
            .pipeline
            .iter()
            .flatten()
            .find_map(|step| step.payload.repo.clone())
    })?;
    let head = status.head_sha.clone()?;
    let phase = status.phase.unwrap_or_default();
    let verifies = workload
        .spec
        .pipeline
        .iter()
        .flatten()
        .any(|step| step.kind == schemas::agentic_task::TaskKind::Verify)
        || workload
            .spec
            .verifier_agent_ref
            .as_ref()
            .is_some_and(|agent| agent.named().is_some());
    if !verifies {
        return None;
    }
    let state = state_of(phase, status.verdict, status.failure_reason)?;
    if status.reported.as_deref() == Some(&receipt(&head, run, state)) {
        return None;
    }
    let message = status.message.clone().unwrap_or_else(|| phase.as_str().to_owned());
    let description = one_line(&message, DESCRIPTION_CHARS);
    let details = json!({
        "state": state.as_str(),
        "wanted": state.as_str(),
        "verdict": status.verdict.map(Verdict::as_str),
        "failureReason": status.failure_reason.map(|reason| reason.as_str()),
        "headSHA": head,
        "baseSHA": status.base_sha,
        "gateDigest": status.gate_digest,
        "workload": workload.metadata.name,
        "namespace": workload.metadata.namespace,
        "run": run,
        "round": status.round,
        "message": description,
    });
    Some(CommitStatus {
        repo,
        head,
        context: "foreman/gate".into(),
        state,
        description,
        details,
        run,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use serde_json::from_value;

    const PHASES: [WorkloadPhase; 5] = [
        WorkloadPhase::Planning,
        WorkloadPhase::Planned,
        WorkloadPhase::Dispatched,
        WorkloadPhase::Completed,
        WorkloadPhase::Failed,
    ];
    const VERDICTS: [Verdict; 7] = [
        Verdict::Go,
        Verdict::NoGo,
        Verdict::Incomplete,
        Verdict::GatePass,
        Verdict::GateFail,
        Verdict::GateError,
        Verdict::Skipped,
    ];

    fn workload(status: Value) -> Workload {
        from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "w", "namespace": "n" },
            "spec": { "intent": "x", "repo": "o/r", "verifierAgentRef": { "name": "v" } }, "status": status
        }))
        .unwrap()
    }

    proptest! {
        #[test]
        fn there_is_one_way_to_success(phase in 0usize..5, verdict in prop::option::of(0usize..7), failed in any::<bool>()) {
            let reason = failed.then_some(FailureReason::GateError);
            let verdict = verdict.map(|verdict| VERDICTS[verdict]);
            let state = state_of(PHASES[phase], verdict, reason);
            let passes = PHASES[phase] == WorkloadPhase::Completed && verdict == Some(Verdict::GatePass) && reason.is_none();
            prop_assert_eq!(state == Some(State::Success), passes);
        }

        #[test]
        fn a_description_fits_and_is_one_line(message in ".{0,400}") {
            let found = plan(&workload(json!({ "phase": "Failed", "headSHA": "a", "message": message }))).unwrap();
            prop_assert!(found.description.chars().count() <= 140);
            prop_assert!(!found.description.contains(['\n', '\r']));
        }
    }

    #[test]
    fn pending_comes_first_and_each_state_once() {
        assert_eq!(
            plan(&workload(json!({ "phase": "Dispatched" }))),
            None,
            "there is no head yet"
        );
        let pending = plan(&workload(json!({ "phase": "Dispatched", "headSHA": "a" }))).unwrap();
        assert_eq!(pending.state, State::Pending);
        assert_eq!(
            plan(&workload(
                json!({ "phase": "Dispatched", "headSHA": "a", "reported": pending.receipt() })
            )),
            None
        );
        let moved = plan(&workload(
            json!({ "phase": "Dispatched", "headSHA": "b", "reported": pending.receipt() }),
        ))
        .unwrap();
        assert_eq!(moved.head, "b", "a moved head inherits nothing");
        let done = json!({ "phase": "Completed", "verdict": "GATE-PASS", "headSHA": "b", "baseSHA": "c", "gateDigest": "d", "reported": moved.receipt() });
        let success = plan(&workload(done)).unwrap();
        assert_eq!(
            (
                success.state,
                &success.details["baseSHA"],
                &success.details["gateDigest"]
            ),
            (State::Success, &json!("c"), &json!("d"))
        );
    }

    #[test]
    fn a_refuted_success_is_an_error_that_is_not_sent_again() {
        let status = json!({ "phase": "Completed", "verdict": "GATE-PASS", "headSHA": "b" });
        let mut success = plan(&workload(status)).unwrap();
        success.refute("no Job");
        assert_eq!(
            (success.state, success.details["state"].as_str()),
            (State::Error, Some("error"))
        );
        let again =
            json!({ "phase": "Completed", "verdict": "GATE-PASS", "headSHA": "b", "reported": success.receipt() });
        assert_eq!(plan(&workload(again)), None);
    }

    #[test]
    fn refused_is_failure_and_infrastructure_is_error() {
        let state = |verdict, reason| state_of(WorkloadPhase::Failed, verdict, reason).unwrap();
        assert_eq!(state(None, Some(FailureReason::ConstraintViolated)), State::Failure);
        assert_eq!(
            state(Some(Verdict::GateFail), Some(FailureReason::GateFailed)),
            State::Failure
        );
        assert_eq!(
            state(Some(Verdict::GateError), Some(FailureReason::GateError)),
            State::Error
        );
        assert_eq!(state(None, Some(FailureReason::Cancelled)), State::Error);
    }
}
