//! The next step of a Workload: tasks to make, to end, to cancel, to collect, and the status that says so. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use schemas::agentic_task::{FailureReason, Phase};
use schemas::dependencies::WorkloadDependencyState;
use schemas::rounds::{self, Decision, Ledger, NewTask, Step, TaskEnd, TaskView};
use schemas::workload::{WorkloadPhase, WorkloadStatus};
use schemas::{labels, names};
use serde_json::{Value, json};

use super::observe::Observed;
use super::status::{self, Facts};
use super::validate::Valid;
use crate::agentic_task::facts::TaskObject;
use crate::cache::Key;

/// Annotation: id of the retry request for which `spec.run` was raised last.
pub const RETRIED: &str = "foreman.llmkube.dev/retried";
/// Before a name that is taken is looked at again: nothing tells of the end of a task that is not the Workload's.
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// Evidence that never came keeps its task this many times longer.
const WITHOUT_EVIDENCE: i32 = 7;

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// A patch of the Workload itself: another run, because of a retry.
    pub rerun: Option<Value>,
    /// Tasks to create, by key.
    pub creates: Vec<(Key, Value)>,
    /// Pending tasks to end.
    pub ends: Vec<(TaskObject, TaskEnd)>,
    /// Tasks whose cancellation is to be asked for, with the patch that asks.
    pub cancels: Vec<(TaskObject, Value)>,
    /// Tasks whose base is to be pinned, with the patch that does it.
    pub pins: Vec<(TaskObject, Value)>,
    /// Tasks that are past their time.
    pub collects: Vec<TaskObject>,
    /// The status afterwards.
    pub status: Option<WorkloadStatus>,
    /// When to look again even if nothing changes.
    pub wake: Option<Duration>,
}

/// Plans the next step.
pub fn plan(observed: &Observed, valid: &Valid, now: Timestamp, task_ttl: Duration) -> Plan {
    let mut plan = Plan::default();
    let workload = &observed.workload;
    let before = workload.status.clone().unwrap_or_default();
    if let Some(rerun) = retry_patch(observed) {
        // The answer to this write brings the Workload here again, with the new run.
        plan.rerun = Some(rerun);
        return plan;
    }
    let run = workload.spec.run.unwrap_or(1);
    let views: Vec<(TaskView, &TaskObject)> = observed
        .tasks
        .iter()
        .filter_map(|task| Some((TaskView::of(task.readable()?)?, task)))
        .collect();
    collect(observed, run, now, task_ttl, &mut plan);

    let mut after = if before.run == Some(run) {
        before.clone()
    } else {
        status::begin_run(&before, run, workload.spec.run_key.clone())
    };
    after.run_key = workload.spec.run_key.clone().or(after.run_key);
    after.handled_retry = observed
        .cached
        .annotation(RETRIED)
        .map(str::to_owned)
        .or(after.handled_retry);
    let cancel = observed.cached.annotation(labels::CANCEL).filter(|id| !id.is_empty());
    let cancel = cancel
        .filter(|id| after.handled_cancel.as_deref() != Some(*id))
        .map(str::to_owned);

    let ended = after.phase.is_some_and(WorkloadPhase::is_terminal);
    if ended {
        after.handled_cancel = cancel.or(after.handled_cancel);
        status::finish(&mut after, observed, valid, &Facts::Ended, now);
        plan.status = Some(after);
        return plan;
    }

    // What runs of an earlier run ends first.
    let earlier: Vec<&TaskObject> = views
        .iter()
        .filter(|(view, _)| view.run != run && is_open(view))
        .map(|(_, task)| *task)
        .collect();
    if !earlier.is_empty() {
        let id = format!("run-{run}");
        plan.cancels = earlier.iter().filter_map(|task| ask_cancel(task, &id)).collect();
        let facts = Facts::Waits(format!(
            "waits until {} of the earlier run ended",
            count(earlier.len(), "task")
        ));
        status::finish(&mut after, observed, valid, &facts, now);
        plan.status = Some(after);
        return plan;
    }

    if let Some(id) = cancel {
        let open: Vec<&TaskObject> = views
            .iter()
            .filter(|(view, _)| view.run == run && is_open(view))
            .map(|(_, task)| *task)
            .collect();
        plan.cancels = open.iter().filter_map(|task| ask_cancel(task, &id)).collect();
        let facts = if open.is_empty() {
            after.handled_cancel = Some(id);
            Facts::Failed {
                verdict: None,
                reason: Some(FailureReason::Cancelled),
                message: "cancelled".to_owned(),
            }
        } else {
            Facts::Waits(format!("is being cancelled; {} left", count(open.len(), "task")))
        };
        status::gather(&mut after, &views, run);
        status::finish(&mut after, observed, valid, &facts, now);
        plan.status = Some(after);
        return plan;
    }

    if let Some(why) = &valid.held {
        status::gather(&mut after, &views, run);
        status::finish(&mut after, observed, valid, &Facts::NotSupported(why.clone()), now);
        plan.status = Some(after);
        return plan;
    }

    let begun = views.iter().any(|(view, _)| view.run == run);
    if !begun {
        let facts = match &valid.upstream {
            WorkloadDependencyState::Ready => None,
            WorkloadDependencyState::Waiting(reason) => Some(Facts::Waits(reason.clone())),
            WorkloadDependencyState::Blocked(reason) => Some(Facts::Blocked(reason.clone())),
        };
        if let Some(facts) = facts {
            status::finish(&mut after, observed, valid, &facts, now);
            plan.status = Some(after);
            return plan;
        }
    }

    status::gather(&mut after, &views, run);
    let only_views: Vec<TaskView> = views.iter().map(|(view, _)| view.clone()).collect();
    let decision = rounds::next(&Ledger {
        name: &observed.key.name,
        namespace: &observed.key.namespace,
        spec: &workload.spec,
        status: Some(&after),
        run,
        base_sha: after.base_sha.as_deref(),
        tasks: &only_views,
    });
    carry_out(observed, valid, decision, &views, run, &mut after, &mut plan, now);
    plan.status = Some(after);
    plan
}

