//! How a claimed task is carried out.

pub mod coder;
pub mod endpoint;
pub mod native;
pub mod shell;
pub mod source;
pub mod stub;
pub mod verifier;

use std::sync::Arc;

use futures::future::BoxFuture;
use schemas::{Agent, AgenticTask};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::daemon::claim::Held;
use crate::evidence::Spool;
use crate::outcome::Outcome;

/// What the executors of one node share.
#[derive(Clone)]
pub struct Services {
    /// Configuration.
    pub config: Arc<Config>,
    /// The API.
    pub client: kube::Client,
    /// Mirrors of repositories, and the way to their remotes.
    pub git: git::Git,
    /// Where untrusted commands run.
    pub sandbox: sandbox::Sandbox,
    /// HTTP for evidence.
    pub http: reqwest::Client,
}

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
    /// Ends the run at once; why is the daemon's business.
    pub cancel: CancellationToken,
    /// Where transcripts and logs go.
    pub spool: Spool,
}

/// A way to carry out tasks.
pub trait Executor: Send + Sync {
    /// Carries out one task; the outcome of a run that was cancelled is not used.
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Outcome>;
}
