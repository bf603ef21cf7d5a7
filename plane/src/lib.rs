//! The plane: a Kubernetes-compatible API server over SQLite, in process.
//!
//! [`Plane::open`] starts it over a state folder; [`Plane::client`] is a client that
//! talks to it without a socket; [`Plane::serve_tls`] serves the same API on loopback
//! for `kubectl` and other processes.

pub mod admission;
pub mod admit;
pub mod gc;
pub mod http;
pub mod kinds;
pub mod object;
pub mod pod_logs;
pub mod runner;
pub mod serve;
pub mod server;
pub mod status;
pub mod storage;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio_util::task::TaskTracker;

use pod_logs::PodLogs;
use serve::{ServeError, Served};
use server::Server;
use server::write::{Target, WriteOptions};
use storage::{OpenError, Retention, Store};

/// How a plane is opened.
#[derive(Debug, Clone)]
pub struct PlaneConfig {
    /// The folder that holds the database and what clients need to connect.
    pub state_dir: PathBuf,
    /// Where [`Plane::serve_tls`] listens: an address on loopback, port 0 for any.
    /// None means in process only.
    pub listen: Option<SocketAddr>,
    /// The version of the program.
    pub version: String,
    /// How much of the past watches can resume from.
    pub retention: Retention,
    /// How often watches that asked for it are sent a bookmark.
    pub bookmark_every: Duration,
}

impl PlaneConfig {
    /// A plane in `state_dir`, in process only.
    pub fn new(state_dir: impl Into<PathBuf>, version: impl Into<String>) -> PlaneConfig {
        PlaneConfig {
            state_dir: state_dir.into(),
            listen: None,
            version: version.into(),
            retention: Retention::default(),
            bookmark_every: Duration::from_secs(60),
        }
    }

    /// The same, listening on `address` once [`Plane::serve_tls`] is called.
    pub fn listening(self, address: SocketAddr) -> PlaneConfig {
        PlaneConfig {
            listen: Some(address),
            ..self
        }
    }
}

/// Why a plane could not be started.
#[derive(Debug, thiserror::Error)]
pub enum PlaneError {
    /// The state could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The namespaces that always exist could not be made.
    #[error("failed to prepare the plane: {0}")]
    Prepare(String),
}

/// A running plane; clones share it.
#[derive(Clone)]
pub struct Plane {
    shared: Arc<Shared>,
}

struct Shared {
    server: Arc<Server>,
    config: PlaneConfig,
    tasks: TaskTracker,
}

impl Plane {
    /// Opens the state and starts the loops that keep it in order.
    pub async fn open(config: PlaneConfig) -> Result<Plane, PlaneError> {
        let plane = Plane::without_collector(config).await?;
        let server = Arc::clone(&plane.shared.server);
        plane.shared.tasks.spawn(gc::run(server));
        Ok(plane)
    }

    /// Opens the state; nothing is collected.
    async fn without_collector(config: PlaneConfig) -> Result<Plane, PlaneError> {
        let file = config.state_dir.join("plane.db");
        let (version, retention) = (config.version.clone(), config.retention);
        let opened = tokio::task::spawn_blocking(move || Store::open(&file, &version, retention)).await;
        let store = opened.map_err(|error| PlaneError::Prepare(error.to_string()))??;
        let git_version = format!("v1.34.0+foreman.{}", config.version);
        let server = Arc::new(Server::new(store, git_version, config.bookmark_every));
        let plane = Plane {
            shared: Arc::new(Shared {
                server,
                config,
                tasks: TaskTracker::new(),
            }),
        };
        for name in ["default", "kube-system"] {
            plane.ensure_namespace(name).await?;
        }
        Ok(plane)
    }

    async fn ensure_namespace(&self, name: &str) -> Result<(), PlaneError> {
        let server = &self.shared.server;
        let kinds = server.catalog.kinds();
        let kind = kinds
            .resource("", "namespaces")
            .ok_or_else(|| PlaneError::Prepare("namespaces are not served".into()))?;
        if server.store.get(&kind.key("", name)).is_some() {
            return Ok(());
        }
        let target = Target {
            kind: Arc::clone(kind),
            version: 0,
            namespace: String::new(),
        };
        let options = WriteOptions::by("foreman-plane");
        let sent = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let object = admit::decode(target.view(), sent, &[], options.validation, &mut Vec::new())
            .map_err(|error| PlaneError::Prepare(error.message))?;
        server
            .create(&target, object, &options, Vec::new())
            .await
            .map_err(|error| PlaneError::Prepare(error.message))?;
        Ok(())
    }

    /// Returns a client that talks to this plane in process; its namespace is `default`.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.router(), "default")
    }

    /// Returns the API as a service, without authentication: for use in process only.
    pub fn router(&self) -> axum::Router {
        http::router(Arc::clone(&self.shared.server))
    }

    /// Serves the API over TLS on the configured address, and writes a kubeconfig for it
    /// into the state folder.
    pub async fn serve_tls(&self) -> Result<Served, ServeError> {
        let shared = &self.shared;
        let address = shared
            .config
            .listen
            .ok_or_else(|| ServeError::Address("the plane was opened without an address to listen on".into()))?;
        serve::serve(
            self.router(),
            &shared.config.state_dir,
            address,
            shared.server.stopping.clone(),
            &shared.tasks,
        )
        .await
    }

    /// Names what serves the `log` subresource of Pods.
    pub fn set_pod_logs(&self, logs: Arc<dyn PodLogs>) {
        self.shared.server.set_pod_logs(logs);
    }

    /// Returns how often each verb was used on each resource, such as
    /// (`list`, `batch/jobs`), through any client.
    pub fn request_counters(&self) -> BTreeMap<(&'static str, String), u64> {
        self.shared.server.counters.snapshot()
    }

    /// Returns the number of the last committed change.
    pub fn latest_version(&self) -> u64 {
        self.shared.server.store.version()
    }

    /// Returns how the plane was opened.
    pub fn config(&self) -> &PlaneConfig {
        &self.shared.config
    }

    /// Ends watches and loops, and closes the state once every write is answered.
    pub async fn shutdown(&self) {
        self.shared.server.stopping.cancel();
        self.shared.tasks.close();
        // Connections get a moment to send what they have.
        let ended = self.shared.tasks.wait();
        if tokio::time::timeout(Duration::from_secs(2), ended).await.is_err() {
            tracing::debug!("some connections were still open");
        }
        self.shared.server.store.close().await;
    }
}

#[cfg(test)]
mod tests;
