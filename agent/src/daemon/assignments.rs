//! The tasks that are assigned to this node, as the watch tells of them.

use std::collections::HashMap;

use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::{AgenticTask, labels};

use super::claim;
use super::desk::{Desk, Stop};
use crate::config::Config;
use crate::patience::Pauses;

pub(super) fn watch_tasks(
    client: &Client,
    config: &Config,
) -> impl futures::Stream<Item = Result<watcher::Event<AgenticTask>, watcher::Error>> + use<> {
    let api: Api<AgenticTask> = match &config.task_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let selector = format!("status.assignedNode={}", config.node_name);
    watcher(api, watcher::Config::default().fields(&selector)).backoff(Pauses::default())
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
            }
            // A run that lost its claim may end later than its task is given to this node anew, and nobody says so twice.
            if claim::is_claimable(&task, &config.node_name) {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::collections::HashSet;
    use std::sync::Arc;

    use schemas::AgenticTaskStatus;
    use schemas::agentic_task::{Phase, TaskKind};
    use tokio_util::sync::CancellationToken;

    use super::super::desk::Running;
    use super::super::startable;
    use super::*;

    #[test]
    fn a_task_that_is_given_back_to_this_node_before_its_lost_run_ended_is_claimed_after_it() {
        let config = crate::config::tests::parse(&["--fleet-node-name=n"]);
        let run = Running {
            held: claim::Held::sample(1),
            cancel: CancellationToken::new(),
            stop: Arc::default(),
            kind: TaskKind::Verify,
            timeout: 60,
        };
        let desk = Desk::default();
        desk.with(|running| running.insert("u".into(), run.clone()));
        let mut task = AgenticTask::default();
        task.metadata.uid = Some("u".into());
        task.status = Some(AgenticTaskStatus {
            phase: Some(Phase::Scheduled),
            assigned_node: Some(config.node_name.clone()),
            epoch: Some(1),
            ..AgenticTaskStatus::default()
        });
        let mut waiting = HashMap::new();
        observe(watcher::Event::Apply(task), &config, &desk, &mut waiting);
        assert_eq!(run.why(), Some(Stop::Lost));
        let next = |desk: &Desk| {
            let in_hand: HashSet<String> = desk.with(|running| running.keys().cloned().collect());
            startable(&waiting, &in_hand, 0, 0, 1)
        };
        assert_eq!(next(&desk), None, "its earlier run goes on");
        desk.with(|running| running.remove("u"));
        assert_eq!(next(&desk).as_deref(), Some("u"), "nobody says so twice");
    }
}
