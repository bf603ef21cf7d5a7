//! Prints what happens to tasks while it happens.

use std::collections::HashMap;
use std::io::Write;
use std::time::Instant;

use kube::ResourceExt;
use schemas::agentic_task::{AgenticTask, Phase, TaskKind};
use schemas::shared::Verdict;
use schemas::{Workload, labels};
use serde_json::Value;

use crate::table::plain;

/// Prints each change of a task or Workload once.
pub struct Follower {
    started: Instant,
    tasks: HashMap<String, (Phase, Option<Verdict>, String)>,
    workloads: HashMap<String, String>,
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            tasks: HashMap::new(),
            workloads: HashMap::new(),
        }
    }
}

impl Follower {
    /// Takes a task as it is now.
    pub fn task(&mut self, task: &AgenticTask) {
        let status = task.status.clone().unwrap_or_default();
        let phase = status.phase.unwrap_or_default();
        let waiting = status
            .waiting
            .as_ref()
            .map(|waiting| waiting.reason.clone())
            .filter(|_| phase == Phase::Pending);
        let now = (phase, status.verdict, waiting.clone().unwrap_or_default());
        let key = task.uid().unwrap_or_default();
        if self.tasks.get(&key) == Some(&now) {
            return;
        }
        let first = self.tasks.insert(key, now).is_none();
        if first && phase == Phase::Pending && waiting.is_none() || phase == Phase::Scheduled {
            return;
        }
        if task.spec.kind == TaskKind::Verify && phase == Phase::Running {
            return;
        }
        self.say(&subject(task), &describe(task));
    }

    /// Takes a Workload as it is now.
    pub fn workload(&mut self, workload: &Workload) {
        let status = workload.status.clone().unwrap_or_default();
        let Some(phase) = status.phase.filter(|phase| phase.is_terminal()) else {
            return;
        };
        let mut text = format!("{} after round {}", phase.as_str(), status.round.unwrap_or(1));
        if let Some(verdict) = status.verdict {
            text.push_str(&format!(": {verdict}"));
        }
        if let Some(reason) = status.failure_reason {
            text.push_str(&format!(" ({})", reason.as_str()));
        }
        let key = format!("{}/{}", workload.uid().unwrap_or_default(), status.run.unwrap_or(1));
        if self.workloads.get(&key) == Some(&text) {
            return;
        }
        self.workloads.insert(key, text.clone());
        self.say(&title(workload), &format!("== {text}"));
    }

    /// Prints a line with the time since the start.
    pub fn say(&self, subject: &str, text: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        println!("{seconds:>6.1}s  {subject:<34} {}", plain(text));
        let _ = std::io::stdout().flush();
    }
}

/// Returns the short name of a Workload: its file's stem, else its name.
pub fn title(workload: &Workload) -> String {
    let path = workload.annotations().get(labels::SOURCE_PATH);
    let stem = path
        .and_then(|path| path.rsplit('/').next())
        .and_then(|file| file.rsplit_once('.'))
        .map(|(stem, _)| stem.to_owned());
    stem.unwrap_or_else(|| workload.name_any())
}

fn subject(task: &AgenticTask) -> String {
    let whole = task
        .labels()
        .get(labels::WORKLOAD)
        .cloned()
        .unwrap_or_else(|| task.name_any());
    let short = whole
        .rsplit_once('-')
        .filter(|(_, hash)| hash.len() == 8)
        .map_or(whole.as_str(), |(stem, _)| stem);
    format!("{short} #{}", task.spec.round.unwrap_or(1))
}

fn describe(task: &AgenticTask) -> String {
    let status = task.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let step = match task.spec.kind {
        TaskKind::IssueFix | TaskKind::Freeform => "coder",
        TaskKind::Verify => "gate",
        other => other.as_str(),
    };
    match phase {
        Phase::Pending => match status.waiting {
            Some(waiting) => format!("{step} waits: {}", waiting.reason),
            None => format!("{step} goes back to the queue"),
        },
        Phase::Running => format!("{step} runs on {}", status.assigned_node.unwrap_or_default()),
        Phase::Verifying => "gate Job runs".into(),
        Phase::Scheduled => format!("{step} has a node"),
        Phase::Succeeded | Phase::Failed => {
            let verdict = status.verdict.map(|verdict| format!(" {verdict}")).unwrap_or_default();
            let reason = status
                .failure_reason
                .map(|reason| format!(" {}", reason.as_str()))
                .unwrap_or_default();
            let summary = status
                .result
                .as_ref()
                .and_then(|result| result.get("summary"))
                .and_then(Value::as_str)
                .unwrap_or_default();
            format!("{step}{verdict}{reason}: {summary}")
        }
    }
}

/// Follows the tasks and Workloads of a namespace, or those of one Workload, until `done` says so or the time is over.
pub async fn until(
    client: &kube::Client,
    namespace: &str,
    only: Option<&str>,
    limit: std::time::Duration,
    mut done: impl FnMut(&HashMap<String, Workload>) -> bool,
) -> anyhow::Result<HashMap<String, Workload>> {
    use futures::StreamExt;
    use kube::api::Api;
    use kube::runtime::{WatchStreamExt, watcher};
    let mut follower = Follower::default();
    let mut seen: HashMap<String, Workload> = HashMap::new();
    let tasks: Api<AgenticTask> = Api::namespaced(client.clone(), namespace);
    let workloads: Api<Workload> = Api::namespaced(client.clone(), namespace);
    let mut of_tasks = watcher::Config::default();
    let mut of_workloads = watcher::Config::default();
    if let Some(name) = only {
        of_tasks = of_tasks.labels(&format!("{}={name}", labels::WORKLOAD));
        of_workloads = of_workloads.fields(&format!("metadata.name={name}"));
    }
    let mut tasks = watcher(tasks, of_tasks).default_backoff().applied_objects().boxed();
    let mut workloads = watcher(workloads, of_workloads)
        .default_backoff()
        .applied_objects()
        .boxed();
    let end = tokio::time::sleep(limit);
    tokio::pin!(end);
    loop {
        tokio::select! {
            Some(task) = tasks.next() => match task {
                Ok(task) => follower.task(&task),
                Err(error) => tracing::debug!(%error, "the watch on tasks broke off"),
            },
            Some(workload) = workloads.next() => match workload {
                Ok(workload) => {
                    follower.workload(&workload);
                    seen.insert(workload.name_any(), workload);
                    if done(&seen) {
                        return Ok(seen);
                    }
                }
                Err(error) => tracing::debug!(%error, "the watch on workloads broke off"),
            },
            () = &mut end => anyhow::bail!("gave up after {} s; `foreman show` tells how far each task came", limit.as_secs()),
        }
    }
}
