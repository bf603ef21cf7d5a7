//! A coder's run in a Job of its own.
//!
//! The Pod has no token of the API. What the run reads there travels in a payload that only this Job mounts: a Secret of
//! the Job's own name, owned by the Job. What the run came to is the Pod's last message. The node agent makes the three
//! and takes them away, holds the claim, and writes every status; it believes a head only where the branch is at it.
//! The Pod pushes with the credential that the Jobs' namespace holds for that, so that it never sees this node's own.

pub mod build;
mod end;
pub mod inside;
mod left;
pub mod payload;
pub mod report;

use std::time::Instant;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use schemas::agent::Execution;
use schemas::agentic_task::FailureReason;
use schemas::shared::Verdict;
use schemas::{Agent, Workload, labels};
use serde_json::json;

use super::follow::{Followed, begin as begin_job, create_owned, create_waiting, is_missing};
use super::{Run, endpoint, source, verifier};
use crate::daemon::claim::Written;
use crate::outcome::{Outcome, shorten};
use crate::patience::Unanswered;
use build::{CONTAINER, CoderObjects, CoderRequest, Limits};
use end::{End, Watch};
use report::Under;

/// The Job of a run.
struct Work {
    name: String,
    /// Epoch of the claim that it was made for; a later claim may have taken it over.
    epoch: i64,
    /// Base commit that it works from.
    base: String,
}

/// Carries out a coder's task in a Job.
pub async fn run(run: &Run, agent: &Agent, execution: &Execution) -> Result<Outcome, Outcome> {
    let config = &run.services.config;
    let repository = source::repository(&run.task, config)?;
    let workload = source::workload(run).await?;
    let branch = source::branch(&run.task, workload.as_ref())?;
    let namespace = config
        .jobs_namespace
        .clone()
        .unwrap_or_else(|| run.held.namespace.clone());
    let limits = Limits::of(execution, config.coder.startup);
    let taken = left::take_over(run, &namespace).await?;
    let work = match taken {
        Some(work) => {
            if let Err(error) = tell_name(run, &work.name).await {
                take_away(run, &followed(run, &namespace, &work.name), false).await;
                return Err(error);
            }
            work
        }
        None => begin(run, agent, execution, &namespace, &repository, workload.as_ref()).await?,
    };
    let followed = followed(run, &namespace, &work.name);
    let mut watch = Watch::new(limits, Instant::now());
    let ended = end_of(&followed, &mut watch).await;
    let log = match ended {
        Ok(End::Over(_)) => followed.log().await,
        _ => None,
    };
    take_away(run, &followed, matches!(ended, Ok(End::Over(_)))).await;
    let ended = ended.map_err(|error| broken("follow the coder's Job", error))?;
    if let Some(log) = log {
        let _ = run.spool.write("job-log", &log);
    }
    let under = Under {
        task: &run.held.uid,
        epoch: work.epoch,
        store: config.evidence_url.as_deref(),
    };
    let mut outcome = end::judge(&ended, under, limits);
    check_head(run, &repository, &branch, &mut outcome).await;
    outcome.branch = Some(branch);
    outcome.base_sha = Some(work.base);
    outcome.replay = endpoint::base_url(agent, config).is_some_and(|url| url.starts_with(endpoint::REPLAY));
    outcome.job_name = Some(work.name.clone());
    outcome.extra("jobName", json!(work.name));
    outcome.extra("namespace", json!(namespace));
    Ok(outcome)
}

async fn end_of(followed: &Followed<'_>, watch: &mut Watch) -> Result<End, Unanswered> {
    let mut sights = followed.follow();
    loop {
        let sight = sights.next().await?;
        if let Some(end) = watch.see(sight, Instant::now()) {
            return Ok(end);
        }
    }
}

fn followed<'a>(run: &'a Run, namespace: &'a str, name: &str) -> Followed<'a> {
    Followed {
        run,
        namespace,
        name: name.to_owned(),
        init: "",
        main: CONTAINER,
    }
}

/// Makes Job and payload, and lets the Job begin.
async fn begin(
    run: &Run,
    agent: &Agent,
    execution: &Execution,
    namespace: &str,
    repository: &git::RemoteUrl,
    workload: Option<&Workload>,
) -> Result<Work, Outcome> {
    let pinned = source::pinned_base(&run.task, workload);
    let base = source::base_id(run, &run.services.git, repository, pinned).await?;
    let base = base.to_string();
    let payload = payload::gather(run, agent, workload, &base).await?;
    let request = request(run, execution, namespace, repository, &base);
    let objects = build::build(&request, &payload)
        .map_err(|error| Outcome::failed(FailureReason::InfrastructureError, error.to_string()))?;
    let name = objects.job.name_any();
    // Before there is anything: who looks for what a claim left finds its name.
    tell_name(run, &name).await?;
    if let Err(error) = make(run, namespace, objects).await {
        take_away(run, &followed(run, namespace, &name), false).await;
        return Err(error);
    }
    Ok(Work {
        name,
        epoch: run.held.claim.epoch,
        base,
    })
}

