//! The role verifier: a gate Job, its verdict, its log.

mod tries;

use std::collections::BTreeMap;
use std::time::Duration;

use gate::cache::{BaseFile, cache_key};
use gate::fixlog::FixLog;
use gate::job::{CacheMount, GateRequest, build_job};
use gate::verdict::{Failure, Verdict};
use git::Oid;
use kube::ResourceExt;
use schemas::agentic_task::FailureReason;
use schemas::shared::Verdict as Published;
use schemas::{Agent, AgenticTask, labels};
use serde_json::{Value, json};

use super::told::{GATE_SCHEDULED, Told};
use super::{Run, source};
use crate::config::Config;
use crate::daemon::claim::{self, Written};
use crate::metrics::GATE_TRIES;
use crate::outcome::Outcome;
use crate::patience::{Unanswered, answered};
use tries::{clear_earlier, in_time, time_left};

/// Tries of the gate before a GATE-ERROR is final.
const TRIES: i64 = 3;
/// Seconds for which an ended Job stays.
const TTL_SECONDS: i32 = 600;
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
    let mut told = Told::of(GATE_SCHEDULED, run);
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

/// Writes to the task's status under the claim.
pub(super) async fn patch_status(run: &Run, status: Value) -> Result<Written, Unanswered> {
    let (client, held, status) = (&run.services.client, &run.held, &status);
    answered(&run.cancel, &held.name, |_| {
        claim::patch_status(client, held, status.clone())
    })
    .await
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
