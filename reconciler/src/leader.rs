//! Leadership by a Lease: only its holder writes, and it stops writing before anybody else may begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, PostParams};
use schemas::labels;
use schemas::lease::Candidate;
use tokio_util::sync::CancellationToken;

use telemetry::health::Health;

use crate::clock::Clock;

/// Whether this process leads, until when.
///
/// Leading ends by itself: a holder that cannot renew stops writing when its time is over, whatever else hangs.
#[derive(Clone)]
pub struct Leadership {
    until: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
}

impl Leadership {
    /// Leads for good: for a process that is alone by other means, such as a lock on its state.
    pub fn always(clock: Arc<dyn Clock>) -> Self {
        Self {
            until: Arc::new(AtomicU64::new(u64::MAX)),
            clock,
        }
    }

    /// Does not lead yet.
    pub fn never(clock: Arc<dyn Clock>) -> Self {
        Self {
            until: Arc::new(AtomicU64::new(0)),
            clock,
        }
    }

    /// Says whether this process may write now.
    pub fn holds(&self) -> bool {
        millis(self.clock.elapsed()) < self.until.load(Ordering::Acquire)
    }

    fn hold_until(&self, at: Duration) {
        self.until.store(millis(at), Ordering::Release);
    }

    fn drop_now(&self) {
        self.until.store(0, Ordering::Release);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

/// How long the operator's Lease is good without renewal.
const DURATION: Duration = Duration::from_secs(15);
/// Time between two renewals.
const RENEW: Duration = Duration::from_secs(5);

/// This process's part in the election of a leader.
pub struct Election {
    api: Api<Lease>,
    candidate: Candidate,
    leadership: Leadership,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    /// The Lease as this process wrote it last, as long as nobody is known to have changed it.
    held: Option<Lease>,
}

/// How long one turn around the Lease may take before the process counts as stuck: many times what its parts may.
const TURN_LIMIT: Duration = Duration::from_secs(90);

impl Election {
    /// Wants to hold the operator's Lease in `namespace` as `identity`; `leadership` says at any time whether it does.
    pub fn new(
        client: Client,
        namespace: &str,
        identity: &str,
        leadership: Leadership,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
    ) -> Self {
        let seconds = i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX);
        Self {
            api: Api::namespaced(client, namespace),
            candidate: Candidate::new(namespace, labels::OPERATOR_LEASE, identity, seconds),
            leadership,
            clock,
            health,
            held: None,
        }
    }

    /// Runs `lead` whenever the Lease is held, with a token that is cancelled when it is lost, until `stop`.
    pub async fn run<F, Fut>(mut self, stop: CancellationToken, lead: F)
    where
        F: Fn(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        let Candidate {
            name: lease,
            namespace,
            identity,
            ..
        } = self.candidate.clone();
        let health = self.health.clone();
        while !stop.is_cancelled() {
            let turn = health.begin("the look at the operator's lease", TURN_LIMIT);
            match self.attempt(DURATION).await {
                Ok(true) => {
                    drop(turn);
                    tracing::info!(lease, identity, "leading");
                    let term = stop.child_token();
                    tokio::select! {
                        () = lead(term.clone()) => {}
                        () = self.renew(&term) => {
                            tracing::warn!(lease, "the lease was lost; nothing more is written");
                            term.cancel();
                        }
                    }
                    self.leadership.drop_now();
                    if stop.is_cancelled() {
                        self.release().await;
                    }
                }
                Ok(false) => {}
                // Else it would wait in silence for a namespace that nobody knows to be missing.
                Err(kube::Error::Api(status)) if status.code == 404 => tracing::warn!(
                    lease,
                    namespace,
                    error = status.message,
                    "failed to create the lease, and nothing is reconciled without it; create its namespace or name another with --lease-namespace"
                ),
                Err(error) => tracing::warn!(lease, %error, "failed to look at the lease"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_secs(2)) => {}
            }
        }
    }

    /// Tries to hold the Lease once. A lost race is `Ok(false)`.
    async fn attempt(&mut self, limit: Duration) -> Result<bool, kube::Error> {
        // The time before the request: the Lease is surely good for its duration from then on.
        let before = self.clock.elapsed();
        let held = tokio::time::timeout(limit, self.claim(before)).await;
        // Where there was no answer nobody knows whether it was written, and the next try looks.
        self.held = held.unwrap_or_else(|_| Err(kube::Error::Service("the API did not answer in time".into())))?;
        if self.held.is_some() {
            // One renewal interval of margin: writing stops before another process can begin.
            self.leadership.hold_until(before + DURATION.saturating_sub(RENEW));
        }
        Ok(self.held.is_some())
    }

    /// Writes the Lease, and returns it as it is then; `None` where another holds it, or was faster.
    async fn claim(&mut self, elapsed: Duration) -> Result<Option<Lease>, kube::Error> {
        let name = self.candidate.name.clone();
        let parameters = PostParams::default();
        if let Some(held) = self.held.take()
            && let Some(lease) = self.candidate.claim(Some(&held), elapsed, self.clock.now())
        {
            match self.api.replace(&name, &parameters, &lease).await {
                // Somebody changed it, or deleted it, and may have had another reason than to hold it.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                answer => return answer.map(Some),
            }
        }
        let found = self.api.get_opt(&name).await?;
        let Some(lease) = self.candidate.claim(found.as_ref(), elapsed, self.clock.now()) else {
            return Ok(None);
        };
        let sent = match found {
            Some(_) => self.api.replace(&name, &parameters, &lease).await,
            None => self.api.create(&parameters, &lease).await,
        };
        match sent {
            Ok(lease) => Ok(Some(lease)),
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 && found.is_some() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renews until the Lease is lost, or the time for which it was held is over.
    async fn renew(&mut self, term: &CancellationToken) {
        let lease = self.candidate.name.clone();
        let health = self.health.clone();
        let mut delay = RENEW;
        while !term.is_cancelled() {
            let _turn = health.begin("the renewal of the operator's lease", TURN_LIMIT);
            tokio::time::sleep(delay).await;
            delay = RENEW;
            match self.attempt(RENEW).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(lease, %error, "failed to renew the lease");
                    delay = Duration::from_secs(1);
                }
            }
            if !self.leadership.holds() {
                return;
            }
        }
        std::future::pending::<()>().await;
    }

    /// Lets go of the Lease, so that another process need not wait for its end.
    async fn release(&self) {
        let name = &self.candidate.name;
        let letting_go = async {
            if let Some(free) = self.candidate.give_back(self.api.get(name).await?) {
                self.api.replace(name, &PostParams::default(), &free).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match tokio::time::timeout(Duration::from_secs(1), letting_go).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "failed to let go of the lease"),
            Err(_) => tracing::warn!("letting go of the lease took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn leadership_ends_by_itself() {
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let leadership = Leadership::never(clock.clone());
        assert!(!leadership.holds());
        leadership.hold_until(Duration::from_secs(10));
        assert!(leadership.holds());
        clock.advance(Duration::from_secs(10));
        assert!(!leadership.holds());
    }
}
