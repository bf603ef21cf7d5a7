//! Waiting for what an API serves, by watching it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use futures::StreamExt;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use schemas::workload::WorkloadPhase;
use schemas::{TaskQueue, Workload};
use serde::de::DeserializeOwned;

use crate::foreman::LIMIT;

/// Watches objects of the namespace `default` until those that there are please `done`.
pub async fn until<K>(
    client: &Client,
    what: &str,
    mut done: impl FnMut(&BTreeMap<String, K>) -> bool,
) -> BTreeMap<String, K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), "default");
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    let mut seen = BTreeMap::new();
    let mut listed = false;
    let waited = tokio::time::timeout(LIMIT, async {
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => seen.clear(),
                Ok(watcher::Event::InitDone) => listed = true,
                Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) => {
                    seen.insert(object.name_any(), object);
                }
                Ok(watcher::Event::Delete(object)) => {
                    seen.remove(&object.name_any());
                }
                Err(error) => eprintln!("the watch broke off: {error}"),
            }
            if listed && done(&seen) {
                return;
            }
        }
    })
    .await;
    assert!(waited.is_ok(), "waited too long for {what}; there is {seen:#?}");
    seen
}

/// Tells whether a Workload came from the task file of this stem.
pub fn is_from(workload: &Workload, stem: &str) -> bool {
    let path = workload.annotations().get("foreman.llmkube.dev/source-path");
    path.is_some_and(|path| path.ends_with(&format!("/{stem}.md")))
}

/// Waits until the Workload of a task file pleases `done`, and returns it.
pub async fn workload(client: &Client, stem: &str, what: &str, done: impl Fn(&Workload) -> bool) -> Workload {
    let all = until::<Workload>(client, what, |all| {
        all.values().any(|found| is_from(found, stem) && done(found))
    })
    .await;
    all.into_values().find(|found| is_from(found, stem)).unwrap()
}

/// Waits until a run of a task file's work ended, and returns its Workload.
pub async fn ended(client: &Client, stem: &str, run: i64) -> Workload {
    workload(client, stem, "the end of a run", |found| {
        let status = found.status.clone().unwrap_or_default();
        status.run == Some(run) && status.phase.is_some_and(WorkloadPhase::is_terminal)
    })
    .await
}

/// Waits until the queue pleases `done`, and returns it.
pub async fn queue(client: &Client, what: &str, done: impl Fn(&TaskQueue) -> bool) -> TaskQueue {
    let all = until::<TaskQueue>(client, what, |all| all.values().any(&done)).await;
    all.into_values().find(|queue| done(queue)).unwrap()
}
