//! The records of a run's rounds, as its tasks tell of them.

use std::collections::{BTreeMap, BTreeSet};

use schemas::AgenticTask;
use schemas::agentic_task::AgenticTaskStatus;
use schemas::inert::{DESCRIPTION_CHARS, one_line};
use schemas::shared::Verdict;
use schemas::workload::RoundRecord;

/// Rounds that the ledger keeps.
const ROUNDS_KEPT: usize = 20;

/// The records of one run.
pub struct Records {
    run: i64,
    records: Vec<RoundRecord>,
    /// Latest commit of each branch.
    latest: BTreeMap<String, String>,
}

impl Records {
    /// Begins the records of a run.
    pub fn new(run: i64) -> Self {
        Self {
            run,
            records: Vec::new(),
            latest: BTreeMap::new(),
        }
    }

    /// Adds what a task came to; tasks come in the order in which they work.
    pub fn add(&mut self, round: i64, task: &AgenticTask, status: &AgenticTaskStatus) {
        if self.records.last().is_none_or(|last| last.round != round) {
            self.records.push(RoundRecord {
                run: self.run,
                round,
                ..RoundRecord::default()
            });
        }
        let Some(record) = self.records.last_mut() else { return };
        let branch = status.branch.as_ref().or(task.spec.payload.branch.as_ref());
        if let (Some(branch), Some(head)) = (branch, &status.commit_sha) {
            self.latest.insert(branch.clone(), head.clone());
        }
        if status.commit_sha.is_some() {
            record.head_sha = status.commit_sha.clone();
        }
        judge(&mut record.verdict, &mut record.summary, status);
        // Who names no commit looked at the latest one of its branch.
        let head = status
            .commit_sha
            .as_ref()
            .or_else(|| branch.and_then(|branch| self.latest.get(branch)));
        let Some(head) = head.filter(|_| status.commit_sha.is_some() || status.verdict.is_some()) else {
            return;
        };
        let own = record.heads.get_or_insert_default().entry(head.clone()).or_default();
        own.branch = own.branch.take().or_else(|| branch.cloned());
        judge(&mut own.verdict, &mut own.summary, status);
    }

    /// Returns the latest rounds among those of other runs. Commits are listed by themselves where there are several
    /// branches; otherwise each round has its one head.
    pub fn among(mut self, known: Option<Vec<RoundRecord>>) -> Option<Vec<RoundRecord>> {
        let heads = self.records.iter().filter_map(|record| record.heads.as_ref());
        let branches = heads
            .flat_map(|heads| heads.values())
            .filter_map(|head| head.branch.as_deref());
        let branches: BTreeSet<&str> = branches.collect();
        if branches.len() < 2 {
            for record in &mut self.records {
                record.heads = None;
            }
        }
        let mut rounds = known.unwrap_or_default();
        rounds.retain(|record| record.run != self.run);
        rounds.extend(self.records);
        let surplus = rounds.len().saturating_sub(ROUNDS_KEPT);
        rounds.drain(..surplus);
        Some(rounds).filter(|rounds| !rounds.is_empty())
    }
}

/// Adds a task's verdict to those before: the gate's word stands above the coder's; a reviewer's NO-GO above a pass.
fn judge(verdict: &mut Option<Verdict>, summary: &mut Option<String>, status: &AgenticTaskStatus) {
    let rank = |verdict: Option<Verdict>| match verdict {
        None => 0,
        Some(Verdict::Skipped) => 1,
        Some(Verdict::Go | Verdict::Incomplete) => 2,
        Some(Verdict::GatePass) => 3,
        Some(Verdict::GateFail | Verdict::GateError | Verdict::NoGo) => 4,
    };
    if status.verdict.is_some() && rank(status.verdict) >= rank(*verdict) {
        *verdict = status.verdict;
        let said = status.result.as_ref();
        let said = said.and_then(|result| result.get("summary")?.as_str());
        *summary = said.map(|said| one_line(said, DESCRIPTION_CHARS)).or(summary.take());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn task(kind: &str, branch: &str, status: Value) -> AgenticTask {
        serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask", "metadata": { "name": "t" },
            "spec": { "kind": kind, "payload": { "branch": branch } }, "status": status
        }))
        .unwrap()
    }

    fn rounds(tasks: &[(i64, AgenticTask)]) -> Value {
        let mut records = Records::new(2);
        for (round, task) in tasks {
            records.add(*round, task, task.status.as_ref().unwrap());
        }
        json!(records.among(None))
    }

    #[test]
    fn each_of_several_branches_keeps_its_own_verdict() {
        let found = rounds(&[
            (
                1,
                task("issue-fix", "one", json!({ "verdict": "GO", "commitSHA": "h1" })),
            ),
            (
                1,
                task("issue-fix", "two", json!({ "verdict": "GO", "commitSHA": "h2" })),
            ),
            (
                1,
                task(
                    "verify",
                    "one",
                    json!({ "verdict": "GATE-FAIL", "commitSHA": "h1", "result": { "summary": "exit 1" } }),
                ),
            ),
            (
                1,
                task("verify", "two", json!({ "verdict": "GATE-PASS", "commitSHA": "h2" })),
            ),
            (1, task("review", "two", json!({ "verdict": "NO-GO" }))),
            (2, task("issue-fix", "one", json!({ "phase": "Running" }))),
        ]);
        assert_eq!(
            found[0]["heads"],
            json!({
                "h1": { "branch": "one", "verdict": "GATE-FAIL", "summary": "exit 1" },
                "h2": { "branch": "two", "verdict": "NO-GO" },
            })
        );
        assert_eq!(found[1]["heads"], Value::Null, "nothing was pushed in this round yet");
    }

    #[test]
    fn a_run_of_one_branch_lists_no_commits_by_themselves() {
        let found = rounds(&[
            (
                1,
                task("issue-fix", "one", json!({ "verdict": "GO", "commitSHA": "h1" })),
            ),
            (
                1,
                task("verify", "one", json!({ "verdict": "GATE-FAIL", "commitSHA": "h1" })),
            ),
            (
                2,
                task("issue-fix", "one", json!({ "verdict": "GO", "commitSHA": "h2" })),
            ),
        ]);
        assert_eq!(
            found,
            json!([
                { "run": 2, "round": 1, "verdict": "GATE-FAIL", "headSHA": "h1" },
                { "run": 2, "round": 2, "verdict": "GO", "headSHA": "h2" },
            ])
        );
    }
}
