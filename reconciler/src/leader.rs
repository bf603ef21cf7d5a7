//! Leadership by a Lease: only its holder writes, and it stops writing before anybody else may begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
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

/// How a Lease is held.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Identity of this process.
    pub identity: String,
    /// How long the Lease is good without renewal.
    pub duration: Duration,
    /// Time between two renewals.
    pub renew: Duration,
}

impl Election {
    /// Holds the operator's Lease in `namespace` for 15 s, renewed every 5 s.
    pub fn new(namespace: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: schemas::labels::OPERATOR_LEASE.to_owned(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            renew: Duration::from_secs(5),
        }
    }
}

/// What was seen of somebody else's Lease, and when by our own clock.
#[derive(Clone, Debug, Default, PartialEq)]
struct Seen {
    version: Option<String>,
    at: Duration,
}

/// What a look at the Lease calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Move {
    /// Create it.
    Create,
    /// Take it over, or renew it.
    Take,
    /// Somebody else holds it.
    Wait,
}

fn decide(lease: Option<&Lease>, identity: &str, seen: &mut Seen, now: Duration) -> Move {
    let Some(lease) = lease else { return Move::Create };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.unwrap_or_default();
    if holder.is_empty() || holder == identity {
        return Move::Take;
    }
    // Age counts from when this process saw the change, never by the holder's clock.
    if seen.version != lease.metadata.resource_version {
        *seen = Seen {
            version: lease.metadata.resource_version.clone(),
            at: now,
        };
    }
    let good_for = Duration::from_secs(
        u64::try_from(spec.lease_duration_seconds.unwrap_or(15))
            .unwrap_or(15)
            .max(1),
    );
    if now.saturating_sub(seen.at) > good_for {
        Move::Take
    } else {
        Move::Wait
    }
}

/// How long one turn around the Lease may take before the process counts as stuck: many times what its parts may.
const TURN_LIMIT: Duration = Duration::from_secs(90);

/// Runs `lead` whenever the Lease is held, with a token that is cancelled when it is lost, until `stop`.
pub async fn elect<F, Fut>(
    client: Client,
    election: Election,
    leadership: Leadership,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    stop: CancellationToken,
    lead: F,
) where
    F: Fn(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let api: Api<Lease> = Api::namespaced(client, &election.namespace);
    let mut seen = Seen::default();
    while !stop.is_cancelled() {
        let turn = health.begin("the look at the operator's lease", TURN_LIMIT);
        let tried = tokio::time::timeout(
            election.duration,
            attempt(&api, &election, &leadership, &clock, &mut seen),
        );
        match tried.await.unwrap_or_else(|_| Err(slow())) {
            Ok(true) => {
                drop(turn);
                tracing::info!(lease = election.name, identity = election.identity, "leading");
                let term = stop.child_token();
                tokio::select! {
                    () = lead(term.clone()) => {}
                    () = renew(&api, &election, &leadership, &clock, &mut seen, &health, &term) => {
                        tracing::warn!(lease = election.name, "the lease was lost; nothing more is written");
                        term.cancel();
                    }
                }
                leadership.drop_now();
                if stop.is_cancelled() {
                    release(&api, &election).await;
                }
            }
            Ok(false) => {}
            // Else it would wait in silence for a namespace that nobody knows to be missing.
            Err(kube::Error::Api(status)) if status.code == 404 => tracing::warn!(
                lease = election.name,
                namespace = election.namespace,
                error = status.message,
                "failed to create the lease, and nothing is reconciled without it; create its namespace or name another with --lease-namespace"
            ),
            Err(error) => tracing::warn!(lease = election.name, %error, "failed to look at the lease"),
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(election.renew.min(Duration::from_secs(2))) => {}
        }
    }
}

