//! The phase machine of an AgenticTask: who may write which transition.
//!
//! [`TABLE`] is the whole truth about phases; [`transition`] adds who holds the claim, and the
//! counters that go with it. An illegal transition is an error and changes nothing; a terminal phase
//! absorbs everything.

use thiserror::Error;

use crate::agentic_task::{AgenticTaskStatus, Claim, EarlierClaim, FailureReason, Phase};
use crate::shared::Verdict;

/// Claims of one task that may be lost to dead agents before it is given up.
pub const MAX_LOST_CLAIMS: i64 = 3;
/// Tries that a gate has before GATE-ERROR becomes the task's end.
pub const MAX_GATE_TRIES: i64 = 3;

/// Who asks for a transition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer<'a> {
    /// The node agent that holds, or takes, the claim.
    Agent(Holder<'a>),
    /// The operator that leads.
    Operator,
}

/// What an agent proves its claim with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder<'a> {
    /// UID of the AgenticTask that was claimed.
    pub uid: &'a str,
    /// Epoch of the claim.
    pub epoch: i64,
    /// SHA-256, in hex, of the claim's secret.
    pub secret_sha256: &'a str,
}

/// What happens to a task.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The scheduler chose a node.
    Assign {
        /// FleetNode.
        node: String,
    },
    /// The choice is taken back before anybody claimed the task.
    Unassign,
    /// The chosen node's agent takes the task.
    Claim(Claim),
    /// The claim's holder begins.
    Start,
    /// The gate's Job runs.
    StartGate {
        /// Name of the Job.
        job: String,
    },
    /// The gate could not tell and is tried again.
    RetryGate {
        /// Name of the next Job.
        job: String,
    },
    /// The holder gives its claim back, because it shuts down.
    GiveBack,
    /// The run came to an outcome.
    Succeed(Outcome),
    /// The run could not come to an outcome.
    Fail {
        /// Why.
        reason: FailureReason,
        /// INCOMPLETE or GATE-ERROR, where one of them says it.
        verdict: Option<Verdict>,
    },
    /// The claim's holder is dead, or gave the claim back, or the assigned node died before it claimed.
    LoseClaim {
        /// Epoch that was seen dead (the status's own; 0 before the first claim).
        epoch: i64,
    },
    /// Work that has not begun is ended without running.
    End(EndReason),
}

/// An outcome, with what it is bound to.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Verdict.
    pub verdict: Verdict,
    /// Head, base and gate definition; required for GATE-PASS and GATE-FAIL.
    pub bound: Option<Bound>,
}

/// The triple that a gate's verdict is true of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Commit that was tested.
    pub head_sha: String,
    /// Commit that it was compared with.
    pub base_sha: String,
    /// SHA-256 of the gate definition.
    pub gate_digest: String,
}

/// Why pending work ends without running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// Somebody cancelled it.
    Cancelled,
    /// It is not needed: a dependency was already resolved, or another round took its place.
    Skipped,
    /// A dependency did not end well.
    UpstreamFailed,
    /// The budget is spent.
    OutOfBudget,
    /// Claims were lost too often.
    LostClaims,
    /// It asks for what cannot be done: the reason stands in a condition.
    Refused(FailureReason),
}

impl EndReason {
    /// Returns phase, verdict and failure reason of a task that ends so.
    pub fn end(self) -> (Phase, Option<Verdict>, Option<FailureReason>) {
        let failed = |reason| (Phase::Failed, None, Some(reason));
        match self {
            Self::Skipped => (Phase::Succeeded, Some(Verdict::Skipped), None),
            Self::Cancelled => failed(FailureReason::Cancelled),
            Self::UpstreamFailed => failed(FailureReason::UpstreamFailed),
            Self::OutOfBudget => failed(FailureReason::BudgetExhausted),
            Self::LostClaims => failed(FailureReason::LostClaims),
            Self::Refused(reason) => failed(reason),
        }
    }
}

