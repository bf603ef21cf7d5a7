//! What a line says: one text for each state of a queue, a task or a Workload.

use kube::ResourceExt;
use schemas::agentic_task::{AgenticTask, AgenticTaskStatus, Phase, TaskKind};
use schemas::task_queue::{InvalidFile, TaskQueueStatus};
use schemas::{Workload, labels};
use serde_json::Value;

/// Says whether a pending task waits only for tasks that are still on their way, as every gate does for its coder.
pub fn waits_for_sibling(task: &AgenticTask, phase_of: impl Fn(&str) -> Option<Phase>) -> bool {
    let namespace = task.namespace().unwrap_or_default();
    task.labels().contains_key(labels::WORKLOAD)
        && task.spec.depends_on.iter().any(|dependency| {
            let name = dependency.resolve(&namespace).ok();
            name.is_some_and(|name| phase_of(name).is_none_or(|phase| !phase.is_terminal()))
        })
}

/// Says how a Workload ended.
pub fn end_of(workload: &Workload) -> String {
    let status = workload.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let mut text = format!("== {} after round {}", phase.as_str(), status.round.unwrap_or(1));
    if let Some(verdict) = status.verdict {
        text.push_str(&format!(": {verdict}"));
    }
    if let Some(reason) = status.failure_reason {
        text.push_str(&format!(" ({})", reason.as_str()));
    }
    if let (Some(branch), Some(head)) = (&status.branch, &status.head_sha) {
        text.push_str(&format!(", branch {branch} at {}", &head[..head.len().min(12)]));
    }
    text
}

/// Says what a queue read.
pub fn fetched(status: &TaskQueueStatus) -> String {
    let revision = status.observed_revision.as_deref().unwrap_or("no revision yet");
    let revision = match revision.split_once("@sha1:") {
        Some((branch, sha)) => format!("{branch} at {}", sha.get(..12).unwrap_or(sha)),
        None => revision.to_owned(),
    };
    let files = status.files.unwrap_or(0);
    let files = format!("{files} task file{}", if files == 1 { "" } else { "s" });
    match status.invalid_file_count.unwrap_or(0) {
        0 => format!("{revision}, {files}"),
        invalid => format!("{revision}, {files}, {invalid} invalid"),
    }
}

/// Says how many invalid files there are beside those that the status names.
pub fn unnamed(status: &TaskQueueStatus) -> Option<String> {
    let named = status.invalid_files.iter().flatten().count() as i64;
    let more = status.invalid_file_count.unwrap_or(0) - named;
    (more > 0).then(|| format!("and {more} more that cannot be used; `foreman validate` names them all"))
}

/// Says where in a file something is wrong, and what.
pub fn place(file: &InvalidFile) -> String {
    match (file.line, file.column) {
        (Some(line), Some(column)) => format!(":{line}:{column}: {}", file.message),
        (Some(line), None) => format!(":{line}: {}", file.message),
        _ => format!(": {}", file.message),
    }
}

/// Returns the short name of a Workload: its file's stem, else its name.
pub fn title(workload: &Workload) -> String {
    let path = workload.annotations().get(labels::SOURCE_PATH);
    let stem = path
        .and_then(|path| path.rsplit('/').next())
        .and_then(|file| file.rsplit_once('.'))
        .map(|(stem, _)| stem.to_owned());
    stem.unwrap_or_else(|| without_hash(&workload.name_any()).to_owned())
}

/// Drops the hash that makes a name unlike all others.
pub fn without_hash(name: &str) -> &str {
    name.rsplit_once('-')
        .filter(|(_, hash)| hash.len() == 8 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))
        .map_or(name, |(stem, _)| stem)
}

/// Says what holds up a task that is worked on: a model server that does not answer, a gate's Pod that finds no node.
pub fn held_up(status: &AgenticTaskStatus) -> Option<&str> {
    let condition = match status.phase? {
        Phase::Running => "ModelReachable",
        Phase::Verifying => "GateScheduled",
        _ => return None,
    };
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|found| found.type_ == condition && found.status == "False")?;
    Some(&found.message)
}

/// Says what a task does or how it ended.
pub fn describe(task: &AgenticTask) -> String {
    let status = task.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let step = match task.spec.kind {
        TaskKind::Freeform if task.spec.agent_ref.is_none() => "task",
        TaskKind::IssueFix | TaskKind::Freeform => "coder",
        TaskKind::Verify => "gate",
        other => other.as_str(),
    };
    match phase {
        Phase::Pending => match status.waiting {
            Some(waiting) => format!("{step} waits: {}", waiting.reason),
            None => format!("{step} goes back to the queue"),
        },
        Phase::Running => match held_up(&status) {
            Some(why) => format!("{step} waits for its model: {why}"),
            None => format!("{step} runs on {}", status.assigned_node.unwrap_or_default()),
        },
        Phase::Verifying => match held_up(&status) {
            Some(why) => format!("gate Job waits for a node: {why}"),
            None => "gate Job runs".into(),
        },
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