#[allow(clippy::too_many_arguments)]
fn carry_out(
    observed: &Observed,
    valid: &Valid,
    decision: Decision,
    views: &[(TaskView, &TaskObject)],
    run: i64,
    after: &mut WorkloadStatus,
    plan: &mut Plan,
    now: Timestamp,
) {
    let Decision {
        step,
        ends,
        round,
        review_iterations,
        truncated,
    } = decision;
    after.round = Some(round).filter(|round| *round > 0).or(after.round);
    after.review_iterations = Some(review_iterations)
        .filter(|count| *count > 0)
        .or(after.review_iterations);
    for end in ends {
        if let Some((_, task)) = views.iter().find(|(view, _)| view.name == end.name) {
            plan.ends.push(((*task).clone(), end));
        }
    }
    if let Some(base) = &after.base_sha {
        plan.pins = views
            .iter()
            .filter(|(view, _)| view.run == run)
            .filter_map(|(_, task)| pin(task, base))
            .collect();
    }
    let facts = match step {
        Step::Done => Facts::Ended,
        Step::Wait(reason) => Facts::Works(reason),
        Step::Create { round, tasks } => {
            let taken: Vec<&NewTask> = tasks
                .iter()
                .filter(|task| observed.taken.contains(&task.name))
                .collect();
            if let Some(task) = taken.first() {
                plan.wake = Some(plan.wake.map_or(LOOK_AGAIN, |wake| wake.min(LOOK_AGAIN)));
                Facts::NameTaken(format!(
                    "AgenticTask {:?} exists and belongs to something else; delete or rename it",
                    task.name
                ))
            } else {
                let message = format!("round {round}: {}", count(tasks.len(), "task"));
                plan.creates = tasks.into_iter().map(|task| build_task(observed, run, task)).collect();
                after.started_at = after.started_at.take().or(Some(k8s_time(now)));
                Facts::Works(message)
            }
        }
        Step::Complete { verdict, message } => Facts::Completed { verdict, message },
        Step::Fail {
            verdict,
            reason,
            message,
        } => Facts::Failed {
            verdict,
            reason,
            message,
        },
        Step::NotSupported(message) => Facts::NotSupported(message),
    };
    status::truncated(after, observed, truncated, now);
    status::finish(after, observed, valid, &facts, now);
}

fn k8s_time(now: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now)
}

fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

fn is_open(view: &TaskView) -> bool {
    !view.facts.phase.is_terminal()
}

