//! The role verifier: a gate Job, its verdict, its log.

use std::collections::BTreeMap;
use std::time::Duration;

use gate::cache::{BaseFile, cache_key};
use gate::fixlog::FixLog;
use gate::job::{CacheMount, GateObjects, GateRequest, INIT_CONTAINER, MAIN_CONTAINER, build_job};
use gate::network::{CODER, KIND_LABEL};
use gate::verdict::{Failure, JobOutcome, Verdict, judge, judge_prepare};
use git::Oid;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use schemas::agentic_task::{FailureReason, Phase};
use schemas::conditions::{self, Said};
use schemas::shared::Verdict as Published;
use schemas::{Agent, AgenticTask, labels};
use serde_json::{Value, json};

use super::follow::{Followed, Sight, begin, create, create_owned, create_waiting};
use super::{Run, source};
use crate::config::Config;
use crate::daemon::claim::{self, Written};
use crate::metrics::GATE_TRIES;
use crate::outcome::Outcome;
use crate::patience::{Unanswered, answered};

/// Tries of the gate before a GATE-ERROR is final.
const TRIES: i64 = 3;
/// Seconds for which an ended Job stays.
const TTL_SECONDS: i32 = 600;
/// Time of the run that is kept for what is said of it at its end.
const LAST_WORD: Duration = Duration::from_secs(30);
/// How long reading the log of a gate may take whose time is over.
const LOG_PATIENCE: Duration = Duration::from_secs(10);
/// The condition that says why a gate's Pod finds no node.
const GATE_SCHEDULED: &str = "GateScheduled";
/// User that the gate's containers run as on a cluster.
const USER: i64 = 65_532;

/// What is to be proved.
struct Question {
    head: Oid,
    base: Oid,
    branch: String,
    repository: git::RemoteUrl,
}

