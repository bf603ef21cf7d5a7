//! `foreman show`: one task's timeline.

use anyhow::Result;
use jiff::Timestamp;
use kube::ResourceExt;
use schemas::agentic_task::{AgenticTask, Phase};
use schemas::shared::{DiffStat, Usage};
use schemas::{Workload, labels};
use serde_json::{Value, json};

use crate::cli::{ReportFormat, ShowArgs};
use crate::connect::Connection;
use crate::follow::waits_for_sibling;
use crate::table::{count, plain, span};
use crate::target::{Target, find, tasks_of};

/// Shows what happened to a task.
pub async fn run(connection: &Connection, args: &ShowArgs) -> Result<()> {
    let target = find(connection, &args.task).await?;
    let (workload, tasks) = match target {
        Target::Workload(workload) => {
            let tasks = tasks_of(connection, &workload).await?;
            (Some(*workload), tasks)
        }
        Target::Task(task) => (None, vec![*task]),
    };
    match args.output {
        ReportFormat::Text => print!("{}", render(workload.as_ref(), &tasks, Timestamp::now())),
        ReportFormat::Json => {
            let report = json!({ "workload": workload, "tasks": tasks });
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
    }
    Ok(())
}

/// Renders the timeline.
pub fn render(workload: Option<&Workload>, tasks: &[AgenticTask], now: Timestamp) -> String {
    let mut lines = Vec::new();
    if let Some(workload) = workload {
        head(workload, &mut lines);
    }
    let mut at = None;
    for task in tasks {
        let here = (task.spec.run.unwrap_or(1), task.spec.round.unwrap_or(1));
        if workload.is_some() && at != Some(here) {
            at = Some(here);
            lines.push(String::new());
            lines.push(format!("run {}, round {}", here.0, here.1));
        }
        task_lines(task, tasks, now, &mut lines);
    }
    if workload.is_some() && tasks.is_empty() {
        lines.push("  no tasks yet".into());
    }
    lines.push(String::new());
    lines.join("\n")
}

fn field(name: &str, value: impl std::fmt::Display) -> String {
    format!("{name:<10} {}", plain(&value.to_string()))
}

fn head(workload: &Workload, lines: &mut Vec<String>) {
    let status = workload.status.clone().unwrap_or_default();
    lines.push(field("workload", workload.name_any()));
    let mut push = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            lines.push(field(name, value));
        }
    };
    push("title", workload.spec.title.clone());
    push("file", workload.annotations().get(labels::SOURCE_PATH).cloned());
    push("repo", workload.spec.repo.as_deref().map(git::redact));
    let outcome = match (status.phase, status.verdict) {
        (Some(phase), Some(verdict)) => format!("{} {verdict}", phase.as_str()),
        (Some(phase), None) => phase.as_str().to_owned(),
        (None, _) => "not looked at yet".to_owned(),
    };
    push("outcome", Some(outcome));
    push("reason", status.failure_reason.map(|reason| reason.as_str()));
    push("message", status.message);
    push("branch", status.branch);
    push("head", status.head_sha);
    push("base", status.base_sha);
    push(
        "gate",
        status.gate_digest.map(|digest| format!("definition sha256:{digest}")),
    );
    push("diff", status.diff_stat.as_ref().map(diff));
    push("tokens", status.usage.as_ref().map(usage));
    push("reported", status.reported);
    for condition in status.conditions.iter().flatten() {
        let good = matches!(condition.type_.as_str(), "Ready" | "Complete" | "Succeeded");
        if condition.status == "True" && !good && !condition.message.is_empty() {
            lines.push(field(&condition.type_.to_lowercase(), &condition.message));
        }
    }
}

fn diff(stat: &DiffStat) -> String {
    format!(
        "{}, +{} -{}",
        count(stat.files, "file", "files"),
        stat.insertions,
        stat.deletions
    )
}

fn usage(usage: &Usage) -> String {
    format!(
        "{}{} in ({} cached), {} out, {}, {}",
        if usage.estimated { "about " } else { "" },
        usage.prompt_tokens,
        usage.cached_prompt_tokens,
        usage.completion_tokens,
        count(usage.turns, "turn", "turns"),
        count(usage.tool_calls, "tool call", "tool calls")
    )
}

