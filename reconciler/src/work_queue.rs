//! A queue of keys: each key at most once, never worked on twice at the same time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::lock;

/// What follows a reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until something changes.
    Wait,
    /// The same again after this long.
    After(Duration),
    /// The same again with growing delay, because somebody else's write came first: no failure, and nobody is told.
    Lost,
    /// The same again with growing delay.
    Failed(String),
}

const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

struct State<K> {
    ready: VecDeque<K>,
    waiting: HashSet<K>,
    working: HashSet<K>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    delayed_keys: HashMap<u64, K>,
    due: HashMap<K, Instant>,
    failures: HashMap<K, u32>,
    counter: u64,
}

/// A queue of keys.
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                waiting: HashSet::new(),
                working: HashSet::new(),
                delayed: BinaryHeap::new(),
                delayed_keys: HashMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                counter: 0,
            }),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// Adds a key; one that waits already is not added again, one that is worked on comes again afterwards.
    pub fn add(&self, key: K) {
        let mut state = lock(&self.state);
        state.due.remove(&key);
        if state.waiting.insert(key.clone()) && !state.working.contains(&key) {
            state.ready.push_back(key);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Adds a key after `delay`; an earlier date that is set already stands.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + delay;
        let mut state = lock(&self.state);
        if state.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        state.due.insert(key.clone(), at);
        state.counter += 1;
        let id = state.counter;
        state.delayed.push(Reverse((at, id)));
        state.delayed_keys.insert(id, key);
        drop(state);
        self.changed.notify_one();
    }

    /// Takes the next key; [`WorkQueue::done`] gives it back.
    pub async fn next(&self) -> K {
        loop {
            let wake = {
                let mut state = lock(&self.state);
                let now = Instant::now();
                while let Some(Reverse((at, id))) = state.delayed.peek().copied() {
                    if at > now {
                        break;
                    }
                    state.delayed.pop();
                    let Some(key) = state.delayed_keys.remove(&id) else {
                        continue;
                    };
                    // Only the date that stands counts: an earlier add or a nearer date took this one's place.
                    if state.due.get(&key) == Some(&at) {
                        state.due.remove(&key);
                        if state.waiting.insert(key.clone()) && !state.working.contains(&key) {
                            state.ready.push_back(key);
                        }
                    }
                }
                if let Some(key) = state.ready.pop_front() {
                    state.waiting.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((at, _))| *at)
            };
            match wake {
                Some(at) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// Gives a key back, and sets what follows.
    pub fn done(&self, key: K, next: &Next) {
        let delay = {
            let mut state = lock(&self.state);
            state.working.remove(&key);
            if state.waiting.contains(&key) {
                state.ready.push_back(key.clone());
                self.changed.notify_one();
            }
            match next {
                Next::Lost | Next::Failed(_) => {
                    let failures = state.failures.entry(key.clone()).or_insert(0);
                    *failures = failures.saturating_add(1);
                    Some(
                        FIRST_DELAY
                            .saturating_mul(1 << (*failures - 1).min(12))
                            .min(LONGEST_DELAY),
                    )
                }
                Next::Wait => {
                    state.failures.remove(&key);
                    None
                }
                Next::After(delay) => {
                    state.failures.remove(&key);
                    Some(*delay)
                }
            }
        };
        if let Some(delay) = delay {
            self.add_after(key, delay);
        }
    }

    /// Returns how many keys are ready to be worked on.
    pub fn depth(&self) -> usize {
        lock(&self.state).ready.len()
    }

    /// Forgets who worked: workers that were stopped in the middle of a key never give it back.
    pub fn begin_term(&self) {
        let mut state = lock(&self.state);
        for key in std::mem::take(&mut state.working) {
            if state.waiting.contains(&key) {
                state.ready.push_back(key);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Says whether nothing is ready and nothing is worked on.
    pub fn is_idle(&self) -> bool {
        let state = lock(&self.state);
        state.ready.is_empty() && state.working.is_empty()
    }
}

/// Works on a queue with `workers` at once until `stop`; what is begun is ended first.
pub async fn drive<K, F, Fut>(queue: Arc<WorkQueue<K>>, workers: usize, stop: CancellationToken, reconcile: F)
where
    K: Clone + Eq + Hash + Send + 'static,
    F: Fn(K) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Next> + Send + 'static,
{
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..workers.max(1) {
        let (queue, stop, reconcile) = (queue.clone(), stop.clone(), reconcile.clone());
        running.spawn(async move {
            loop {
                let key = tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    key = queue.next() => key,
                };
                let next = reconcile(key.clone()).await;
                queue.done(key, &next);
            }
        });
    }
    while let Some(ended) = running.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a worker ended before its time");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn a_key_that_is_worked_on_comes_again_only_afterwards() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "b");
        assert!(
            tokio::time::timeout(Duration::from_millis(20), queue.next())
                .await
                .is_err()
        );
        queue.done("a", &Next::Wait);
        assert_eq!(queue.next().await, "a");
        queue.done("a", &Next::Wait);
        queue.done("b", &Next::Wait);
        assert!(queue.is_idle());
    }

    #[tokio::test]
    async fn the_earliest_date_wins_and_fires_once() {
        let queue = WorkQueue::default();
        queue.add_after("a", Duration::from_millis(40));
        queue.add_after("a", Duration::from_millis(5));
        queue.add_after("a", Duration::from_millis(20));
        assert_eq!(queue.next().await, "a");
        queue.done("a", &Next::Wait);
        assert!(
            tokio::time::timeout(Duration::from_millis(80), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test]
    async fn failures_and_lost_races_delay_more_and_more() {
        let queue = WorkQueue::default();
        queue.add("a");
        assert_eq!(queue.next().await, "a");
        queue.done("a", &Next::Lost);
        let before = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert!(before.elapsed() >= FIRST_DELAY);
        queue.done("a", &Next::Failed("x".into()));
        let before = Instant::now();
        assert_eq!(queue.next().await, "a");
        assert!(before.elapsed() >= FIRST_DELAY * 2);
    }

    #[tokio::test]
    async fn a_key_whose_worker_was_stopped_comes_again_in_the_next_term() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("b");
        assert_eq!((queue.next().await, queue.next().await), ("a", "b"));
        queue.add("a");
        queue.begin_term();
        assert_eq!(queue.next().await, "a");
        queue.add("b");
        assert_eq!(queue.next().await, "b");
    }
}
