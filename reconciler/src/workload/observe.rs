//! All that a Workload's next step depends on, from the caches.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use schemas::workload::WorkloadPhase;
use schemas::{AgenticTask, Workload};

use super::Context;
use crate::cache::{Cached, Change, Key};
use crate::clock::lock;

#[derive(Default)]
struct Edges {
    tasks: HashMap<Key, BTreeSet<Key>>,
    dependents: HashMap<Key, BTreeSet<Key>>,
}

/// Which tasks belong to which Workload, and which Workloads wait for which.
#[derive(Default)]
pub struct Links {
    edges: Mutex<Edges>,
}

fn put(map: &mut HashMap<Key, BTreeSet<Key>>, from: Key, to: &Key, add: bool) {
    let set = map.entry(from.clone()).or_default();
    if add {
        set.insert(to.clone());
    } else {
        set.remove(to);
        if set.is_empty() {
            map.remove(&from);
        }
    }
}

fn upstream(workload: &Arc<Cached<Workload>>) -> Vec<Key> {
    let namespace = workload.meta().namespace.clone().unwrap_or_default();
    let names = workload
        .readable()
        .and_then(|object| object.spec.depends_on.clone())
        .unwrap_or_default();
    names
        .into_iter()
        .map(|name| Key::new(namespace.clone(), name))
        .collect()
}

/// Returns the key of the Workload that a task names.
pub fn workload_of(task: &Arc<Cached<AgenticTask>>) -> Option<Key> {
    let reference = task.readable()?.spec.workload_ref.as_ref()?;
    Some(Key::new(
        task.meta().namespace.clone().unwrap_or_default(),
        reference.named()?,
    ))
}

impl Links {
    /// Takes in a Workload's change and calls `wake` for every Workload that has to look again.
    pub fn set_workload(&self, change: &Change<'_, Workload>, wake: &dyn Fn(Key)) {
        let dependents = {
            let mut edges = lock(&self.edges);
            for (side, add) in [(change.before, false), (change.after, true)] {
                for key in side.map(upstream).unwrap_or_default() {
                    put(&mut edges.dependents, key, change.key, add);
                }
            }
            edges.dependents.get(change.key).cloned().unwrap_or_default()
        };
        wake(change.key.clone());
        // Those that wait only care for the phase of the current run.
        let state = |side: Option<&Arc<Cached<Workload>>>| side.map(|workload| phase_of_run(workload));
        if state(change.before) != state(change.after) {
            dependents.into_iter().for_each(wake);
        }
    }

    /// Takes in a task's change and calls `wake` for its Workload.
    pub fn set_task(&self, change: &Change<'_, AgenticTask>, wake: &dyn Fn(Key)) {
        let (before, after) = (change.before.and_then(workload_of), change.after.and_then(workload_of));
        {
            let mut edges = lock(&self.edges);
            if let Some(owner) = &before {
                put(&mut edges.tasks, owner.clone(), change.key, false);
            }
            if let Some(owner) = &after {
                put(&mut edges.tasks, owner.clone(), change.key, true);
            }
        }
        before
            .into_iter()
            .chain(after)
            .collect::<BTreeSet<_>>()
            .into_iter()
            .for_each(wake);
    }

    /// Returns the keys of the tasks that name a Workload.
    pub fn tasks_of(&self, workload: &Key) -> BTreeSet<Key> {
        lock(&self.edges).tasks.get(workload).cloned().unwrap_or_default()
    }
}

/// Returns the phase of the run that is wanted; Planning while the status is about an earlier one.
pub fn phase_of_run(workload: &Cached<Workload>) -> WorkloadPhase {
    let Some(object) = workload.readable() else {
        return WorkloadPhase::Planning;
    };
    let wanted = object.spec.run.unwrap_or(1);
    match &object.status {
        Some(status) if status.run.unwrap_or(1) == wanted => status.phase.unwrap_or_default(),
        _ => WorkloadPhase::Planning,
    }
}

/// What was seen.
pub struct Observed {
    /// Key of the Workload.
    pub key: Key,
    /// The Workload, which can be read.
    pub cached: Arc<Cached<Workload>>,
    /// The Workload.
    pub workload: Workload,
    /// Its tasks, of all runs.
    pub tasks: Vec<Arc<Cached<AgenticTask>>>,
    /// The Workloads that it depends on, each with the phase of its current run.
    pub upstream: Vec<(String, Option<WorkloadPhase>)>,
    /// Names that tasks have which are none of its own.
    pub taken: BTreeSet<String>,
}

/// Reads the caches; `None` when there is nothing to bring forward.
pub fn observe(ctx: &Context, key: &Key) -> Option<Observed> {
    let cached = ctx.workloads.get(key)?;
    if cached.is_deleting() {
        return None;
    }
    let Some(workload) = cached.readable().cloned() else {
        tracing::warn!(workload = %key, error = cached.unreadable(), "a Workload cannot be read");
        return None;
    };
    let tasks = ctx
        .links
        .tasks_of(key)
        .into_iter()
        .filter_map(|key| ctx.tasks.get(&key));
    let tasks = tasks.filter(|task| is_owned(task, cached.uid())).collect();
    let state = |name: &String| {
        let found = ctx.workloads.get(&Key::new(key.namespace.clone(), name.clone()));
        found
            .filter(|found| !found.is_deleting())
            .map(|found| phase_of_run(&found))
    };
    let upstream = workload
        .spec
        .depends_on
        .iter()
        .flatten()
        .map(|name| (name.clone(), state(name)))
        .collect();
    Some(Observed {
        key: key.clone(),
        cached,
        workload,
        tasks,
        upstream,
        taken: BTreeSet::new(),
    })
}

/// Returns which names of new tasks other tasks have: the Workload's own are never planned again.
pub fn taken<'a>(ctx: &Context, new: impl Iterator<Item = &'a Key>) -> BTreeSet<String> {
    let taken = new.filter(|key| ctx.tasks.get(key).is_some());
    taken.map(|key| key.name.clone()).collect()
}

/// Says whether a task belongs to the Workload with this UID.
pub fn is_owned(task: &Cached<AgenticTask>, uid: &str) -> bool {
    task.meta()
        .owner_references
        .iter()
        .flatten()
        .any(|owner| owner.uid == uid)
}
