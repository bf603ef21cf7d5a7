//! A coder's run in a Job of its own.
//!
//! The Pod has no token of the API. What the run reads there travels in a payload that only this Job mounts: a Secret of
//! the Job's own name, owned by the Job. What the run came to is the Pod's last message. The node agent makes the three
//! and takes them away, holds the claim, and writes every status; it believes a head only where the branch is at it.
//! The Pod pushes with the credential that the Jobs' namespace holds for that, so that it never sees this node's own.

pub mod build;
pub mod inside;
pub mod payload;
pub mod report;

use std::time::{Duration, Instant};

use futures::StreamExt;
use gate::verdict::{ContainerEnd, JobEnd, JobOutcome};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use schemas::Agent;
use schemas::agent::Execution;
use schemas::agentic_task::FailureReason;
use schemas::shared::Verdict;
use serde_json::json;

use super::{Run, source, verifier};
use crate::daemon::claim::{self, Held, Written};
use crate::daemon::registration::FIELD_MANAGER;
use crate::outcome::Outcome;
use build::{CONTAINER, CoderObjects, CoderRequest};
use report::Report;

/// How a Job came to its end, as far as it is seen from here.
#[derive(Debug)]
enum End {
    /// It ended.
    Over(Box<JobOutcome>),
    /// Its container did not start in time, or never can.
    NotStarted(String),
    /// It ran longer than it may.
    Overran,
    /// The run was cancelled.
    Cancelled,
}

/// Carries out a coder's task in a Job.
pub async fn run(run: &Run, agent: &Agent, execution: &Execution) -> Result<Outcome, Outcome> {
    let payload = payload::gather(run, agent).await?;
    let repository = source::repository(&run.task, &run.services.config)?;
    let request = request(run, execution, &repository.to_string());
    let objects = build::build(&request, &payload)
        .map_err(|error| Outcome::failed(FailureReason::InfrastructureError, error.to_string()))?;
    let name = objects.job.name_any();
    let told = claim::patch_status(&run.services.client, &run.held, json!({ "jobName": name })).await;
    match told {
        Ok(Written::Done(_)) => {}
        Ok(Written::Lost) => {
            run.cancel.cancel();
            return Err(Outcome::failed(FailureReason::LostClaims, "the claim was lost"));
        }
        Err(error) => return Err(broken("write the name of the coder's Job", &error)),
    }
    let jobs: Api<Job> = Api::namespaced(run.services.client.clone(), &request.namespace);
    let secrets: Api<Secret> = Api::namespaced(run.services.client.clone(), &request.namespace);
    let ended = carry(run, &jobs, &secrets, objects, &request).await;
    // Whatever it came to, what the Pod was given is of no use any more.
    let _ = secrets.delete(&name, &DeleteParams::default()).await;
    let over = matches!(ended, Ok(End::Over(_)));
    if !over {
        let _ = jobs.delete(&name, &DeleteParams::background().grace_period(0)).await;
    }
    let ended = ended?;
    if over && let Some(log) = verifier::log_of(run, &request.namespace, &name, CONTAINER).await {
        let _ = run.spool.write("job-log", &log);
    }
    let mut outcome = judge(&ended, &run.held, &request);
    check_head(run, &repository, &mut outcome).await;
    outcome.job_name = Some(name.clone());
    outcome.extra("jobName", json!(name));
    outcome.extra("namespace", json!(request.namespace));
    Ok(outcome)
}

fn request(run: &Run, execution: &Execution, repository: &str) -> CoderRequest {
    let config = &run.services.config;
    CoderRequest {
        task_name: run.held.name.clone(),
        task_uid: run.held.uid.clone(),
        epoch: run.held.claim.epoch,
        secret: run.held.secret.clone(),
        namespace: config
            .jobs_namespace
            .clone()
            .unwrap_or_else(|| run.held.namespace.clone()),
        labels: verifier::job_labels(&run.task, &config.node_name),
        repository: repository.to_owned(),
        file_roots: config
            .git
            .file_roots
            .iter()
            .map(|root| root.display().to_string())
            .collect(),
        image: execution.image.clone().filter(|image| !image.is_empty()),
        default_image: config.coder.image.clone(),
        service_account: execution
            .service_account_name
            .clone()
            .filter(|name| !name.is_empty())
            .or_else(|| config.coder.service_account.clone()),
        resources: execution.resources.clone().unwrap_or_default(),
        credentials: config.git_secret.clone(),
        startup_seconds: config.coder.startup.as_secs().max(1),
        run_seconds: u64::try_from(execution.active_deadline_seconds).unwrap_or(0).max(1),
        ttl_seconds: config.coder.ttl_seconds,
    }
}

fn broken(what: &str, error: &kube::Error) -> Outcome {
    Outcome::failed(FailureReason::InfrastructureError, format!("failed to {what}: {error}"))
}

