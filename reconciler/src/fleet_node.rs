//! The FleetNode controller: which nodes live, told to the scheduler and written to their status.

pub mod liveness;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use schemas::fleet_node::{FleetNodeStatus, NodePhase};
use schemas::{FleetNode, labels};
use serde_json::Value;
use telemetry::health::Health;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::agentic_task::Scheduler;
use crate::cache::{Cache, Cached, Key};
use crate::clock::{Clock, lock};
use crate::conditions::{self, Said};
use crate::writer::{Outcome, Writer, status_patch};
use liveness::{Judgement, Liveness};

/// Writes that are under way at once.
const CONCURRENT: usize = 16;
/// Before a node is judged again whose status lost a race, and whose status was not written.
const AGAIN_AFTER: Duration = Duration::from_secs(1);
const FAILED_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long one round over all nodes may take before it counts as stuck.
const ROUND_LIMIT: Duration = Duration::from_secs(1800);

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Nodes.
    pub nodes: Arc<Cache<FleetNode>>,
    /// Time; its elapsed part stands still while the API is away, since then no node can be heard of.
    pub clock: Arc<dyn Clock>,
    /// Who is told which nodes live.
    pub scheduler: Arc<Scheduler>,
    /// What is known of all nodes.
    pub watch: Arc<Watch>,
    /// Who is told of rounds that do not end.
    pub health: Arc<Health>,
}

/// What is known of all nodes, and the call to look at it.
#[derive(Default)]
pub struct Watch {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Default)]
struct Known {
    liveness: Liveness,
    /// Nodes of which something was heard since they were judged.
    touched: BTreeSet<String>,
    /// When a node is to be judged even if nothing is heard of it, soonest first.
    due: BTreeSet<(Duration, String)>,
    due_of: HashMap<String, Duration>,
}

impl Known {
    /// Takes the nodes that are to be judged: a heartbeat costs a look at one node, not at all of them.
    fn take(&mut self, at: Duration) -> BTreeSet<String> {
        let over = self.due.iter().take_while(|(due, _)| *due <= at);
        self.touched.extend(over.map(|(_, name)| name.clone()));
        let taken = std::mem::take(&mut self.touched);
        for name in &taken {
            if let Some(due) = self.due_of.remove(name) {
                self.due.remove(&(due, name.clone()));
            }
        }
        taken
    }

    fn judge(&mut self, name: &str, at: Duration) -> Judgement {
        let judged = self.liveness.judge(name, at);
        if let Some(until) = judged.until {
            self.set_due(name, until);
        }
        judged
    }

    /// Has a node judged at that time, or before where it is due before.
    fn set_due(&mut self, name: &str, at: Duration) {
        match self.due_of.get(name) {
            Some(due) if *due <= at => return,
            Some(due) => self.due.remove(&(*due, name.to_owned())),
            None => false,
        };
        self.due.insert((at, name.to_owned()));
        self.due_of.insert(name.to_owned(), at);
    }
}

impl Watch {
    /// Follows heartbeats and Leases from now on; only Leases of `namespace` count.
    pub fn observe(
        self: &Arc<Self>,
        nodes: &Cache<FleetNode>,
        leases: &Cache<Lease>,
        namespace: &str,
        clock: &Arc<dyn Clock>,
    ) {
        let (watch, time) = (self.clone(), clock.clone());
        nodes.subscribe(move |change| {
            let mut known = lock(&watch.known);
            match change.after {
                Some(node) => known.liveness.beat(&change.key.name, heartbeat(node), time.elapsed()),
                None => known.liveness.forget(&change.key.name),
            }
            known.touched.insert(change.key.name.clone());
            drop(known);
            watch.changed.notify_one();
        });
        let (watch, time, namespace) = (self.clone(), clock.clone(), namespace.to_owned());
        leases.subscribe(move |change| {
            let Some(node) = change.key.name.strip_prefix(labels::NODE_LEASE_PREFIX) else {
                return;
            };
            if change.key.namespace != namespace {
                return;
            }
            let mut known = lock(&watch.known);
            match change.after {
                Some(lease) => {
                    let spec = lease
                        .readable()
                        .and_then(|lease| lease.spec.clone())
                        .unwrap_or_default();
                    let seconds = u64::try_from(spec.lease_duration_seconds.unwrap_or(15))
                        .unwrap_or(15)
                        .max(1);
                    let version = lease.meta().resource_version.as_deref().unwrap_or_default();
                    let good_for = Duration::from_secs(seconds);
                    let holder = spec.holder_identity.as_deref();
                    known.liveness.lease(node, version, holder, good_for, time.elapsed());
                }
                None => known.liveness.lease_gone(node),
            }
            known.touched.insert(node.to_owned());
            drop(known);
            watch.changed.notify_one();
        });
    }
}

impl Watch {
    /// Says of each node when its last heartbeat was seen, and whether it counts as alive at `at`.
    pub fn nodes(&self, nodes: &Cache<FleetNode>, at: Duration) -> Vec<(String, Option<Duration>, bool)> {
        let names = nodes.all().into_iter().filter_map(|node| node.meta().name.clone());
        let liveness = &lock(&self.known).liveness;
        names
            .map(|name| {
                let (seen, alive) = (liveness.last_beat(&name), liveness.judge(&name, at).alive);
                (name, seen, alive)
            })
            .collect()
    }
}

