//! The AgenticTask controller: the scheduler and the life of a task.
//!
//! Watches feed an [`index::Index`]; each pass plans every transition that is due and hands it to a [`line::Line`], which
//! writes several at once, the urgent ones first. Passes go on while writes are under way, so that a free node does not
//! wait for the admission of ten thousand tasks. There is no queue of keys here: a pass looks at what changed since the
//! last one.

pub mod apply;
pub mod class;
pub mod facts;
pub mod fit;
pub mod index;
pub mod line;
pub mod node;
pub mod place;
pub mod plan;
pub mod retry;
pub mod status;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use schemas::{Agent, AgenticTask, FleetNode, ModelProfile};
use telemetry::health::Health;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Key};
use crate::clock::{Clock, lock};
use crate::metrics::Metrics;
use crate::writer::Writer;
use apply::Written;
use index::Index;
use line::Line;

/// Between two rounds of telling waiting tasks where they stand.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Waiting tasks that are told in one round, and in one during which there is more to write.
const TELL_AT_ONCE: usize = 200;
const TELL_MEANWHILE: usize = 20;
/// Writes that are under way at once.
const CONCURRENT: usize = 32;
/// Before a task is looked at again whose write lost a race.
const AGAIN_AFTER: Duration = Duration::from_millis(200);
/// The same after a write that failed, for the first time and at most: nothing is gained by asking a server ever again
/// that refuses, or that is away.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// How long writes that are under way may take when the work ends.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// How long one pass may take before it counts as stuck.
const PASS_LIMIT: Duration = Duration::from_secs(1800);

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Tasks.
    pub tasks: Arc<Cache<AgenticTask>>,
    /// Time, which stands still while the API is away: no task is overdue for an end that could not be written.
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

    /// Forgets what an earlier term decided and found; to be called before nodes are judged and passes are made.
    pub fn begin_term(&self) {
        self.change(Index::begin_term);
    }

    /// Reads the index.
    pub fn read<T>(&self, read: impl FnOnce(&mut Index) -> T) -> T {
        read(&mut lock(&self.index))
    }
}

/// Makes passes until `stop`; what is being written then is waited for.
pub async fn run(ctx: Arc<Context>, stop: CancellationToken) {
    tracing::info!(controller = "AgenticTask", "Starting workers");
    let mut tell_at = ctx.clock.elapsed() + TELL_EVERY;
    let mut told_all = false;
    let mut line = Line::default();
    let mut flights = FuturesUnordered::new();
    while !stop.is_cancelled() {
        let at = ctx.clock.elapsed();
        let working = ctx.health.begin("AgenticTask", PASS_LIMIT);
        let pass = ctx.scheduler.read(|index| plan::plan(index, at));
        if !pass.steps.is_empty() {
            told_all = false;
        }
        line.add(pass.steps);
        if !told_all && at >= tell_at {
            let budget = if line.is_empty() { TELL_AT_ONCE } else { TELL_MEANWHILE };
            let steps = ctx.scheduler.read(|index| plan::plan_waits(index, budget));
            told_all = steps.len() < budget;
            line.add(steps);
            tell_at = at + TELL_EVERY;
        }
        while flights.len() < CONCURRENT
            && let Some(step) = line.take()
        {
            let ctx = ctx.clone();
            flights.push(async move { (apply::write(&ctx, &step).await, step.key) });
        }
        drop(working);
        let now = ctx.clock.elapsed();
        let tell = (!told_all).then_some(tell_at);
        let wake = [pass.wake, tell]
            .into_iter()
            .flatten()
            .min()
            .map(|due| due.saturating_sub(now));
        // A wake-up that is due now still lets other work in first, and the time may stand still before it is due.
        let wake = wake
            .unwrap_or(Duration::MAX / 4)
            .clamp(Duration::from_millis(10), Duration::from_secs(3600));
        tokio::select! {
            () = stop.cancelled() => {}
            () = ctx.scheduler.changed.notified() => told_all = false,
            () = tokio::time::sleep(wake) => {}
            Some(answer) = flights.next() => {
                let mut answer = Some(answer);
                while let Some((written, key)) = answer {
                    land(&ctx, &mut line, written, key);
                    // All that are here are taken before the next pass.
                    answer = flights.next().now_or_never().flatten();
                }
            }
        }
    }
    let rest = async { while flights.next().await.is_some() {} };
    if tokio::time::timeout(LAST_WRITES, rest).await.is_err() {
        tracing::warn!("some transitions were still being written when the scheduler ended");
    }
}

/// Takes in what came of a write.
fn land(ctx: &Arc<Context>, line: &mut Line, written: Written, key: Key) {
    let missed = line.done(&key);
    let after = match written {
        Written::Done => {
            ctx.scheduler.read(|index| index.end_failures(&key));
            if missed {
                // What was planned meanwhile was planned for the task as it was before.
                ctx.scheduler.change(|index| index.look_at_task(&key));
            }
            return;
        }
        Written::Lost => {
            ctx.scheduler.read(|index| index.end_failures(&key));
            AGAIN_AFTER
        }
        Written::Failed => {
            let count = ctx.scheduler.read(|index| index.add_failure(&key));
            FIRST_DELAY.saturating_mul(1 << (count - 1).min(10)).min(LONGEST_DELAY)
        }
    };
    let scheduler = ctx.scheduler.clone();
    // A place that it did not get is another's at once. What is overdue would be written again in the very next pass.
    scheduler.change(|index| index.rest(&key));
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        scheduler.change(|index| index.look_at_task(&key));
    });
}
