//! The FleetNode controller: which nodes live, told to the scheduler and written to their status.

pub mod liveness;

use std::collections::BTreeSet;
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
/// How long one round over all nodes may take before it counts as stuck.
const ROUND_LIMIT: Duration = Duration::from_secs(1800);

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Nodes.
    pub nodes: Arc<Cache<FleetNode>>,
    /// Time.
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
    liveness: Mutex<Liveness>,
    changed: Notify,
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
            let mut liveness = lock(&watch.liveness);
            match change.after {
                Some(node) => liveness.beat(&change.key.name, heartbeat(node), time.elapsed()),
                None => liveness.forget(&change.key.name),
            }
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
            let mut liveness = lock(&watch.liveness);
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
                    liveness.lease(node, version, spec.holder_identity.as_deref(), good_for, time.elapsed());
                }
                None => liveness.lease_gone(node),
            }
            watch.changed.notify_one();
        });
    }
}

impl Watch {
    /// Says of each node when its last heartbeat was seen, and whether it counts as alive at `at`.
    pub fn nodes(&self, nodes: &Cache<FleetNode>, at: Duration) -> Vec<(String, Option<Duration>, bool)> {
        let names = nodes.all().into_iter().filter_map(|node| node.meta().name.clone());
        let liveness = lock(&self.liveness);
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
    while !stop.is_cancelled() {
        let at = ctx.clock.elapsed();
        let working = ctx.health.begin("FleetNode", ROUND_LIMIT);
        let mut wake: Option<Duration> = None;
        let mut lost = Vec::new();
        for node in ctx.nodes.all() {
            let name = node.meta().name.clone().unwrap_or_default();
            let judged = lock(&ctx.watch.liveness).judge(&name, at);
            wake = [wake, judged.until].into_iter().flatten().min();
            if let Some(patch) = plan(&node, &judged, ctx.clock.now()) {
                tracing::warn!(node = name, because = judged.because, "node is not ready");
                lost.push((node, patch));
            }
            ctx.scheduler
                .change(|index| index.set_alive(&name, judged.alive, judged.holder));
        }
        // A whole rack may go at once: its tasks are moved by then, and what is said of its nodes is not one by one.
        let writes = futures::stream::iter(lost).map(|(node, patch)| write(&ctx, node, patch));
        let again = writes.buffer_unordered(CONCURRENT);
        let retry = again.fold(false, |any, again| async move { any || again }).await;
        drop(working);
        let now = ctx.clock.elapsed();
        let mut sleep = wake.map_or(Duration::from_secs(3600), |due| due.saturating_sub(now));
        if retry {
            sleep = sleep.min(Duration::from_secs(1));
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = ctx.watch.changed.notified() => {}
            () = tokio::time::sleep(sleep.max(Duration::from_millis(1))) => {}
        }
    }
}

/// Writes a node's status; says whether that is to be tried again.
async fn write(ctx: &Context, node: Arc<Cached<FleetNode>>, patch: Value) -> bool {
    let version = node.meta().resource_version.as_deref();
    let key = Key::of(node.meta());
    match ctx.writer.patch_status(&ctx.nodes, &key, version, patch).await {
        Ok(Outcome::Done) => false,
        Ok(Outcome::Lost) => true,
        Err(error) => {
            tracing::warn!(node = %key, %error, "the node's phase was not written");
            true
        }
    }
}

/// Plans the status of a node that is not heard of; one that lives writes its own.
fn plan(node: &Cached<FleetNode>, judged: &Judgement, now: Timestamp) -> Option<Value> {
    let object = node.readable()?;
    let before = object.status.as_ref();
    let phase = before.and_then(|status| status.phase).unwrap_or_default();
    if judged.alive || !matches!(phase, NodePhase::Ready | NodePhase::Draining) {
        return None;
    }
    // Draining is what an agent says that leaves on purpose. It is not called lost until nobody came in its place.
    if judged.left && phase == NodePhase::Draining {
        return None;
    }
    let mut after: FleetNodeStatus = before.cloned().unwrap_or_default();
    after.phase = Some(NodePhase::NotReady);
    let mut list = after.conditions.take().unwrap_or_default();
    let said = Said::new("Ready", false, "NotHeardOf", judged.because.clone());
    conditions::set(&mut list, said, node.meta().generation, now);
    after.conditions = Some(list);
    status_patch(before, &after)
}

/// Lists the nodes that are alive by what was seen so far.
pub fn alive(ctx: &Context) -> BTreeSet<String> {
    let at = ctx.clock.elapsed();
    let names = ctx.nodes.all().into_iter().filter_map(|node| node.meta().name.clone());
    names
        .filter(|name| lock(&ctx.watch.liveness).judge(name, at).alive)
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
}
