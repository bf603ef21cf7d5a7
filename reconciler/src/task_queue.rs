//! The TaskQueue controller: a folder of task files becomes objects.
//!
//! A [`source::Sources`] polls each repository once for all queues that share it and wakes only those whose branch
//! moved. What a queue knows of its files stays in memory, so that a change costs what changed.

pub mod apply;
pub mod files;
pub mod foresee;
pub mod load;
pub mod observe;
pub mod plan;
pub mod problem;
pub mod source;
pub mod status;
pub mod validate;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use schemas::{AgenticTask, TaskQueue, Workload};

use crate::cache::{Cache, Key};
use crate::clock::{Clock, lock};
use crate::metrics::Metrics;
use crate::reporter::Forge;
use crate::work_queue::{Next, WorkQueue};
use crate::writer::{self, Writer};
use apply::Applied;
use files::Files;
use observe::{Inventory, Known};
use source::Sources;
use status::Seen;

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Queues.
    pub queues: Arc<Cache<TaskQueue>>,
    /// Workloads.
    pub workloads: Arc<Cache<Workload>>,
    /// Tasks.
    pub tasks: Arc<Cache<AgenticTask>>,
    /// What each queue made.
    pub inventory: Arc<Inventory>,
    /// Repositories.
    pub sources: Arc<Sources>,
    /// What each queue knows of its files.
    pub states: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<State>>>>,
    /// Where broken files are noted beside status and Event.
    pub forge: Option<Arc<dyn Forge>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// Returns what is known of the objects that there are.
    fn known(&self) -> Known<'_> {
        Known {
            workloads: &self.workloads,
            tasks: &self.tasks,
            inventory: &self.inventory,
        }
    }
}

/// What a queue knows.
#[derive(Default)]
pub struct State {
    /// UID of the queue that this is about.
    pub uid: String,
    /// What of the spec this is about.
    pub asked: Asked,
    /// Commit that was acted on.
    pub revision: Option<git::Oid>,
    /// The files at that commit; `None` when they were not read by this process.
    pub files: Option<Files>,
}

/// What of a queue's spec says which objects there are to be: where it changes, all files are looked at anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Branch.
    pub branch: String,
    /// Folder.
    pub folder: String,
    /// Whether a removed file ends what it made.
    pub prune: bool,
}

/// Why a queue could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository could not be read.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] writer::Error),
}

/// Between two writes of the counts in a queue's status.
const COUNTS_EVERY: Duration = Duration::from_secs(1);
/// Until what no event tells of is looked at again: a repository that could not be read, a name that somebody else has.
const AGAIN: Duration = Duration::from_secs(15);

/// Queues a TaskQueue whenever it, or what it made, changes.
pub fn observe(
    queue: &Arc<WorkQueue<Key>>,
    inventory: &Arc<Inventory>,
    queues: &Cache<TaskQueue>,
    workloads: &Cache<Workload>,
    tasks: &Cache<AgenticTask>,
) {
    let (adds, map) = (queue.clone(), inventory.clone());
    queues.subscribe(move |change| {
        for (side, known) in [(change.before, false), (change.after, true)] {
            if let Some(object) = side {
                map.name_queue(object.uid(), change.key, known);
            }
        }
        adds.add(change.key.clone());
    });
    let (adds, map) = (queue.clone(), inventory.clone());
    workloads.subscribe(move |change| {
        let wake = |key: Key, at_once: bool| adds.add_after(key, if at_once { Duration::ZERO } else { COUNTS_EVERY });
        map.change("Workload", change, &observe::workload_phase, &wake);
    });
    let (adds, map) = (queue.clone(), inventory.clone());
    tasks.subscribe(move |change| {
        let wake = |key: Key, at_once: bool| adds.add_after(key, if at_once { Duration::ZERO } else { COUNTS_EVERY });
        map.change("AgenticTask", change, &observe::task_phase, &wake);
    });
}

/// Brings one queue up to date.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Next {
    match step(&ctx, &key).await {
        Ok(next) => next,
        Err(error) => {
            tracing::warn!(queue = %key, %error, "the queue was not brought up to date");
            Next::Failed(error.to_string())
        }
    }
}