/// Builds the patch that starts another run for a retry request, together with the note that it was done.
fn retry_patch(observed: &Observed) -> Option<Value> {
    let id = observed.cached.annotation(labels::RETRY).filter(|id| !id.is_empty())?;
    if observed.cached.annotation(RETRIED) == Some(id) {
        return None;
    }
    let handled = observed
        .workload
        .status
        .as_ref()
        .and_then(|status| status.handled_retry.as_deref());
    if handled == Some(id) {
        return None;
    }
    let run = observed.workload.spec.run.unwrap_or(1).saturating_add(1);
    Some(json!({
        "metadata": { "resourceVersion": observed.cached.meta().resource_version, "annotations": { RETRIED: id } },
        "spec": { "run": run }
    }))
}

/// Builds the patch that asks a task to end; `None` when it was asked already.
fn ask_cancel(task: &TaskObject, id: &str) -> Option<(TaskObject, Value)> {
    if task.annotation(labels::CANCEL).is_some_and(|asked| !asked.is_empty()) {
        return None;
    }
    Some((
        task.clone(),
        json!({ "metadata": { "uid": task.uid(), "annotations": { labels::CANCEL: id } } }),
    ))
}

/// Builds the patch that pins a pending task to the run's base.
fn pin(task: &TaskObject, base: &str) -> Option<(TaskObject, Value)> {
    let object = task.readable()?;
    let phase = object
        .status
        .as_ref()
        .and_then(|status| status.phase)
        .unwrap_or_default();
    (phase == Phase::Pending && object.spec.base_sha.is_none()).then(|| {
        (
            task.clone(),
            json!({ "metadata": { "uid": task.uid() }, "spec": { "baseSHA": base } }),
        )
    })
}

/// Builds a task of the Workload.
fn build_task(observed: &Observed, run: i64, task: NewTask) -> (Key, Value) {
    let workload = &observed.cached;
    let mut labelled = json!({
        labels::WORKLOAD: names::label_value(&observed.key.name),
        labels::STEP: task.step,
        labels::RUN: run.to_string(),
        labels::ROUND: task.round.to_string(),
    });
    if let Some(queue) = workload.label(labels::QUEUE) {
        labelled[labels::QUEUE] = json!(queue);
    }
    let object = json!({
        "metadata": {
            "name": task.name,
            "namespace": observed.key.namespace,
            "labels": labelled,
            "annotations": labels::left_alone(),
            "ownerReferences": [{
                "apiVersion": format!("{}/{}", schemas::GROUP, schemas::VERSION),
                "kind": "Workload",
                "name": observed.key.name,
                "uid": workload.uid(),
                "controller": true,
                "blockOwnerDeletion": true,
            }],
        },
        "spec": task.spec,
    });
    (Key::new(observed.key.namespace.clone(), task.name), object)
}

/// Finds the tasks that are past their time: ended long enough ago, with their evidence stored.
///
/// Tasks of the current run stay until the run has ended.
fn collect(observed: &Observed, run: i64, now: Timestamp, ttl: Duration, plan: &mut Plan) {
    let status = observed.workload.status.as_ref();
    let current_ended =
        status.is_some_and(|status| status.run == Some(run) && status.phase.is_some_and(WorkloadPhase::is_terminal));
    let ttl = SignedDuration::try_from(ttl).unwrap_or(SignedDuration::MAX);
    let mut wake: Option<SignedDuration> = None;
    for task in &observed.tasks {
        let Some(object) = task.readable() else { continue };
        let Some(status) = object
            .status
            .as_ref()
            .filter(|status| status.phase.is_some_and(Phase::is_terminal))
        else {
            continue;
        };
        let Some(finished) = &status.finished_at else { continue };
        if object.spec.run.unwrap_or(1) == run && !current_ended {
            continue;
        }
        let stored = status.evidence.is_some() || status.evidence_error.is_some() || status.epoch.unwrap_or(0) == 0;
        let keep = if stored {
            ttl
        } else {
            ttl.checked_mul(WITHOUT_EVIDENCE).unwrap_or(SignedDuration::MAX)
        };
        let age = now.duration_since(finished.0);
        if age >= keep {
            plan.collects.push(task.clone());
        } else {
            let left = keep - age;
            wake = Some(wake.map_or(left, |wake| wake.min(left)));
        }
    }
    plan.wake = wake
        .and_then(|wake| Duration::try_from(wake).ok())
        .map(|wake| wake + Duration::from_millis(50));
}

#[cfg(test)]
mod tests;
