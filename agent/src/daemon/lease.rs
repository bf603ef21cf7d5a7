//! The node's Lease: one process at a time holds a node's name.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use schemas::labels;
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

/// What this process may do about a Lease it found.
#[derive(Debug, PartialEq, Eq)]
pub enum LeaseStep {
    /// Nobody holds it: take it.
    Take,
    /// This process holds it: renew it.
    Renew,
    /// Another process holds it and has renewed it lately: wait.
    Wait,
}

/// Decides about a Lease by how long ago this process saw it change, never by the holder's clock.
pub fn lease_step(lease: Option<&Lease>, identity: &str, unchanged_for: Duration) -> LeaseStep {
    let Some(spec) = lease.and_then(|lease| lease.spec.as_ref()) else {
        return LeaseStep::Take;
    };
    match spec.holder_identity.as_deref() {
        None | Some("") => LeaseStep::Take,
        Some(holder) if holder == identity => LeaseStep::Renew,
        Some(_) => {
            let seconds = spec.lease_duration_seconds.unwrap_or(LEASE_SECONDS).max(1) as u64;
            if unchanged_for > Duration::from_secs(seconds) {
                LeaseStep::Take
            } else {
                LeaseStep::Wait
            }
        }
    }
}

/// Builds the Lease that this process writes.
pub fn build_lease(config: &Config, identity: &str, found: Option<&Lease>, now: Timestamp) -> Lease {
    let mut lease = found.cloned().unwrap_or_default();
    lease.metadata.name = Some(format!("{}{}", labels::NODE_LEASE_PREFIX, config.node_name));
    lease.metadata.namespace = Some(config.foreman_namespace.clone());
    let spec = lease.spec.get_or_insert_default();
    if spec.holder_identity.as_deref() != Some(identity) {
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0) + 1);
        spec.acquire_time = Some(MicroTime(now));
    }
    spec.holder_identity = Some(identity.to_owned());
    spec.lease_duration_seconds = Some(LEASE_SECONDS);
    spec.renew_time = Some(MicroTime(now));
    lease
}

/// This process's hold on its node's name.
pub struct NodeLease {
    api: Api<Lease>,
    identity: String,
    seen: Option<(Option<String>, tokio::time::Instant)>,
    held: Option<Lease>,
}

impl NodeLease {
    /// Prepares to take the Lease as `identity`.
    pub fn new(client: &Client, config: &Config, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client.clone(), &config.foreman_namespace),
            identity: identity.to_owned(),
            seen: None,
            held: None,
        }
    }

    /// Takes or renews the Lease once; says whether this process holds it now.
    pub async fn tick(&mut self, config: &Config) -> Result<bool, kube::Error> {
        if let Some(held) = &self.held {
            let lease = build_lease(config, &self.identity, Some(held), Timestamp::now());
            let name = lease.name_any();
            match self.api.replace(&name, &post(), &lease).await {
                Ok(lease) => {
                    self.held = Some(lease);
                    return Ok(true);
                }
                Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => self.held = None,
                Err(error) => return Err(error),
            }
        }
        let name = format!("{}{}", labels::NODE_LEASE_PREFIX, config.node_name);
        loop {
            let found = self.api.get_opt(&name).await?;
            let version = found.as_ref().and_then(ResourceExt::resource_version);
            let since = match &self.seen {
                Some((seen, since)) if *seen == version => *since,
                _ => {
                    let now = tokio::time::Instant::now();
                    self.seen = Some((version, now));
                    now
                }
            };
            if lease_step(found.as_ref(), &self.identity, since.elapsed()) == LeaseStep::Wait {
                return Ok(false);
            }
            let lease = build_lease(config, &self.identity, found.as_ref(), Timestamp::now());
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
        let Some(mut lease) = self.held.take() else { return };
        let name = lease.name_any();
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
        }
        if let Err(error) = self.api.replace(&name, &post(), &lease).await {
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
        match lease.tick(config).await {
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
    config: Arc<Config>,
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
            () = tokio::time::sleep(std::mem::replace(&mut pause, AGAIN_AFTER)) => match tokio::time::timeout(every, lease.tick(&config)).await {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    fn lease(holder: Option<&str>) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: Some(30),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn a_lease_of_another_process_is_waited_for_until_it_is_seen_unchanged_long_enough() {
        let table = [
            (None, 0, LeaseStep::Take),
            (Some(lease(None)), 0, LeaseStep::Take),
            (Some(lease(Some(""))), 0, LeaseStep::Take),
            (Some(lease(Some("me"))), 999, LeaseStep::Renew),
            (Some(lease(Some("other"))), 29, LeaseStep::Wait),
            (Some(lease(Some("other"))), 31, LeaseStep::Take),
        ];
        for (found, seconds, step) in table {
            assert_eq!(
                lease_step(found.as_ref(), "me", Duration::from_secs(seconds)),
                step,
                "{found:?} {seconds}"
            );
        }
    }
}
