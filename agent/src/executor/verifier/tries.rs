//! One try of a gate: its objects, from their making to their end.

use std::time::Duration;

use gate::job::{GateObjects, INIT_CONTAINER, MAIN_CONTAINER};
use gate::network::{CODER, KIND_LABEL};
use gate::verdict::{Failure, JobOutcome, Verdict, judge, judge_prepare};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::agentic_task::{FailureReason, Phase};
use schemas::labels;
use serde_json::json;

use super::patch_status;
use crate::daemon::claim::Written;
use crate::executor::Run;
use crate::executor::follow::{Followed, Sight, begin, create, create_owned, create_waiting};
use crate::executor::told::Told;
use crate::outcome::Outcome;
use crate::patience::{Unanswered, answered};

/// Time of the run that is kept for what is said of it at its end.
pub(super) const LAST_WORD: Duration = Duration::from_secs(30);
/// How long reading the log of a gate may take whose time is over.
const LOG_PATIENCE: Duration = Duration::from_secs(10);

/// Returns how much of the run's time a gate may still take.
pub(super) fn time_left(run: &Run) -> Duration {
    run.limit.saturating_sub(run.began.elapsed() + LAST_WORD)
}

/// Runs the gate's objects once, for as long as the run may take.
pub(super) async fn in_time(
    run: &Run,
    namespace: &str,
    objects: &GateObjects,
    attempt: i64,
    told: &mut Told,
) -> Result<(Verdict, Option<Vec<u8>>), Outcome> {
    match tokio::time::timeout(time_left(run), once(run, namespace, objects, attempt, told)).await {
        Ok(done) => done,
        Err(_) => Ok(out_of_time(run, namespace, objects).await),
    }
}

/// Runs the gate's objects once and judges their end.
pub(super) async fn once(
    run: &Run,
    namespace: &str,
    objects: &GateObjects,
    attempt: i64,
    told: &mut Told,
) -> Result<(Verdict, Option<Vec<u8>>), Outcome> {
    let client = run.services.client.clone();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let status = json!({ "phase": Phase::Verifying, "jobName": objects.job.name_any(), "gateTries": attempt - 1 });
    match patch_status(run, status).await {
        Ok(Written::Done(_)) => {}
        Ok(Written::Lost) => {
            run.cancel.cancel();
            return Err(Outcome::failed(FailureReason::LostClaims, "the claim was lost"));
        }
        Err(error) => return Ok(broken("write the phase Verifying", error)),
    }
    Ok(run_jobs(run, &jobs, &maps, namespace, objects, told).await)
}

async fn run_jobs(
    run: &Run,
    jobs: &Api<Job>,
    maps: &Api<ConfigMap>,
    namespace: &str,
    objects: &GateObjects,
    told: &mut Told,
) -> (Verdict, Option<Vec<u8>>) {
    let followed = |job: &Job| Followed {
        run,
        namespace,
        name: job.name_any(),
        init: INIT_CONTAINER,
        main: MAIN_CONTAINER,
    };
    let gate = followed(&objects.job);
    // It waits for its plan, and owns it, so that nothing of a gate is left when the Job goes.
    let job = match create_waiting(run, jobs, &objects.job).await {
        Ok(job) => job,
        Err(error) => {
            gate.remove(true).await;
            return broken("create the gate's Job", error);
        }
    };
    if let Err(error) = create_owned(run, maps, &job, objects.config_map.clone()).await {
        gate.remove(true).await;
        return broken("create the gate's plan", error);
    }
    if let Some(prepare) = &objects.prepare_job {
        let before = followed(prepare);
        let made = async { create(run, jobs, prepare).await.map(drop) };
        let why = match run_job(&before, made, told).await {
            Err(error) => Some(broken("run the prepare Job", error)),
            Ok(ended) => match judge_prepare(&ended) {
                Err(failure) => Some((Verdict::Error(failure), before.log().await)),
                Ok(()) => None,
            },
        };
        if let Some(why) = why {
            gate.remove(true).await;
            return why;
        }
    }
    match run_job(&gate, begin(run, jobs, &job), told).await {
        Err(error) => broken("run the gate Job", error),
        Ok(ended) => (judge(&ended, &objects.plan.binding()), gate.log().await),
    }
}

/// Removes the Jobs that earlier claims of this task left on this node, and that have not ended: nobody reads what they would say, and
/// the gate must not run beside itself. Their plans go with them.
pub(super) async fn clear_earlier(run: &Run, namespace: &str) {
    let epoch = run.held.claim.epoch;
    if epoch <= 1 {
        return;
    }
    let jobs: &Api<Job> = &Api::namespaced(run.services.client.clone(), namespace);
    // An agent touches no Job of another node; those are the operator's to sweep.
    let selector = format!(
        "{}={},{}={}",
        labels::TASK_UID,
        run.held.uid,
        labels::NODE,
        run.services.config.node_name
    );
    let params = &ListParams::default().labels(&selector);
    let found = match answered(&run.cancel, &run.held.name, |_| jobs.list(params)).await {
        Ok(found) => found.items,
        Err(error) => {
            tracing::warn!(%error, task = run.held.name, "failed to look for gates that an earlier claim left");
            return;
        }
    };
    for job in found.into_iter().filter(|job| is_left(job, epoch)) {
        let name = job.name_any();
        tracing::info!(job = name, "removing a gate's Job that an earlier claim left");
        let left = Followed {
            run,
            namespace,
            name,
            init: INIT_CONTAINER,
            main: MAIN_CONTAINER,
        };
        left.remove(true).await;
    }
}

