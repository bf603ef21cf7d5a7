//! The tasks that are assigned to this node, as the watch tells of them.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::{AgenticTask, labels};
use tokio::time::Instant;

use super::claim;
use super::desk::{Desk, Stop};
use crate::config::Config;
use crate::patience::Pauses;

/// How long after a refusal a claim is made again; the pause doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(super) fn watch_tasks(
    client: &Client,
    config: &Config,
) -> impl futures::Stream<Item = Result<watcher::Event<AgenticTask>, watcher::Error>> + use<> {
    let api: Api<AgenticTask> = match &config.task_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let selector = format!("status.assignedNode={}", config.node_name);
    watcher(api, watcher::Config::default().fields(&selector)).backoff(Pauses::up_to(config.poll_interval))
}

/// What the watch told of this node's tasks.
#[derive(Default)]
pub(super) struct Assigned {
    /// Those that wait to be claimed, by UID.
    pub(super) waiting: HashMap<String, AgenticTask>,
    /// UIDs that the list under way has named so far.
    listed: HashSet<String>,
    /// Those whose claim was refused, by UID: when it is made again, and after how long a pause.
    refused: HashMap<String, (Instant, Duration)>,
}

impl Assigned {
    /// Takes in what the watch tells; a run whose task is gone, or is another's by now, is ended.
    pub(super) fn observe(&mut self, event: watcher::Event<AgenticTask>, config: &Config, desk: &Desk) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(task) => {
                self.listed.insert(task.uid().unwrap_or_default());
                self.see(task, config, desk);
            }
            // A watch that broke off is taken up by a list, which tells of what went meanwhile by not naming it.
            watcher::Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                self.waiting.retain(|uid, _| listed.contains(uid));
                self.refused.retain(|uid, _| listed.contains(uid));
                desk.with(|running| {
                    let gone = running.iter().filter(|(uid, _)| !listed.contains(*uid));
                    gone.for_each(|(_, run)| run.end(Stop::Lost));
                });
            }
            watcher::Event::Apply(task) => self.see(task, config, desk),
            watcher::Event::Delete(task) => {
                let uid = task.uid().unwrap_or_default();
                self.forget(&uid);
                if let Some(run) = desk.with(|running| running.get(&uid).cloned()) {
                    run.end(Stop::Lost);
                }
            }
        }
    }

    fn see(&mut self, task: AgenticTask, config: &Config, desk: &Desk) {
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
            self.waiting.insert(uid, task);
        } else {
            self.forget(&uid);
        }
    }

    fn forget(&mut self, uid: &str) {
        self.waiting.remove(uid);
        self.refused.remove(uid);
    }

    /// Lets a task wait again whose claim was refused, a longer pause each time: no event may ever tell of it again.
    pub(super) fn put_back(&mut self, task: AgenticTask, now: Instant) {
        let uid = task.uid().unwrap_or_default();
        let before = self.refused.get(&uid).map(|(_, pause)| *pause * 2);
        let pause = before.unwrap_or(FIRST_PAUSE).min(LONGEST_PAUSE);
        self.refused.insert(uid.clone(), (now + pause, pause));
        self.waiting.insert(uid, task);
    }

    /// Returns those of the waiting tasks that are not to be claimed yet, and when they are.
    pub(super) fn paused(&self, now: Instant) -> impl Iterator<Item = (&String, Instant)> {
        let refused = self.refused.iter().map(|(uid, (again, _))| (uid, *again));
        refused.filter(move |(uid, again)| *again > now && self.waiting.contains_key(*uid))
    }
}

