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

/// Returns the repository that the work is done in.
pub fn repo_of(workload: &Workload) -> Option<String> {
    let steps = workload.spec.pipeline.iter().flatten();
    let of_step = || steps.clone().find_map(|step| step.payload.repo.clone());
    workload.spec.repo.clone().or_else(of_step)
}

/// Notes, of a run that ends, the latest commits of other branches that were never noted as pending: their verdicts are
/// to be told too, though nobody heard of them while the work went on.
pub fn note_untold(workload: &Workload, ended: &mut WorkloadStatus) {
    let Some(repo) = repo_of(workload).filter(|_| verifies(workload)) else {
        return;
    };
    let run = ended.run.unwrap_or(1);
    let is_noted = |head: &str| {
        let noted = ended.pending_heads.as_ref().and_then(|heads| heads.get(head));
        noted.is_some_and(|noted| noted.run == run)
    };
    let untold = besides(ended).into_iter();
    let untold = untold.filter(|head| !is_noted(head) && is_of_branch(ended, head, run));
    let untold: Vec<String> = untold.map(str::to_owned).collect();
    for head in untold {
        let note = PendingHead {
            run,
            repo: repo.clone(),
            told: None,
        };
        ended.pending_heads.get_or_insert_default().insert(head, note);
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn commits_that_nobody_heard_of_while_the_work_went_on_are_noted_when_it_ends() {
        let workload = |kind: &str| -> Workload {
            serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "w" },
                "spec": {
                    "intent": "x", "repo": "team/repo",
                    "pipeline": [{ "name": "s", "kind": kind, "agentRef": { "name": "a" }, "payload": {} }],
                },
            }))
            .unwrap()
        };
        let ended = || -> WorkloadStatus {
            let head = |branch: &str| json!({ "branch": branch, "verdict": "GATE-PASS" });
            serde_json::from_value(json!({
                "run": 2, "phase": "Completed", "headSHA": "h4",
                "rounds": [
                    { "run": 2, "round": 1, "heads": { "h1": head("one"), "h2": head("two"), "h3": head("three") } },
                    { "run": 2, "round": 2, "heads": { "h5": head("one"), "h4": head("four") } },
                ],
                "pendingHeads": { "h2": { "run": 2, "repo": "team/repo", "told": true } },
            }))
            .unwrap()
        };
        let mut status = ended();
        note_untold(&workload("verify"), &mut status);
        // The head is told of by itself, one was noted before, and one was left behind by its branch.
        let note = json!({ "run": 2, "repo": "team/repo" });
        let before = json!({ "run": 2, "repo": "team/repo", "told": true });
        assert_eq!(
            json!(status.pending_heads),
            json!({ "h2": before, "h3": note, "h5": note })
        );
        let mut status = ended();
        note_untold(&workload("freeform"), &mut status);
        assert_eq!(json!(status.pending_heads)["h3"], Value::Null, "no gate saw it");
    }
}
