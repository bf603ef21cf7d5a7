//! Metrics that follow from the caches: how many there are of what, and what came to its end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemas::agentic_task::{Phase, TaskKind};
use schemas::{AgenticTask, FleetNode, TaskQueue, Workload};

use super::*;
use crate::cache::{Cache, Cached, Change, Key};
use crate::clock::{Clock, lock};
use crate::fleet_node::Watch;
use crate::leader::Leadership;
use crate::workload::observe::phase_of_run;

/// How long a task may wait for its node to claim it, and go on after its own limit.
const GRACE: Duration = Duration::from_secs(300);

/// When each task was first seen in the phase that it is in, and how long it may stay there.
type Since = Arc<Mutex<HashMap<Key, (Phase, Option<Duration>, Duration)>>>;

/// What the metrics are read from.
pub struct Sources<'a> {
    /// Tasks.
    pub tasks: &'a Arc<Cache<AgenticTask>>,
    /// Workloads.
    pub workloads: &'a Arc<Cache<Workload>>,
    /// Queues.
    pub queues: &'a Arc<Cache<TaskQueue>>,
    /// Nodes.
    pub nodes: &'a Arc<Cache<FleetNode>>,
    /// What is known of nodes.
    pub watch: &'a Arc<Watch>,
    /// Whether this replica leads: only then ends are counted, so that replicas do not count them twice.
    pub leadership: &'a Leadership,
    /// Time.
    pub clock: &'a Arc<dyn Clock>,
    /// The time by which nodes are heard of.
    pub heard: &'a Arc<dyn Clock>,
}

/// Feeds the metrics from the caches from now on.
pub fn observe(metrics: &Arc<Metrics>, sources: &Sources<'_>) {
    let leadership = sources.leadership.clone();
    metrics.on_render(&[LEADER], move |set| {
        set(LEADER, &[], f64::from(u8::from(leadership.holds())));
    });
    observe_tasks(metrics, sources);
    observe_workloads(metrics, sources);
    let queues = sources.queues.clone();
    metrics.on_render(&[INVALID_FILES, QUEUE_FETCHED], move |set| {
        for queue in queues.all() {
            tell_queue(&queue, set);
        }
    });
    let (nodes, watch, clock) = (sources.nodes.clone(), sources.watch.clone(), sources.heard.clone());
    metrics.on_render(&[HEARTBEAT_AGE, NODE_ALIVE], move |set| {
        let now = clock.elapsed();
        for (name, seen, alive) in watch.nodes(&nodes, now) {
            if let Some(seen) = seen {
                let age = now.saturating_sub(seen).as_secs_f64();
                set(HEARTBEAT_AGE, &[("node", &name)], age);
            }
            set(NODE_ALIVE, &[("node", &name)], f64::from(u8::from(alive)));
        }
    });
}

type Set<'a> = &'a mut dyn FnMut(&'static str, &[(&'static str, &str)], f64);

fn tell_queue(queue: &Cached<TaskQueue>, set: Set<'_>) {
    // What stands of a queue that rests is what was seen before: nobody has to act on it.
    let at_work = queue.readable().filter(|queue| !queue.spec.suspend);
    let Some(status) = at_work.and_then(|queue| queue.status.as_ref()) else {
        return;
    };
    let key = Key::of(queue.meta());
    let labels = [
        ("queue_namespace", key.namespace.as_str()),
        ("queue", key.name.as_str()),
    ];
    set(INVALID_FILES, &labels, status.invalid_file_count.unwrap_or(0) as f64);
    let fetched = status.conditions.iter().flatten().find(|said| said.type_ == "Fetched");
    if let Some(fetched) = fetched {
        set(QUEUE_FETCHED, &labels, f64::from(u8::from(fetched.status == "True")));
    }
}

fn phase(task: &Cached<AgenticTask>) -> Phase {
    schemas::phase::phase_of(task.readable().and_then(|task| task.status.as_ref()))
}

fn observe_tasks(metrics: &Arc<Metrics>, sources: &Sources<'_>) {
    let since = Since::default();
    let (map, time) = (since.clone(), sources.clock.clone());
    let (counts, leadership) = (metrics.clone(), sources.leadership.clone());
    sources.tasks.subscribe(move |change| {
        note(&map, change, time.elapsed());
        if leadership.holds() && ended(change) {
            count_end(&counts, change);
        }
    });
    let time = sources.clock.clone();
    metrics.on_render(&[TASKS, OLDEST_TASK, STUCK_TASKS], move |set| {
        let now = time.elapsed();
        let mut found: HashMap<Phase, (u64, Duration, u64)> = HashMap::new();
        for (phase, may_take, at) in lock(&since).values() {
            let age = now.saturating_sub(*at);
            let entry = found.entry(*phase).or_default();
            entry.0 += 1;
            entry.1 = entry.1.max(age);
            entry.2 += u64::from(may_take.is_some_and(|may_take| age > may_take));
        }
        for phase in PHASES {
            let (count, oldest, stuck) = found.get(&phase).copied().unwrap_or_default();
            let labels = [("phase", phase.as_str())];
            set(TASKS, &labels, count as f64);
            if !phase.is_terminal() {
                set(OLDEST_TASK, &labels, oldest.as_secs_f64());
                set(STUCK_TASKS, &labels, stuck as f64);
            }
        }
    });
}

