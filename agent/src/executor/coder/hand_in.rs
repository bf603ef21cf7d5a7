//! The end of a coder's work: commit, protected paths, push, and what is said of it.

use gate::pinned::MANIFEST_MAX;
use gate::protected::Protected;
use gate::touched::touched;
use git::{CommitLimits, Fitting, Identity, WorkTree};
use schemas::agentic_task::FailureReason;
use schemas::shared::{DiffStat, Usage, Verdict};
use serde_json::json;

use super::ground::Ground;
use super::push::{identity, push};
use crate::coder::{self as machine, End};
use crate::daemon::claim;
use crate::executor::Run;
use crate::outcome::{Outcome, shorten};

/// Bytes of a diff that are kept as evidence.
const DIFF_BYTES: usize = 4 << 20;

pub(super) async fn hand_in(run: &Run, ground: &Ground, work_tree: &WorkTree, end: End) -> Result<Outcome, Outcome> {
    let mut outcome = outcome_of(&end);
    if end.is_cancelled() {
        return Ok(outcome);
    }
    let message = git::compose_message(&message(ground, &end), Some(&ground.claim), sign_off(run).as_ref());
    let (tree, start, cancel) = (work_tree.clone(), ground.start, run.cancel.clone());
    let (author, committer) = (identity(run, false), identity(run, true));
    let made = ground.git.run(move |_| {
        let limits = CommitLimits::default();
        tree.commit_fitting(start, &message, &author, &committer, &limits, &|| cancel.is_cancelled())
    });
    let made = match made.await {
        Ok(made) => made,
        Err(_) if run.cancel.is_cancelled() => return Ok(cancelled(outcome)),
        Err(error) => {
            let reason = FailureReason::InfrastructureError;
            return Err(Outcome::failed(reason, format!("failed to commit: {error}")));
        }
    };
    tell_left_out(&mut outcome, &made);
    let Some(commit) = made.commit else {
        if outcome.verdict == Some(Verdict::Go) && ground.start == ground.base {
            outcome.extra("outcome", json!("EMPTY-DIFF"));
        }
        if ground.start != ground.base {
            // The marker has the files of the start, and the branch is at it. To put the start back would let an earlier
            // claim, which expects the branch there, push once more.
            outcome.head_sha = Some(ground.marker.unwrap_or(ground.start).to_string());
        }
        return Ok(outcome);
    };
    let protected = Protected::new(ground.protected().iter().map(String::as_str))
        .map_err(|error| Outcome::failed(FailureReason::GateError, error.to_string()))?;
    let (base, pinned, repository) = (ground.base, ground.pinned(), work_tree.repository().clone());
    let (touched, diff) = ground
        .git
        .run(move |_| {
            let changes = repository.changed_paths(Some(base), Some(commit), "")?;
            let read = |blob| repository.read_blob(blob, MANIFEST_MAX as u64);
            let touched = touched(&changes, &protected, &pinned, &read)?;
            Ok((touched, repository.diff(Some(base), commit, DIFF_BYTES)?))
        })
        .await
        .map_err(|error| {
            Outcome::failed(
                FailureReason::InfrastructureError,
                format!("failed to compare with the base: {error}"),
            )
        })?;
    let _ = run.spool.write("diff", diff.text.as_bytes());
    outcome.diff_stat = Some(DiffStat {
        files: diff.files.len() as i64,
        insertions: diff.insertions as i64,
        deletions: diff.deletions as i64,
    });
    if !touched.is_empty() {
        let paths: Vec<&str> = touched.iter().map(|touched| touched.what.as_str()).collect();
        outcome.verdict = Some(Verdict::Incomplete);
        outcome.failure = Some(FailureReason::ConstraintViolated);
        outcome.summary = shorten(
            &format!(
                "refused before the push: the change touches protected paths: {}",
                paths.join(", ")
            ),
            280,
        );
        outcome.extra("refused", json!(paths.iter().take(20).collect::<Vec<_>>()));
        return Ok(outcome);
    }
    if outcome.verdict == Some(Verdict::NoGo) {
        return Ok(outcome);
    }
    if run.cancel.is_cancelled() {
        return Ok(cancelled(outcome));
    }
    // Fencing holds off what a later claim outlives; a task that was deleted or ended meanwhile has none.
    if claim::is_lost(&run.services.client, &run.held).await {
        run.cancel.cancel();
        outcome.verdict = Some(Verdict::Incomplete);
        outcome.failure = Some(FailureReason::LostClaims);
        outcome.summary = "the claim was lost before the push; nothing was pushed".into();
        return Ok(outcome);
    }
    match push(ground, work_tree.repository(), commit, &run.cancel).await {
        Ok(()) => {
            outcome.head_sha = Some(commit.to_string());
            Ok(outcome)
        }
        Err(rejected) => Err(Outcome {
            verdict: Some(Verdict::Incomplete),
            failure: rejected.failure,
            summary: rejected.summary,
            ..outcome
        }),
    }
}

