//! The reporter: a Workload's verdict on its head commit, pending first, always resolved.
//!
//! Before it reports success it reads the gate Job's own exit code and termination message again: a status that says
//! GATE-PASS is not believed by itself.

pub mod notes;
pub mod plan;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use gate::binding::Binding;
use gate::verdict::{self, JobOutcome};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ListParams};
use schemas::Workload;
use serde_json::json;

use crate::cache::{Cache, Key};
use crate::clock::Clock;
use crate::metrics::{Metrics, REPORTS};
use crate::work_queue::{Next, WorkQueue};
use crate::workload::observe::{Links, is_owned};
use crate::writer::Writer;
use plan::{CommitStatus, State};

/// Why a report did not reach its place.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Git failed.
    #[error(transparent)]
    Git(#[from] git::Error),
    /// The server refused the push, or the ref was always moved by somebody else.
    #[error("failed to push the note: {0}")]
    Push(String),
    /// The repository is `owner/name` and no server is set.
    #[error("failed to find the repository {0:?}: it is no URL, and no Git remote URL is set (--git-remote-url)")]
    NoRemote(String),
    /// A commit is not 40 hex digits.
    #[error("failed to read the commit {0:?}")]
    Commit(String),
}

/// Where verdicts are reported: a forge, or the notes of a plain Git server.
pub trait Forge: Send + Sync {
    /// Reports a state of a commit and says where it stands. Sending the same again has no second effect.
    fn commit_status<'a>(
        &'a self,
        repo: &'a str,
        commit: &'a str,
        status: &'a CommitStatus,
    ) -> BoxFuture<'a, Result<String, Error>>;

    /// Leaves a remark on a commit.
    fn note<'a>(&'a self, repo: &'a str, commit: &'a str, text: &'a str) -> BoxFuture<'a, Result<String, Error>>;
}

/// What the reporter works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Reads Jobs.
    pub client: Client,
    /// Workloads.
    pub workloads: Arc<Cache<Workload>>,
    /// Tasks.
    pub tasks: Arc<Cache<schemas::AgenticTask>>,
    /// Which tasks belong to which Workload.
    pub links: Arc<Links>,
    /// Where verdicts are reported.
    pub forge: Arc<dyn Forge>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Queues a Workload whenever there is something to report.
pub fn observe(queue: &Arc<WorkQueue<Key>>, workloads: &Cache<Workload>) {
    let adds = queue.clone();
    workloads.subscribe(move |change| {
        let due = change
            .after
            .and_then(|workload| workload.readable())
            .is_some_and(|workload| plan::plan(workload).is_some());
        if due {
            adds.add(change.key.clone());
        }
    });
}

/// Reports one Workload.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Next {
    let Some(workload) = ctx.workloads.get(&key) else {
        return Next::Wait;
    };
    let Some(object) = workload.readable() else {
        return Next::Wait;
    };
    let Some(mut status) = plan::plan(object) else {
        return Next::Wait;
    };
    if status.state == State::Success
        && let Err(reason) = confirm(&ctx, &key, workload.uid(), object).await
    {
        match reason {
            Doubt::Unknown(error) => return Next::Failed(error),
            Doubt::Refuted(text) => status.refute(&text),
        }
    }
    match ctx.forge.commit_status(&status.repo, &status.head, &status).await {
        Ok(place) => {
            ctx.metrics.count(REPORTS, &[("state", status.state.as_str())]);
            tracing::info!(workload = %key, state = status.state.as_str(), head = status.head, place, "reported");
            let patch = json!({ "reported": status.receipt() });
            match ctx.writer.patch_status(&ctx.workloads, &key, None, patch).await {
                Ok(_) => Next::Wait,
                Err(error) => Next::Failed(error.to_string()),
            }
        }
        Err(error @ (Error::NoRemote(_) | Error::Commit(_))) => {
            tracing::info!(workload = %key, %error, "the verdict stays in the Workload's status");
            Next::Wait
        }
        Err(error) => {
            tracing::warn!(workload = %key, %error, "the verdict was not reported");
            Next::After(Duration::from_secs(60))
        }
    }
}

enum Doubt {
    /// The Job could not be asked: it is tried again.
    Unknown(String),
    /// The Job says something else.
    Refuted(String),
}

/// Reads the end of the gate's Job again and judges it anew.
async fn confirm(ctx: &Context, key: &Key, uid: &str, workload: &Workload) -> Result<(), Doubt> {
    let status = workload.status.clone().unwrap_or_default();
    let refuted = |text: &str| Err(Doubt::Refuted(text.to_owned()));
    let (Some(head), Some(base), Some(digest)) = (status.head_sha, status.base_sha, status.gate_digest) else {
        return refuted("the verdict names no head, base or gate");
    };
    let tasks = ctx
        .links
        .tasks_of(key)
        .into_iter()
        .filter_map(|key| ctx.tasks.get(&key))
        .filter(|task| is_owned(task, uid));
    let mut newest: Option<(i64, String, String)> = None;
    for task in tasks {
        let Some(object) = task.readable() else { continue };
        let Some(found) = &object.status else { continue };
        let passes =
            found.verdict == Some(schemas::shared::Verdict::GatePass) && found.commit_sha.as_deref() == Some(&head);
        if !passes || object.spec.run.unwrap_or(1) != status.run.unwrap_or(1) {
            continue;
        }
        let Some(job) = found.job_name.clone() else { continue };
        let extra = found
            .result
            .as_ref()
            .and_then(|result| result.get("extra")?.get("namespace")?.as_str());
        let namespace = extra.unwrap_or(&key.namespace).to_owned();
        let round = object.spec.round.unwrap_or(1);
        if newest.as_ref().is_none_or(|(known, _, _)| round >= *known) {
            newest = Some((round, namespace, job));
        }
    }
    let Some((_, namespace, name)) = newest else {
        return refuted("no verifier of this head names its Job");
    };
    let jobs: Api<Job> = Api::namespaced(ctx.client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &namespace);
    let unknown = |error: kube::Error| Doubt::Unknown(format!("failed to read Job {namespace}/{name}: {error}"));
    let job = jobs.get_opt(&name).await.map_err(unknown)?;
    let selector = ListParams::default().labels(&format!("job-name={name}"));
    let pods = pods.list(&selector).await.map_err(unknown)?.items;
    let binding = Binding {
        head,
        base,
        digest,
        steps: None,
        memory_limit: None,
    };
    match verdict::judge(&JobOutcome::from_objects(job.as_ref(), &pods), &binding) {
        verdict::Verdict::Pass { .. } => Ok(()),
        other => Err(Doubt::Refuted(format!(
            "Job {name} does not say so: {}",
            other.summary()
        ))),
    }
}
