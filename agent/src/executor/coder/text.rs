//! What a coder is told: the task's text, the feedback of the round before, and facts of the repository.

use gate::pinned::Pinned;
use git::EntryKind;
use schemas::AgenticTask;
use schemas::agentic_task::FailureReason;
use schemas::shared::Verdict;

use super::ground::Ground;
use crate::coder::{Facts, Feedback, TaskText};
use crate::executor::{Run, source};
use crate::outcome::Outcome;
use crate::tools::fetch::{Briefing, Subject};

/// Bytes of the repository's own guidelines that reach the prompt.
const GUIDELINES_BYTES: u64 = 8 * 1024;

pub(super) async fn text(run: &Run, ground: &Ground) -> Result<TaskText, Outcome> {
    let payload = &run.task.spec.payload;
    let given = payload.prompt.clone().filter(|prompt| !prompt.trim().is_empty());
    let text = match (given, &ground.workload) {
        (Some(prompt), _) => prompt,
        (None, Some(workload)) => match &workload.spec.title {
            Some(title) if !workload.spec.intent.contains(title.as_str()) => {
                format!("{title}\n\n{}", workload.spec.intent)
            }
            _ => workload.spec.intent.clone(),
        },
        (None, None) if payload.issue.is_some() => {
            return Err(Outcome::failed(
                FailureReason::NotSupportedYet,
                "payload.issue without payload.prompt needs a forge, which is not supported yet; set payload.prompt",
            ));
        }
        (None, None) => {
            return Err(Outcome::failed(
                FailureReason::ModelMisunderstood,
                "the task has no text: set payload.prompt",
            ));
        }
    };
    let feedback = match &run.task.spec.feedback_from {
        Some(name) => source::task(run, name).await?.and_then(|earlier| feedback(&earlier)),
        None => None,
    };
    let (base, start, url) = (ground.base, ground.start, ground.url.clone());
    let (top_level, guidelines) = ground
        .git
        .read(&url, move |repository| {
            let names = repository.tree_entries(start, "", false)?.unwrap_or_default();
            let names: Vec<String> = names
                .into_iter()
                .take(200)
                .map(|entry| entry.path.to_string())
                .collect();
            let guide = repository.read_file(base, "AGENTS.md", GUIDELINES_BYTES).ok().flatten();
            let guide = guide.filter(|(kind, _)| matches!(kind, EntryKind::File | EntryKind::Exec));
            Ok((
                names,
                guide
                    .map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
                    .unwrap_or_default(),
            ))
        })
        .await
        .map_err(|error| source::clone_failed(&error))?;
    let advisories = payload.gate_advisories.iter().flatten().map(|advisory| {
        format!(
            "- {}: {}\n",
            advisory.check.as_deref().unwrap_or("gate"),
            advisory.detail.as_deref().unwrap_or_default()
        )
    });
    let advisories: String = advisories.collect();
    let text = if advisories.is_empty() {
        text
    } else {
        format!("{text}\n\nThe gate remarked earlier:\n{advisories}")
    };
    Ok(TaskText {
        stem: ground.stem.clone(),
        round: ground.round,
        prefix: payload.prompt_prefix.clone().unwrap_or_default(),
        text,
        feedback,
        facts: Facts {
            repository: ground.url.to_string(),
            base_branch: source::base_branch(&run.task),
            language: String::new(),
            top_level,
            checks: ground
                .gate
                .iter()
                .flat_map(|gate| &gate.steps)
                .map(|step| step.command.clone())
                .collect(),
            protected: protected(ground),
            guidelines,
        },
    })
}

/// Names what the work may not change: paths, and parts of manifests beside whose rest they stand.
fn protected(ground: &Ground) -> Vec<String> {
    let of_manifest = |pinned: &Pinned| {
        let file = pinned.file.trim_start_matches('/');
        format!("{} in {file}", pinned.parts.join(", "))
    };
    let rules = ground.protected().into_iter();
    rules.chain(ground.pinned().iter().map(of_manifest)).collect()
}

fn feedback(earlier: &AgenticTask) -> Option<Feedback> {
    let status = earlier.status.as_ref()?;
    let result = status.result.as_ref()?;
    let extra = |key: &str| {
        result
            .get("extra")
            .and_then(|extra| extra.get(key))
            .and_then(|value| value.as_str())
            .unwrap_or_default()
    };
    match status.verdict? {
        Verdict::GateFail => Some(Feedback::Gate {
            step: extra("firstFailingStep").to_owned(),
            log_tail: extra("logTail").to_owned(),
        }),
        Verdict::NoGo => {
            let summary = result
                .get("summary")
                .and_then(|value| value.as_str())
                .unwrap_or_default();
            Some(Feedback::Review {
                findings: summary.to_owned(),
            })
        }
        _ => None,
    }
}

pub(super) fn briefing(run: &Run, text: &TaskText) -> Briefing {
    let payload = &run.task.spec.payload;
    let issue = payload.issue.map(|number| Subject {
        repo: payload.repo.clone().unwrap_or_default(),
        number: number.max(0) as u64,
        text: text.text.clone(),
    });
    Briefing {
        issue,
        pull_request: None,
    }
}
