//! The ledger: what a Workload's status says.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemas::agentic_task::{FailureReason, TaskKind};
use schemas::inert::{DESCRIPTION_CHARS, one_line};
use schemas::rounds::{TaskView, counts};
use schemas::shared::{Usage, Verdict};
use schemas::unsupported;
use schemas::workload::{WorkloadPhase, WorkloadStatus};

use super::heads;
use super::observe::Observed;
use super::validate::Valid;
use super::{Context, Error};
use crate::agentic_task::facts::TaskObject;
use crate::conditions::{self, Said};
use crate::writer::{Outcome, Refusal, status_patch};

mod rounds;

/// Tasks that the status lists.
const TASKS_LISTED: usize = 40;

/// Where the run stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Facts {
    /// It has ended; nothing changes any more.
    Ended,
    /// It waits for something before its tasks are made.
    Waits(String),
    /// A Workload that it depends on failed.
    Blocked(String),
    /// Its tasks work.
    Works(String),
    /// It asks for what is not built yet.
    NotSupported(String),
    /// A task that it needs has a name that is taken.
    NameTaken(String),
    /// It ended well.
    Completed {
        /// Verdict.
        verdict: Verdict,
        /// In one line.
        message: String,
    },
    /// It did not end well.
    Failed {
        /// Verdict that decided it.
        verdict: Option<Verdict>,
        /// Reason.
        reason: Option<FailureReason>,
        /// In one line.
        message: String,
    },
}

/// Starts the status of another run; what earlier runs came to stays in the ledger.
pub fn begin_run(before: &WorkloadStatus, run: i64, run_key: Option<String>) -> WorkloadStatus {
    // What was reported as pending is still to be resolved, by what was confirmed of it.
    let pending = before.pending_heads.clone().filter(|heads| !heads.is_empty());
    let is_pending = |head: &String| pending.as_ref().is_some_and(|heads| heads.contains_key(head));
    let confirmed = before.confirmed.iter().flatten();
    let confirmed: BTreeMap<_, _> = confirmed
        .filter(|(_, confirmation)| is_pending(&confirmation.head_sha))
        .map(|(uid, confirmation)| (uid.clone(), confirmation.clone()))
        .collect();
    WorkloadStatus {
        run: Some(run),
        run_key,
        phase: Some(WorkloadPhase::Planning),
        conditions: before.conditions.clone(),
        rounds: before.rounds.clone(),
        handled_cancel: before.handled_cancel.clone(),
        handled_retry: before.handled_retry.clone(),
        planner_model: before.planner_model.clone(),
        pending_heads: pending,
        confirmed: Some(confirmed).filter(|confirmed| !confirmed.is_empty()),
        ..WorkloadStatus::default()
    }
}

/// Gathers what the tasks of the run came to.
pub fn gather(after: &mut WorkloadStatus, views: &[(TaskView, &TaskObject)], run: i64) {
    let only: Vec<TaskView> = views.iter().map(|(view, _)| view.clone()).collect();
    let counted = counts(&only, run);
    after.succeeded_tasks = Some(counted.succeeded);
    after.failed_tasks = Some(counted.failed);
    after.incomplete_tasks = Some(counted.incomplete);
    let current = in_order(views, run);
    let mut usage = Usage::default();
    let mut any_usage = false;
    let mut records = rounds::Records::new(run);
    // Only the latest coder's and verifier's words count, so a later round starts without head and digest.
    after.gate_digest = None;
    for (view, task) in &current {
        let Some(object) = task.readable() else { continue };
        let Some(status) = &object.status else { continue };
        if let Some(used) = &status.usage {
            usage.add(used);
            any_usage = true;
        }
        match object.spec.kind {
            TaskKind::IssueFix | TaskKind::Freeform => {
                after.base_sha = after.base_sha.take().or_else(|| status.base_sha.clone());
                after.branch = status
                    .branch
                    .clone()
                    .or_else(|| object.spec.payload.branch.clone())
                    .or(after.branch.take());
                if status.commit_sha.is_some() {
                    after.head_sha = status.commit_sha.clone();
                    after.gate_digest = None;
                }
                after.diff_stat = status.diff_stat.clone().or(after.diff_stat.take());
            }
            TaskKind::Verify if status.verdict.is_some() => {
                after.head_sha = status.commit_sha.clone().or(after.head_sha.take());
                after.gate_digest = status.gate_digest.clone();
            }
            _ => {}
        }
        records.add(view.round, object, status);
    }
    if any_usage {
        after.usage = Some(usage);
    }
    after.rounds = records.among(after.rounds.take());
    let listed = current
        .iter()
        .rev()
        .take(TASKS_LISTED)
        .rev()
        .map(|(_, task)| reference(task))
        .collect::<Vec<_>>();
    after.tasks = Some(listed).filter(|tasks| !tasks.is_empty());
}