const PHASES: [Phase; 6] = [
    Phase::Pending,
    Phase::Scheduled,
    Phase::Running,
    Phase::Verifying,
    Phase::Succeeded,
    Phase::Failed,
];

fn note(since: &Since, change: &Change<'_, AgenticTask>, at: Duration) {
    let mut since = lock(since);
    let Some(task) = change.after else {
        since.remove(change.key);
        return;
    };
    let phase = phase(task);
    let own = task.readable().map_or(Duration::ZERO, |task| task.spec.limit());
    let may_take = match phase {
        Phase::Scheduled => Some(GRACE),
        Phase::Running | Phase::Verifying => Some(own.saturating_add(GRACE)),
        // What waits may wait for anything; what ended stays.
        Phase::Pending | Phase::Succeeded | Phase::Failed => None,
    };
    match since.get_mut(change.key) {
        // Verifying is a part of the run that its limit counts for.
        Some((known, limit, _)) if *known == phase => *limit = may_take,
        Some((known @ Phase::Running, limit, _)) if phase == Phase::Verifying => {
            (*known, *limit) = (phase, may_take);
        }
        _ => {
            since.insert(change.key.clone(), (phase, may_take, at));
        }
    }
}

fn ended<K>(change: &Change<'_, K>) -> bool
where
    Cached<K>: Ended,
{
    change.before.is_some_and(|before| !before.is_over()) && change.after.is_some_and(|after| after.is_over())
}

/// Whether an object has come to its end.
trait Ended {
    fn is_over(&self) -> bool;
}

impl Ended for Cached<AgenticTask> {
    fn is_over(&self) -> bool {
        phase(self).is_terminal()
    }
}

impl Ended for Cached<Workload> {
    fn is_over(&self) -> bool {
        use schemas::workload::WorkloadPhase::{Completed, Failed};
        matches!(phase_of_run(self), Completed | Failed)
    }
}

fn count_end(metrics: &Metrics, change: &Change<'_, AgenticTask>) {
    let Some(task) = change.after.and_then(|task| task.readable()) else {
        return;
    };
    let status = task.status.clone().unwrap_or_default();
    let kind = task.spec.kind.as_str();
    let verdict = status.verdict.map_or("none", |verdict| verdict.as_str());
    let reason = status.failure_reason.as_ref().map(|reason| reason.as_str());
    metrics.count(
        TASKS_ENDED,
        &[
            ("kind", kind),
            ("verdict", verdict),
            ("reason", reason.as_deref().unwrap_or("none")),
        ],
    );
    if task.spec.kind == TaskKind::Verify && status.started_at.is_some() {
        metrics.count(GATE_VERDICTS, &[("verdict", verdict)]);
    }
    if let (Some(started), Some(finished)) = (&status.started_at, &status.finished_at) {
        let took = finished.0.duration_since(started.0).as_secs_f64();
        metrics.observe(TASK_SECONDS, &[("kind", kind)], took.max(0.0));
    }
    if let Some(usage) = &status.usage {
        let of = |count: i64| u64::try_from(count).unwrap_or(0);
        metrics.add(CODER_TURNS, &[], of(usage.turns));
        for (sort, count) in [
            ("prompt", usage.prompt_tokens),
            ("cached", usage.cached_prompt_tokens),
            ("completion", usage.completion_tokens),
        ] {
            metrics.add(CODER_TOKENS, &[("sort", sort)], of(count));
        }
    }
}

fn observe_workloads(metrics: &Arc<Metrics>, sources: &Sources<'_>) {
    let (counts, leadership) = (metrics.clone(), sources.leadership.clone());
    sources.workloads.subscribe(move |change| {
        if !(leadership.holds() && ended(change)) {
            return;
        }
        let Some(after) = change.after else { return };
        let status = after.readable().and_then(|workload| workload.status.as_ref());
        let run = status.and_then(|status| status.run).unwrap_or(1);
        let rounds = status
            .into_iter()
            .flat_map(|status| status.rounds.iter().flatten())
            .filter(|round| round.run == run)
            .map(|round| round.round)
            .max()
            .unwrap_or(0);
        counts.observe(ROUNDS, &[("phase", phase_of_run(after).as_str())], rounds as f64);
    });
    let workloads = sources.workloads.clone();
    metrics.on_render(&[WORKLOADS], move |set| {
        let mut found: HashMap<&'static str, u64> = ["Planning", "Planned", "Dispatched", "Completed", "Failed"]
            .map(|phase| (phase, 0))
            .into();
        for workload in workloads.all() {
            *found.entry(phase_of_run(&workload).as_str()).or_default() += 1;
        }
        for (phase, count) in found {
            set(WORKLOADS, &[("phase", phase)], count as f64);
        }
    });
}

#[cfg(test)]
#[path = "observe/tests.rs"]
mod tests;
