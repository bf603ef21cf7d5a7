//! The caches, one per kind, and the watches that feed them.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use schemas::{Agent, AgentRelease, AgenticTask, FleetNode, Forge, ModelProfile, TaskQueue, Workload};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Config;
use crate::cache::{self, Cache};
use crate::metrics::{Metrics, counted};

/// What the operator knows of the API.
#[derive(Clone, Default)]
pub(super) struct Caches {
    pub(super) agents: Arc<Cache<Agent>>,
    pub(super) tasks: Arc<Cache<AgenticTask>>,
    pub(super) nodes: Arc<Cache<FleetNode>>,
    pub(super) profiles: Arc<Cache<ModelProfile>>,
    pub(super) queues: Arc<Cache<TaskQueue>>,
    pub(super) workloads: Arc<Cache<Workload>>,
    pub(super) leases: Arc<Cache<Lease>>,
    pub(super) forges: Arc<Cache<Forge>>,
    pub(super) releases: Arc<Cache<AgentRelease>>,
}

impl Caches {
    /// Names the caches that do not yet show what the API holds.
    pub(super) fn unsynced(&self) -> Vec<&'static str> {
        let all = [
            ("Agent", self.agents.is_synced()),
            ("AgenticTask", self.tasks.is_synced()),
            ("FleetNode", self.nodes.is_synced()),
            ("ModelProfile", self.profiles.is_synced()),
            ("TaskQueue", self.queues.is_synced()),
            ("Workload", self.workloads.is_synced()),
            ("Lease", self.leases.is_synced()),
            ("Forge", self.forges.is_synced()),
            ("AgentRelease", self.releases.is_synced()),
        ];
        all.iter()
            .filter_map(|(kind, synced)| (!synced).then_some(*kind))
            .collect()
    }

    /// Waits until every cache shows what the API held when its watch began.
    pub(super) async fn wait_synced(&self) {
        self.agents.wait_synced().await;
        self.tasks.wait_synced().await;
        self.nodes.wait_synced().await;
        self.profiles.wait_synced().await;
        self.queues.wait_synced().await;
        self.workloads.wait_synced().await;
        self.leases.wait_synced().await;
        self.forges.wait_synced().await;
        self.releases.wait_synced().await;
    }
}

/// Keeps every cache fed until `stop`.
pub(super) fn keep(
    config: &Config,
    caches: &Caches,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
    into: &mut JoinSet<()>,
) {
    let client = &counted(config.client.clone(), metrics.clone(), "watch");
    let spaces = || config.namespaces.clone();
    into.spawn(cache::keep(
        caches.agents.clone(),
        client.clone(),
        spaces(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.tasks.clone(),
        client.clone(),
        spaces(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.workloads.clone(),
        client.clone(),
        spaces(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.queues.clone(),
        client.clone(),
        spaces(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.forges.clone(),
        client.clone(),
        spaces(),
        stop.clone(),
    ));
    let cluster = Vec::new;
    into.spawn(cache::keep(
        caches.nodes.clone(),
        client.clone(),
        cluster(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.profiles.clone(),
        client.clone(),
        cluster(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.releases.clone(),
        client.clone(),
        cluster(),
        stop.clone(),
    ));
    let leases = vec![config.lease_namespace.clone()];
    into.spawn(cache::keep(caches.leases.clone(), client.clone(), leases, stop.clone()));
}
