//! Which commits the work of a run stands at. Pure.
//!
//! A run that works on several branches at once, one for each issue, has as many commits that wait for their verdicts;
//! its status names but one of them. The records of its rounds list them all.

use std::collections::BTreeSet;

use schemas::Workload;
use schemas::agentic_task::TaskKind;
use schemas::shared::Verdict;
use schemas::workload::{HeadRecord, PendingHead, RoundRecord, WorkloadStatus};

/// What the records of a run say of a commit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// Round.
    pub round: Option<i64>,
    /// Verdict.
    pub verdict: Option<Verdict>,
    /// What was said of it.
    pub summary: Option<&'a str>,
}

/// Says whether a gate is to prove the work; nothing is reported of any other.
pub fn verifies(workload: &Workload) -> bool {
    let mut steps = workload.spec.pipeline.iter().flatten();
    let verifier = workload.spec.verifier_agent_ref.as_ref();
    steps.any(|step| step.kind == TaskKind::Verify) || verifier.is_some_and(|agent| agent.named().is_some())
}

/// Says whether a pending commit waits for the gate still: the work has not left it behind.
pub fn is_open(workload: &Workload, status: &WorkloadStatus, head: &str, pending: &PendingHead) -> bool {
    let run = status.run.unwrap_or(1);
    let is_head = status.head_sha.as_deref() == Some(head);
    pending.run == run && verifies(workload) && (is_head || is_at_work(status) && is_of_branch(status, head, run))
}

/// Returns the commits that the records list beside the one that the status names.
pub fn besides(status: &WorkloadStatus) -> BTreeSet<&str> {
    let heads = records(status, status.run.unwrap_or(1)).filter_map(|record| record.heads.as_ref());
    let all = heads.flat_map(|heads| heads.keys()).map(String::as_str);
    all.filter(|head| status.head_sha.as_deref() != Some(head)).collect()
}

/// Returns what the records say of a commit itself, where the run has several branches.
pub fn own<'a>(status: &'a WorkloadStatus, head: &str, run: i64) -> Option<Known<'a>> {
    listed(status, head, run).map(|(round, own)| Known {
        round: Some(round),
        verdict: own.verdict,
        summary: own.summary.as_deref(),
    })
}

/// Returns what the records say of a commit, by itself or as the one of its round.
pub fn known<'a>(status: &'a WorkloadStatus, head: &str, run: i64) -> Known<'a> {
    own(status, head, run).unwrap_or_else(|| {
        let mut rounds = records(status, run).rev();
        let round = rounds.find(|record| record.heads.is_none() && record.head_sha.as_deref() == Some(head));
        round.map_or_else(Known::default, |record| Known {
            round: Some(record.round),
            verdict: record.verdict,
            summary: record.summary.as_deref(),
        })
    })
}

/// Returns the commit that a later round made on the branch of this one.
pub fn successor<'a>(status: &'a WorkloadStatus, head: &str, run: i64) -> Option<&'a str> {
    let (round, own) = listed(status, head, run)?;
    let later = records(status, run).filter(|record| record.round > round);
    later
        .flat_map(|record| record.heads.iter().flatten())
        .filter(|(_, other)| other.branch == own.branch)
        .map(|(sha, _)| sha.as_str())
        .next_back()
}

fn is_at_work(status: &WorkloadStatus) -> bool {
    !status.phase.unwrap_or_default().is_terminal()
}

/// Says whether a commit is the latest of one of several branches.
fn is_of_branch(status: &WorkloadStatus, head: &str, run: i64) -> bool {
    listed(status, head, run).is_some() && successor(status, head, run).is_none()
}

/// Returns the latest record of a commit that is listed by itself.
fn listed<'a>(status: &'a WorkloadStatus, head: &str, run: i64) -> Option<(i64, &'a HeadRecord)> {
    records(status, run)
        .rev()
        .find_map(|record| Some((record.round, record.heads.as_ref()?.get(head)?)))
}

fn records(status: &WorkloadStatus, run: i64) -> impl DoubleEndedIterator<Item = &RoundRecord> {
    let all = status.rounds.iter().flatten();
    all.filter(move |record| record.run == run)
}