/// Makes Job and payload, lets the Job begin, and follows it.
async fn carry(
    run: &Run,
    jobs: &Api<Job>,
    secrets: &Api<Secret>,
    objects: CoderObjects,
    request: &CoderRequest,
) -> Result<End, Outcome> {
    let params = PostParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PostParams::default()
    };
    // Suspended until its payload is there, and owner of the payload, so that one never outlives the other.
    let job = jobs
        .create(&params, &objects.job)
        .await
        .map_err(|error| broken("create the coder's Job", &error))?;
    let name = job.name_any();
    let mut secret = objects.payload;
    secret.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "batch/v1".into(),
        kind: "Job".into(),
        name: name.clone(),
        uid: job.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    secrets
        .create(&params, &secret)
        .await
        .map_err(|error| broken("create the payload of the coder's Job", &error))?;
    let selector = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(jobs.clone(), selector).default_backoff().boxed();
    let begin = Patch::Merge(json!({ "spec": { "suspend": false } }));
    let mut live = jobs
        .patch(&name, &PatchParams::default(), &begin)
        .await
        .map_err(|error| broken("let the coder's Job begin", &error))?;
    let begun = Instant::now();
    let mut started: Option<Instant> = None;
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(watcher::Event::Apply(job) | watcher::Event::InitApply(job))) => live = job,
                Some(Ok(watcher::Event::Delete(_))) | None => return Ok(End::Over(Box::default())),
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::warn!(%error, job = name, "the watch on the coder's Job broke off and is taken up again");
                    continue;
                }
            },
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
            () = run.cancel.cancelled() => return Ok(End::Cancelled),
        }
        let pods = match verifier::pods(run, &request.namespace, &name).await {
            Ok(pods) => pods,
            Err(error) => {
                tracing::warn!(%error, job = name, "failed to look at the coder's Pod; looking again");
                continue;
            }
        };
        let seen = JobOutcome::read(Some(&live), &pods, "", CONTAINER);
        if seen.finished() {
            return Ok(End::Over(Box::new(seen)));
        }
        if matches!(seen.main, ContainerEnd::Running | ContainerEnd::Terminated(_)) {
            started.get_or_insert_with(Instant::now);
        }
        match started {
            None if begun.elapsed() > Duration::from_secs(request.startup_seconds) => {
                return Ok(End::NotStarted(waits_for(&seen)));
            }
            Some(at) if at.elapsed() > Duration::from_secs(request.run_seconds) => return Ok(End::Overran),
            _ => {}
        }
    }
}

fn waits_for(seen: &JobOutcome) -> String {
    seen.stuck().unwrap_or_else(|| match seen.pods {
        0 => "the Job has no Pod; see `kubectl describe job` for what refuses it".to_owned(),
        _ => format!(
            "its Pod is {}; see `kubectl describe pod` for what it waits for",
            if seen.pod_phase.is_empty() {
                "Pending"
            } else {
                &seen.pod_phase
            }
        ),
    })
}

/// Says what a Job's end means. Only a well-formed message of this very claim is a result.
fn judge(end: &End, held: &Held, request: &CoderRequest) -> Outcome {
    let infrastructure = |why: String| {
        let mut outcome = Outcome::failed(FailureReason::InfrastructureError, why);
        outcome.verdict = Some(Verdict::Incomplete);
        outcome
    };
    match end {
        End::Cancelled => infrastructure("the run was cancelled".into()),
        End::NotStarted(why) => infrastructure(format!(
            "the coder's Pod did not start within {} s: {why}",
            request.startup_seconds
        )),
        End::Overran => {
            let why = format!(
                "the Job ran longer than execution.activeDeadlineSeconds, {} s",
                request.run_seconds
            );
            Outcome {
                failure: Some(FailureReason::Timeout),
                ..infrastructure(why)
            }
        }
        End::Over(seen) => match &seen.main {
            ContainerEnd::Terminated(end) => match Report::parse(&end.message, held) {
                Ok(report) => report.into_outcome(),
                Err(why) => infrastructure(format!(
                    "the coder's Pod ended without a result ({}, exit code {}): {why}",
                    if end.reason.is_empty() { "Error" } else { &end.reason },
                    end.exit_code
                )),
            },
            _ if seen.job == JobEnd::Missing => infrastructure("the coder's Job was deleted by somebody else".into()),
            _ => infrastructure(format!(
                "the coder's Job ended without a result: {} {}",
                [&seen.job_reason, &seen.pod_reason]
                    .into_iter()
                    .find(|reason| !reason.is_empty())
                    .map_or("no reason is given", String::as_str),
                seen.detail
            )),
        },
    }
}

