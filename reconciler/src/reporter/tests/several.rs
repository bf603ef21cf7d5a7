//! A Workload of two issues, each on a branch of its own; its ledger is the one that its controller writes.
use schemas::rounds::TaskView;

use super::*;
use crate::workload::status::gather;

struct Issues {
    stage: Stage,
    tasks: Vec<Value>,
}

impl Issues {
    fn new() -> Self {
        let stage = Stage::fresh();
        stage.status(json!({ "headSHA": null }));
        Self {
            stage,
            tasks: Vec::new(),
        }
    }

    /// A task of an issue ends, and the Workload's controller sees it.
    fn ends(&mut self, kind: &str, issue: &str, verdict: &str, head: &str, summary: &str) {
        let name = format!("w-{kind}-{issue}");
        let after = match kind {
            "verify" => json!([format!("w-issue-fix-{issue}")]),
            _ => json!([]),
        };
        let job = if head == NEXT { "gate-two" } else { "gate" };
        let task = json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": {
                "name": name, "namespace": "n", "uid": name, "resourceVersion": "2",
                "labels": { labels::STEP: format!("{kind}-{issue}") },
                "ownerReferences": [{ "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "name": "w", "uid": "u" }]
            },
            "spec": {
                "kind": kind, "payload": { "branch": format!("foreman/w-{issue}") }, "workloadRef": { "name": "w" },
                "dependsOn": after, "run": 1, "round": 1, "baseSHA": BASE
            },
            "status": {
                "phase": "Succeeded", "verdict": verdict, "commitSHA": head, "baseSHA": BASE, "gateDigest": DIGEST, "jobName": job,
                "result": { "summary": summary }
            }
        });
        seen(&self.stage.ctx.tasks, task.clone());
        self.tasks.push(task);
        self.ledger(json!({ "round": 1 }));
    }

    fn ledger(&self, more: Value) {
        let tasks = self.tasks.iter().cloned();
        let tasks: Vec<Arc<Cached<AgenticTask>>> = tasks
            .map(|task| Arc::new(Cached::of(serde_json::from_value(task).unwrap())))
            .collect();
        let views: Vec<(TaskView, &Arc<Cached<AgenticTask>>)> = tasks
            .iter()
            .map(|task| (TaskView::of(task.readable().unwrap()).unwrap(), task))
            .collect();
        let mut status = serde_json::from_value(self.stage.workload_status()).unwrap();
        gather(&mut status, &views, 1);
        let mut patch = json!(status);
        merge(&mut patch, &more);
        self.stage.status(patch);
    }

    fn said_of(&self, head: &str) -> Vec<(State, String)> {
        let said = self.stage.said().into_iter();
        said.filter(|(of, ..)| of == head)
            .map(|(_, state, said)| (state, said))
            .collect()
    }
}

fn pending() -> (State, String) {
    (State::Pending, "Dispatched".to_owned())
}

#[tokio::test]
async fn the_passes_of_two_issues_are_both_told_and_no_state_twice() {
    let mut issues = Issues::new();
    issues.ends("issue-fix", "1", "GO", HEAD, "done");
    issues.stage.turns().await;
    issues.ends("issue-fix", "2", "GO", NEXT, "done");
    issues.stage.turns().await;
    // The second push moves the Workload's head; the gate of the first has only begun.
    assert_eq!(issues.said_of(HEAD), [pending()]);
    issues.ends("verify", "1", "GATE-PASS", HEAD, "one passed");
    issues.stage.turns().await;
    issues.ends("verify", "2", "GATE-PASS", NEXT, "two passed");
    issues.stage.turns().await;
    assert_eq!(
        issues.stage.said().len(),
        2,
        "the run goes on: {:?}",
        issues.stage.said()
    );
    // Their Jobs are long gone when the run ends.
    issues.stage.api.job.store(false, Ordering::Release);
    issues.ledger(json!({ "phase": "Completed", "verdict": "GATE-PASS", "message": "both passed" }));
    issues.stage.turns().await;
    assert_eq!(
        issues.said_of(HEAD),
        [pending(), (State::Success, "one passed".to_owned())]
    );
    assert_eq!(
        issues.said_of(NEXT),
        [pending(), (State::Success, "two passed".to_owned())]
    );
    assert_eq!(issues.stage.workload_status()["pendingHeads"], json!({}));
    let asked = lock(&issues.stage.api.asked).len();
    issues.stage.work.add(issues.stage.key.clone());
    issues.stage.turns().await;
    assert_eq!(lock(&issues.stage.api.asked).len(), asked, "nothing is written twice");
}

#[tokio::test]
async fn of_two_issues_the_one_that_fails_is_a_failure_and_the_other_a_success() {
    for fails in [HEAD, NEXT] {
        let mut issues = Issues::new();
        // The later one pushes first, so the Workload's head never is the other's commit before the gates end.
        issues.ends("issue-fix", "2", "GO", NEXT, "done");
        issues.stage.turns().await;
        issues.ends("issue-fix", "1", "GO", HEAD, "done");
        issues.stage.turns().await;
        let verdict = |head| if head == fails { "GATE-FAIL" } else { "GATE-PASS" };
        issues.ends("verify", "2", verdict(NEXT), NEXT, "two");
        issues.stage.turns().await;
        issues.ends("verify", "1", verdict(HEAD), HEAD, "one");
        issues.stage.turns().await;
        issues.ledger(json!({ "phase": "Failed", "verdict": "GATE-FAIL", "failureReason": "GateFailed", "message": "one of two failed" }));
        issues.stage.turns().await;
        let state = |head| if head == fails { State::Failure } else { State::Success };
        assert_eq!(issues.said_of(HEAD), [pending(), (state(HEAD), "one".to_owned())]);
        assert_eq!(issues.said_of(NEXT), [pending(), (state(NEXT), "two".to_owned())]);
    }
}
