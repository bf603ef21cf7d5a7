//! The node's Lease: one process at a time holds a node's name.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};
use schemas::labels;
use schemas::lease::Candidate;
use tokio_util::sync::CancellationToken;

use super::Shutdown;
use super::desk::Desk;
use super::registration::FIELD_MANAGER;
use crate::config::Config;
use crate::probes::Probes;

/// How long one turn around the Lease may take before the process counts as stuck.
const TURN_LIMIT: Duration = Duration::from_secs(120);

/// How long after a renewal that failed it is tried again: an API that was away for a while costs no claims.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Seconds for which a node's Lease holds without renewal.
pub const LEASE_SECONDS: i32 = 30;

/// This process's hold on its node's name.
pub struct NodeLease {
    api: Api<Lease>,
    candidate: Candidate,
    began: tokio::time::Instant,
    /// The Lease as this process wrote it last, as long as nobody is known to have changed it.
    held: Option<Lease>,
}

impl NodeLease {
    /// Prepares to take the Lease as `identity`.
    pub fn new(client: &Client, config: &Config, identity: &str) -> Self {
        let name = format!("{}{}", labels::NODE_LEASE_PREFIX, config.node_name);
        Self {
            api: Api::namespaced(client.clone(), &config.foreman_namespace),
            candidate: Candidate::new(&config.foreman_namespace, name, identity, LEASE_SECONDS),
            began: tokio::time::Instant::now(),
            held: None,
        }
    }

    fn claim(&mut self, found: Option<&Lease>) -> Option<Lease> {
        self.candidate.claim(found, self.began.elapsed(), Timestamp::now())
    }

    /// Takes or renews the Lease once; says whether this process holds it now.
    pub async fn tick(&mut self) -> Result<bool, kube::Error> {
        let name = self.candidate.name.clone();
        if let Some(held) = self.held.clone()
            && let Some(lease) = self.claim(Some(&held))
        {
            match self.api.replace(&name, &post(), &lease).await {
                Ok(lease) => {
                    self.held = Some(lease);
                    return Ok(true);
                }
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => self.held = None,
                Err(error) => return Err(error),
            }
        }
        loop {
            let found = self.api.get_opt(&name).await?;
            let Some(lease) = self.claim(found.as_ref()) else {
                return Ok(false);
            };
            let written = match found {
                Some(_) => self.api.replace(&name, &post(), &lease).await,
                None => self.api.create(&post(), &lease).await,
            };
            match written {
                // Without the release namespace there is no Lease, and heartbeats alone say that this node lives.
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(true),
                Ok(lease) => {
                    self.held = Some(lease);
                    return Ok(true);
                }
                // Whoever wrote between: another agent, or an earlier try of this one whose answer was lost.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the Lease back, so that a successor need not wait.
    pub async fn release(&mut self) {
        let held = self.held.take().and_then(|lease| self.candidate.give_back(lease));
        let Some(lease) = held else { return };
        let name = &self.candidate.name;
        if let Err(error) = self.api.replace(name, &post(), &lease).await {
            tracing::debug!(%error, lease = name, "failed to give the node's lease back");
        }
    }
}

fn post() -> PostParams {
    PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    }
}

pub(super) async fn hold_name(lease: &mut NodeLease, config: &Config, shutdown: &Shutdown) -> bool {
    let mut said = false;
    loop {
        match lease.tick().await {
            Ok(true) => return true,
            Ok(false) if !said => {
                said = true;
                tracing::info!(
                    node = config.node_name,
                    "another agent holds this node's name; waiting for its lease to lapse"
                );
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "failed to take the node's lease; trying again"),
        }
        tokio::select! {
            () = shutdown.drain.cancelled() => return false,
            () = shutdown.stop.cancelled() => return false,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}

pub(super) async fn keep_lease(
    mut lease: NodeLease,
    shutdown: Shutdown,
    desk: Arc<Desk>,
    probes: Probes,
    lost: CancellationToken,
) {
    let every = Duration::from_secs(LEASE_SECONDS as u64 / 3);
    let mut pause = every;
    loop {
        let _turn = probes.health.begin("the renewal of the node's lease", TURN_LIMIT);
        tokio::select! {
            // An answer that never comes must not let the Lease lapse in silence.
            () = tokio::time::sleep(std::mem::replace(&mut pause, AGAIN_AFTER)) => match tokio::time::timeout(every, lease.tick()).await {
                Ok(Ok(true)) => pause = every,
                Ok(Ok(false)) => {
                    probes.holds_name(false);
                    return lost.cancel();
                }
                Ok(Err(error)) => tracing::warn!(%error, "failed to renew the node's lease; trying again"),
                Err(_) => tracing::warn!("renewing the node's lease took too long; trying again"),
            },
            () = ended(&shutdown, &desk) => return lease.release().await,
        }
    }
}

async fn ended(shutdown: &Shutdown, desk: &Desk) {
    tokio::select! {
        () = shutdown.stop.cancelled() => {}
        () = async {
            shutdown.drain.cancelled().await;
            loop {
                // Made before the look, so that no change falls between the two.
                let changed = desk.changed.notified();
                if desk.with(|running| running.is_empty()) {
                    break;
                }
                changed.await;
            }
        } => {}
    }
}
