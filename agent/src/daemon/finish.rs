//! What is said of a run that ended: its status, its evidence, or its claim given back.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use schemas::agentic_task::FailureReason;
use schemas::{AgenticTask, labels};
use serde_json::json;

use super::claim::{self, Written};
use super::desk::{Running, Stop};
use crate::evidence::Spool;
use crate::executor::Services;
use crate::outcome::Outcome;

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
    if stop == Some(Stop::Cancelled) {
        let api: Api<AgenticTask> = Api::namespaced(services.client.clone(), &held.namespace);
        if let Ok(Some(task)) = api.get_opt(&held.name).await {
            status["handledCancel"] = json!(task.annotations().get(labels::CANCEL));
        }
    }
    let mut pause = Duration::from_millis(100);
    loop {
        match claim::patch_status(&services.client, held, status.clone()).await {
            Ok(Written::Done(_)) => {
                let seconds = Timestamp::now().duration_since(started).as_secs_f64();
                services.probes.metrics.count_end(running.kind, &outcome, seconds);
                tracing::info!(task = held.name, verdict = ?outcome.verdict, failure = ?outcome.failure, "ended: {}", outcome.summary);
                if let Some(spool) = spool.filter(|_| outcome.evidence_error.is_none()) {
                    spool.remove();
                }
                return;
            }
            Ok(Written::Lost) => {
                tracing::info!(
                    task = held.name,
                    "the claim was lost before its end could be written; nothing is written"
                );
                return;
            }
            Err(kube::Error::Api(refused)) if (400..500).contains(&refused.code) && refused.code != 429 => {
                tracing::error!(
                    task = held.name,
                    error = refused.message,
                    "the end of the task was refused"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(%error, task = held.name, "failed to write the end of the task; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(services.config.poll_interval.max(Duration::from_secs(1)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::shared::Verdict;

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
