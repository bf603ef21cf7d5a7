//! What is told of a node agent itself over HTTP: metrics, readiness, life.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use telemetry::health::{Health, Said};
use telemetry::http::{Probed, router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Metrics;

/// What a node agent tells of itself.
#[derive(Clone)]
pub struct Probes {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Readiness and life.
    pub health: Arc<Health>,
    standing: Arc<Mutex<Standing>>,
}

/// Where the agent stands.
#[derive(Default)]
struct Standing {
    holds_name: bool,
    draining: bool,
    /// When the last heartbeat was written, by the agent's own clock.
    beat: Option<Duration>,
}

impl Probes {
    /// Tells of an agent that has just started.
    pub fn new(config: &Config) -> Self {
        Self::with(config, Health::from_now())
    }

    fn with(config: &Config, health: Arc<Health>) -> Self {
        let standing: Arc<Mutex<Standing>> = Arc::default();
        let (seen, node) = (standing.clone(), config.node_name.clone());
        health.part("name", move || {
            if read(&seen, |standing| standing.holds_name) {
                Ok(String::new())
            } else {
                Err(format!(
                    "another agent holds the name {node:?}, or the API gives it to nobody; see the log"
                ))
            }
        });
        let (seen, clock, good_for) = (standing.clone(), health.clone(), config.heartbeat_interval * 3);
        let clock = Arc::downgrade(&clock);
        health.part("heartbeat", move || {
            let now = clock.upgrade().map(|clock| clock.elapsed()).unwrap_or_default();
            match read(&seen, |standing| standing.beat) {
                None => Err("none was written yet".into()),
                Some(at) if now.saturating_sub(at) > good_for => Err(format!(
                    "the last one was written {} s ago; the API does not answer or refuses, see the log",
                    now.saturating_sub(at).as_secs()
                )),
                Some(_) => Ok(String::new()),
            }
        });
        let folder = config.workspace_dir.clone();
        health.part("workspace", move || {
            let probe = folder.join(".writable");
            match std::fs::write(&probe, b"written by the readiness probe\n") {
                Ok(()) => Ok(String::new()),
                Err(error) => Err(format!("{} cannot be written: {error}", folder.display())),
            }
        });
        let seen = standing.clone();
        health.part("drain", move || {
            if read(&seen, |standing| standing.draining) {
                Err("the agent is leaving and takes nothing new".into())
            } else {
                Ok(String::new())
            }
        });
        Self {
            metrics: Arc::default(),
            health,
            standing,
        }
    }

    /// Records whether this process holds its node's name.
    pub fn holds_name(&self, holds: bool) {
        self.metrics
            .set(crate::metrics::NAME_HELD, &[], f64::from(u8::from(holds)));
        self.change(|standing| standing.holds_name = holds);
    }

    /// Records what writing a heartbeat came to.
    pub fn beat(&self, written: bool, now: f64) {
        let result = if written { "written" } else { "failed" };
        self.metrics.count(crate::metrics::HEARTBEATS, &[("result", result)]);
        if written {
            self.metrics.set(crate::metrics::LAST_HEARTBEAT, &[], now);
            let at = self.health.elapsed();
            self.change(|standing| standing.beat = Some(at));
        }
    }

    /// Records that the agent is leaving.
    pub fn drains(&self) {
        self.change(|standing| standing.draining = true);
    }

    fn change(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut self.standing.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn read<T>(standing: &Mutex<Standing>, read: impl FnOnce(&Standing) -> T) -> T {
    read(&standing.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Serves the probes until `stop`.
pub async fn serve(listener: TcpListener, probes: Probes, stop: CancellationToken) {
    let served = axum::serve(listener, router(probes)).with_graceful_shutdown(async move { stop.cancelled().await });
    if let Err(error) = served.await {
        tracing::warn!(%error, "metrics and probes are no longer served");
    }
}

/// Binds the address of the probes.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, std::io::Error> {
    TcpListener::bind(address).await
}

impl Probed for Probes {
    fn metrics(&self) -> String {
        self.metrics.render()
    }

    fn live(&self) -> Said {
        self.health.live()
    }

    async fn ready(&self) -> Said {
        self.health.ready()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn an_agent_is_ready_while_it_holds_its_name_beats_and_does_not_leave() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = crate::config::tests::parse(&["--heartbeat-interval=10s"]);
        config.workspace_dir = folder.path().to_owned();
        let now = Arc::new(AtomicU64::new(0));
        let clock = now.clone();
        let probes = Probes::with(
            &config,
            Health::new(Arc::new(move || Duration::from_secs(clock.load(Ordering::SeqCst)))),
        );
        let lacks = |part: &str| {
            let said = probes.health.ready();
            assert_eq!(said.well, !said.text.contains("[-]"), "{}", said.text);
            said.text.contains(&format!("[-] {part}:"))
        };
        assert!(lacks("name") && lacks("heartbeat"));
        probes.holds_name(true);
        assert!(!lacks("name"));
        probes.beat(false, 0.0);
        assert!(lacks("heartbeat"), "it was not written");
        probes.beat(true, 0.0);
        assert!(!lacks("heartbeat") && probes.health.ready().well);
        now.store(31, Ordering::SeqCst);
        assert!(lacks("heartbeat"), "three intervals are over");
        probes.beat(true, 31.0);
        assert!(probes.health.ready().well);
        std::fs::remove_dir_all(folder.path()).unwrap();
        assert!(lacks("workspace"));
        std::fs::create_dir(folder.path()).unwrap();
        probes.drains();
        assert!(lacks("drain"));
        assert!(probes.health.live().well, "a restart would cure none of that");
        assert_eq!(probes.metrics.sum(crate::metrics::HEARTBEATS, &[]), 3);
    }
}
