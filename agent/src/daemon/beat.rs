//! The heartbeat: says at intervals and at every change what this node can do and does.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use schemas::fleet_node::{Capability, NodePhase};

use super::Shutdown;
use super::desk::Desk;
use super::registration::{self, Beat};
use crate::capability::{self, Probe, Served};
use crate::config::{Config, Mode};
use crate::probes::Probes;

/// How long one turn may take, questions to model servers included, before it counts as stuck.
const TURN_LIMIT: std::time::Duration = std::time::Duration::from_secs(1800);

pub(super) async fn beat(
    client: Client,
    config: Arc<Config>,
    desk: Arc<Desk>,
    repositories: crate::executor::Repositories,
    probes: Probes,
    shutdown: Shutdown,
) {
    let mut probe = Probe::new();
    let mut served = Served::default();
    let mut draining = false;
    loop {
        let turn = probes.health.begin("the heartbeat", TURN_LIMIT);
        if config.mode == Mode::Native && served == Served::default() {
            tokio::select! {
                found = crate::executor::native::served(&client, &config) => served = found,
                // Draining is said at once, whatever a model server keeps us waiting for.
                () = shutdown.stop.cancelled() => draining = true,
            }
        }
        let capability: Capability = capability::capability(&probe.look(), &served, &config.capability, config.slots);
        // Made before the look, so that no change falls between the two.
        let changed = desk.changed.notified();
        let tasks = desk.names();
        let cached = repositories.list();
        let phase = if draining {
            NodePhase::Draining
        } else {
            NodePhase::Ready
        };
        let beat = Beat {
            phase,
            capability: &capability,
            tasks: &tasks,
            repositories: &cached,
        };
        let now = Timestamp::now();
        let written = registration::heartbeat(&client, &config.node_name, &beat, now).await;
        probes.beat(written.is_ok(), now.as_second() as f64);
        if let Err(error) = written {
            tracing::warn!(%error, "failed to write the heartbeat; trying again at the next");
            if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                if let Err(error) = registration::register(&client, &config).await {
                    tracing::warn!(%error, "failed to register again");
                }
                continue;
            }
        }
        drop(turn);
        if draining {
            probes.drains();
        }
        // The last word names no task: those that were given back are somebody else's.
        if draining && tasks.is_empty() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(config.heartbeat_interval) => {}
            () = changed => {}
            () = shutdown.drain.cancelled(), if !draining => draining = true,
            () = shutdown.stop.cancelled(), if !draining => draining = true,
        }
    }
}