/// Carries out a verifier's task.
pub async fn run(run: &Run) -> Result<Outcome, Outcome> {
    let question = ask(run).await?;
    let git = &run.services.git;
    let (task, base, address) = (run.task.clone(), question.base, question.repository.to_string());
    let resolved = git
        .read(&question.repository, move |repository| {
            let tree = source::CommitTree::new(repository.clone(), base);
            let resolved = match source::gate_in(&task, &tree) {
                Err(error) => Err(error),
                Ok(gate) => {
                    let files = match &gate.prepare {
                        Some(_) => files_of(repository, base)?,
                        None => Vec::new(),
                    };
                    let branch = source::base_branch(&task);
                    let key = cache_key(&gate, &address, &branch, &tree, &files);
                    Ok((gate, key))
                }
            };
            tree.checked(resolved)
        })
        .await
        .map_err(|error| source::clone_failed(&error))?;
    let (gate, key) = match resolved {
        Ok(found) => found,
        Err(error) => {
            let verdict = Verdict::Error(Failure::from(&error));
            return Ok(bind(outcome_of(&verdict, None), &question, None));
        }
    };
    let config = &run.services.config;
    let digest = gate.digest();
    let namespace = config
        .jobs_namespace
        .clone()
        .unwrap_or_else(|| run.held.namespace.clone());
    clear_earlier(run, &namespace).await;
    let runtime_class = runtime_class(run.agent.as_ref());
    let ca_bundle = ca_bundle(config).map_err(|detail| Outcome::failed(FailureReason::InfrastructureError, detail))?;
    let mut last = None;
    let mut told = Told::default();
    for attempt in 1..=TRIES {
        let request = GateRequest {
            task_name: run.held.name.clone(),
            task_uid: run.held.uid.clone(),
            epoch: run.held.claim.epoch,
            attempt,
            namespace: namespace.clone(),
            labels: job_labels(&run.task, &config.node_name),
            repository: question.repository.to_string(),
            branch: question.branch.clone(),
            head_sha: question.head.to_string(),
            base_sha: question.base.to_string(),
            file_roots: config.git.file_roots.clone(),
            credentials: config.git_secret.clone(),
            ca_bundle: ca_bundle.clone(),
            cache: config
                .gate_cache_pvc
                .clone()
                .zip(key.clone())
                .map(|(claim, key)| CacheMount { claim, key }),
            service_account: config.gate_service_account.clone(),
            runtime_class: runtime_class.clone(),
            program_image: config.gate_image.clone(),
            ttl_seconds: TTL_SECONDS,
            user: USER,
        };
        let objects = match build_job(&gate, &request) {
            Ok(objects) => objects,
            Err(error) => {
                return Ok(bind(
                    Outcome::failed(FailureReason::GateError, error.to_string()),
                    &question,
                    Some(&digest),
                ));
            }
        };
        let name = objects.job.name_any();
        if last.is_some() && time_left(run).is_zero() {
            break;
        }
        let (verdict, log) = in_time(run, &namespace, &objects, attempt, &mut told).await?;
        let told = match &verdict {
            Verdict::Pass { .. } => "GATE-PASS",
            Verdict::Fail { .. } => "GATE-FAIL",
            Verdict::Refused { .. } => "refused",
            Verdict::Error(_) => "GATE-ERROR",
        };
        run.services.probes.metrics.count(GATE_TRIES, &[("verdict", told)]);
        if let Some(log) = &log {
            let _ = run.spool.write("gate-log", log);
        }
        if let Some(report) = report_of(&verdict) {
            let _ = run.spool.write("gate-report", report.to_string().as_bytes());
        }
        let mut outcome = bind(outcome_of(&verdict, log.as_deref()), &question, Some(&digest));
        outcome.job_name = Some(name.clone());
        outcome.extra("jobName", json!(name));
        outcome.extra("namespace", json!(namespace));
        outcome.extra("tries", json!(attempt));
        let Verdict::Error(failure) = &verdict else {
            return Ok(outcome);
        };
        if !failure.retry || run.cancel.is_cancelled() {
            return Ok(outcome);
        }
        tracing::warn!(
            task = run.held.name,
            attempt,
            reason = failure.reason,
            detail = failure.detail,
            "the gate could not tell"
        );
        if let Ok(Written::Lost) = patch_status(run, json!({ "gateTries": attempt })).await {
            run.cancel.cancel();
        }
        last = Some(outcome);
        if attempt < TRIES {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1 << (attempt * 2 - 2))) => {}
                () = run.cancel.cancelled() => break,
            }
        }
    }
    last.ok_or_else(|| Outcome::failed(FailureReason::GateError, "the gate was not run"))
}

/// Returns the runtime class that a verifier's Agent asks for: its Jobs are gates.
fn runtime_class(agent: Option<&Agent>) -> Option<String> {
    let execution = agent?.spec.execution.as_ref()?;
    execution.runtime_class_name.clone().filter(|name| !name.is_empty())
}

/// Lists the files of a commit, by which its cache is keyed.
fn files_of(repository: &git::Repository, commit: Oid) -> git::Result<Vec<BaseFile>> {
    let entries = repository.tree_entries(commit, "", true)?.unwrap_or_default();
    let file = |entry: git::TreeEntry| BaseFile {
        path: entry.path.to_string(),
        content: entry.oid.to_string(),
    };
    Ok(entries.into_iter().map(file).collect())
}

/// Labels of a gate's objects: the node, which its agent may not name otherwise, and the work that they belong to.
pub(super) fn job_labels(task: &AgenticTask, node: &str) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = [labels::WORKLOAD, labels::QUEUE, labels::RUN, labels::ROUND]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), task.labels().get(name)?.clone())))
        .collect();
    all.insert(labels::NODE.to_owned(), node.to_owned());
    all
}

