//! What was said so far, and what is new: each change of a queue, a task or a Workload becomes a line once.

use std::collections::{BTreeMap, HashMap, HashSet};

use kube::ResourceExt;
use schemas::agentic_task::{AgenticTask, FailureReason, Phase, TaskKind};
use schemas::shared::{LocalRef, Verdict};
use schemas::task_queue::InvalidFile;
use schemas::{TaskQueue, Workload, labels};

use super::Line;
use super::words::{describe, end_of, fetched, held_up, place, title, unnamed, waits_for_sibling, without_hash};

/// What was last said of an object.
type Said = (Phase, Option<Verdict>, String);

/// Turns each change of a queue, a task or a Workload into lines, once.
pub struct Follower {
    /// Tasks by name.
    tasks: HashMap<String, Said>,
    /// Workloads by UID: run, and what was said of it.
    workloads: HashMap<String, (i64, String)>,
    /// Short names of the Workloads that were seen, by name.
    titles: HashMap<String, String>,
    queues: HashMap<String, String>,
    invalid: HashSet<(String, String)>,
    /// What was said of invalid files that a status does not name, by queue.
    unnamed: HashMap<String, String>,
    /// Reasons to wait that were said since the last rest: many tasks wait for one thing.
    waits: HashSet<String>,
    /// What is there, by UID: whether it is over, in which word.
    standing: HashMap<String, (bool, &'static str)>,
    /// How many of them are not over.
    open: usize,
    /// Whether what was over before the start is left out.
    skips_past: bool,
    /// Which of queues, tasks and Workloads were listed once.
    pub listed: [bool; 3],
    rests: bool,
}

impl Follower {
    /// Begins to follow; with `skips_past`, what is over at the start is counted and not told.
    pub fn new(skips_past: bool) -> Self {
        Self {
            tasks: HashMap::new(),
            workloads: HashMap::new(),
            titles: HashMap::new(),
            queues: HashMap::new(),
            invalid: HashSet::new(),
            unnamed: HashMap::new(),
            waits: HashSet::new(),
            standing: HashMap::new(),
            open: 0,
            skips_past,
            listed: [false; 3],
            rests: false,
        }
    }

    /// Takes a task as it is now.
    pub fn task(&mut self, task: &AgenticTask, past: bool) -> Option<Line> {
        let status = task.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        if !task.labels().contains_key(labels::WORKLOAD) {
            self.stand(task.uid().unwrap_or_default(), phase.is_terminal(), phase.as_str());
        }
        let waiting = status.waiting.as_ref().filter(|_| phase == Phase::Pending);
        let reason = waiting.map(|waiting| waiting.reason.as_str()).or(held_up(&status));
        let reason = reason.unwrap_or_default().to_owned();
        let now = (phase, status.verdict, reason.clone());
        let before = self.tasks.insert(task.name_any(), now.clone());
        if before.as_ref().is_some_and(|before| *before == now) || past && self.skips_past && phase.is_terminal() {
            return None;
        }
        let told = match phase {
            Phase::Pending if waiting.is_some() => {
                !waits_for_sibling(task, |name| self.phase_of(name)) && self.waits.insert(reason)
            }
            Phase::Pending => before.is_some_and(|(phase, ..)| phase != Phase::Pending),
            Phase::Scheduled => false,
            Phase::Running => task.spec.kind != TaskKind::Verify,
            // The line of what failed said it.
            Phase::Failed => status.failure_reason != Some(FailureReason::UpstreamFailed),
            _ => true,
        };
        told.then(|| Line::new(self.subject(task), describe(task)))
    }

    /// Names a task by its Workload, as the Workload's own lines do, and its round.
    fn subject(&self, task: &AgenticTask) -> String {
        let of = task.spec.workload_ref.as_ref().and_then(LocalRef::named);
        let short = match of.and_then(|name| self.titles.get(name)) {
            Some(title) => title.clone(),
            None => without_hash(of.unwrap_or(&task.name_any())).to_owned(),
        };
        format!("{short} #{}", task.spec.round.unwrap_or(1))
    }

    fn phase_of(&self, name: &str) -> Option<Phase> {
        self.tasks.get(name).map(|(phase, ..)| *phase)
    }