/// Returns the id of a request to cancel that has not been dealt with; an empty one asks for nothing.
pub(super) fn cancel_requested(task: &AgenticTask) -> Option<&String> {
    let id = task.annotations().get(labels::CANCEL).filter(|id| !id.is_empty())?;
    (task.status.as_ref().and_then(|status| status.handled_cancel.as_ref()) != Some(id)).then_some(id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Arc;

    use schemas::AgenticTaskStatus;
    use schemas::agentic_task::{Phase, TaskKind};
    use tokio_util::sync::CancellationToken;

    use super::super::desk::Running;
    use super::super::startable;
    use super::*;

    fn run(uid: &str, desk: &Desk) -> Running {
        let run = Running {
            held: claim::Held {
                uid: uid.into(),
                ..claim::Held::sample(1)
            },
            cancel: CancellationToken::new(),
            stop: Arc::default(),
            kind: TaskKind::Verify,
            limit: std::time::Duration::from_secs(60),
        };
        desk.with(|running| running.insert(uid.into(), run.clone()));
        run
    }

    fn task(uid: &str, status: AgenticTaskStatus) -> AgenticTask {
        let mut task = AgenticTask::default();
        task.metadata.uid = Some(uid.into());
        task.status = Some(AgenticTaskStatus {
            assigned_node: Some("n".into()),
            epoch: Some(1),
            ..status
        });
        task
    }

    fn waits(uid: &str) -> AgenticTask {
        let phase = Some(Phase::Scheduled);
        task(
            uid,
            AgenticTaskStatus {
                phase,
                ..AgenticTaskStatus::default()
            },
        )
    }

    #[test]
    fn a_request_to_cancel_counts_once_and_an_empty_one_never() {
        let held = claim::Held::sample(1);
        for (id, handled, requested) in [
            ("c1", None, true),
            ("c2", Some("c1"), true),
            ("c1", Some("c1"), false),
            ("", None, false),
            ("", Some("c1"), false),
        ] {
            let mut task = crate::executor::sample::task(&held);
            task.annotations_mut().insert(labels::CANCEL.into(), id.into());
            task.status.as_mut().unwrap().handled_cancel = handled.map(str::to_owned);
            assert_eq!(cancel_requested(&task).is_some(), requested, "{id:?} {handled:?}");
        }
    }

    #[test]
    fn a_task_that_is_given_back_to_this_node_before_its_lost_run_ended_is_claimed_after_it() {
        let config = crate::config::tests::parse(&["--fleet-node-name=n"]);
        let desk = Desk::default();
        let run = run("u", &desk);
        let mut assigned = Assigned::default();
        assigned.observe(watcher::Event::Apply(waits("u")), &config, &desk);
        assert_eq!(run.why(), Some(Stop::Lost));
        let next = |desk: &Desk| {
            let in_hand: HashSet<String> = desk.with(|running| running.keys().cloned().collect());
            startable(&assigned.waiting, &in_hand, 0, 0, 1)
        };
        assert_eq!(next(&desk), None, "its earlier run goes on");
        desk.with(|running| running.remove("u"));
        assert_eq!(next(&desk).as_deref(), Some("u"), "nobody says so twice");
    }

    #[test]
    fn a_task_whose_claim_was_refused_is_claimed_after_a_pause_that_grows_until_it_is_no_longer_this_nodes() {
        let config = crate::config::tests::parse(&["--fleet-node-name=n"]);
        let desk = Desk::default();
        let mut assigned = Assigned::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assigned.put_back(waits("u"), now);
            // What else is said of it meanwhile does not make the refusal another.
            assigned.observe(watcher::Event::Apply(waits("u")), &config, &desk);
            let paused: Vec<_> = assigned.paused(now).map(|(uid, again)| (uid.clone(), again)).collect();
            let [(uid, again)] = &paused[..] else {
                panic!("{paused:?}")
            };
            assert_eq!(uid, "u");
            pauses.push((*again - now).as_secs());
            now = *again;
            assert_eq!(assigned.paused(now).count(), 0, "its pause is over");
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assigned.observe(watcher::Event::Delete(waits("u")), &config, &desk);
        assert!(assigned.waiting.is_empty());
        assigned.put_back(waits("u"), now);
        let pause = assigned.paused(now).map(|(_, again)| again - now).next();
        assert_eq!(pause, Some(FIRST_PAUSE), "it was another assignment");
    }

    #[test]
    fn what_a_new_list_does_not_name_is_gone_and_what_it_names_goes_on() {
        use watcher::Event::{Apply, Init, InitApply, InitDone};

        let config = crate::config::tests::parse(&["--fleet-node-name=n"]);
        let desk = Desk::default();
        let (deleted, stays) = (run("deleted", &desk), run("stays", &desk));
        let held = AgenticTaskStatus {
            phase: Some(Phase::Running),
            claim: Some(stays.held.claim.clone()),
            ..AgenticTaskStatus::default()
        };
        let mut assigned = Assigned::default();
        let broke_off = [
            Apply(waits("given-away")),
            Init,
            InitApply(waits("given-away")),
            InitApply(task("deleted", held.clone())),
        ];
        let again = [Init, InitApply(task("stays", held)), InitApply(waits("new")), InitDone];
        for event in broke_off {
            assigned.observe(event, &config, &desk);
        }
        assert_eq!(deleted.why(), None, "a list that did not come to its end says nothing");
        for event in again {
            assigned.observe(event, &config, &desk);
        }
        assert_eq!((deleted.why(), stays.why()), (Some(Stop::Lost), None));
        assert_eq!(assigned.waiting.keys().collect::<Vec<_>>(), ["new"]);
    }
}
