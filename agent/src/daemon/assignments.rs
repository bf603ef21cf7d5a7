//! The tasks that are assigned to this node, as the watch tells of them.

use std::collections::HashMap;

use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::{AgenticTask, labels};

use super::claim;
use super::desk::{Desk, Stop};
use crate::config::Config;

pub(super) fn watch_tasks(
    client: &Client,
    config: &Config,
) -> impl futures::Stream<Item = Result<watcher::Event<AgenticTask>, watcher::Error>> + use<> {
    let api: Api<AgenticTask> = match &config.task_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let selector = format!("status.assignedNode={}", config.node_name);
    watcher(api, watcher::Config::default().fields(&selector)).default_backoff()
}

pub(super) fn observe(
    event: watcher::Event<AgenticTask>,
    config: &Config,
    desk: &Desk,
    waiting: &mut HashMap<String, AgenticTask>,
) {
    match event {
        watcher::Event::Init | watcher::Event::InitDone => {}
        watcher::Event::Delete(task) => {
            let uid = task.uid().unwrap_or_default();
            waiting.remove(&uid);
            if let Some(run) = desk.with(|running| running.get(&uid).cloned()) {
                run.end(Stop::Lost);
            }
        }
        watcher::Event::Apply(task) | watcher::Event::InitApply(task) => {
            let uid = task.uid().unwrap_or_default();
            if let Some(run) = desk.with(|running| running.get(&uid).cloned()) {
                if !claim::is_held_by(&task, &run.held) {
                    run.end(Stop::Lost);
                } else if cancel_requested(&task).is_some() {
                    run.end(Stop::Cancelled);
                }
            } else if claim::is_claimable(&task, &config.node_name) {
                waiting.insert(uid, task);
            } else {
                waiting.remove(&uid);
            }
        }
    }
}

/// Returns the id of a request to cancel that has not been dealt with.
pub(super) fn cancel_requested(task: &AgenticTask) -> Option<&String> {
    let id = task.annotations().get(labels::CANCEL)?;
    (task.status.as_ref().and_then(|status| status.handled_cancel.as_ref()) != Some(id)).then_some(id)
}