async fn step(ctx: &Arc<Context>, key: &Key) -> Result<Next, Error> {
    let Some(cached) = ctx.queues.get(key).filter(|queue| !queue.is_deleting()) else {
        ctx.sources.leave(key);
        lock(&ctx.states).remove(key);
        return Ok(Next::Wait);
    };
    let Some(queue) = cached.readable() else {
        tracing::warn!(queue = %key, error = cached.unreadable(), "a TaskQueue cannot be read");
        return Ok(Next::Wait);
    };
    let valid = match validate::validate(queue) {
        Ok(valid) => valid,
        Err(problem) => {
            ctx.sources.leave(key);
            let seen = Seen::Stalled(problem);
            return status::write(ctx, &cached, queue, &seen, None)
                .await
                .map(|()| Next::Wait);
        }
    };
    if valid.suspend {
        // Nothing is made, changed or pruned, and what goes away stays noted: resuming acts on all that came meanwhile.
        ctx.sources.leave(key);
        return status::write(ctx, &cached, queue, &Seen::Suspended, None)
            .await
            .map(|()| Next::Wait);
    }
    let requested = cached.annotation(schemas::labels::REQUESTED_AT).map(str::to_owned);
    let Some(found) = ctx.sources.join(ctx, key, &valid, requested.as_deref()) else {
        // The first look at the repository is under way and wakes the queue.
        return Ok(Next::Wait);
    };
    let state = lock(&ctx.states).entry(key.clone()).or_default().clone();
    let mut state = state.lock().await;
    let asked = Asked {
        branch: valid.branch.clone(),
        folder: valid.folder.clone(),
        prune: queue.spec.prune,
    };
    if state.uid != cached.uid() || state.asked != asked {
        *state = State {
            uid: cached.uid().to_owned(),
            asked,
            ..State::default()
        };
    }
    let tip = match found.tip {
        Ok(tip) => tip,
        Err(problem) => {
            let seen = Seen::NotFetched(problem);
            return status::write(ctx, &cached, queue, &seen, found.requested.as_deref())
                .await
                .map(|()| Next::Wait);
        }
    };
    let complete = !ctx.inventory.has_missing(cached.uid());
    let known = state.revision == Some(tip);
    if known && complete && !state.files.as_ref().is_some_and(Files::is_unfinished) {
        let seen = Seen::Unchanged {
            revision: tip,
            summary: state.files.as_ref().map(Files::summary),
        };
        status::write(ctx, &cached, queue, &seen, found.requested.as_deref()).await?;
        return Ok(Next::Wait);
    }
    if state.revision.is_none()
        && complete
        && status::is_acted_on(queue, &valid.branch, tip, ctx.inventory.count(cached.uid()))
    {
        // A restart: this revision was dealt with, and what it made is all there.
        state.revision = Some(tip);
        let seen = Seen::Unchanged {
            revision: tip,
            summary: None,
        };
        status::write(ctx, &cached, queue, &seen, found.requested.as_deref()).await?;
        return Ok(Next::Wait);
    }
    let git = found.git.clone();
    let old = state.files.take().map(|files| (files, state.revision));
    let loaded = load::load(&git, &found.url, &valid, tip, old, cached.uid()).await;
    let mut loaded = match loaded {
        Ok(loaded) => loaded,
        Err(failed) => {
            state.files = failed.files;
            let problem = problem::Problem::of(&failed.error);
            status::write(
                ctx,
                &cached,
                queue,
                &Seen::NotFetched(problem),
                found.requested.as_deref(),
            )
            .await?;
            return Ok(Next::After(AGAIN));
        }
    };
    if !known {
        ctx.metrics
            .count(crate::metrics::GIT_REQUESTS, &[("operation", "fetch")]);
    }
    ctx.metrics.add(crate::metrics::FILES_PARSED, &[], loaded.parsed);
    // Taken only now: what went away is made again after a load that failed, too.
    loaded.look_at.extend(ctx.inventory.take_missing(cached.uid()));
    loaded.look_at_what_is_made(&ctx.inventory, cached.uid());
    let plan = plan::plan(&ctx.known(), &cached, queue, &valid, &loaded);
    for (path, error) in &plan.rejects {
        loaded.files.reject(path, error.clone());
    }
    let seen = Seen::Acted {
        revision: loaded.revision,
        summary: loaded.files.summary(),
        taken: plan.taken.iter().map(|(_, name)| name.clone()).collect(),
        guarded: i64::try_from(plan.guarded.len()).unwrap_or(i64::MAX),
    };
    // Nothing tells when a name is free that belongs to somebody else.
    let after = if plan.taken.is_empty() && plan.leaving.is_empty() {
        Next::Wait
    } else {
        Next::After(AGAIN)
    };
    let taken = plan.taken.iter().map(|(path, _)| path);
    let again: BTreeSet<String> = taken.chain(&plan.leaving).chain(&plan.guarded).cloned().collect();
    let applied = apply::apply(ctx, key, plan).await;
    let finished = matches!(applied, Ok(Applied::Done));
    state.revision = Some(loaded.revision);
    let mut files = loaded.files;
    files.set_unfinished(if finished { again } else { loaded.look_at });
    state.files = Some(files);
    match applied? {
        Applied::Done => {}
        Applied::Lost => {
            tracing::debug!(queue = %key, "a write lost a race; what is left is planned anew");
            return Ok(Next::Lost);
        }
        Applied::Refused { first, count } => {
            tracing::warn!(queue = %key, refused = count, first = first.message, "writes were refused and are tried again");
            let message = match count {
                1 => first.message,
                more => format!("{more} writes were refused; {}", first.message),
            };
            let seen = Seen::Refused {
                problem: problem::Problem::new(first.reason, message.clone()),
                revision: loaded.revision,
            };
            status::write(ctx, &cached, queue, &seen, found.requested.as_deref()).await?;
            return Ok(Next::Failed(message));
        }
    }
    status::write(ctx, &cached, queue, &seen, found.requested.as_deref()).await?;
    if ctx
        .queues
        .get(key)
        .is_some_and(|now| now.meta().generation != cached.meta().generation)
    {
        return Ok(Next::After(Duration::from_millis(1)));
    }
    Ok(after)
}

#[cfg(test)]
mod tests;