    /// Notes that an object stands there, and whether it is over.
    fn stand(&mut self, uid: String, over: bool, word: &'static str) {
        self.open += usize::from(!over);
        let before = self.standing.insert(uid, (over, word));
        self.open -= usize::from(before.is_some_and(|(over, _)| !over));
    }

    /// Notes that an object is gone; says whether it was known.
    fn leave(&mut self, uid: &str) -> bool {
        let before = self.standing.remove(uid);
        self.open -= usize::from(before.is_some_and(|(over, _)| !over));
        before.is_some()
    }

    /// Takes a Workload as it is now.
    pub fn workload(&mut self, workload: &Workload, past: bool) -> Option<Line> {
        let status = workload.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let uid = workload.uid().unwrap_or_default();
        self.titles.insert(workload.name_any(), title(workload));
        self.stand(uid.clone(), phase.is_terminal(), phase.as_str());
        let text = if phase.is_terminal() {
            end_of(workload)
        } else {
            let stuck = status.conditions.iter().flatten().find(|condition| {
                condition.status == "True" && matches!(condition.type_.as_str(), "Blocked" | "Stalled")
            });
            format!("waits: {}", stuck?.message)
        };
        let now = (status.run.unwrap_or(1), text.clone());
        let new = self
            .workloads
            .insert(uid, now.clone())
            .is_none_or(|before| before != now);
        let told = new && !(past && self.skips_past && phase.is_terminal());
        told.then(|| Line::new(title(workload), text))
    }

    /// Takes a queue as it is now.
    pub fn queue(&mut self, queue: &TaskQueue) -> Vec<Line> {
        let subject = format!("queue {}", queue.name_any());
        let status = queue.status.clone().unwrap_or_default();
        let said = |kind: &str| {
            status
                .conditions
                .iter()
                .flatten()
                .find(|condition| condition.type_ == kind)
        };
        let suspended = said("Suspended").filter(|suspended| suspended.status == "True");
        let mut lines = Vec::new();
        let text = match (suspended, said("Ready")) {
            (Some(suspended), _) => Some(format!("suspended: {}", suspended.message)),
            (None, Some(ready)) if ready.status == "True" => Some(fetched(&status)),
            (None, Some(ready)) => Some(format!("not ready: {}: {}", ready.reason, ready.message)),
            (None, None) => None,
        };
        if let Some(text) = text
            && self.queues.get(&subject) != Some(&text)
        {
            self.queues.insert(subject.clone(), text.clone());
            lines.push(Line::new(subject.clone(), text));
        }
        let invalid: Vec<&InvalidFile> = status.invalid_files.iter().flatten().collect();
        self.invalid
            .retain(|known| invalid.iter().any(|file| *known == (file.path.clone(), place(file))));
        for file in invalid {
            if self.invalid.insert((file.path.clone(), place(file))) {
                lines.push(Line::new(subject.clone(), format!("{}{}", file.path, place(file))));
            }
        }
        if let Some(text) = unnamed(&status) {
            if self.unnamed.insert(subject.clone(), text.clone()).as_ref() != Some(&text) {
                lines.push(Line::new(subject, text));
            }
        } else {
            self.unnamed.remove(&subject);
        }
        lines
    }

    /// Takes a task that is gone.
    pub fn task_gone(&mut self, task: &AgenticTask) {
        self.tasks.remove(&task.name_any());
        self.leave(&task.uid().unwrap_or_default());
    }

    /// Takes a Workload that is gone.
    pub fn workload_gone(&mut self, workload: &Workload) -> Option<Line> {
        let uid = workload.uid().unwrap_or_default();
        self.workloads.remove(&uid);
        self.titles.remove(&workload.name_any());
        self.leave(&uid).then(|| Line::new(title(workload), "removed".into()))
    }

