//! The status after a step, as a patch.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemas::agentic_task::{AgenticTaskStatus, FailureReason, Phase, Waiting};
use schemas::phase::{self, EndReason, Event, Illegal, Writer};
use schemas::unsupported;
use serde_json::{Map, Value, json};

use super::facts::{TaskObject, status_of};
use super::plan::{What, cancel_request};
use super::retry::Retry;
use crate::conditions::{self, Said};
use crate::writer::status_patch;
use schemas::inert::one_line;

/// Builds the merge patch of the status; `None` when nothing changes.
pub fn build_patch(task: &TaskObject, what: &What, now: Timestamp) -> Result<Option<Value>, Illegal> {
    let before = task.readable().and_then(|object| object.status.as_ref());
    // A task may be assigned, or end, before anybody wrote that it was admitted.
    let known = match before {
        Some(status) if status.phase.is_some() => status.clone(),
        _ => admitted(task, now),
    };
    let after = match what {
        What::Admit(waiting) => AgenticTaskStatus {
            waiting: waiting.as_ref().map(shortened),
            ..known
        },
        What::Wait(waiting) => AgenticTaskStatus {
            waiting: Some(shortened(waiting)),
            ..known
        },
        What::Retry { id, retry } => {
            let mut after = known;
            let Retry::Answer(answer) = retry else { return Ok(None) };
            let said = match answer {
                Ok(name) => Said::new("Retried", true, "Retried", format!("AgenticTask {name:?} runs instead")),
                Err(why) => Said::new("Retried", false, "Refused", one_line(why, 300)),
            };
            let mut list = after.conditions.take().unwrap_or_default();
            conditions::set(&mut list, said, task.meta().generation, now);
            after.conditions = Some(list);
            after.handled_retry = Some(id.clone());
            after
        }
        What::Apply { event, message, .. } => {
            let mut after = phase::transition(task.uid(), Some(&known), event, &Writer::Operator)?;
            record(&mut after, task, event, message, now);
            after
        }
    };
    Ok(status_patch(before, &after))
}

/// Builds the first status of a task; what of it nothing acts on is said here, once.
fn admitted(task: &TaskObject, now: Timestamp) -> AgenticTaskStatus {
    let generation = task.meta().generation;
    let mut after = status_of(task).clone();
    if let Some(object) = task.readable() {
        let mut list = after.conditions.take().unwrap_or_default();
        unsupported::tell(&mut list, &unsupported::of_task(&object.spec), generation, now);
        after.conditions = Some(list).filter(|list| !list.is_empty());
    }
    after.phase = Some(Phase::Pending);
    after.observed_generation = generation;
    after
}

fn shortened(waiting: &Waiting) -> Waiting {
    Waiting {
        place: waiting.place,
        reason: one_line(&waiting.reason, 300),
    }
}