/// The kind of an [`Event`], as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventKind {
    /// [`Event::Assign`].
    Assign,
    /// [`Event::Unassign`].
    Unassign,
    /// [`Event::Claim`].
    Claim,
    /// [`Event::Start`].
    Start,
    /// [`Event::StartGate`].
    StartGate,
    /// [`Event::RetryGate`].
    RetryGate,
    /// [`Event::GiveBack`].
    GiveBack,
    /// [`Event::Succeed`].
    Succeed,
    /// [`Event::Fail`].
    Fail,
    /// [`Event::LoseClaim`].
    LoseClaim,
    /// [`Event::End`] with an end that counts as success: Skipped.
    Skip,
    /// [`Event::End`] with any other end.
    Abort,
}

/// The kind of a [`Writer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WriterKind {
    /// A node agent.
    Agent,
    /// The operator.
    Operator,
}

/// Every legal transition: from, event, writer, to.
pub const TABLE: &[(Phase, EventKind, WriterKind, Phase)] = {
    use EventKind::{
        Abort, Assign, Claim, Fail, GiveBack, LoseClaim, RetryGate, Skip, Start, StartGate, Succeed, Unassign,
    };
    use Phase::{Failed, Pending, Running, Scheduled, Succeeded, Verifying};
    use WriterKind::{Agent, Operator};
    &[
        (Pending, Assign, Operator, Scheduled),
        (Pending, Skip, Operator, Succeeded),
        (Pending, Abort, Operator, Failed),
        (Scheduled, Unassign, Operator, Pending),
        (Scheduled, LoseClaim, Operator, Pending),
        (Running, LoseClaim, Operator, Pending),
        (Verifying, LoseClaim, Operator, Pending),
        (Scheduled, Claim, Agent, Scheduled),
        (Scheduled, Start, Agent, Running),
        (Scheduled, GiveBack, Agent, Scheduled),
        (Scheduled, Fail, Agent, Failed),
        (Running, StartGate, Agent, Verifying),
        (Running, GiveBack, Agent, Running),
        (Running, Succeed, Agent, Succeeded),
        (Running, Fail, Agent, Failed),
        (Verifying, RetryGate, Agent, Verifying),
        (Verifying, GiveBack, Agent, Verifying),
        (Verifying, Succeed, Agent, Succeeded),
        (Verifying, Fail, Agent, Failed),
    ]
};

/// Why a transition is refused. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Illegal {
    /// The task has ended.
    #[error("failed to apply {event:?}: the task has ended as {phase:?}, which is final")]
    Terminal {
        /// Phase.
        phase: Phase,
        /// What was asked for.
        event: EventKind,
    },
    /// No row of the table allows it.
    #[error("failed to apply {event:?}: not allowed in phase {phase:?} by {writer:?}")]
    NotInTable {
        /// Phase.
        phase: Phase,
        /// What was asked for.
        event: EventKind,
        /// By whom.
        writer: WriterKind,
    },
    /// The writer does not hold the claim, or holds an earlier one.
    #[error("failed to apply {event:?}: {reason}")]
    NotTheHolder {
        /// What was asked for.
        event: EventKind,
        /// What differs.
        reason: &'static str,
    },
    /// The event itself contradicts the task.
    #[error("failed to apply {event:?}: {reason}")]
    Contradiction {
        /// What was asked for.
        event: EventKind,
        /// What is contradicted.
        reason: &'static str,
    },
}

impl Event {
    /// Returns the kind by which the table knows the event.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::Assign { .. } => EventKind::Assign,
            Self::Unassign => EventKind::Unassign,
            Self::Claim(_) => EventKind::Claim,
            Self::Start => EventKind::Start,
            Self::StartGate { .. } => EventKind::StartGate,
            Self::RetryGate { .. } => EventKind::RetryGate,
            Self::GiveBack => EventKind::GiveBack,
            Self::Succeed(_) => EventKind::Succeed,
            Self::Fail { .. } => EventKind::Fail,
            Self::LoseClaim { .. } => EventKind::LoseClaim,
            Self::End(EndReason::Skipped) => EventKind::Skip,
            Self::End(_) => EventKind::Abort,
        }
    }
}

