//! The AgenticTask controller: the scheduler and the life of a task.
//!
//! Watches feed an [`index::Index`]; each pass plans every transition that is due and writes it. There is no queue of
//! keys here: a pass looks at what changed since the last one.

pub mod apply;
pub mod fit;
pub mod index;
pub mod plan;
pub mod retry;
pub mod status;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemas::{Agent, AgenticTask, FleetNode, ModelProfile};
use telemetry::health::Health;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::clock::{Clock, lock};
use crate::metrics::Metrics;
use crate::writer::Writer;
use index::Index;

/// Between two rounds of telling waiting tasks where they stand.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Waiting tasks that are told in one round.
const TELL_AT_ONCE: usize = 200;
/// Before a task whose write did not happen is looked at again.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long one pass may take before it counts as stuck.
const PASS_LIMIT: Duration = Duration::from_secs(1800);

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Tasks.
    pub tasks: Arc<Cache<AgenticTask>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What the scheduler knows.
    pub scheduler: Arc<Scheduler>,
    /// Who is told of passes that do not end.
    pub health: Arc<Health>,
}

/// The index and the call to look at it.
#[derive(Default)]
pub struct Scheduler {
    index: Mutex<Index>,
    changed: Notify,
}

impl Scheduler {
    /// Feeds the index from the watches from now on.
    pub fn observe(
        self: &Arc<Self>,
        tasks: &Cache<AgenticTask>,
        nodes: &Cache<FleetNode>,
        agents: &Cache<Agent>,
        profiles: &Cache<ModelProfile>,
        clock: &Arc<dyn Clock>,
    ) {
        let (scheduler, time) = (self.clone(), clock.clone());
        tasks.subscribe(move |change| {
            scheduler.change(|index| index.set_task(change.key, change.after.cloned(), time.elapsed()));
        });
        let scheduler = self.clone();
        nodes.subscribe(move |change| {
            let node = change.after.and_then(|node| node.readable());
            scheduler.change(|index| index.set_node(&change.key.name, node));
        });
        let scheduler = self.clone();
        agents.subscribe(move |change| {
            scheduler.change(|index| index.set_agent(change.key, change.after.cloned()));
        });
        let scheduler = self.clone();
        profiles.subscribe(move |change| {
            scheduler.change(|index| index.set_profile(&change.key.name, change.after.is_some()));
        });
    }

    /// Changes the index; a pass follows if that leaves anything to do.
    pub fn change(&self, change: impl FnOnce(&mut Index)) {
        let settled = {
            let mut index = lock(&self.index);
            change(&mut index);
            index.is_settled()
        };
        if !settled {
            self.changed.notify_one();
        }
    }

    /// Reads the index.
    pub fn read<T>(&self, read: impl FnOnce(&mut Index) -> T) -> T {
        read(&mut lock(&self.index))
    }
}

/// Makes passes until `stop`.
pub async fn run(ctx: Arc<Context>, stop: CancellationToken) {
    tracing::info!(controller = "AgenticTask", "Starting workers");
    let mut tell_at = ctx.clock.elapsed() + TELL_EVERY;
    let mut told_all = false;
    while !stop.is_cancelled() {
        let at = ctx.clock.elapsed();
        let working = ctx.health.begin("AgenticTask", PASS_LIMIT);
        let pass = ctx.scheduler.read(|index| plan::plan(index, at));
        if !pass.steps.is_empty() {
            told_all = false;
        }
        let again = apply::apply(&ctx, pass.steps).await;
        look_again(&ctx, again);
        if !told_all && ctx.clock.elapsed() >= tell_at {
            let steps = ctx.scheduler.read(|index| plan::plan_waits(index, TELL_AT_ONCE));
            told_all = steps.len() < TELL_AT_ONCE;
            apply::apply(&ctx, steps).await;
            tell_at = ctx.clock.elapsed() + TELL_EVERY;
        }
        drop(working);
        let now = ctx.clock.elapsed();
        let tell = (!told_all).then_some(tell_at);
        let wake = [pass.wake, tell]
            .into_iter()
            .flatten()
            .min()
            .map(|due| due.saturating_sub(now));
        tokio::select! {
            () = stop.cancelled() => {}
            () = ctx.scheduler.changed.notified() => told_all = false,
            // A wake-up that is due now still lets other work in first.
            () = tokio::time::sleep(wake.unwrap_or(Duration::MAX / 4).clamp(Duration::from_millis(1), Duration::from_secs(3600))) => {}
        }
    }
}

fn look_again(ctx: &Arc<Context>, keys: Vec<crate::cache::Key>) {
    if keys.is_empty() {
        return;
    }
    let scheduler = ctx.scheduler.clone();
    tokio::spawn(async move {
        tokio::time::sleep(AGAIN_AFTER).await;
        scheduler.change(|index| keys.iter().for_each(|key| index.look_at_task(key)));
    });
}
