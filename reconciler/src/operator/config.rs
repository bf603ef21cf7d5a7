//! How an operator is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use crate::clock::{Clock, SystemClock};
use crate::evidence::http::Readers;

/// How the operator runs.
#[derive(Clone)]
pub struct Config {
    /// Kubernetes API.
    pub client: Client,
    /// Namespaces that are served; none means all.
    pub namespaces: Vec<String>,
    /// Namespace of the Leases.
    pub lease_namespace: String,
    /// Namespaces of gate Jobs; none means those of their tasks.
    pub jobs_namespaces: Vec<String>,
    /// Folder for mirrors and keys.
    pub state_dir: PathBuf,
    /// Credentials, certificates and roots for Git.
    pub git: git::Settings,
    /// Server that `owner/name` is looked up on.
    pub git_remote_url: Option<String>,
    /// Folder of the evidence; `None` stores none.
    pub evidence_dir: Option<PathBuf>,
    /// File with queues and forges to begin with.
    pub bootstrap: Option<PathBuf>,
    /// Where the HTTP listens; `None` serves none.
    pub listen: Option<SocketAddr>,
    /// Who may read evidence.
    pub readers: Readers,
    /// Values that are taken out of evidence.
    pub secrets: Vec<String>,
    /// How long evidence is kept after its task is gone.
    pub evidence_keep: Duration,
    /// How long tasks that ended are kept.
    pub task_ttl: Duration,
    /// Identity of this process.
    pub identity: String,
    /// Whether to lead by Lease; otherwise this process is alone by other means.
    pub leader_election: bool,
    /// Whether verdicts are reported as Git notes.
    pub notes: bool,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// Serves all namespaces alone, without HTTP, with state in `state_dir`.
    pub fn new(client: Client, state_dir: impl Into<PathBuf>) -> Self {
        let lease_namespace = client.default_namespace().to_owned();
        Self {
            client,
            namespaces: Vec::new(),
            lease_namespace,
            jobs_namespaces: Vec::new(),
            state_dir: state_dir.into(),
            git: git::Settings::default(),
            git_remote_url: None,
            evidence_dir: None,
            bootstrap: None,
            listen: None,
            readers: Readers::Loopback,
            secrets: Vec::new(),
            evidence_keep: Duration::from_secs(30 * 24 * 3600),
            task_ttl: Duration::from_secs(24 * 3600),
            identity: format!("foreman-operator-{}", std::process::id()),
            leader_election: false,
            notes: true,
            clock: Arc::new(SystemClock::default()),
        }
    }
}