/// Says whether a gate's Job is an earlier claim's and has not ended.
fn is_left(job: &Job, epoch: i64) -> bool {
    let of = |name: &str| job.labels().get(name).map(String::as_str);
    let earlier = of(labels::EPOCH).and_then(|of| of.parse::<i64>().ok());
    of(KIND_LABEL) != Some(CODER)
        && earlier.is_some_and(|earlier| earlier < epoch)
        && job.metadata.deletion_timestamp.is_none()
        && !JobOutcome::from_objects(Some(job), &[]).finished()
}

/// Removes a gate that takes longer than its task may, and says what to do about it.
async fn out_of_time(run: &Run, namespace: &str, objects: &GateObjects) -> (Verdict, Option<Vec<u8>>) {
    let mut log = None;
    for job in objects.prepare_job.iter().chain([&objects.job]) {
        let job = Followed {
            run,
            namespace,
            name: job.name_any(),
            init: INIT_CONTAINER,
            main: MAIN_CONTAINER,
        };
        let read = tokio::time::timeout(LOG_PATIENCE, job.log()).await;
        log = read.ok().flatten().or(log);
        job.remove(true).await;
    }
    let gate = &objects.plan.gate;
    let prepare = match (&objects.prepare_job, &gate.prepare) {
        (Some(_), Some(prepare)) => format!(", prepare.timeoutSeconds {}", prepare.timeout_seconds),
        _ => String::new(),
    };
    let failure = Failure {
        reason: "TaskTimeout".into(),
        detail: format!(
            "the {} s of the verify task were over before its gate ended (deadlineSeconds {}{prepare}); raise timeoutSeconds of \
             the verify task (and its budget.seconds), or lower the gate's",
            run.limit.as_secs(),
            gate.deadline_seconds,
        ),
        retry: false,
    };
    (Verdict::Error(failure), log)
}

fn broken(what: &str, error: impl std::fmt::Display) -> (Verdict, Option<Vec<u8>>) {
    let failure = Failure {
        reason: "ApiError".into(),
        detail: format!("failed to {what}: {error}"),
        retry: true,
    };
    (Verdict::Error(failure), None)
}

/// Starts a Job and follows it to its end. One that is not followed to its end is removed, since the next try must not
/// run beside it.
pub(super) async fn run_job(
    gate: &Followed<'_>,
    start: impl Future<Output = Result<(), Unanswered>>,
    told: &mut Told,
) -> Result<JobOutcome, Unanswered> {
    let ended = start_and_follow(gate, start, told).await;
    if ended.is_err() {
        gate.remove(true).await;
    }
    ended
}

/// Starts a Job and waits for its end, or for what it will never get over.
async fn start_and_follow(
    gate: &Followed<'_>,
    start: impl Future<Output = Result<(), Unanswered>>,
    told: &mut Told,
) -> Result<JobOutcome, Unanswered> {
    let run = gate.run;
    start.await?;
    let mut sights = gate.follow();
    let mut unscheduled = String::new();
    loop {
        let mut seen = match sights.next().await? {
            Sight::Cancelled => {
                gate.remove(true).await;
                return Ok(JobOutcome::default());
            }
            Sight::Job(seen) => *seen,
        };
        if seen.finished() {
            // The Pod goes with the deadline, and what it waited for with the Pod.
            if seen.job_reason == "DeadlineExceeded" && !unscheduled.is_empty() {
                seen.detail = format!("{}; its Pod found no node: {unscheduled}", seen.detail);
            }
            return Ok(seen);
        }
        if seen.pods > 0 {
            let cache = run.services.config.gate_cache_pvc.as_deref();
            unscheduled = explained(&seen.unscheduled, cache, gate.namespace);
            if !told.tell(run, &unscheduled).await {
                run.cancel.cancel();
            }
        }
        if let Some(why) = seen.stuck() {
            tracing::warn!(job = gate.name, why, "the gate's Job will not start");
            gate.remove(false).await;
            return Ok(seen);
        }
    }
}

/// Adds what to do to what the scheduler says of a Pod, where that is known.
pub(super) fn explained(unscheduled: &str, cache: Option<&str>, namespace: &str) -> String {
    match cache {
        Some(claim) if unscheduled.to_ascii_lowercase().contains("persistentvolumeclaim") => format!(
            "{unscheduled}; the gates' cache is PersistentVolumeClaim {claim:?} in namespace {namespace:?}: look at it, name a \
             StorageClass with agent.gateCache.storageClass where the cluster has no default one, or do without the cache \
             with agent.gateCache.enabled=false"
        ),
        _ => unscheduled.to_owned(),
    }
}
