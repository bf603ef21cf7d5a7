//! The Workload controller: runs, rounds, the ledger.

pub mod apply;
pub mod observe;
pub mod plan;
pub mod status;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use schemas::{AgenticTask, Workload};

use crate::cache::{Cache, Key};
use crate::clock::Clock;
use crate::work_queue::{Next, WorkQueue};
use crate::writer::{self, Writer};
use observe::Links;

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Workloads.
    pub workloads: Arc<Cache<Workload>>,
    /// Tasks.
    pub tasks: Arc<Cache<AgenticTask>>,
    /// Which tasks and Workloads belong to which Workload.
    pub links: Arc<Links>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long a task that ended is kept, once its evidence is stored.
    pub task_ttl: Duration,
}

/// Why a Workload could not be brought forward.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] writer::Error),
    /// A write lost a race, and the cache does not show the winner yet.
    #[error("failed to write {0}: it changed meanwhile")]
    Lost(Key),
}

/// Queues a Workload whenever it, one of its tasks, or one that it depends on changes.
pub fn observe(
    queue: &Arc<WorkQueue<Key>>,
    links: &Arc<Links>,
    workloads: &Cache<Workload>,
    tasks: &Cache<AgenticTask>,
) {
    let (adds, map) = (queue.clone(), links.clone());
    workloads.subscribe(move |change| map.set_workload(change, &|key| adds.add(key)));
    let (adds, map) = (queue.clone(), links.clone());
    tasks.subscribe(move |change| map.set_task(change, &|key| adds.add(key)));
}

/// Brings one Workload a step forward.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Next {
    match step(&ctx, &key).await {
        Ok(next) => next,
        Err(error) => {
            tracing::warn!(workload = %key, %error, "the Workload was not brought forward");
            Next::Failed(error.to_string())
        }
    }
}

async fn step(ctx: &Context, key: &Key) -> Result<Next, Error> {
    let Some(observed) = observe::observe(ctx, key) else {
        return Ok(Next::Wait);
    };
    let valid = validate::validate(&observed);
    let plan = plan::plan(&observed, &valid, ctx.clock.now(), ctx.task_ttl);
    apply::apply(ctx, &observed, plan).await
}
