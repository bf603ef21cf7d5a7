//! All that a watch shows, kept in order, so that a test can say what must have been seen.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::StreamExt;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::foreman::LIMIT;

/// Until a watch that broke off is begun again. It must not fall behind those who are watched when a server comes back.
const AGAIN: Duration = Duration::from_millis(100);

/// Everything that a watch showed, in order.
pub struct Follower<K> {
    seen: Arc<Mutex<Vec<K>>>,
    /// When each of them was seen.
    times: Arc<Mutex<Vec<Instant>>>,
    count: watch::Receiver<usize>,
}

impl<K> Follower<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    pub fn of(api: Api<K>) -> Self {
        let seen: Arc<Mutex<Vec<K>>> = Arc::default();
        let (sender, count) = watch::channel(0);
        let times: Arc<Mutex<Vec<Instant>>> = Arc::default();
        let (into, at) = (seen.clone(), times.clone());
        tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).boxed();
            while let Some(event) = events.next().await {
                match event {
                    Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                        let mut seen = into.lock().unwrap();
                        seen.push(object);
                        at.lock().unwrap().push(Instant::now());
                        if sender.send(seen.len()).is_err() {
                            return;
                        }
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(AGAIN).await,
                }
            }
        });
        Self { seen, times, count }
    }

    /// Returns every state that was seen.
    pub fn states(&self) -> Vec<K> {
        self.seen.lock().unwrap().clone()
    }

    /// Returns when a state that pleases `done` was first seen.
    pub fn when(&self, done: impl Fn(&K) -> bool) -> Option<Instant> {
        let seen = self.seen.lock().unwrap();
        let found = seen.iter().position(done)?;
        Some(self.times.lock().unwrap()[found])
    }

    /// Waits until what was seen so far pleases `done`, and returns what that found.
    pub async fn until<T>(&mut self, what: &str, done: impl Fn(&[K]) -> Option<T>) -> T {
        self.within(LIMIT, done).await.unwrap_or_else(|| {
            let seen = self.states();
            let last = &seen[seen.len().saturating_sub(3)..];
            panic!(
                "waited too long for {what}; {} states were seen, at last {last:#?}",
                seen.len()
            )
        })
    }

    /// Waits for `limit` at most until what was seen so far pleases `done`, and returns what that found.
    pub async fn within<T>(&mut self, limit: Duration, done: impl Fn(&[K]) -> Option<T>) -> Option<T> {
        let waited = tokio::time::timeout(limit, async {
            loop {
                self.count.borrow_and_update();
                if let Some(found) = done(&self.seen.lock().unwrap()) {
                    return found;
                }
                self.count.changed().await.unwrap();
            }
        });
        waited.await.ok()
    }

    /// Waits until an object was seen in a state that pleases `done`, and returns it.
    pub async fn saw(&mut self, what: &str, done: impl Fn(&K) -> bool) -> K {
        self.until(what, |seen| seen.iter().find(|state| done(state)).cloned())
            .await
    }

    /// Returns every state in which an object of this name was seen.
    pub fn states_of(&self, name: &str) -> Vec<K> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|state| state.name_any() == name).cloned().collect()
    }

    /// Waits until an object of this name was seen in a state that pleases `done`, and returns the first.
    pub async fn saw_of(&mut self, name: &str, what: &str, done: impl Fn(&K) -> bool) -> K {
        let what = format!("{name} to be {what}");
        self.saw(&what, |state| state.name_any() == name && done(state)).await
    }
}
