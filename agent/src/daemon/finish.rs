//! What is said of a run that ended: its status, its evidence, or its claim given back.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use schemas::agentic_task::{FailureReason, Phase};
use schemas::phase::MAX_LOST_CLAIMS;
use schemas::{AgenticTask, labels};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::claim::{self, Written};
use super::desk::{Running, Stop};
use crate::evidence::{SEND_TIME, Spool};
use crate::executor::Services;
use crate::outcome::Outcome;
use crate::patience::{Unanswered, answered};

/// Turns what a cancelled run came to into what is said of it; `None` gives the claim back.
fn settle(stop: Option<Stop>, outcome: Outcome, limit: Duration) -> Option<Outcome> {
    let keep = |reason, summary: String| {
        let mut settled = Outcome::failed(reason, summary);
        settled.verdict = Some(schemas::shared::Verdict::Incomplete);
        Some(Outcome {
            failure: settled.failure,
            summary: settled.summary,
            verdict: settled.verdict,
            ..outcome.clone()
        })
    };
    match stop {
        None => Some(outcome),
        Some(Stop::Cancelled) => keep(FailureReason::Cancelled, "cancelled by request".into()),
        Some(Stop::Timeout) => keep(
            FailureReason::Timeout,
            format!("the wall time of {} s is spent", limit.as_secs()),
        ),
        Some(Stop::Shutdown | Stop::Lost) => None,
    }
}

/// How long after its limit a run may have sent its evidence: at two minutes the operator takes the claim for dead.
const LAST_WORD: Duration = Duration::from_secs(110);
/// What is left for evidence in any case.
const LEAST_SEND_TIME: Duration = Duration::from_secs(5);

/// Returns how long the evidence may take to be sent of a run that took so long.
fn time_to_send(limit: Duration, took: Duration) -> Duration {
    let left = limit.saturating_add(LAST_WORD).saturating_sub(took);
    left.clamp(LEAST_SEND_TIME, SEND_TIME)
}

/// Says whether a task ended by the very patch whose answer was lost.
fn ended_by(task: &AgenticTask, held: &claim::Held, patch: &Value) -> bool {
    let Some(status) = &task.status else { return false };
    task.uid().as_ref() == Some(&held.uid)
        && status.epoch == Some(held.claim.epoch)
        && status.phase.is_some_and(Phase::is_terminal)
        && json!(status.finished_at) == patch["finishedAt"]
        && json!(status.commit_sha) == patch["commitSHA"]
}

/// Writes the end of a task, also that of a run that was cancelled: nothing but an answer ends this.
async fn write_end(client: &kube::Client, held: &claim::Held, status: &Value) -> Result<Written, Unanswered> {
    let api: &Api<AgenticTask> = &Api::namespaced(client.clone(), &held.namespace);
    let always = CancellationToken::new();
    let written = answered(&always, &held.name, |number| async move {
        let written = claim::patch_status(client, held, status.clone()).await?;
        // The try before may have been carried out: then the claim is gone because the end stands.
        if number > 0 && matches!(written, Written::Lost) {
            let live = api.get_opt(&held.name).await?;
            if let Some(live) = live.filter(|live| ended_by(live, held, status)) {
                return Ok(Written::Done(Box::new(live)));
            }
        }
        Ok(written)
    });
    written.await
}

/// Turns the refusal of a task's end into an end of its own: with so little in it, it may be taken.
fn refused(error: &Unanswered) -> Outcome {
    let why = match error {
        Unanswered::Refused(kube::Error::Api(status)) if !status.message.is_empty() => status.message.clone(),
        error => error.to_string(),
    };
    let summary = format!("the API refused the end of the task: {why}");
    Outcome::failed(FailureReason::InfrastructureError, summary)
}

async fn give_back(client: &kube::Client, held: &claim::Held) {
    match claim::patch_status(client, held, claim::build_release()).await {
        Ok(_) => tracing::info!(task = held.name, "gave the claim back"),
        Err(error) => tracing::warn!(%error, task = held.name, "failed to give the claim back"),
    }
}

/// Removes what was to be stored of a run that nobody hears of.
fn forget(spool: Option<&Spool>) {
    if let Some(spool) = spool {
        spool.remove();
    }
}