impl Writer<'_> {
    /// Returns the kind by which the table knows the writer.
    pub fn kind(&self) -> WriterKind {
        match self {
            Self::Agent(_) => WriterKind::Agent,
            Self::Operator => WriterKind::Operator,
        }
    }
}

/// Looks a transition up in the table.
pub fn target(from: Phase, event: EventKind, writer: WriterKind) -> Option<Phase> {
    TABLE
        .iter()
        .find(|row| (row.0, row.1, row.2) == (from, event, writer))
        .map(|row| row.3)
}

/// Returns the phase of a status; one that says none is Pending.
pub fn phase_of(status: Option<&AgenticTaskStatus>) -> Phase {
    status.and_then(|status| status.phase).unwrap_or_default()
}

/// Says whether the gate may be tried once more after a GATE-ERROR.
pub fn may_retry_gate(status: &AgenticTaskStatus) -> bool {
    status.gate_tries.unwrap_or(0) + 1 < MAX_GATE_TRIES
}

/// Says whether so many claims were lost that the operator ends the task once it is Pending.
pub fn lost_too_often(status: &AgenticTaskStatus) -> bool {
    status.lost_claims.unwrap_or(0) >= MAX_LOST_CLAIMS
}

/// Applies an event to a task's status and returns the status after it.
///
/// Changed are the fields that belong to the machine: phase, claim, epoch, assignedNode, jobName,
/// lostClaims, earlierClaims, gateTries, verdict, failureReason, the bound triple, waiting. Times and results are
/// the caller's. `uid` is the UID of the task that the status was read from.
pub fn transition(
    uid: &str,
    status: Option<&AgenticTaskStatus>,
    event: &Event,
    writer: &Writer<'_>,
) -> Result<AgenticTaskStatus, Illegal> {
    let now = status.cloned().unwrap_or_default();
    let from = now.phase.unwrap_or_default();
    let kind = event.kind();
    if from.is_terminal() {
        return Err(Illegal::Terminal {
            phase: from,
            event: kind,
        });
    }
    let to = target(from, kind, writer.kind()).ok_or(Illegal::NotInTable {
        phase: from,
        event: kind,
        writer: writer.kind(),
    })?;
    if let Writer::Agent(holder) = writer {
        check_holder(uid, &now, event, holder)?;
    }
    let mut after = now;
    apply(&mut after, event)?;
    after.phase = Some(to);
    Ok(after)
}

fn check_holder(uid: &str, now: &AgenticTaskStatus, event: &Event, holder: &Holder<'_>) -> Result<(), Illegal> {
    let refuse = |reason| {
        Err(Illegal::NotTheHolder {
            event: event.kind(),
            reason,
        })
    };
    if uid.is_empty() || holder.uid != uid {
        return refuse("the claim is on another object of this name");
    }
    if let Event::Claim(claim) = event {
        return match &now.claim {
            Some(_) => refuse("somebody else holds the task"),
            None if now.assigned_node.as_deref() != Some(claim.node.as_str()) => {
                refuse("the task is assigned to another node")
            }
            None if claim.epoch != now.epoch.unwrap_or(0) + 1 => refuse("the epoch is not the next one"),
            None if claim.epoch != holder.epoch || claim.secret_sha256 != holder.secret_sha256 => {
                refuse("the claim is not the writer's own")
            }
            None if claim.secret_sha256.len() != 64 => refuse("the claim has no SHA-256 of a secret"),
            None => Ok(()),
        };
    }
    match &now.claim {
        None => refuse("nobody holds the task"),
        Some(claim) if claim.epoch != holder.epoch || now.epoch != Some(holder.epoch) => {
            refuse("the claim belongs to another epoch")
        }
        Some(claim) if claim.secret_sha256 != holder.secret_sha256 => refuse("the claim belongs to another agent"),
        Some(_) => Ok(()),
    }
}