/// Reads the certificate authorities that a Job is to trust as this agent does.
pub(super) fn ca_bundle(config: &Config) -> Result<Option<String>, String> {
    let Some(path) = &config.ca_bundle else { return Ok(None) };
    std::fs::read_to_string(path)
        .map(Some)
        .map_err(|error| format!("failed to read the CA bundle {}: {error}", path.display()))
}

async fn ask(run: &Run) -> Result<Question, Outcome> {
    let git = &run.services.git;
    let repository = source::repository(&run.task, &run.services.config)?;
    let mut upstream = None;
    for dependency in &run.task.spec.depends_on {
        let Ok(name) = dependency.resolve(&run.held.namespace) else {
            continue;
        };
        let found = source::task(run, name)
            .await?
            .and_then(|task| task.status)
            .filter(|status| status.commit_sha.is_some());
        upstream = upstream.or(found);
    }
    let upstream = upstream.unwrap_or_default();
    let own = run.task.spec.payload.branch.clone().filter(|branch| !branch.is_empty());
    let Some(branch) = own.or(upstream.branch) else {
        return Err(Outcome::failed(
            FailureReason::ToolFailed,
            "a verify task needs payload.branch, or a dependency that pushed one",
        ));
    };
    let head = match &upstream.commit_sha {
        Some(sha) => source::parse(sha)?,
        None => {
            let tip = git.find_ref(&repository, &format!("refs/heads/{branch}")).await;
            tip.map_err(|error| source::clone_failed(&error))?.ok_or_else(|| {
                Outcome::failed(
                    FailureReason::CloneFailed,
                    format!("branch {branch:?} does not exist in {repository}; push it first"),
                )
            })?
        }
    };
    let pinned = run.task.spec.base_sha.clone().or(upstream.base_sha);
    let base = source::base(run, git, &repository, pinned.as_deref()).await?;
    run.services.repositories.add(&repository);
    Ok(Question {
        head,
        base,
        branch,
        repository,
    })
}

fn bind(mut outcome: Outcome, question: &Question, digest: Option<&str>) -> Outcome {
    outcome.head_sha = Some(question.head.to_string());
    outcome.base_sha = Some(question.base.to_string());
    outcome.branch = Some(question.branch.clone());
    outcome.gate_digest = digest.map(str::to_owned);
    outcome
}

fn broken(what: &str, error: impl std::fmt::Display) -> (Verdict, Option<Vec<u8>>) {
    let failure = Failure {
        reason: "ApiError".into(),
        detail: format!("failed to {what}: {error}"),
        retry: true,
    };
    (Verdict::Error(failure), None)
}

/// Returns how much of the run's time a gate may still take.
fn time_left(run: &Run) -> Duration {
    run.limit.saturating_sub(run.began.elapsed() + LAST_WORD)
}