/// Returns the tasks of a run in the order in which they work: by round, what is waited for before what waits for it, and
/// coders before verifiers. Names say nothing of that.
fn in_order<'a>(views: &'a [(TaskView, &'a TaskObject)], run: i64) -> Vec<&'a (TaskView, &'a TaskObject)> {
    let current: Vec<&(TaskView, &TaskObject)> = views.iter().filter(|(view, _)| view.run == run).collect();
    let by_name: HashMap<&str, &TaskObject> = current.iter().map(|(view, task)| (view.name.as_str(), *task)).collect();
    let mut depths: HashMap<&str, usize> = HashMap::new();
    for (view, _) in &current {
        depth(&view.name, &by_name, &mut depths);
    }
    let rank = |task: &TaskObject| match task.readable().map(|task| task.spec.kind) {
        Some(TaskKind::Verify) => 1,
        _ => 0,
    };
    let mut current = current;
    current.sort_by_key(|(view, task)| {
        let depth = depths.get(view.name.as_str()).copied().unwrap_or(0);
        (view.round, depth, rank(task), view.name.clone())
    });
    current
}

/// Counts how many tasks have to end before one, in the longest line of them.
fn depth<'a>(name: &'a str, tasks: &HashMap<&'a str, &'a TaskObject>, known: &mut HashMap<&'a str, usize>) -> usize {
    if let Some(depth) = known.get(name) {
        return *depth;
    }
    // Should they wait for each other, they come by name.
    known.insert(name, 0);
    let task = tasks.get(name).and_then(|task| task.readable());
    let namespace = task
        .and_then(|task| task.metadata.namespace.as_deref())
        .unwrap_or_default();
    let waits_for = task.into_iter().flat_map(|task| &task.spec.depends_on);
    let deepest = waits_for
        .filter_map(|other| tasks.get_key_value(other.resolve(namespace).ok()?))
        .map(|(other, _)| depth(other, tasks, known) + 1)
        .max()
        .unwrap_or(0);
    known.insert(name, deepest);
    deepest
}

fn reference(task: &TaskObject) -> ObjectReference {
    ObjectReference {
        api_version: Some(format!("{}/{}", schemas::GROUP, schemas::VERSION)),
        kind: Some("AgenticTask".into()),
        name: task.meta().name.clone(),
        namespace: task.meta().namespace.clone(),
        uid: task.meta().uid.clone(),
        ..ObjectReference::default()
    }
}

/// Sets whether `maxTasks` cut issues off.
pub fn truncated(after: &mut WorkloadStatus, observed: &Observed, truncated: bool, now: Timestamp) {
    let mut list = after.conditions.take().unwrap_or_default();
    let said = truncated.then(|| Said::new("Truncated", true, "MaxTasks", "spec.maxTasks cut issues off"));
    conditions::set_or_clear(&mut list, "Truncated", said, observed.cached.meta().generation, now);
    after.conditions = Some(list);
}

/// Says that the API refuses what the next step needs; the step is tried again.
pub async fn refused(ctx: &Context, observed: &Observed, refusal: &Refusal) -> Result<(), Error> {
    let before = observed.workload.status.as_ref();
    let mut after = before.cloned().unwrap_or_default();
    let mut list = after.conditions.take().unwrap_or_default();
    let (generation, now) = (observed.cached.meta().generation, ctx.clock.now());
    for kind in ["Ready", "Reconciling"] {
        let said = Said::new(kind, kind != "Ready", refusal.reason, refusal.message.clone());
        conditions::set(&mut list, said, generation, now);
    }
    after.conditions = Some(list);
    after.message = Some(one_line(&refusal.message, DESCRIPTION_CHARS));
    let Some(patch) = status_patch(before, &after) else {
        return Ok(());
    };
    let version = observed.cached.meta().resource_version.as_deref();
    // A lost race is as good: the step is tried again anyway.
    let sent = ctx.writer.patch_status(&ctx.workloads, &observed.key, version, patch);
    match sent.await? {
        Outcome::Done | Outcome::Lost => Ok(()),
    }
}

/// Ends the status: phase, message, conditions.
pub fn finish(after: &mut WorkloadStatus, observed: &Observed, valid: &Valid, facts: &Facts, now: Timestamp) {
    let generation = observed.cached.meta().generation;
    let mut list = after.conditions.take().unwrap_or_default();
    let line = |text: &str| one_line(text, DESCRIPTION_CHARS);
    // kstatus: Reconciling is progress, Stalled needs a person, Ready is an end, whatever the verdict.
    let (mut ready, mut reconciling, mut stalled) = (None, None, None);
    let progress =
        |kind: &'static str, reason: &str, text: &str| Some(Said::new(kind, kind != "Ready", reason, line(text)));
    conditions::clear(&mut list, "Blocked");
    conditions::clear(&mut list, "NameTaken");
    match facts {
        Facts::Ended => {}
        Facts::Waits(text) | Facts::Works(text) => {
            let works = matches!(facts, Facts::Works(_));
            after.phase = Some(if works {
                WorkloadPhase::Dispatched
            } else {
                WorkloadPhase::Planning
            });
            after.message = Some(line(text));
            ready = progress("Ready", "Progressing", text);
            reconciling = progress("Reconciling", "Progressing", text);
        }
        Facts::Blocked(text) => {
            after.phase = Some(WorkloadPhase::Planning);
            after.message = Some(line(text));
            conditions::set(
                &mut list,
                Said::new("Blocked", true, "DependencyFailed", line(text)),
                generation,
                now,
            );
            ready = progress("Ready", "Blocked", text);
            reconciling = progress("Reconciling", "Blocked", text);
        }
        Facts::NotSupported(text) => {
            after.phase = Some(WorkloadPhase::Planning);
            after.message = Some(line(text));
            ready = progress("Ready", "NotSupportedYet", text);
            stalled = progress("Stalled", "NotSupportedYet", text);
        }
        Facts::NameTaken(text) => {
            after.message = Some(line(text));
            conditions::set(
                &mut list,
                Said::new("NameTaken", true, "NameTaken", line(text)),
                generation,
                now,
            );
            ready = progress("Ready", "NameTaken", text);
            stalled = progress("Stalled", "NameTaken", text);
        }
        Facts::Completed { verdict, message } => {
            end(
                after,
                WorkloadPhase::Completed,
                Some(*verdict),
                None,
                line(message),
                now,
            );
            ready = Some(Said::new("Ready", true, "Completed", line(message)));
            conditions::set(
                &mut list,
                Said::new("Succeeded", true, "Completed", line(message)),
                generation,
                now,
            );
        }
        Facts::Failed {
            verdict,
            reason,
            message,
        } => {
            end(after, WorkloadPhase::Failed, *verdict, *reason, line(message), now);
            let why = reason
                .map(FailureReason::as_str)
                .or(verdict.map(|v| camel(v.as_str())))
                .unwrap_or_else(|| "Failed".into());
            ready = Some(Said::new("Ready", true, "Ended", line(message)));
            conditions::set(
                &mut list,
                Said::new("Succeeded", false, why, line(message)),
                generation,
                now,
            );
        }
    }
    if !matches!(facts, Facts::Ended) {
        if matches!(facts, Facts::Completed { .. } | Facts::Failed { .. }) {
            heads::note_untold(&observed.workload, after);
        } else {
            conditions::clear(&mut list, "Succeeded");
        }
        conditions::set_or_clear(&mut list, "Ready", ready, generation, now);
        conditions::set_or_clear(&mut list, "Reconciling", reconciling, generation, now);
        conditions::set_or_clear(&mut list, "Stalled", stalled, generation, now);
    } else if let Some(ready) = list.iter_mut().find(|condition| condition.type_ == "Ready") {
        ready.observed_generation = generation;
    }
    let mut named = valid.unsupported.clone();
    if let Facts::NotSupported(text) = facts {
        named.push(text.clone());
    }
    unsupported::tell(&mut list, &named, generation, now);
    after.conditions = Some(list);
    after.observed_generation = generation;
}

fn camel(verdict: &str) -> String {
    let word = |part: &str| {
        let mut letters = part.chars();
        letters.next().map(|first| {
            first
                .to_uppercase()
                .chain(letters.flat_map(char::to_lowercase))
                .collect::<String>()
        })
    };
    verdict.split('-').filter_map(word).collect()
}

fn end(
    after: &mut WorkloadStatus,
    phase: WorkloadPhase,
    verdict: Option<Verdict>,
    reason: Option<FailureReason>,
    message: String,
    now: Timestamp,
) {
    after.phase = Some(phase);
    after.verdict = verdict;
    after.failure_reason = reason;
    after.message = Some(message);
    after.finished_at = Some(Time(now));
}