async fn make(run: &Run, namespace: &str, objects: CoderObjects) -> Result<(), Outcome> {
    let jobs: Api<Job> = Api::namespaced(run.services.client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(run.services.client.clone(), namespace);
    // It waits until its payload is there, and owns the payload, so that one never outlives the other.
    let job = create_waiting(run, &jobs, &objects.job)
        .await
        .map_err(|error| broken("create the coder's Job", error))?;
    create_owned(run, &secrets, &job, objects.payload)
        .await
        .map_err(|error| broken("create the payload of the coder's Job", error))?;
    begin_job(run, &jobs, &job)
        .await
        .map_err(|error| broken("let the coder's Job begin", error))
}

fn request(run: &Run, execution: &Execution, namespace: &str, repository: &git::RemoteUrl, base: &str) -> CoderRequest {
    let config = &run.services.config;
    CoderRequest {
        task_name: run.held.name.clone(),
        task_uid: run.held.uid.clone(),
        epoch: run.held.claim.epoch,
        secret: run.held.secret.clone(),
        namespace: namespace.to_owned(),
        labels: verifier::job_labels(&run.task, &config.node_name),
        repository: repository.to_string(),
        base: base.to_owned(),
        file_roots: config.git.file_roots.clone(),
        execution: execution.clone(),
        default_image: config.coder.image.clone(),
        default_account: config.coder.service_account.clone(),
        credentials: config.git_secret.clone(),
        limits: Limits::of(execution, config.coder.startup),
        ttl_seconds: config.coder.ttl_seconds,
    }
}

/// Writes the Job's name into the task's status.
async fn tell_name(run: &Run, name: &str) -> Result<(), Outcome> {
    match verifier::patch_status(run, json!({ "jobName": name })).await {
        Ok(Written::Done(_)) => Ok(()),
        Ok(Written::Lost) => {
            run.cancel.cancel();
            Err(Outcome::failed(FailureReason::LostClaims, "the claim was lost"))
        }
        Err(error) => Err(broken("write the name of the coder's Job", error)),
    }
}

/// Takes the payload away, and the Job with its Pod unless it ended: then it stays as long as it was asked to.
///
/// A Job that another claim took over meanwhile is that claim's.
async fn take_away(run: &Run, followed: &Followed<'_>, over: bool) {
    let client = &run.services.client;
    let jobs: Api<Job> = Api::namespaced(client.clone(), followed.namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), followed.namespace);
    if let Ok(Some(job)) = run.read(&jobs, &followed.name).await
        && job.labels().get(labels::EPOCH) != Some(&run.held.claim.epoch.to_string())
    {
        return;
    }
    // First of all: while the Job is there, its name is taken, and nobody else may mount its payload.
    match secrets.delete(&followed.name, &DeleteParams::default()).await {
        Ok(_) => {}
        Err(error) if is_missing(&error) => {}
        Err(error) => tracing::warn!(
            %error, secret = followed.name, "failed to remove the payload of a coder's Job; it goes with the Job"
        ),
    }
    if !over {
        followed.remove(true).await;
    }
}

fn broken(what: &str, error: impl std::fmt::Display) -> Outcome {
    Outcome::failed(FailureReason::InfrastructureError, format!("failed to {what}: {error}"))
}

/// Believes a head only where the branch is at it, or where it is what the work began with.
async fn check_head(run: &Run, repository: &git::RemoteUrl, branch: &str, outcome: &mut Outcome) {
    let Some(head) = outcome.head_sha.clone() else { return };
    let commit = source::parse(&head).ok();
    let payload = &run.task.spec.payload;
    let revised = payload.revise_from_branch.as_deref().filter(|name| !name.is_empty());
    let mut why = String::new();
    for name in [Some(branch), revised].into_iter().flatten() {
        let found = run
            .services
            .git
            .find_ref(repository, &format!("refs/heads/{name}"))
            .await;
        let is_at = match found {
            Ok(Some(tip)) if Some(tip) == commit => return,
            Ok(Some(tip)) => format!("{name} is at {tip}"),
            Ok(None) => format!("there is no branch {name}"),
            Err(error) => format!("the repository cannot be asked: {error}"),
        };
        if why.is_empty() {
            why = is_at;
        }
    }
    if let Some(earlier) = &run.task.spec.feedback_from
        && let Ok(Some(task)) = source::task(run, earlier).await
        && task.status.and_then(|status| status.commit_sha) == Some(head.clone())
    {
        return;
    }
    outcome.verdict = Some(Verdict::Incomplete);
    outcome.failure = Some(FailureReason::InfrastructureError);
    outcome.summary = shorten(&format!("the coder's Pod says that it pushed {head}, and {why}"), 280);
    outcome.head_sha = None;
}