fn heartbeat(node: &Cached<FleetNode>) -> Option<Timestamp> {
    let status = node.readable()?.status.as_ref()?;
    status.last_heartbeat_time.as_ref().map(|time| time.0)
}

/// Judges nodes whenever something changed or a time is over, until `stop`.
pub async fn run(ctx: Arc<Context>, stop: CancellationToken) {
    tracing::info!(controller = "FleetNode", "Starting workers");
    // An earlier term may have judged without being able to say so.
    let all = ctx.nodes.all().into_iter().filter_map(|node| node.meta().name.clone());
    lock(&ctx.watch.known).touched.extend(all);
    while !stop.is_cancelled() {
        let at = ctx.clock.elapsed();
        let working = ctx.health.begin("FleetNode", ROUND_LIMIT);
        let mut told = Vec::new();
        let touched = lock(&ctx.watch.known).take(at);
        for name in touched {
            let Some(node) = ctx.nodes.get(&Key::new("", name.clone())) else {
                continue;
            };
            let judged = lock(&ctx.watch.known).judge(&name, at);
            if let Some(patch) = plan(&node, &judged, ctx.clock.now()) {
                if judged.alive {
                    tracing::info!(node = name, because = judged.because, "node is heard of again");
                } else {
                    tracing::warn!(node = name, because = judged.because, "node is not ready");
                }
                told.push((node, patch));
            }
            ctx.scheduler
                .change(|index| index.set_alive(&name, judged.alive, judged.holder));
        }
        // A whole rack may go at once: its tasks are moved by then, and what is said of its nodes is not one by one.
        let writes = futures::stream::iter(told).map(|(node, patch)| write(&ctx, node, patch));
        let again = writes.buffer_unordered(CONCURRENT);
        let again: Vec<Option<(String, Duration)>> = again.collect().await;
        drop(working);
        let now = ctx.clock.elapsed();
        let wake = {
            let mut known = lock(&ctx.watch.known);
            for (name, pause) in again.into_iter().flatten() {
                known.set_due(&name, now + pause);
            }
            known.due.first().map(|(due, _)| *due)
        };
        let sleep = wake.map_or(Duration::from_secs(3600), |due| due.saturating_sub(now));
        tokio::select! {
            () = stop.cancelled() => {}
            () = ctx.watch.changed.notified() => {}
            () = tokio::time::sleep(sleep.max(Duration::from_millis(10))) => {}
        }
    }
}

/// Writes a node's status; names the node where that is to be tried again, and after how long.
async fn write(ctx: &Context, node: Arc<Cached<FleetNode>>, patch: Value) -> Option<(String, Duration)> {
    let version = node.meta().resource_version.as_deref();
    let key = Key::of(node.meta());
    match ctx.writer.patch_status(&ctx.nodes, &key, version, patch).await {
        Ok(Outcome::Done) => None,
        Ok(Outcome::Lost) => Some((key.name, AGAIN_AFTER)),
        Err(error) => {
            tracing::warn!(node = %key, %error, "the node's phase was not written");
            Some((key.name, FAILED_AGAIN_AFTER))
        }
    }
}

/// Reasons of the condition Ready, which tells whether a node is heard of.
const NOT_HEARD_OF: &str = "NotHeardOf";
const HEARD_OF: &str = "HeardOf";

/// Plans the status of a node that is not heard of; one that lives writes its own, and only what was said against it is
/// taken back.
fn plan(node: &Cached<FleetNode>, judged: &Judgement, now: Timestamp) -> Option<Value> {
    let object = node.readable()?;
    let before = object.status.as_ref();
    let phase = before.and_then(|status| status.phase).unwrap_or_default();
    if judged.alive {
        let said = conditions::find(before?.conditions.as_deref(), "Ready")?;
        // Its agent says by the phase that it is back; until then the next heartbeat brings it here again.
        if phase != NodePhase::Ready || said.status == "True" || said.reason != NOT_HEARD_OF {
            return None;
        }
        return say(node, before, now, true, HEARD_OF, judged);
    }
    if !matches!(phase, NodePhase::Ready | NodePhase::Draining) {
        return None;
    }
    // Draining is what an agent says that leaves on purpose. It is not called lost until nobody came in its place.
    if judged.left && phase == NodePhase::Draining {
        return None;
    }
    say(node, before, now, false, NOT_HEARD_OF, judged)
}

/// Builds the patch that says whether a node is heard of.
fn say(
    node: &Cached<FleetNode>,
    before: Option<&FleetNodeStatus>,
    now: Timestamp,
    ready: bool,
    reason: &str,
    judged: &Judgement,
) -> Option<Value> {
    let mut after: FleetNodeStatus = before.cloned().unwrap_or_default();
    if !ready {
        after.phase = Some(NodePhase::NotReady);
    }
    let mut list = after.conditions.take().unwrap_or_default();
    let said = Said::new("Ready", ready, reason, judged.because.clone());
    conditions::set(&mut list, said, node.meta().generation, now);
    after.conditions = Some(list);
    status_patch(before, &after)
}