fn apply(status: &mut AgenticTaskStatus, event: &Event) -> Result<(), Illegal> {
    let contradiction = |reason| {
        Err(Illegal::Contradiction {
            event: event.kind(),
            reason,
        })
    };
    match event {
        Event::Assign { node } if node.is_empty() => return contradiction("the node has no name"),
        Event::Assign { node } => {
            status.assigned_node = Some(node.clone());
            status.waiting = None;
        }
        Event::Unassign if status.claim.is_some() => return contradiction("the task is claimed"),
        Event::Unassign => status.assigned_node = None,
        Event::Claim(claim) => {
            status.epoch = Some(claim.epoch);
            status.claim = Some(claim.clone());
        }
        Event::Start => {}
        Event::StartGate { job } => status.job_name = Some(job.clone()),
        Event::RetryGate { job } => {
            if !may_retry_gate(status) {
                return contradiction("the gate has no tries left");
            }
            status.gate_tries = Some(status.gate_tries.unwrap_or(0) + 1);
            status.job_name = Some(job.clone());
        }
        Event::GiveBack => status.claim = None,
        Event::LoseClaim { epoch } => {
            if *epoch != status.epoch.unwrap_or(0) {
                return contradiction("another claim was made meanwhile");
            }
            if let Some(lost) = status.claim.take() {
                status.lost_claims = Some(status.lost_claims.unwrap_or(0) + 1);
                status.earlier_claims.get_or_insert_default().push(EarlierClaim {
                    epoch: lost.epoch,
                    secret_sha256: lost.secret_sha256,
                });
            }
            status.assigned_node = None;
            status.claimed_at = None;
            status.started_at = None;
            status.job_name = None;
        }
        Event::Succeed(outcome) => succeed(status, outcome).or_else(contradiction)?,
        Event::Fail { reason, verdict } => {
            if !matches!(verdict, None | Some(Verdict::Incomplete | Verdict::GateError)) {
                return contradiction("a failed run has no verdict but INCOMPLETE or GATE-ERROR");
            }
            status.failure_reason = Some(*reason);
            status.verdict = *verdict;
        }
        Event::End(reason) => {
            let (_, verdict, failure) = reason.end();
            status.verdict = verdict;
            status.failure_reason = failure;
            status.waiting = None;
        }
    }
    Ok(())
}

/// Writes an outcome. A gate's word counts only after its Job ran, and only with what it is bound to.
fn succeed(status: &mut AgenticTaskStatus, outcome: &Outcome) -> Result<(), &'static str> {
    let after_gate = status.phase == Some(Phase::Verifying);
    match (outcome.verdict, after_gate) {
        (Verdict::GatePass | Verdict::GateFail, true) => {
            let bound = outcome
                .bound
                .as_ref()
                .ok_or("a gate's verdict needs head, base and gate digest")?;
            if bound.head_sha.is_empty() || bound.base_sha.is_empty() || bound.gate_digest.is_empty() {
                return Err("a gate's verdict needs head, base and gate digest");
            }
        }
        (Verdict::GatePass | Verdict::GateFail, false) => return Err("a gate's verdict needs a gate that ran"),
        (Verdict::Go | Verdict::NoGo | Verdict::Incomplete, false) => {}
        (Verdict::Go | Verdict::NoGo | Verdict::Incomplete, true) => return Err("a gate says PASS or FAIL"),
        (Verdict::GateError, _) => return Err("GATE-ERROR is no outcome: the run failed"),
        (Verdict::Skipped, _) => return Err("work that ran was not skipped"),
    }
    if let Some(bound) = &outcome.bound {
        status.commit_sha = Some(bound.head_sha.clone());
        status.base_sha = Some(bound.base_sha.clone());
        status.gate_digest = Some(bound.gate_digest.clone());
    }
    status.verdict = Some(outcome.verdict);
    status.failure_reason = None;
    Ok(())
}

#[cfg(test)]
mod tests;