/// Runs the gate's objects once, for as long as the run may take.
async fn in_time(
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
async fn once(
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
async fn clear_earlier(run: &Run, namespace: &str) {
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

/// Writes to the task's status under the claim.
pub(super) async fn patch_status(run: &Run, status: Value) -> Result<Written, Unanswered> {
    let (client, held, status) = (&run.services.client, &run.held, &status);
    answered(&run.cancel, &held.name, |_| {
        claim::patch_status(client, held, status.clone())
    })
    .await
}

/// Starts a Job and follows it to its end. One that is not followed to its end is removed, since the next try must not
/// run beside it.
async fn run_job(
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
            told.tell(run, &gate.name, &unscheduled).await;
        }
        if let Some(why) = seen.stuck() {
            tracing::warn!(job = gate.name, why, "the gate's Job will not start");
            gate.remove(false).await;
            return Ok(seen);
        }
    }
}

/// Adds what to do to what the scheduler says of a Pod, where that is known.
fn explained(unscheduled: &str, cache: Option<&str>, namespace: &str) -> String {
    match cache {
        Some(claim) if unscheduled.to_ascii_lowercase().contains("persistentvolumeclaim") => format!(
            "{unscheduled}; the gates' cache is PersistentVolumeClaim {claim:?} in namespace {namespace:?}: look at it, name a \
             StorageClass with agent.gateCache.storageClass where the cluster has no default one, or do without the cache \
             with agent.gateCache.enabled=false"
        ),
        _ => unscheduled.to_owned(),
    }
}

/// What the task's condition `GateScheduled` says: why the gate's Pod finds no node.
#[derive(Default)]
struct Told(Option<String>);

impl Told {
    /// Says why a Pod finds no node, or, where that was said before, that it has one.
    async fn tell(&mut self, run: &Run, job: &str, why: &str) {
        let said = match (&self.0, why) {
            (None, "") => return,
            (Some(told), why) if told == why => return,
            (Some(_), "") => Said::new(GATE_SCHEDULED, true, "Scheduled", "the gate's Pod has a node"),
            (_, why) => {
                tracing::warn!(job, why, "the gate's Pod finds no node");
                Said::new(GATE_SCHEDULED, false, "Unschedulable", why)
            }
        };
        let (client, held) = (&run.services.client, &run.held);
        let written = claim::patch_status_by(client, held, |live| {
            let before = live.status.as_ref().and_then(|status| status.conditions.clone());
            let mut list = before.unwrap_or_default();
            conditions::set(&mut list, said.clone(), live.metadata.generation, Timestamp::now());
            json!({ "conditions": list })
        });
        match written.await {
            Ok(Written::Done(_)) => self.0 = Some(why.to_owned()).filter(|why| !why.is_empty()),
            Ok(Written::Lost) => run.cancel.cancel(),
            Err(error) => tracing::warn!(%error, task = held.name, "failed to say why the gate waits; trying again"),
        }
    }
}

/// Returns what is stored beside a verdict: the gate's own report, as it was judged.
fn report_of(verdict: &Verdict) -> Option<serde_json::Value> {
    let (name, report) = match verdict {
        Verdict::Pass { report } => (Published::GatePass, Some(report)),
        Verdict::Fail { report, .. } => (Published::GateFail, report.as_ref()),
        Verdict::Refused { .. } | Verdict::Error(_) => return None,
    };
    Some(json!({ "verdict": name, "summary": verdict.summary(), "report": report }))
}

fn outcome_of(verdict: &Verdict, log: Option<&[u8]>) -> Outcome {
    let mut outcome = match verdict {
        Verdict::Pass { .. } => Outcome::ended(Published::GatePass, verdict.summary()),
        Verdict::Fail { .. } => Outcome::ended(Published::GateFail, verdict.summary()),
        Verdict::Refused { .. } => Outcome::failed(FailureReason::ConstraintViolated, verdict.summary()),
        Verdict::Error(_) => {
            let mut outcome = Outcome::failed(FailureReason::GateError, verdict.summary());
            outcome.verdict = Some(Published::GateError);
            outcome
        }
    };
    match verdict {
        Verdict::Pass { report } => outcome.extra("steps", json!(report.steps)),
        Verdict::Fail { report, .. } => {
            if let Some(report) = report {
                outcome.extra("steps", json!(report.steps));
            }
            if let Some(fix) = FixLog::of(verdict, None) {
                outcome.extra("firstFailingStep", json!(fix.step));
                outcome.extra("logTail", json!(fix.tail));
            }
        }
        Verdict::Refused { paths } => outcome.extra("refused", json!(paths.iter().take(20).collect::<Vec<_>>())),
        Verdict::Error(failure) => outcome.extra("reason", json!(failure.reason)),
    }
    if !matches!(verdict, Verdict::Fail { .. })
        && let Some(log) = log
    {
        let text = gate::tail::clean(&log[log.len().saturating_sub(4096)..]);
        outcome.extra("logTail", json!(gate::tail::last(text.trim_end(), 2000)));
    }
    outcome
}

#[cfg(test)]
mod tests;
