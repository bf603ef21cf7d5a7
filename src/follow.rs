//! Prints what happens to queues, tasks and Workloads while it happens.

mod follower;
mod words;

use std::collections::HashMap;
use std::fmt::Debug;
use std::io::Write;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::BoxStream;
use kube::ResourceExt;
use kube::api::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_from};
use schemas::agentic_task::AgenticTask;
use schemas::{TaskQueue, Workload, labels};
use serde::de::DeserializeOwned;

use crate::table::plain;
use follower::Follower;
pub use words::{title, waits_for_sibling};

/// What stands before a line.
#[derive(Clone, Copy, Debug)]
enum Stamp {
    /// Seconds since the start.
    Since(Instant),
    /// Time of day.
    Clock,
}

/// What a line is about, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    subject: String,
    text: String,
}

impl Line {
    fn new(subject: String, text: String) -> Self {
        Self { subject, text }
    }

    /// Prints the line. Whoever reads may be gone, which must not end the work.
    fn print(&self, stamp: Stamp) {
        let stamp = match stamp {
            Stamp::Since(start) => format!("{:>6.1}s", start.elapsed().as_secs_f64()),
            Stamp::Clock => jiff::Zoned::now().strftime("%H:%M:%S").to_string(),
        };
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{stamp}  {:<34} {}", plain(&self.subject), plain(&self.text));
        let _ = out.flush();
    }
}

type Changes<K> = BoxStream<'static, watcher::Result<Event<K>>>;

fn changes<K>(client: &kube::Client, namespace: &str, config: watcher::Config) -> Changes<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    watch_from(api, config).default_backoff().boxed()
}

/// Tells everything that happens in a namespace, with the time of day, for as long as it is polled.
pub async fn live(client: &kube::Client, namespace: &str) {
    let never = |_: &Workload, _: bool| false;
    follow(client, namespace, None, Follower::new(true), Stamp::Clock, never).await;
}

/// Follows the tasks and Workloads of a namespace, or those of one Workload, until `done` says so or the time is over.
pub async fn until(
    client: &kube::Client,
    namespace: &str,
    only: Option<&str>,
    limit: Duration,
    mut done: impl FnMut(&HashMap<String, Workload>) -> bool,
) -> anyhow::Result<HashMap<String, Workload>> {
    let stamp = Stamp::Since(Instant::now());
    let mut seen = HashMap::new();
    let each = |workload: &Workload, is_there: bool| {
        if is_there {
            seen.insert(workload.name_any(), workload.clone());
        } else {
            seen.remove(&workload.name_any());
        }
        done(&seen)
    };
    let followed = follow(client, namespace, only, Follower::new(false), stamp, each);
    tokio::time::timeout(limit, followed).await.map_err(|_| {
        anyhow::anyhow!(
            "gave up after {} s; `foreman show` tells how far each task came",
            limit.as_secs()
        )
    })?;
    Ok(seen)
}

/// Follows until `each`, which is given every Workload and whether it is there, says that it is enough.
async fn follow(
    client: &kube::Client,
    namespace: &str,
    only: Option<&str>,
    mut follower: Follower,
    stamp: Stamp,
    mut each: impl FnMut(&Workload, bool) -> bool,
) {
    let mut of_tasks = watcher::Config::default();
    let mut of_workloads = watcher::Config::default();
    if let Some(name) = only {
        of_tasks = of_tasks.labels(&labels::tasks_of_workload(name));
        of_workloads = of_workloads.fields(&format!("metadata.name={name}"));
    }
    let mut queues = match only {
        None => changes::<TaskQueue>(client, namespace, watcher::Config::default()),
        Some(_) => futures::stream::pending().boxed(),
    };
    let mut tasks = changes::<AgenticTask>(client, namespace, of_tasks);
    let mut workloads = changes::<Workload>(client, namespace, of_workloads);
    loop {
        tokio::select! {
            Some(event) = queues.next() => match event {
                Ok(Event::Apply(queue) | Event::InitApply(queue)) => {
                    for line in follower.queue(&queue) {
                        line.print(stamp);
                    }
                    // Until the repository was read, nobody knows whether there is work.
                    follower.listed[0] |= queue.status.is_some_and(|status| status.conditions.is_some());
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, "the watch on queues broke off"),
            },
            Some(event) = tasks.next() => {
                let line = match event {
                    Ok(Event::Apply(task)) => follower.task(&task, false),
                    Ok(Event::InitApply(task)) => follower.task(&task, !follower.listed[1]),
                    Ok(Event::InitDone) => {
                        follower.listed[1] = true;
                        None
                    }
                    Ok(Event::Delete(task)) => {
                        follower.task_gone(&task);
                        None
                    }
                    Ok(Event::Init) => None,
                    Err(error) => {
                        tracing::debug!(%error, "the watch on tasks broke off");
                        None
                    }
                };
                line.iter().for_each(|line| line.print(stamp));
            }
            Some(event) = workloads.next() => {
                let mut enough = false;
                let line = match event {
                    Ok(Event::Apply(workload)) => {
                        enough = each(&workload, true);
                        follower.workload(&workload, false)
                    }
                    Ok(Event::InitApply(workload)) => {
                        enough = each(&workload, true);
                        let past = !follower.listed[2];
                        follower.workload(&workload, past)
                    }
                    Ok(Event::InitDone) => {
                        follower.listed[2] = true;
                        None
                    }
                    Ok(Event::Delete(workload)) => {
                        enough = each(&workload, false);
                        follower.workload_gone(&workload)
                    }
                    Ok(Event::Init) => None,
                    Err(error) => {
                        tracing::debug!(%error, "the watch on workloads broke off");
                        None
                    }
                };
                line.iter().for_each(|line| line.print(stamp));
                if enough {
                    return;
                }
            }
        }
        if only.is_none() {
            follower.rest().iter().for_each(|line| line.print(stamp));
        }
    }
}