/// Tries to hold the Lease once. A lost race is `Ok(false)`.
async fn attempt(
    api: &Api<Lease>,
    election: &Election,
    leadership: &Leadership,
    clock: &Arc<dyn Clock>,
    seen: &mut Seen,
) -> Result<bool, kube::Error> {
    // The time before the request: the Lease is surely good for its duration from then on.
    let before = clock.elapsed();
    let found = api.get_opt(&election.name).await?;
    let now = MicroTime(clock.now());
    let seconds = i32::try_from(election.duration.as_secs()).unwrap_or(15).max(1);
    let existed = found.is_some();
    let sent = match decide(found.as_ref(), &election.identity, seen, before) {
        Move::Wait => return Ok(false),
        Move::Create => {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(election.name.clone()),
                    namespace: Some(election.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    holder_identity: Some(election.identity.clone()),
                    lease_duration_seconds: Some(seconds),
                    acquire_time: Some(now.clone()),
                    renew_time: Some(now),
                    lease_transitions: Some(0),
                    ..LeaseSpec::default()
                }),
            };
            api.create(&PostParams::default(), &lease).await
        }
        Move::Take => {
            let mut lease = found.unwrap_or_default();
            let mut spec = lease.spec.take().unwrap_or_default();
            if spec.holder_identity.as_deref() != Some(&election.identity) {
                spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
                spec.acquire_time = Some(now.clone());
            }
            spec.holder_identity = Some(election.identity.clone());
            spec.lease_duration_seconds = Some(seconds);
            spec.renew_time = Some(now);
            lease.spec = Some(spec);
            api.replace(&election.name, &PostParams::default(), &lease).await
        }
    };
    match sent {
        Ok(_) => {
            // One renewal interval of margin: writing stops before another process can begin.
            leadership.hold_until(
                before
                    + election
                        .duration
                        .saturating_sub(election.renew.min(election.duration / 3)),
            );
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 && existed => Ok(false),
        Err(error) => Err(error),
    }
}

/// An answer that did not come; which kind of error it is matters to nobody.
fn slow() -> kube::Error {
    kube::Error::Service("the API did not answer in time".into())
}

/// Renews until the Lease is lost, or the time for which it was held is over.
async fn renew(
    api: &Api<Lease>,
    election: &Election,
    leadership: &Leadership,
    clock: &Arc<dyn Clock>,
    seen: &mut Seen,
    health: &Arc<Health>,
    term: &CancellationToken,
) {
    let mut delay = election.renew;
    while !term.is_cancelled() {
        let _turn = health.begin("the renewal of the operator's lease", TURN_LIMIT);
        tokio::time::sleep(delay).await;
        delay = election.renew;
        let tried = tokio::time::timeout(election.renew, attempt(api, election, leadership, clock, seen)).await;
        match tried {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return,
            Ok(Err(error)) => {
                tracing::warn!(lease = election.name, %error, "failed to renew the lease");
                delay = Duration::from_secs(1).min(election.renew);
            }
            Err(_) => tracing::warn!(lease = election.name, "renewing the lease took too long"),
        }
        if !leadership.holds() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Lets go of the Lease, so that another process need not wait for its end.
async fn release(api: &Api<Lease>, election: &Election) {
    let letting_go = async {
        let mut lease = api.get(&election.name).await?;
        if let Some(spec) = &mut lease.spec
            && spec.holder_identity.as_deref() == Some(&election.identity)
        {
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            api.replace(&election.name, &PostParams::default(), &lease).await?;
        }
        Ok::<_, kube::Error>(())
    };
    match tokio::time::timeout(Duration::from_secs(1), letting_go).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "failed to let go of the lease"),
        Err(_) => tracing::warn!("letting go of the lease took too long"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::clock::ManualClock;

    fn lease(holder: &str, version: &str) -> Lease {
        Lease {
            metadata: ObjectMeta {
                resource_version: Some(version.into()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(15),
                ..LeaseSpec::default()
            }),
        }
    }

    #[test]
    fn a_lease_of_another_is_taken_only_after_its_duration_without_change() {
        let second = Duration::from_secs;
        let mut seen = Seen::default();
        assert_eq!(decide(None, "me", &mut seen, second(0)), Move::Create);
        assert_eq!(decide(Some(&lease("me", "1")), "me", &mut seen, second(0)), Move::Take);
        assert_eq!(decide(Some(&lease("", "1")), "me", &mut seen, second(0)), Move::Take);
        assert_eq!(
            decide(Some(&lease("you", "2")), "me", &mut seen, second(100)),
            Move::Wait
        );
        assert_eq!(
            decide(Some(&lease("you", "2")), "me", &mut seen, second(115)),
            Move::Wait
        );
        assert_eq!(
            decide(Some(&lease("you", "3")), "me", &mut seen, second(116)),
            Move::Wait
        );
        assert_eq!(
            decide(Some(&lease("you", "3")), "me", &mut seen, second(131)),
            Move::Wait
        );
        assert_eq!(
            decide(Some(&lease("you", "3")), "me", &mut seen, second(132)),
            Move::Take
        );
    }

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