/// Records what people need to know about a transition.
fn record(after: &mut AgenticTaskStatus, task: &TaskObject, event: &Event, message: &str, now: Timestamp) {
    let message = one_line(message, 300);
    let generation = task.meta().generation;
    let mut list = after.conditions.take().unwrap_or_default();
    match event {
        Event::Assign { .. } => {
            conditions::set(
                &mut list,
                Said::new("Scheduled", true, "Assigned", message),
                generation,
                now,
            );
        }
        Event::End(reason) => {
            after.finished_at = Some(Time(now));
            let mut result: Map<String, Value> = after.result.take().unwrap_or_default();
            result.insert("summary".into(), json!(message));
            after.result = Some(result);
            if *reason == EndReason::Cancelled {
                after.handled_cancel = cancel_request(task).map(str::to_owned);
            }
            if *reason == EndReason::Refused(FailureReason::NotSupportedYet) {
                let said = Said::new(unsupported::CONDITION, true, unsupported::CONDITION, message.clone());
                conditions::set(&mut list, said, generation, now);
            }
            let (_, verdict, failure) = reason.end();
            let name = failure
                .map(|f| f.as_str())
                .or(verdict.map(|v| v.as_str().to_owned()))
                .unwrap_or_default();
            conditions::set(&mut list, Said::new("Scheduled", false, name, message), generation, now);
        }
        Event::LoseClaim { .. } => {
            let status = status_of(task);
            let reason = match (&status.claim, status.phase) {
                (Some(_), _) => "ClaimLost",
                (None, Some(Phase::Running | Phase::Verifying)) => "GivenBack",
                (None, _) => "Unassigned",
            };
            conditions::set(
                &mut list,
                Said::new("Scheduled", false, reason, message),
                generation,
                now,
            );
        }
        Event::Unassign => {
            conditions::set(
                &mut list,
                Said::new("Scheduled", false, "Unassigned", message),
                generation,
                now,
            );
        }
        _ => {}
    }
    after.conditions = Some(list).filter(|list| !list.is_empty());
    after.observed_generation = generation;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::cache::Cached;
    use schemas::AgenticTask;
    use std::sync::Arc;

    fn task(status: Value) -> TaskObject {
        let object: AgenticTask = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": "t", "namespace": "n", "uid": "u", "generation": 2, "annotations": { "foreman.llmkube.dev/cancel": "c1" } },
            "spec": { "kind": "freeform", "payload": {} }, "status": status
        }))
        .unwrap();
        Arc::new(Cached::of(object))
    }

    fn patch(status: Value, event: Event) -> Value {
        let what = What::Apply {
            event,
            message: "why\nnot".into(),
            cause: "test",
        };
        build_patch(&task(status), &what, Timestamp::UNIX_EPOCH)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn an_assignment_is_one_patch_that_ends_the_waiting() {
        let patch = patch(
            json!({ "phase": "Pending", "waiting": { "reason": "x" } }),
            Event::Assign { node: "a".into() },
        );
        assert_eq!(
            (&patch["phase"], &patch["assignedNode"], &patch["waiting"]),
            (&json!("Scheduled"), &json!("a"), &Value::Null)
        );
        assert_eq!(patch["conditions"][0]["message"], "why not");
    }

    #[test]
    fn a_lost_claim_takes_the_claim_away_and_counts() {
        let status = json!({ "phase": "Running", "assignedNode": "a", "epoch": 2, "lostClaims": 1, "startedAt": "2026-01-01T00:00:00Z",
            "claim": { "node": "a", "agent": "p", "epoch": 2, "secretSHA256": "s" } });
        let patch = patch(status, Event::LoseClaim { epoch: 2 });
        assert_eq!((&patch["phase"], &patch["lostClaims"]), (&json!("Pending"), &json!(2)));
        for gone in ["claim", "assignedNode", "startedAt"] {
            assert_eq!(patch.get(gone), Some(&Value::Null), "{gone}");
        }
    }

    #[test]
    fn a_claim_that_was_given_back_is_not_lost() {
        let status = json!({ "phase": "Running", "assignedNode": "a", "epoch": 2, "lostClaims": 1 });
        let patch = patch(status, Event::LoseClaim { epoch: 2 });
        assert_eq!((&patch["phase"], patch.get("lostClaims")), (&json!("Pending"), None));
        assert_eq!(patch["conditions"][0]["reason"], "GivenBack");
    }

    #[test]
    fn a_cancelled_task_echoes_the_request() {
        let patch = patch(json!({ "phase": "Pending" }), Event::End(EndReason::Cancelled));
        assert_eq!(
            (&patch["phase"], &patch["failureReason"], &patch["handledCancel"]),
            (&json!("Failed"), &json!("Cancelled"), &json!("c1"))
        );
    }

    #[test]
    fn a_task_that_is_assigned_before_its_admission_is_written_is_admitted_by_that() {
        let patch = patch(json!(null), Event::Assign { node: "a".into() });
        assert_eq!(
            (&patch["phase"], &patch["observedGeneration"]),
            (&json!("Scheduled"), &json!(2))
        );
        let waiting = Waiting {
            place: Some(3),
            reason: "x".into(),
        };
        let admitted = build_patch(&task(json!(null)), &What::Admit(Some(waiting)), Timestamp::UNIX_EPOCH);
        let admitted = admitted.unwrap().unwrap();
        assert_eq!(
            (&admitted["phase"], &admitted["waiting"]["place"]),
            (&json!("Pending"), &json!(3))
        );
    }

    #[test]
    fn an_illegal_transition_builds_no_patch() {
        let what = What::Apply {
            event: Event::Unassign,
            message: String::new(),
            cause: "test",
        };
        assert!(build_patch(&task(json!({ "phase": "Succeeded" })), &what, Timestamp::UNIX_EPOCH).is_err());
    }
}