fn task_lines(task: &AgenticTask, all: &[AgenticTask], now: Timestamp, lines: &mut Vec<String>) {
    let status = task.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    let took = status.started_at.as_ref().map(|started| {
        let end = status.finished_at.as_ref().map_or(now, |finished| finished.0);
        span(end.duration_since(started.0).as_secs())
    });
    let mut line = format!("  {:<9} {:<11}", task.spec.kind.as_str(), phase.as_str());
    if let Some(verdict) = status.verdict {
        line.push_str(&format!(" {verdict}"));
    }
    if let Some(reason) = status.failure_reason {
        line.push_str(&format!(" {}", reason.as_str()));
    }
    if let Some(took) = took {
        line.push_str(&format!("  {took}"));
    }
    line.push_str(&format!("  {}", task.name_any()));
    if let Some(node) = &status.assigned_node {
        line.push_str(&format!(" on {}", plain(node)));
    }
    if let Some(epoch) = status.epoch.filter(|epoch| *epoch > 0) {
        line.push_str(&format!(", epoch {epoch}"));
    }
    lines.push(line);
    let mut detail = |text: String| lines.push(format!("      {}", plain(&text)));
    let phase_of = |name: &str| {
        let found = all.iter().find(|other| other.name_any() == name);
        found.map(|found| {
            found
                .status
                .as_ref()
                .and_then(|status| status.phase)
                .unwrap_or_default()
        })
    };
    let by_order = waits_for_sibling(task, phase_of);
    if let Some(waiting) = status.waiting.filter(|_| phase == Phase::Pending && !by_order) {
        match waiting.place {
            Some(place) => detail(format!("waits at place {place}: {}", waiting.reason)),
            None => detail(format!("waits: {}", waiting.reason)),
        }
    }
    let result = status.result.unwrap_or_default();
    if let Some(summary) = result
        .get("summary")
        .and_then(Value::as_str)
        .filter(|summary| !summary.is_empty())
    {
        detail(summary.to_owned());
    }
    if status.replay == Some(true) {
        detail("a recorded session was replayed; no model was asked".into());
    }
    if let Some(lost) = status.lost_claims.filter(|lost| *lost > 0) {
        detail(format!(
            "{} lost to agents that went away",
            count(lost, "claim", "claims")
        ));
    }
    if let Some(tries) = status.gate_tries.filter(|tries| *tries > 0) {
        detail(format!(
            "{} of the gate ended in GATE-ERROR",
            count(tries, "try", "tries")
        ));
    }
    if let Some(sha) = &status.commit_sha {
        detail(match &status.diff_stat {
            Some(stat) => format!("commit {sha} ({})", diff(stat)),
            None => format!("commit {sha}"),
        });
    }
    if let Some(used) = &status.usage {
        detail(format!("tokens {}", usage(used)));
    }
    let failing = result
        .get("extra")
        .and_then(|extra| extra.get("firstFailingStep"))
        .and_then(Value::as_str);
    if let Some(step) = failing {
        detail(format!("first failing step: {step}"));
    }
    if status.verdict == Some(schemas::shared::Verdict::GateFail) {
        let tail = result
            .get("extra")
            .and_then(|extra| extra.get("logTail"))
            .and_then(Value::as_str)
            .unwrap_or("");
        let tail: Vec<&str> = tail.lines().collect();
        for line in tail.iter().skip(tail.len().saturating_sub(8)) {
            detail(format!("| {line}"));
        }
    }
    for evidence in status.evidence.iter().flatten() {
        detail(format!(
            "evidence {} ({} bytes): {}",
            evidence.name, evidence.bytes, evidence.url
        ));
    }
    if let Some(error) = &status.evidence_error {
        detail(format!("evidence is missing: {error}"));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::shared::Verdict;

    #[test]
    fn a_verdict_that_changes_changes_what_is_shown() {
        let mut task = AgenticTask::default();
        task.metadata.name = Some("fix-verify".into());
        let now = Timestamp::UNIX_EPOCH;
        let before = render(None, std::slice::from_ref(&task), now);
        task.status.get_or_insert_default().verdict = Some(Verdict::GateFail);
        task.status.as_mut().unwrap().result =
            json!({ "summary": "step test failed", "extra": { "logTail": "a\nassertion failed\u{1b}[31m", "firstFailingStep": "test" } })
                .as_object()
                .cloned();
        let after = render(None, std::slice::from_ref(&task), now);
        assert!(!before.contains("GATE-FAIL"));
        assert!(
            after.contains("GATE-FAIL") && after.contains("| assertion failed\n") && !after.contains("[31m"),
            "{after}"
        );
        assert!(after.contains("first failing step: test"));
    }
}