/// Lists the nodes that are alive by what was seen so far.
pub fn alive(ctx: &Context) -> BTreeSet<String> {
    let at = ctx.clock.elapsed();
    let names = ctx.nodes.all().into_iter().filter_map(|node| node.meta().name.clone());
    names
        .filter(|name| lock(&ctx.watch.known).liveness.judge(name, at).alive)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn judged(alive: bool, left: bool) -> Judgement {
        Judgement {
            alive,
            holder: None,
            left,
            until: None,
            because: "a test says so".into(),
        }
    }

    #[test]
    fn a_node_is_judged_when_it_is_heard_of_and_when_its_time_is_over() {
        let second = Duration::from_secs;
        let mut known = Known::default();
        let beat = |known: &mut Known, name: &str, at: u64| {
            let time = Timestamp::from_second(i64::try_from(at).unwrap()).unwrap();
            known.liveness.beat(name, Some(time), second(at));
            known.touched.insert(name.to_owned());
        };
        let judged = |known: &mut Known, at: u64| -> Vec<(String, bool)> {
            let taken = known.take(second(at));
            let judge = |name: String| (name.clone(), known.judge(&name, second(at)).alive);
            taken.into_iter().map(judge).collect()
        };
        let found = |of: &[(&str, bool)]| {
            of.iter()
                .map(|(name, alive)| ((*name).to_owned(), *alive))
                .collect::<Vec<_>>()
        };
        beat(&mut known, "a", 0);
        beat(&mut known, "b", 0);
        assert_eq!(judged(&mut known, 0), found(&[("a", true), ("b", true)]));
        beat(&mut known, "a", 30);
        assert_eq!(judged(&mut known, 30), found(&[("a", true)]), "nothing was heard of b");
        assert_eq!(judged(&mut known, 89), []);
        assert_eq!(judged(&mut known, 90), found(&[("b", false)]), "the time of b is over");
        assert_eq!(judged(&mut known, 119), []);
        assert_eq!(
            judged(&mut known, 120),
            found(&[("a", false)]),
            "the later heartbeat counts"
        );
        assert_eq!(judged(&mut known, 1000), [], "what is over is not judged ever again");
    }

    #[test]
    fn a_node_whose_status_was_not_written_is_judged_after_its_pause_alone() {
        let second = Duration::from_secs;
        let mut known = Known::default();
        known.set_due("dead", second(10));
        known.touched.insert("other".to_owned());
        assert_eq!(known.take(second(1)), BTreeSet::from(["other".to_owned()]));
        known.set_due("dead", second(20));
        assert_eq!(known.take(second(9)), BTreeSet::new());
        assert_eq!(known.take(second(10)), BTreeSet::from(["dead".to_owned()]));
        assert_eq!(known.take(second(100)), BTreeSet::new());
    }

    #[test]
    fn a_node_that_left_on_purpose_is_not_called_lost_at_once() {
        let table = [
            (NodePhase::Ready, judged(true, false), false),
            (NodePhase::Ready, judged(false, false), true),
            (NodePhase::Ready, judged(false, true), true),
            (NodePhase::Draining, judged(false, true), false),
            (NodePhase::Draining, judged(false, false), true),
            (NodePhase::NotReady, judged(false, false), false),
        ];
        for (phase, judged, written) in table {
            let mut node = FleetNode::new("n", schemas::fleet_node::FleetNodeSpec::default());
            node.status = Some(FleetNodeStatus {
                phase: Some(phase),
                ..FleetNodeStatus::default()
            });
            let node = Cached::of(node);
            let patch = plan(&node, &judged, Timestamp::UNIX_EPOCH);
            assert_eq!(patch.is_some(), written, "{phase:?} {judged:?}");
        }
    }

    #[test]
    fn what_was_said_against_a_node_is_taken_back_once_when_it_is_heard_of_again() {
        let node = |phase: &str, ready: &str, reason: &str| {
            Cached::of(
                serde_json::from_value::<FleetNode>(serde_json::json!({
                    "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "metadata": { "name": "n" },
                    "spec": { "nodeName": "n" }, "status": { "phase": phase, "conditions": [{
                        "type": "Ready", "status": ready, "reason": reason, "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"
                    }] }
                }))
                .unwrap(),
            )
        };
        let alive = judged(true, false);
        let patch = plan(&node("Ready", "False", NOT_HEARD_OF), &alive, Timestamp::UNIX_EPOCH).unwrap();
        let condition = &patch["conditions"][0];
        assert_eq!(
            (condition["status"].as_str(), condition["reason"].as_str()),
            (Some("True"), Some("HeardOf"))
        );
        assert_eq!(patch.get("phase"), None, "the phase is its agent's");
        for known in [
            node("Ready", "True", HEARD_OF),
            // Its agent has not said yet that it is back.
            node("NotReady", "False", NOT_HEARD_OF),
            node("Ready", "False", "ItsOwnWord"),
        ] {
            assert_eq!(plan(&known, &alive, Timestamp::UNIX_EPOCH), None);
        }
    }
}
