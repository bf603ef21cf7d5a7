//! What is to be reported of a Workload. Pure.

use std::collections::BTreeMap;

use schemas::Workload;
use schemas::agentic_task::FailureReason;
use schemas::inert::{DESCRIPTION_CHARS, one_line};
use schemas::shared::Verdict;
use schemas::workload::{Confirmation, PendingHead, WorkloadPhase, WorkloadStatus};
use serde_json::{Value, json};

use crate::workload::heads::{self, repo_of, verifies};

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
    /// Run that it is about.
    pub run: i64,
    /// Whether the work has left the commit behind: it is not the one that the Workload's status is about.
    pub left_behind: bool,
    /// Whether it is an error only because no gate's Job was read that could confirm the success.
    pub is_unread: bool,
}

impl CommitStatus {
    /// Turns a success that the gate's Job does not confirm into an error.
    fn refute(&mut self, reason: &str) {
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

/// Returns what has to be reported now, in this order; nothing where all of it was. A success is one that gates' Jobs
/// confirmed: they have to be read before ([`super::confirm`]).
pub fn plan(workload: &Workload) -> Vec<CommitStatus> {
    let Some(status) = &workload.status else {
        return Vec::new();
    };
    if workload.spec.run.unwrap_or(1) != status.run.unwrap_or(1) {
        // Another run is about to begin; what this one leaves behind shows then.
        return Vec::new();
    }
    let now = current(workload).filter(|now| is_due(status, now));
    let mut all = left_behind(workload, status);
    all.extend(now);
    all.extend(besides(workload, status).into_iter().filter(|it| is_due(status, it)));
    all
}

/// Says whether a state is still to be told. A commit that is told of as pending is noted too.
fn is_due(status: &WorkloadStatus, found: &CommitStatus) -> bool {
    let is_reported = status.reported.as_deref() == Some(&found.receipt());
    if found.state != State::Pending {
        return !is_reported;
    }
    let note = status.pending_heads.as_ref().and_then(|heads| heads.get(&found.head));
    let is_told = |note: &PendingHead| note.told == Some(true) || is_reported;
    !note.is_some_and(|note| note.run == found.run && is_told(note))
}

/// Returns the pending commits of other branches than the one that the status names.
fn besides(workload: &Workload, status: &WorkloadStatus) -> Vec<CommitStatus> {
    let Some(repo) = repo_of(workload) else {
        return Vec::new();
    };
    let about = PendingHead {
        run: status.run.unwrap_or(1),
        repo,
        told: None,
    };
    let said = status.message.as_deref();
    let said = said.unwrap_or_else(|| status.phase.unwrap_or_default().as_str());
    let pending = |head| build(workload, head, &about, State::Pending, None, said);
    // What would be resolved at once is not told of as pending.
    let is_open = |head: &&str| heads::is_open(workload, status, head, &about);
    heads::besides(status)
        .into_iter()
        .filter(is_open)
        .map(pending)
        .collect()
}

/// Returns what is still to be said of a Workload that was deleted: no commit that is pending stays so.
pub fn plan_deleted(workload: &Workload) -> Vec<CommitStatus> {
    let Some(status) = &workload.status else {
        return Vec::new();
    };
    let mut all = left_behind(workload, status);
    for (head, pending) in status.pending_heads.iter().flatten() {
        if !heads::is_open(workload, status, head, pending) {
            continue;
        }
        let said = "the Workload was deleted before the gate ended";
        let ended = current(workload).filter(|now| now.state != State::Pending && now.head == *head);
        all.push(ended.unwrap_or_else(|| match heads::own(status, head, pending.run) {
            Some(_) => resolve(workload, status, head, pending, said),
            None => build(workload, head, pending, State::Error, None, said),
        }));
    }
    all.into_iter()
        .map(|status| CommitStatus {
            left_behind: true,
            ..status
        })
        .collect()
}

/// Returns the commits for which a success may have to be reported, each with its run.
pub fn open_heads(workload: &Workload) -> BTreeMap<&str, i64> {
    let Some(status) = &workload.status else {
        return BTreeMap::new();
    };
    let run = status.run.unwrap_or(1);
    let pending = status.pending_heads.iter().flatten();
    let mut open: BTreeMap<&str, i64> = pending.map(|(head, pending)| (head.as_str(), pending.run)).collect();
    if let Some(head) = &status.head_sha
        && verifies(workload)
        && ![State::Success, State::Failure, State::Error]
            .iter()
            .any(|state| status.reported.as_deref() == Some(&receipt(head, run, *state)))
    {
        open.insert(head, run);
    }
    open
}

/// Returns what the Workload's status comes to for its head.
fn current(workload: &Workload) -> Option<CommitStatus> {
    let status = workload.status.as_ref()?;
    let run = status.run.unwrap_or(1);
    let repo = repo_of(workload)?;
    let head = status.head_sha.clone()?;
    if !verifies(workload) {
        return None;
    }
    let phase = status.phase.unwrap_or_default();
    let is_pending = || {
        status
            .pending_heads
            .as_ref()
            .is_some_and(|heads| heads.contains_key(&head))
    };
    let state = match state_of(phase, status.verdict, status.failure_reason) {
        Some(state) => state,
        // Nothing is said of work that no gate saw, unless something was.
        None if is_pending() => State::Error,
        None => return None,
    };
    let message = status.message.clone().unwrap_or_else(|| phase.as_str().to_owned());
    let about = PendingHead { run, repo, told: None };
    // Of several branches each has its own end; the run's is that of the worst.
    let is_one_of_several = phase.is_terminal() && heads::own(status, &head, run).is_some();
    let mut found = match is_one_of_several {
        true => resolve(workload, status, &head, &about, &message),
        false => build(workload, &head, &about, state, status.verdict, &message),
    };
    found.left_behind = false;
    if is_one_of_several {
        return Some(found);
    }
    found.details["failureReason"] = json!(status.failure_reason.map(|reason| reason.as_str()));
    found.details["baseSHA"] = json!(status.base_sha);
    found.details["gateDigest"] = json!(status.gate_digest);
    found.details["round"] = json!(status.round);
    if state == State::Success
        && let Err(doubt) = proof_of_current(status, &head, run)
    {
        found.refute(&doubt);
        found.is_unread = proof(status, &head, run).is_ok_and(|found| found.is_empty());
    }
    Some(found)
}

/// Returns the verdicts of commits that are pending and that the work has left behind: another round, another run.
fn left_behind(workload: &Workload, status: &WorkloadStatus) -> Vec<CommitStatus> {
    let pending = status.pending_heads.iter().flatten();
    let left = pending.filter(|(head, pending)| !heads::is_open(workload, status, head, pending));
    left.map(|(head, pending)| resolve(workload, status, head, pending, &superseded(status, head, pending)))
        .collect()
}

/// Returns what a commit comes to by what Jobs and the records of its rounds say of it; an error where they say nothing.
fn resolve(
    workload: &Workload,
    status: &WorkloadStatus,
    head: &str,
    about: &PendingHead,
    otherwise: &str,
) -> CommitStatus {
    let known = heads::known(status, head, about.run);
    let proved = || matches!(proof(status, head, about.run).as_deref(), Ok([_, ..]));
    // A Job's word may stand before the record of the round has it.
    let verdict = match known.verdict {
        Some(Verdict::GatePass | Verdict::GateFail | Verdict::GateError | Verdict::NoGo) => known.verdict,
        _ if proved() => Some(Verdict::GatePass),
        other => other,
    };
    let state = match verdict {
        Some(Verdict::GatePass) => State::Success,
        Some(Verdict::GateFail | Verdict::NoGo) => State::Failure,
        _ => State::Error,
    };
    let is_latest =
        heads::own(status, head, about.run).is_some() && heads::successor(status, head, about.run).is_none();
    let said = match (state, known.summary) {
        (State::Error, Some(summary)) if is_latest && verdict == Some(Verdict::GateError) => summary,
        (State::Error, _) => otherwise,
        (_, Some(summary)) if verdict == known.verdict => summary,
        _ => verdict.map_or("", Verdict::as_str),
    };
    let mut found = build(workload, head, about, state, verdict, said);
    found.details["round"] = json!(known.round);
    if state == State::Success {
        match proof(status, head, about.run).as_deref() {
            Ok([first, ..]) => {
                found.details["baseSHA"] = json!(first.base_sha);
                found.details["gateDigest"] = json!(first.gate_digest);
            }
            Ok([]) => {
                found.refute(&gone("Job"));
                found.is_unread = true;
            }
            Err(doubt) => found.refute(doubt),
        }
    }
    found
}

fn superseded(status: &WorkloadStatus, head: &str, pending: &PendingHead) -> String {
    let run = status.run.unwrap_or(1);
    let successor = heads::successor(status, head, run);
    if pending.run != run {
        return format!("superseded by run {run} before the gate ended");
    }
    if successor.is_none() && heads::own(status, head, run).is_some() {
        // Nothing took its place: the run ended.
        let said = status.message.as_deref();
        return said.unwrap_or("the run ended before the gate did").to_owned();
    }
    match successor.or(status.head_sha.as_deref()) {
        Some(head) => format!("superseded by {} before the gate ended", head.get(..12).unwrap_or(head)),
        None => "superseded before the gate ended".to_owned(),
    }
}

fn build(
    workload: &Workload,
    head: &str,
    about: &PendingHead,
    state: State,
    verdict: Option<Verdict>,
    message: &str,
) -> CommitStatus {
    let description = one_line(message, DESCRIPTION_CHARS);
    let details = json!({
        "state": state.as_str(),
        "wanted": state.as_str(),
        "verdict": verdict.map(Verdict::as_str),
        "failureReason": null,
        "headSHA": head,
        "baseSHA": null,
        "gateDigest": null,
        "workload": workload.metadata.name,
        "namespace": workload.metadata.namespace,
        "run": about.run,
        "round": null,
        "message": description,
    });
    CommitStatus {
        repo: about.repo.clone(),
        head: head.to_owned(),
        context: "foreman/gate".into(),
        state,
        description,
        details,
        run: about.run,
        left_behind: true,
        is_unread: false,
    }
}

/// Says what a verdict comes to whose Job, or whose Job's Pod, was removed before the operator read it.
pub fn gone(what: &str) -> String {
    format!("the evidence is gone: the {what} was removed before it was read; run the gate again by `foreman retry`")
}

/// Returns what gates' Jobs confirm of a commit; the error is what one of them says against it.
fn proof<'a>(status: &'a WorkloadStatus, head: &str, run: i64) -> Result<Vec<&'a Confirmation>, String> {
    let all = status.confirmed.iter().flatten().map(|(_, found)| found);
    let found: Vec<&Confirmation> = all.filter(|it| it.run == run && it.head_sha == head).collect();
    match found.iter().find_map(|found| found.doubt.clone()) {
        Some(doubt) => Err(doubt),
        None => Ok(found),
    }
}

/// Says why the commit that the status is about is not proved.
fn proof_of_current(status: &WorkloadStatus, head: &str, run: i64) -> Result<(), String> {
    if status.base_sha.is_none() || status.gate_digest.is_none() {
        return Err("the verdict names no head, base or gate".to_owned());
    }
    let found = proof(status, head, run)?;
    if found.is_empty() {
        return Err(gone("Job"));
    }
    let same = |it: &&Confirmation| it.base_sha == status.base_sha && it.gate_digest == status.gate_digest;
    match found.iter().any(same) {
        true => Ok(()),
        false => Err("what the Job proved has another base or gate than the verdict names".to_owned()),
    }
}

#[cfg(test)]
mod tests;