pub(super) async fn finish(
    services: &Services,
    running: &Running,
    spool: Option<&Spool>,
    outcome: Outcome,
    started: Timestamp,
) {
    let held = &running.held;
    let stop = running.why();
    if stop == Some(Stop::Lost) {
        tracing::info!(
            task = held.name,
            epoch = held.claim.epoch,
            "the claim was lost; nothing is written"
        );
        return forget(spool);
    }
    let Some(mut outcome) = settle(stop, outcome, running.limit) else {
        give_back(&services.client, held).await;
        return forget(spool);
    };
    if let Some(spool) = spool {
        let took = Timestamp::now().duration_since(started);
        let limit = time_to_send(running.limit, took.try_into().unwrap_or_default());
        let (stored, error) = spool.send_all(limit).await;
        // A run in a Job has stored its own.
        outcome.evidence.extend(stored);
        let error = error.map(|error| crate::outcome::shorten(&error.to_string(), 500));
        outcome.evidence_error = outcome.evidence_error.or(error);
        if let Some(error) = &outcome.evidence_error {
            tracing::warn!(task = held.name, error, "evidence is missing");
        }
    }
    let mut status = claim::build_end(&outcome, started, Timestamp::now());
    let client = &services.client;
    if stop == Some(Stop::Cancelled) {
        let always = CancellationToken::new();
        let api: &Api<AgenticTask> = &Api::namespaced(client.clone(), &held.namespace);
        if let Ok(Some(task)) = answered(&always, &held.name, |_| api.get_opt(&held.name)).await {
            status["handledCancel"] = json!(task.annotations().get(labels::CANCEL));
        }
    }
    let sent = outcome.evidence_error.is_none();
    let mut written = write_end(client, held, &status).await;
    if let Err(error) = &written {
        tracing::error!(%error, task = held.name, "the end of the task was refused; ending it with nothing but that");
        outcome = refused(error);
        let handled = status.get("handledCancel").cloned();
        status = claim::build_end(&outcome, started, Timestamp::now());
        if let Some(handled) = handled {
            status["handledCancel"] = handled;
        }
        written = write_end(client, held, &status).await;
    }
    match written {
        Ok(Written::Done(_)) => {
            let seconds = Timestamp::now().duration_since(started).as_secs_f64();
            services.probes.metrics.count_end(running.kind, &outcome, seconds);
            tracing::info!(task = held.name, verdict = ?outcome.verdict, failure = ?outcome.failure, "ended: {}", outcome.summary);
            if sent {
                forget(spool);
            }
        }
        Ok(Written::Lost) => {
            tracing::info!(
                task = held.name,
                "the claim was lost before its end could be written; nothing is written"
            );
            forget(spool);
        }
        Err(error) => {
            tracing::error!(%error, task = held.name, "even the least end of the task was refused");
            // To give back counts for nothing: a task that cannot end is in the end left to be found dead, which does.
            if held.claim.epoch <= MAX_LOST_CLAIMS {
                give_back(client, held).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::{Arc, Mutex};

    use axum::Json;
    use axum::extract::{Request, State};
    use axum::http::{Method, StatusCode};
    use axum::response::IntoResponse;
    use schemas::agentic_task::TaskKind;
    use schemas::shared::Verdict;

    use super::*;
    use crate::executor::sample;

    /// An API of one task that is away for its first answers, and what was last written to the status.
    struct Kept {
        away: u32,
        /// Whether the answer to the first write is lost.
        loses: bool,
        /// How many writes are refused before any is taken.
        refuses: u32,
        task: AgenticTask,
        written: Value,
    }

    async fn serve(State(kept): State<Arc<Mutex<Kept>>>, request: Request) -> impl IntoResponse {
        let method = request.method().clone();
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let mut kept = kept.lock().unwrap();
        if kept.away > 0 {
            kept.away -= 1;
            return sample::failure(StatusCode::SERVICE_UNAVAILABLE);
        }
        if method == Method::PATCH && kept.refuses > 0 {
            kept.refuses -= 1;
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Invalid", "code": 422,
                "message": "status.failureReason:\n\u{1b}[31mUnsupported value",
            });
            return (StatusCode::UNPROCESSABLE_ENTITY, Json(status)).into_response();
        }
        if method == Method::PATCH {
            let written = serde_json::from_slice::<Value>(&body).unwrap()["status"].take();
            let mut task = json!(kept.task);
            for (name, value) in written.as_object().unwrap() {
                task["status"][name] = value.clone();
            }
            kept.task = serde_json::from_value(task).unwrap();
            kept.written = written;
            if std::mem::take(&mut kept.loses) {
                return sample::failure(StatusCode::GATEWAY_TIMEOUT);
            }
        }
        Json(kept.task.clone()).into_response()
    }

    fn kept(task: AgenticTask, away: u32, loses: bool) -> Arc<Mutex<Kept>> {
        Arc::new(Mutex::new(Kept {
            away,
            loses,
            refuses: 0,
            task,
            written: Value::Null,
        }))
    }

    fn client(kept: &Arc<Mutex<Kept>>) -> kube::Client {
        let app = axum::Router::new().fallback(serve).with_state(kept.clone());
        kube::Client::new(app, "default")
    }

    fn running(held: claim::Held) -> Running {
        Running {
            held,
            cancel: CancellationToken::new(),
            stop: Arc::default(),
            kind: TaskKind::IssueFix,
            limit: Duration::from_secs(60),
        }
    }

    /// Makes a spool that a store, which answers nobody, is to get.
    fn spool(folder: &std::path::Path, held: &claim::Held) -> Spool {
        Spool::open(folder, Some("http://127.0.0.1:1"), held, reqwest::Client::new()).unwrap()
    }

    #[tokio::test]
    async fn an_end_whose_answer_was_lost_is_this_runs_own() {
        let folder = tempfile::tempdir().unwrap();
        let held = claim::Held::sample(1);
        let kept = kept(sample::task(&held), 0, true);
        let run = sample::run(folder.path(), client(&kept), held.clone());
        let spool = spool(folder.path(), &held);
        let outcome = Outcome::ended(Verdict::Go, "done");
        finish(&run.services, &running(held), Some(&spool), outcome, Timestamp::now()).await;
        let ended = run.services.probes.metrics.render();
        assert!(ended.contains("foreman_agent_tasks_ended_total{"), "{ended}");
        assert!(
            !folder.path().join("u").exists(),
            "its spool was sent, and is not needed"
        );
    }

    #[test]
    fn only_the_very_end_counts_as_this_runs_own() {
        let held = claim::Held::sample(1);
        let now = Timestamp::now();
        let patch = claim::build_end(&Outcome::ended(Verdict::Go, "done"), now, now);
        let mut task = sample::task(&held);
        let mut status = json!(task.status);
        for (name, value) in patch.as_object().unwrap() {
            status[name] = value.clone();
        }
        task.status = serde_json::from_value(status).unwrap();
        assert!(ended_by(&task, &held, &patch));
        let other = |change: fn(&mut schemas::AgenticTaskStatus)| {
            let mut task = task.clone();
            change(task.status.as_mut().unwrap());
            ended_by(&task, &held, &patch)
        };
        assert!(!other(|status| status.epoch = Some(2)));
        assert!(!other(|status| status.phase = Some(Phase::Running)));
        assert!(!other(|status| status.commit_sha = Some("a".into())));
        assert!(!other(|status| status.finished_at = None));
    }

    #[tokio::test]
    async fn what_was_spooled_of_a_run_that_nobody_hears_of_is_removed() {
        for (stop, held_still) in [(Stop::Lost, true), (Stop::Shutdown, true), (Stop::Cancelled, false)] {
            let folder = tempfile::tempdir().unwrap();
            let held = claim::Held::sample(1);
            let mut task = sample::task(&held);
            if !held_still {
                task.status.as_mut().unwrap().claim = None;
            }
            let run = sample::run(folder.path(), client(&kept(task, 0, false)), held.clone());
            let spool = spool(folder.path(), &held);
            let running = running(held);
            running.end(stop);
            let outcome = Outcome::ended(Verdict::Go, "done");
            finish(&run.services, &running, Some(&spool), outcome, Timestamp::now()).await;
            assert!(!folder.path().join("u").exists(), "{stop:?}");
        }
    }

    #[test]
    fn evidence_is_sent_before_anybody_takes_the_claim_for_dead() {
        let seconds = Duration::from_secs;
        for (took, left) in [(10, 45), (125, 45), (150, 20), (170, 5), (1000, 5)] {
            assert_eq!(time_to_send(seconds(60), seconds(took)), seconds(left), "{took}");
        }
    }

    #[tokio::test]
    async fn an_end_is_written_whole_once_the_api_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let held = claim::Held::sample(1);
        let mut task = sample::task(&held);
        task.annotations_mut().insert(labels::CANCEL.into(), "c1".into());
        let kept = kept(task, 2, false);
        let run = sample::run(folder.path(), client(&kept), held.clone());
        let running = running(held);
        running.end(Stop::Cancelled);
        let outcome = Outcome::ended(Verdict::Go, "done");
        finish(&run.services, &running, None, outcome, Timestamp::now()).await;
        let written = &kept.lock().unwrap().written;
        assert_eq!(
            (&written["phase"], &written["failureReason"], &written["handledCancel"]),
            (&json!("Failed"), &json!("Cancelled"), &json!("c1"))
        );
    }

    /// Ends a run whose end is so often refused, and returns what was written and counted.
    async fn refusing(refuses: u32, epoch: i64, stop: Option<Stop>) -> (Value, String) {
        let folder = tempfile::tempdir().unwrap();
        let held = claim::Held::sample(epoch);
        let mut task = sample::task(&held);
        task.annotations_mut().insert(labels::CANCEL.into(), "c1".into());
        let kept = kept(task, 0, false);
        kept.lock().unwrap().refuses = refuses;
        let run = sample::run(folder.path(), client(&kept), held.clone());
        let running = running(held);
        if let Some(stop) = stop {
            running.end(stop);
        }
        let mut outcome = Outcome::ended(Verdict::Go, "done");
        outcome.head_sha = Some("a".repeat(40));
        finish(&run.services, &running, None, outcome, Timestamp::now()).await;
        let written = kept.lock().unwrap().written.clone();
        (written, run.services.probes.metrics.render())
    }

    #[tokio::test]
    async fn an_end_that_is_refused_makes_way_for_one_that_says_so() {
        let (written, counted) = refusing(1, 1, None).await;
        let summary = "the API refused the end of the task: status.failureReason: Unsupported value";
        assert_eq!(
            (&written["phase"], &written["failureReason"], &written["claim"]),
            (&json!("Failed"), &json!("InfrastructureError"), &Value::Null)
        );
        assert_eq!(
            (&written["result"]["summary"], &written["commitSHA"]),
            (&json!(summary), &Value::Null)
        );
        assert!(counted.contains("reason=\"InfrastructureError\""), "{counted}");
        let (written, _) = refusing(1, 1, Some(Stop::Cancelled)).await;
        assert_eq!(written["handledCancel"], "c1", "whoever asked for it hears of it");
    }

    #[tokio::test]
    async fn a_task_that_cannot_end_is_given_back_but_not_without_end() {
        for (epoch, left) in [
            (1, claim::build_release()),
            (3, claim::build_release()),
            (4, Value::Null),
        ] {
            assert_eq!(refusing(2, epoch, None).await.0, left, "{epoch}");
        }
    }

    #[test]
    fn a_cancelled_run_never_keeps_a_good_verdict() {
        for stop in [Stop::Cancelled, Stop::Timeout] {
            let outcome = settle(
                Some(stop),
                Outcome::ended(Verdict::GatePass, "ok"),
                Duration::from_secs(60),
            )
            .unwrap();
            assert_eq!(outcome.verdict, Some(Verdict::Incomplete));
            assert!(outcome.failure.is_some());
        }
        for stop in [Stop::Lost, Stop::Shutdown] {
            assert!(
                settle(
                    Some(stop),
                    Outcome::ended(Verdict::GatePass, "ok"),
                    Duration::from_secs(60)
                )
                .is_none()
            );
        }
    }
}
