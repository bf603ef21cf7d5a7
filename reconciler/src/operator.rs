//! The operator: caches, HTTP, leader election, controllers.

mod caches;
mod config;
mod controllers;
mod sweep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use telemetry::health::Health;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::Key;
use crate::crd_check;
use crate::evidence::http::Serving;
use crate::evidence::redact::Redactor;
use crate::evidence::{self, Evidence};
use crate::leader::{Election, Leadership};
use crate::metrics::{Metrics, counted};
use crate::probes::Probes;
use crate::task_queue::source::{Nudge, Sources};
use crate::work_queue::WorkQueue;
use caches::Caches;
pub use config::Config;
use controllers::Controllers;

/// Why the operator did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CRDs do not fit.
    #[error(transparent)]
    Crds(#[from] crd_check::Error),
    /// The evidence folder cannot be used.
    #[error(transparent)]
    Evidence(#[from] evidence::Error),
    /// The HTTP cannot listen.
    #[error("failed to listen on {address}: {source}; is another operator running? choose another address")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The HTTP ended.
    #[error("failed to serve HTTP: {0}")]
    Serve(std::io::Error),
}

/// An operator that is ready to run.
pub struct Operator {
    config: Config,
    metrics: Arc<Metrics>,
    caches: Caches,
    evidence: Option<Evidence>,
    listener: Option<(TcpListener, SocketAddr)>,
    stop: CancellationToken,
    sources: Arc<Sources>,
    queue_work: Arc<WorkQueue<Key>>,
}

impl Operator {
    /// Checks the CRDs, opens the evidence store and binds the HTTP's port. Nothing is written to the API.
    pub async fn prepare(config: Config) -> Result<Self, Error> {
        crd_check::check(&config.client).await?;
        let evidence = match &config.evidence_dir {
            Some(dir) => Some(Evidence::open(dir, Redactor::new(config.secrets.clone()))?),
            None => None,
        };
        let listener = match config.listen {
            Some(address) => {
                let fail = |source| Error::Listen { address, source };
                let listener = TcpListener::bind(address).await.map_err(fail)?;
                let bound = listener.local_addr().map_err(fail)?;
                Some((listener, bound))
            }
            None => None,
        };
        let metrics = Arc::new(Metrics::default());
        let stop = CancellationToken::new();
        let queue_work = Arc::new(WorkQueue::default());
        let client = counted(config.client.clone(), metrics.clone(), "taskqueue");
        let sources = Arc::new(Sources::new(
            config.git.clone(),
            config.state_dir.clone(),
            client,
            metrics.clone(),
            queue_work.clone(),
            stop.clone(),
        ));
        let caches = Caches::default();
        Ok(Self {
            config,
            metrics,
            caches,
            evidence,
            listener,
            stop,
            sources,
            queue_work,
        })
    }

    /// Returns the counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Returns where the HTTP listens.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|(_, address)| *address)
    }

    /// Returns a handle that brings looks at repositories forward.
    pub fn nudge(&self) -> Nudge {
        self.sources.nudge()
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = self.stop.clone();
        let forward = {
            let stop = stop.clone();
            async move {
                shutdown.cancelled().await;
                stop.cancel();
            }
        };
        tokio::select! {
            result = self.work() => {
                stop.cancel();
                result
            }
            () = async { forward.await; std::future::pending::<()>().await } => Ok(()),
        }
    }

    async fn work(self) -> Result<(), Error> {
        let Self {
            config,
            metrics,
            caches,
            evidence,
            listener,
            stop,
            sources,
            queue_work,
        } = self;
        let leadership = if config.leader_election {
            Leadership::never(config.clock.clone())
        } else {
            Leadership::always(config.clock.clone())
        };
        let health = health(&config, &caches, &leadership);
        let probes = Probes::new(metrics.clone(), health.clone(), evidence.clone());
        let mut background = JoinSet::new();
        caches::keep(&config, &caches, &metrics, &stop, &mut background);
        let mut served = None;
        if let Some((listener, address)) = listener {
            let serving = Serving {
                evidence: evidence.clone(),
                tasks: caches.tasks.clone(),
                client: counted(config.client.clone(), metrics.clone(), "evidence"),
                metrics: metrics.clone(),
                readers: config.readers,
                probes,
            };
            tracing::info!(%address, "serving evidence, metrics and health");
            let app = evidence::http::router(serving).into_make_service_with_connect_info::<SocketAddr>();
            let quit = stop.clone();
            served = Some(tokio::spawn(async move {
                axum::serve(listener, app)
                    .with_graceful_shutdown(async move { quit.cancelled().await })
                    .await
            }));
        }
        let controllers = Arc::new(Controllers::new(
            &config,
            &metrics,
            &health,
            &caches,
            leadership.clone(),
            sources,
            queue_work,
            evidence,
        ));
        tokio::select! {
            () = stop.cancelled() => {}
            () = caches.wait_synced() => {}
        }
        controllers.observe(&config, &caches);
        if config.leader_election {
            let election = Election::new(
                counted(config.client.clone(), metrics.clone(), "leader"),
                &config.lease_namespace,
                &config.identity,
                leadership,
                config.clock.clone(),
                health.clone(),
            );
            election.run(stop.clone(), |term| controllers.clone().lead(term)).await;
        } else {
            controllers.clone().lead(stop.clone()).await;
        }
        background.shutdown().await;
        if let Some(served) = served
            && let Ok(Ok(Err(error))) = tokio::time::timeout(Duration::from_secs(1), served).await
        {
            return Err(Error::Serve(error));
        }
        Ok(())
    }
}

/// Says what this replica needs to do its work. One that stands by is as ready as one that leads.
fn health(config: &Config, caches: &Caches, leadership: &Leadership) -> Arc<Health> {
    let clock = config.clock.clone();
    let health = Health::new(Arc::new(move || clock.elapsed()));
    let caches = caches.clone();
    health.part("caches", move || {
        let missing = caches.unsynced();
        if missing.is_empty() {
            Ok(String::new())
        } else {
            Err(format!(
                "waiting for the first list of {}; without it for long, see the log for what the API refuses",
                missing.join(", ")
            ))
        }
    });
    let leadership = leadership.clone();
    health.part("leadership", move || {
        Ok(if leadership.holds() { "leading" } else { "standing by" }.to_owned())
    });
    health
}

/// Prepares an operator and runs it until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Operator::prepare(config).await?.run(shutdown).await
}