fn cancelled(mut outcome: Outcome) -> Outcome {
    outcome.verdict = Some(Verdict::Incomplete);
    outcome.summary = "the run was cancelled before its push".into();
    outcome
}

/// Says what of the work no commit may hold: the rest is kept, and nothing goes missing unsaid.
fn tell_left_out(outcome: &mut Outcome, made: &Fitting) {
    let Some(first) = made.left_out.first() else { return };
    let named = made.left_out.iter().take(20);
    let named: Vec<String> = named.map(|left_out| shorten(&left_out.to_string(), 200)).collect();
    outcome.extra("leftOut", json!({ "count": made.left_out_count, "paths": named }));
    let note = match made.left_out_count - 1 {
        0 => format!("Left out of the commit: {first}"),
        more => format!("Left out of the commit: {first}; and {more} more"),
    };
    let note = shorten(&note, 160);
    let own = shorten(&outcome.summary, 280 - 1 - note.chars().count());
    outcome.summary = format!("{own} {note}").trim_start().to_owned();
}

fn sign_off(run: &Run) -> Option<Identity> {
    run.services.config.identities.sign_off.then(|| identity(run, true))
}

fn message(ground: &Ground, end: &End) -> String {
    let own = end.commit_message.trim();
    if !own.is_empty() {
        return own.to_owned();
    }
    let title = ground
        .workload
        .as_ref()
        .and_then(|workload| workload.spec.title.clone());
    match end.verdict {
        machine::Verdict::Go => title.unwrap_or_else(|| end.summary.clone()),
        _ => format!("Unfinished: {}", title.unwrap_or_else(|| ground.stem.clone())),
    }
}

fn outcome_of(end: &End) -> Outcome {
    let verdict = match end.verdict {
        machine::Verdict::Go => Verdict::Go,
        machine::Verdict::NoGo => Verdict::NoGo,
        machine::Verdict::Incomplete => Verdict::Incomplete,
    };
    let mut outcome = Outcome::ended(verdict, end.summary.clone());
    outcome.failure = end
        .failure_reason
        .and_then(|reason| serde_json::from_value(json!(reason.as_str())).ok());
    if end.failure_reason.is_some() && outcome.failure.is_none() {
        outcome.failure = Some(FailureReason::InfrastructureError);
    }
    outcome.replay = end.replay;
    outcome.usage = Some(Usage {
        prompt_tokens: end.usage.prompt as i64,
        cached_prompt_tokens: end.usage.cached as i64,
        completion_tokens: end.usage.completion as i64,
        turns: i64::from(end.turns),
        tool_calls: i64::from(end.tool_calls),
        estimated: end.usage.estimated,
    });
    outcome.result.insert("extra".into(), json!(end.extra));
    outcome.extra("ending", json!(end.ending));
    outcome
}

#[cfg(test)]
mod tests;
