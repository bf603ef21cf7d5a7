//! What is said of a run that ended: its status, its evidence, or its claim given back.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use schemas::agentic_task::FailureReason;
use schemas::{AgenticTask, labels};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::claim::{self, Written};
use super::desk::{Running, Stop};
use crate::evidence::Spool;
use crate::executor::Services;
use crate::outcome::Outcome;
use crate::patience::answered;

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
        return;
    }
    let Some(mut outcome) = settle(stop, outcome, running.limit) else {
        match claim::patch_status(&services.client, held, claim::build_release()).await {
            Ok(_) => tracing::info!(task = held.name, "gave the claim back"),
            Err(error) => tracing::warn!(%error, task = held.name, "failed to give the claim back"),
        }
        return;
    };
    if let Some(spool) = spool {
        let (stored, error) = spool.send_all().await;
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
    // The end is written even of a run that was cancelled: nothing but an answer ends this.
    let always = CancellationToken::new();
    if stop == Some(Stop::Cancelled) {
        let api: &Api<AgenticTask> = &Api::namespaced(client.clone(), &held.namespace);
        if let Ok(Some(task)) = answered(&always, &held.name, |_| api.get_opt(&held.name)).await {
            status["handledCancel"] = json!(task.annotations().get(labels::CANCEL));
        }
    }
    let status = &status;
    let written = answered(&always, &held.name, |_| {
        claim::patch_status(client, held, status.clone())
    });
    match written.await {
        Ok(Written::Done(_)) => {
            let seconds = Timestamp::now().duration_since(started).as_secs_f64();
            services.probes.metrics.count_end(running.kind, &outcome, seconds);
            tracing::info!(task = held.name, verdict = ?outcome.verdict, failure = ?outcome.failure, "ended: {}", outcome.summary);
            if let Some(spool) = spool.filter(|_| outcome.evidence_error.is_none()) {
                spool.remove();
            }
        }
        Ok(Written::Lost) => tracing::info!(
            task = held.name,
            "the claim was lost before its end could be written; nothing is written"
        ),
        Err(error) => tracing::error!(%error, task = held.name, "the end of the task was refused"),
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
    use serde_json::Value;

    use super::*;
    use crate::executor::sample;

    /// An API of one task that is away for its first answers, and what was last written to the status.
    struct Kept {
        away: u32,
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
        if method == Method::PATCH {
            kept.written = serde_json::from_slice::<Value>(&body).unwrap()["status"].take();
        }
        Json(kept.task.clone()).into_response()
    }

    #[tokio::test]
    async fn an_end_is_written_whole_once_the_api_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let held = claim::Held::sample(1);
        let mut task = sample::task(&held);
        task.annotations_mut().insert(labels::CANCEL.into(), "c1".into());
        let written = Value::Null;
        let kept = Arc::new(Mutex::new(Kept { away: 2, task, written }));
        let app = axum::Router::new().fallback(serve).with_state(kept.clone());
        let run = sample::run(folder.path(), kube::Client::new(app, "default"), held.clone());
        let running = Running {
            held,
            cancel: CancellationToken::new(),
            stop: Arc::default(),
            kind: TaskKind::IssueFix,
            limit: Duration::from_secs(60),
        };
        running.end(Stop::Cancelled);
        let outcome = Outcome::ended(Verdict::Go, "done");
        finish(&run.services, &running, None, outcome, Timestamp::now()).await;
        let written = &kept.lock().unwrap().written;
        assert_eq!(
            (&written["phase"], &written["failureReason"], &written["handledCancel"]),
            (&json!("Failed"), &json!("Cancelled"), &json!("c1"))
        );
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
