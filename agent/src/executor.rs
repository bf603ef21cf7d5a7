//! How a claimed task is carried out.

pub mod coder;
pub mod confinement;
pub mod endpoint;
mod follow;
pub mod job;
pub mod native;
#[cfg(test)]
pub(crate) mod sample;
pub mod served;
pub mod source;
pub mod stub;
mod told;
pub mod verifier;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use kube::api::Api;
use schemas::{Agent, AgenticTask};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::claim::Held;
use crate::evidence::Spool;
use crate::outcome::Outcome;
use crate::patience::{Unanswered, answered};
use crate::probes::Probes;

/// What the executors of one node share.
#[derive(Clone)]
pub struct Services {
    /// Configuration.
    pub config: Arc<Config>,
    /// The API.
    pub client: kube::Client,
    /// Mirrors of repositories, and the way to their remotes.
    pub git: git::Git,
    /// Repositories that this node has a mirror of.
    pub repositories: Repositories,
    /// Where untrusted commands run.
    pub sandbox: sandbox::Sandbox,
    /// HTTP for evidence.
    pub http: reqwest::Client,
    /// What is told of this agent itself.
    pub probes: Probes,
}

/// Repositories that this node has a mirror of, by URL.
#[derive(Clone, Debug, Default)]
pub struct Repositories(Arc<Mutex<BTreeSet<String>>>);

impl Repositories {
    /// Remembers a repository.
    pub fn add(&self, url: &git::RemoteUrl) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(url.to_string());
    }

    /// Lists what was remembered.
    pub fn list(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }
}

/// How long beyond its limit a run may take to hand in what there is by then. With the time that a cancelled run may take it
/// stays below the two minutes after which the operator takes the claim for dead.
pub const HAND_IN_TIME: Duration = Duration::from_secs(60);

/// One claimed task.
pub struct Run {
    /// What the executors of this node share.
    pub services: Services,
    /// The task as it was claimed.
    pub task: AgenticTask,
    /// Its Agent, if it names one.
    pub agent: Option<Agent>,
    /// The claim.
    pub held: Held,
    /// When the time that the run may take began to count.
    pub began: Instant,
    /// How long it may take from then on, until it hands in what it has.
    pub limit: Duration,
    /// Ends the run at once; why is the daemon's business.
    pub cancel: CancellationToken,
    /// Where transcripts and logs go.
    pub spool: Spool,
}

impl Run {
    /// Reads an object; an API that is away is waited for.
    pub async fn read<K>(&self, api: &Api<K>, name: &str) -> Result<Option<K>, Unanswered>
    where
        K: Clone + Debug + DeserializeOwned,
    {
        answered(&self.cancel, name, |_| api.get_opt(name)).await
    }
}

/// A way to carry out tasks.
pub trait Executor: Send + Sync {
    /// Carries out one task; the outcome of a run that was cancelled is not used.
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Outcome>;
}
