//! What each queue made, by label and annotation, kept from the caches.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Mutex;

use schemas::{AgenticTask, Workload, labels};

use crate::cache::{Cache, Cached, Change, Key};
use crate::clock::lock;

/// An object that a queue made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Made {
    /// Kind.
    pub kind: &'static str,
    /// Name.
    pub name: String,
}

/// What is known of the objects that there are.
pub struct Known<'a> {
    /// Workloads.
    pub workloads: &'a Cache<Workload>,
    /// Tasks.
    pub tasks: &'a Cache<AgenticTask>,
    /// What each queue made.
    pub inventory: &'a Inventory,
}

#[derive(Default)]
struct OfQueue {
    key: Option<Key>,
    by_path: HashMap<String, BTreeSet<Made>>,
    counts: BTreeMap<&'static str, i64>,
    /// Paths of which an object went away.
    missing: BTreeSet<String>,
}

/// What all queues made, by UID.
#[derive(Default)]
pub struct Inventory {
    queues: Mutex<HashMap<String, OfQueue>>,
}

/// Returns the phase of a Workload, as counted.
pub fn workload_phase(workload: &Cached<Workload>) -> &'static str {
    super::super::workload::observe::phase_of_run(workload).as_str()
}

/// Returns the phase of a task, as counted.
pub fn task_phase(task: &Cached<AgenticTask>) -> &'static str {
    let status = task.readable().and_then(|task| task.status.as_ref());
    schemas::phase::phase_of(status).as_str()
}

/// Says which queue and path an object came from.
pub fn origin<K: kube::Resource>(object: &Cached<K>) -> Option<(&str, &str)> {
    Some((
        object.annotation(labels::QUEUE_UID)?,
        object.annotation(labels::SOURCE_PATH)?,
    ))
}

impl Inventory {
    /// Takes in which key a queue has.
    pub fn name_queue(&self, uid: &str, key: &Key, exists: bool) {
        let mut queues = lock(&self.queues);
        if exists {
            queues.entry(uid.to_owned()).or_default().key = Some(key.clone());
        } else if let Some(queue) = queues.get_mut(uid) {
            queue.key = None;
        }
    }

    /// Takes in a change and calls `wake` for the queue, at once where an object went away.
    pub fn change<K: kube::Resource>(
        &self,
        kind: &'static str,
        change: &Change<'_, K>,
        phase: &dyn Fn(&Cached<K>) -> &'static str,
        wake: &dyn Fn(Key, bool),
    ) {
        let mut woken: Option<(Key, bool)> = None;
        {
            let mut queues = lock(&self.queues);
            let made = Made {
                kind,
                name: change.key.name.clone(),
            };
            let before = change.before.and_then(|object| Some((origin(object)?, phase(object))));
            let after = change.after.and_then(|object| Some((origin(object)?, phase(object))));
            if before == after && change.after.is_some() {
                return;
            }
            if let Some(((uid, path), phase)) = before {
                let queue = queues.entry(uid.to_owned()).or_default();
                if let Some(objects) = queue.by_path.get_mut(path) {
                    objects.remove(&made);
                    if objects.is_empty() {
                        queue.by_path.remove(path);
                    }
                }
                if let Some(count) = queue.counts.get_mut(phase) {
                    *count -= 1;
                    if *count <= 0 {
                        queue.counts.remove(phase);
                    }
                }
                if after.is_none() {
                    queue.missing.insert(path.to_owned());
                }
                woken = queue.key.clone().map(|key| (key, after.is_none()));
            }
            if let Some(((uid, path), phase)) = after {
                let queue = queues.entry(uid.to_owned()).or_default();
                queue.by_path.entry(path.to_owned()).or_default().insert(made);
                *queue.counts.entry(phase).or_default() += 1;
                woken = woken.or_else(|| queue.key.clone().map(|key| (key, false)));
            }
        }
        if let Some((key, at_once)) = woken {
            wake(key, at_once);
        }
    }

    /// Returns what a queue made of a path.
    pub fn of_path(&self, uid: &str, path: &str) -> BTreeSet<Made> {
        let queues = lock(&self.queues);
        queues
            .get(uid)
            .and_then(|queue| queue.by_path.get(path))
            .cloned()
            .unwrap_or_default()
    }

    /// Returns the paths of which a queue made anything.
    pub fn paths(&self, uid: &str) -> Vec<String> {
        let queues = lock(&self.queues);
        queues
            .get(uid)
            .map(|queue| queue.by_path.keys().cloned().collect())
            .unwrap_or_default()
    }

    /// Returns how many objects a queue made.
    pub fn count(&self, uid: &str) -> i64 {
        lock(&self.queues)
            .get(uid)
            .map_or(0, |queue| queue.counts.values().sum())
    }

    /// Returns how many objects of a queue are in each phase.
    pub fn counts(&self, uid: &str) -> BTreeMap<String, i64> {
        let queues = lock(&self.queues);
        let counts = queues.get(uid).map(|queue| &queue.counts);
        counts
            .into_iter()
            .flatten()
            .map(|(phase, count)| ((*phase).to_owned(), *count))
            .collect()
    }

    /// Says whether an object of a queue went away that was not taken yet.
    pub fn has_missing(&self, uid: &str) -> bool {
        lock(&self.queues)
            .get(uid)
            .is_some_and(|queue| !queue.missing.is_empty())
    }

    /// Takes the paths of which an object went away.
    pub fn take_missing(&self, uid: &str) -> BTreeSet<String> {
        lock(&self.queues)
            .get_mut(uid)
            .map(|queue| std::mem::take(&mut queue.missing))
            .unwrap_or_default()
    }
}