    /// Says what there is, once after the last work has ended.
    pub fn rest(&mut self) -> Option<Line> {
        let rests = self.listed == [true; 3] && self.open == 0;
        let begins = rests && !self.rests;
        self.rests = rests;
        if !begins {
            return None;
        }
        self.waits.clear();
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, word) in self.standing.values() {
            *counts.entry(*word).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
        let text = if counts.is_empty() {
            "nothing to do yet".to_owned()
        } else {
            counts.join(", ")
        };
        Some(Line::new("idle".into(), text))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::{Value, json};

    fn task(name: &str, kind: &str, phase: &str, more: Value) -> AgenticTask {
        let mut task: AgenticTask = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": name, "namespace": "default", "uid": name, "labels": { (labels::WORKLOAD): "note" } },
            "spec": { "agentRef": { "name": "coder" }, "kind": kind, "payload": {}, "workloadRef": { "name": "note" } },
            "status": { "phase": phase },
        }))
        .unwrap();
        let mut status = json!({ "phase": phase });
        for (key, value) in more.as_object().unwrap() {
            status[key] = value.clone();
        }
        task.status = Some(serde_json::from_value(status).unwrap());
        if kind == "verify" {
            task.spec.depends_on = vec![schemas::agentic_task::Dependency::Name("code".into())];
        }
        task
    }

    fn workload(name: &str, phase: &str) -> Workload {
        serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload",
            "metadata": { "name": name, "namespace": "default", "uid": name },
            "spec": { "intent": "x" },
            "status": { "phase": phase },
        }))
        .unwrap()
    }

    #[test]
    fn what_holds_up_a_task_that_is_worked_on_is_told_and_so_is_its_end() {
        let mut follower = Follower::new(false);
        let mut says = |kind: &str, phase: &str, condition: &str, status: &str| {
            let said = json!([{ "type": condition, "status": status, "reason": "x", "message": "connection refused",
                                "lastTransitionTime": "2026-01-01T00:00:00Z" }]);
            let task = task("t", kind, phase, json!({ "assignedNode": "a", "conditions": said }));
            follower.task(&task, false).map(|line| line.text)
        };
        let mut model = |status: &str| says("issue-fix", "Running", "ModelReachable", status);
        assert_eq!(model("False").unwrap(), "coder waits for its model: connection refused");
        assert_eq!(model("False"), None, "that is no news");
        assert_eq!(model("True").unwrap(), "coder runs on a");
        let mut gate = |status: &str| says("verify", "Verifying", "GateScheduled", status);
        assert_eq!(gate("False").unwrap(), "gate Job waits for a node: connection refused");
        assert_eq!(gate("True").unwrap(), "gate Job runs");
    }

    #[test]
    fn a_gate_that_waits_for_its_coder_is_no_news_and_one_that_waits_for_an_agent_is() {
        let mut follower = Follower::new(false);
        let waits = |reason: &str| task("gate", "verify", "Pending", json!({ "waiting": { "reason": reason } }));
        assert!(
            follower
                .task(&task("code", "issue-fix", "Running", json!({})), false)
                .is_some()
        );
        assert_eq!(follower.task(&waits("dependency code has not ended"), false), None);
        follower.task(&task("code", "issue-fix", "Succeeded", json!({})), false);
        assert!(follower.task(&waits("waits for Agent x"), false).is_some());
    }

    #[test]
    fn a_task_and_its_workload_are_called_by_one_name() {
        let mut follower = Follower::new(false);
        let mut of_a_file = workload("note", "Dispatched");
        of_a_file
            .annotations_mut()
            .insert(labels::SOURCE_PATH.into(), "tasks/take-notes.md".into());
        let code = task("code", "issue-fix", "Running", json!({}));
        assert_eq!(follower.task(&code, false).unwrap().subject, "note #1");
        follower.workload(&of_a_file, false);
        let code = task("code", "issue-fix", "Succeeded", json!({}));
        assert_eq!(follower.task(&code, false).unwrap().subject, "take-notes #1");
        of_a_file.status = workload("note", "Completed").status;
        assert_eq!(follower.workload(&of_a_file, false).unwrap().subject, "take-notes");
    }

    #[test]
    fn a_thousand_tasks_that_wait_for_one_thing_make_one_line() {
        let mut follower = Follower::new(true);
        let waiting = json!({ "waiting": { "place": 1, "reason": "waits for a free slot" } });
        let lines = (0..1000)
            .filter_map(|i| follower.task(&task(&format!("t{i}"), "issue-fix", "Pending", waiting.clone()), false))
            .count();
        assert_eq!(lines, 1);
    }

    #[test]
    fn what_was_over_at_the_start_is_counted_and_not_told() {
        let mut follower = Follower::new(true);
        assert_eq!(follower.workload(&workload("old", "Completed"), true), None);
        assert_eq!(follower.rest(), None, "not everything is known yet");
        follower.listed = [true; 3];
        assert_eq!(follower.rest().unwrap().text, "1 Completed");
        assert_eq!(follower.rest(), None, "said once");
        assert_eq!(follower.workload(&workload("new", "Dispatched"), false), None);
        assert_eq!(follower.rest(), None);
        assert!(follower.workload(&workload("new", "Failed"), false).is_some());
        assert_eq!(follower.rest().unwrap().text, "1 Completed, 1 Failed");
    }

    #[test]
    fn an_invalid_file_is_told_once_with_its_place_and_again_when_it_came_back() {
        let mut follower = Follower::new(true);
        let queue = |sha: &str, invalid: Value| -> TaskQueue {
            serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue",
                "metadata": { "name": "tasks" }, "spec": { "git": { "url": "/x" } },
                "status": {
                    "observedRevision": format!("main@sha1:{sha}"), "files": 2,
                    "invalidFileCount": invalid.as_array().unwrap().len(), "invalidFiles": invalid,
                    "conditions": [{ "type": "Ready", "status": "True", "reason": "Applied", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z" }],
                },
            }))
            .unwrap()
        };
        let bad = json!([{ "path": "a.md", "line": 2, "column": 1, "message": "unknown key" }]);
        let told = follower.queue(&queue("0123456789abcdef", bad.clone()));
        let texts: Vec<&str> = told.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(
            texts,
            ["main at 0123456789ab, 2 task files, 1 invalid", "a.md:2:1: unknown key"]
        );
        assert_eq!(follower.queue(&queue("0123456789abcdef", bad.clone())), []);
        assert_eq!(
            follower.queue(&queue("1123456789abcdef", bad.clone())).len(),
            1,
            "the revision alone"
        );
        assert_eq!(follower.queue(&queue("2123456789abcdef", json!([]))).len(), 1);
        assert_eq!(
            follower.queue(&queue("3123456789abcdef", bad)).len(),
            2,
            "it is broken again"
        );
    }

    #[test]
    fn a_queue_that_is_suspended_says_so_and_what_it_read_once_it_goes_on() {
        let mut follower = Follower::new(true);
        let mut texts = |suspended: &str| {
            let said = |kind: &str, status: &str| {
                json!({ "type": kind, "status": status, "reason": "X", "message": "spec.suspend is set",
                    "lastTransitionTime": "2026-01-01T00:00:00Z" })
            };
            let queue = json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue",
                "metadata": { "name": "tasks" }, "spec": { "git": { "url": "/x" } },
                "status": { "observedRevision": "main@sha1:0123456789abcdef", "files": 2,
                    "conditions": [said("Ready", "True"), said("Suspended", suspended)] },
            });
            let lines = follower.queue(&serde_json::from_value(queue).unwrap());
            lines.into_iter().map(|line| line.text).collect::<Vec<_>>()
        };
        assert_eq!(texts("True"), ["suspended: spec.suspend is set"]);
        assert!(texts("True").is_empty(), "said once");
        assert_eq!(texts("False"), ["main at 0123456789ab, 2 task files"]);
    }

    #[test]
    fn invalid_files_that_the_status_does_not_name_are_counted() {
        let mut follower = Follower::new(true);
        let queue = |count: usize| -> TaskQueue {
            serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue",
                "metadata": { "name": "tasks" }, "spec": { "git": { "url": "/x" } },
                "status": {
                    "invalidFileCount": count, "invalidFiles": [{ "path": "a.md", "line": 2, "message": "unknown key" }],
                },
            }))
            .unwrap()
        };
        let texts = |lines: Vec<Line>| lines.into_iter().map(|line| line.text).collect::<Vec<_>>();
        let first = texts(follower.queue(&queue(31)));
        assert_eq!(first.len(), 2, "{first:?}");
        assert!(first[1].starts_with("and 30 more"), "{first:?}");
        assert!(texts(follower.queue(&queue(31))).is_empty(), "said once");
        assert_eq!(texts(follower.queue(&queue(32))).len(), 1);
        assert!(texts(follower.queue(&queue(1))).is_empty());
    }
}