/// Believes a head that a Pod says it pushed only where the branch is at it.
async fn check_head(run: &Run, repository: &git::RemoteUrl, outcome: &mut Outcome) {
    let (Some(head), Some(branch), Some(_)) = (&outcome.head_sha, &outcome.branch, &outcome.diff_stat) else {
        return;
    };
    let found = run
        .services
        .git
        .find_ref(repository, &format!("refs/heads/{branch}"))
        .await;
    let why = match found {
        Ok(Some(tip)) if tip.to_string() == *head => return,
        Ok(Some(tip)) => format!("the coder's Pod says that it pushed {head}, and {branch} is at {tip}"),
        Ok(None) => format!("the coder's Pod says that it pushed {head}, and there is no branch {branch}"),
        Err(error) => format!("whether {branch} is at {head} cannot be seen: {error}"),
    };
    outcome.verdict = Some(Verdict::Incomplete);
    outcome.failure = Some(FailureReason::InfrastructureError);
    outcome.summary = crate::outcome::shorten(&why, 280);
    outcome.head_sha = None;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::daemon::claim::ClaimSecret;
    use gate::verdict::Terminated;
    use schemas::agentic_task::Claim;

    fn held() -> Held {
        let secret = ClaimSecret::new([1; 32]);
        Held {
            namespace: "n".into(),
            name: "t".into(),
            uid: "u".into(),
            claim: Claim {
                node: "a".into(),
                agent: "p".into(),
                epoch: 1,
                secret_sha256: secret.sha256(),
            },
            secret,
        }
    }

    fn request() -> CoderRequest {
        CoderRequest {
            task_name: "t".into(),
            task_uid: "u".into(),
            epoch: 1,
            secret: held().secret,
            namespace: "n".into(),
            labels: Default::default(),
            repository: "https://git.example/r".into(),
            file_roots: Vec::new(),
            image: None,
            default_image: None,
            service_account: None,
            resources: Default::default(),
            credentials: None,
            startup_seconds: 30,
            run_seconds: 60,
            ttl_seconds: 0,
        }
    }

    fn over(job: JobEnd, main: ContainerEnd) -> End {
        End::Over(Box::new(JobOutcome {
            job,
            main,
            pods: 1,
            ..JobOutcome::default()
        }))
    }

    fn terminated(code: i32, reason: &str, message: &str) -> ContainerEnd {
        ContainerEnd::Terminated(Terminated {
            exit_code: code,
            signal: None,
            reason: reason.into(),
            message: message.into(),
        })
    }

    #[test]
    fn only_a_message_of_this_claim_is_a_result_and_all_else_is_nobodys_verdict() {
        let good = Report::of(Outcome::ended(Verdict::Go, "done"), &held()).text();
        let mut foreign = held();
        foreign.claim.epoch = 2;
        let other = Report::of(Outcome::ended(Verdict::Go, "done"), &foreign).text();
        let told = judge(
            &over(JobEnd::Complete, terminated(0, "Completed", &good)),
            &held(),
            &request(),
        );
        assert_eq!((told.verdict, told.failure), (Some(Verdict::Go), None));
        let table = [
            (
                over(JobEnd::Complete, terminated(0, "Completed", &other)),
                "another claim",
            ),
            (over(JobEnd::Complete, terminated(0, "Completed", "")), "is empty"),
            (
                over(JobEnd::Failed, terminated(137, "OOMKilled", "")),
                "OOMKilled, exit code 137",
            ),
            (
                over(JobEnd::Failed, terminated(128, "StartError", "no such program")),
                "StartError",
            ),
            (over(JobEnd::Failed, ContainerEnd::Missing), "ended without a result"),
            (End::Over(Box::default()), "deleted by somebody else"),
            (
                End::NotStarted("ImagePullBackOff: x".into()),
                "did not start within 30 s: ImagePullBackOff",
            ),
            (End::Cancelled, "cancelled"),
        ];
        for (end, said) in table {
            let told = judge(&end, &held(), &request());
            assert_eq!(told.verdict, Some(Verdict::Incomplete), "{end:?}");
            assert_eq!(told.failure, Some(FailureReason::InfrastructureError), "{end:?}");
            assert!(told.summary.contains(said), "{said:?} is not in {:?}", told.summary);
        }
        let late = judge(&End::Overran, &held(), &request());
        assert_eq!(late.failure, Some(FailureReason::Timeout));
        assert!(late.summary.contains("60 s"), "{}", late.summary);
    }

    #[test]
    fn a_pod_that_does_not_start_is_told_of_with_its_reason() {
        let mut seen = JobOutcome::default();
        assert!(waits_for(&seen).contains("no Pod"));
        seen.pods = 1;
        assert!(waits_for(&seen).contains("is Pending"));
        seen.main = ContainerEnd::Waiting {
            reason: "ImagePullBackOff".into(),
            message: "no such image".into(),
        };
        assert!(waits_for(&seen).contains("ImagePullBackOff"));
    }
}
