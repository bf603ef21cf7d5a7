//! Claims: a compare-and-set on an AgenticTask's status, and every write under one.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, ResourceExt};
use schemas::AgenticTask;
use schemas::agentic_task::{Claim, Phase};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::registration::FIELD_MANAGER;
use crate::outcome::Outcome;
use crate::patience::{Unanswered, answered};

/// How long an API may take to say whether a claim still stands.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// A claim that this process holds.
#[derive(Clone, Debug)]
pub struct Held {
    /// Namespace of the task.
    pub namespace: String,
    /// Name of the task.
    pub name: String,
    /// UID of the task.
    pub uid: String,
    /// What stands in the task's status.
    pub claim: Claim,
    /// The secret behind `claim.secret_sha256`.
    pub secret: ClaimSecret,
}

#[cfg(test)]
impl Held {
    /// Returns a claim of task `t` by node `n`.
    pub fn sample(epoch: i64) -> Self {
        let secret = ClaimSecret::new([1; 32]);
        Self {
            namespace: "default".into(),
            name: "t".into(),
            uid: "u".into(),
            claim: Claim {
                node: "n".into(),
                agent: "a".into(),
                epoch,
                secret_sha256: secret.sha256(),
            },
            secret,
        }
    }
}

/// A secret that only one claim knows.
#[derive(Clone)]
pub struct ClaimSecret(String);

impl ClaimSecret {
    /// Makes a secret from random bytes.
    pub fn new(random: [u8; 32]) -> Self {
        Self(hex::encode(random))
    }

    /// Takes a secret that another process of the same claim was given.
    pub(crate) fn from_text(text: String) -> Self {
        Self(text)
    }

    /// Returns the secret itself, for the evidence store.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns what may be written down.
    pub fn sha256(&self) -> String {
        hex::encode(Sha256::digest(self.0.as_bytes()))
    }
}

impl std::fmt::Debug for ClaimSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClaimSecret(…)")
    }
}

/// What came of a write under a claim.
#[derive(Debug)]
pub enum Written {
    /// It stands.
    Done(Box<AgenticTask>),
    /// The claim is no longer this process's; nothing was written.
    Lost,
}

/// Says whether `task` waits for this node to claim it.
pub fn is_claimable(task: &AgenticTask, node: &str) -> bool {
    task.metadata.deletion_timestamp.is_none()
        && task.status.as_ref().is_some_and(|status| {
            status.phase == Some(Phase::Scheduled)
                && status.assigned_node.as_deref() == Some(node)
                && status.claim.is_none()
        })
}

/// Says whether `task` is held by exactly this claim.
pub fn is_held_by(task: &AgenticTask, held: &Held) -> bool {
    task.metadata.uid.as_deref() == Some(&held.uid)
        && task.metadata.deletion_timestamp.is_none()
        && task.status.as_ref().is_some_and(|status| {
            status.claim.as_ref() == Some(&held.claim) && !status.phase.is_some_and(Phase::is_terminal)
        })
}

/// Says whether the API answers that `held` no longer stands. One that does not answer says nothing of it.
pub async fn is_lost(client: &Client, held: &Held) -> bool {
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), &held.namespace);
    match tokio::time::timeout(LOOK_PATIENCE, api.get_opt(&held.name)).await {
        Ok(Ok(found)) => !found.is_some_and(|task| is_held_by(&task, held)),
        Ok(Err(_)) | Err(_) => false,
    }
}

/// Builds the status patch of a claim.
pub fn build_claim(task: &AgenticTask, claim: &Claim, now: Timestamp) -> Value {
    let started = task
        .status
        .as_ref()
        .and_then(|status| status.started_at.clone())
        .unwrap_or(Time(now));
    json!({
        "metadata": { "resourceVersion": task.resource_version() },
        "status": {
            "phase": Phase::Running,
            "epoch": claim.epoch,
            "claim": claim,
            "claimedAt": Time(now),
            "startedAt": started,
            "waiting": null,
        }
    })
}

/// Claims `task` for this process; `None` when another write came first. An API that is away is waited for.
pub async fn claim(
    client: &Client,
    task: &AgenticTask,
    node: &str,
    agent: &str,
    random: [u8; 32],
    cancel: &CancellationToken,
) -> Result<Option<(Held, AgenticTask)>, Unanswered> {
    let secret = ClaimSecret::new(random);
    let namespace = task.namespace().unwrap_or_default();
    let claim = Claim {
        node: node.to_owned(),
        agent: agent.to_owned(),
        epoch: task.status.as_ref().and_then(|status| status.epoch).unwrap_or(0) + 1,
        secret_sha256: secret.sha256(),
    };
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), &namespace);
    let patch = build_claim(task, &claim, Timestamp::now());
    let held = Held {
        namespace,
        name: task.name_any(),
        uid: task.uid().unwrap_or_default(),
        claim,
        secret,
    };
    let (api, held_now, patch) = (&api, &held, &patch);
    let asked = answered(cancel, &held.name, |number| async move {
        if number > 0
            // The try before may have been carried out: then the claim stands, and nobody else knows its secret.
            && let Some(live) = api.get_opt(&held_now.name).await?
            && is_held_by(&live, held_now)
        {
            return Ok(live);
        }
        api.patch_status(&held_now.name, &params(), &Patch::Merge(patch)).await
    });
    match asked.await {
        Ok(written) => Ok(Some((held, written))),
        Err(Unanswered::Refused(kube::Error::Api(status))) if status.code == 409 || status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Patches the status under the claim: reads, checks the claim, writes with the version that was read.
pub async fn patch_status(client: &Client, held: &Held, status: Value) -> Result<Written, kube::Error> {
    patch_status_by(client, held, |_| status.clone()).await
}

/// Patches the status under the claim by what it is: `change` is given the task as it was read.
pub async fn patch_status_by(
    client: &Client,
    held: &Held,
    change: impl Fn(&AgenticTask) -> Value,
) -> Result<Written, kube::Error> {
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), &held.namespace);
    loop {
        let Some(live) = api.get_opt(&held.name).await? else {
            return Ok(Written::Lost);
        };
        if !is_held_by(&live, held) {
            return Ok(Written::Lost);
        }
        let patch = json!({ "metadata": { "resourceVersion": live.resource_version() }, "status": change(&live) });
        match api.patch_status(&held.name, &params(), &Patch::Merge(patch)).await {
            Ok(task) => return Ok(Written::Done(Box::new(task))),
            Err(kube::Error::Api(error)) if error.code == 409 => continue,
            Err(kube::Error::Api(error)) if error.code == 404 => return Ok(Written::Lost),
            Err(error) => return Err(error),
        }
    }
}

/// Builds the status patch that ends a task.
pub fn build_end(outcome: &Outcome, started: Timestamp, now: Timestamp) -> Value {
    let elapsed = now.duration_since(started).as_secs_f64();
    let mut result = outcome.result.clone();
    result.insert("verdict".into(), json!(outcome.verdict));
    result.insert("summary".into(), json!(outcome.summary));
    result.insert("elapsed".into(), json!(format!("{elapsed:.1}s")));
    json!({
        "phase": if outcome.failure.is_some() { Phase::Failed } else { Phase::Succeeded },
        "verdict": outcome.verdict,
        "failureReason": outcome.failure,
        "finishedAt": Time(now),
        "claim": null,
        "commitSHA": outcome.head_sha,
        "baseSHA": outcome.base_sha,
        "branch": outcome.branch,
        "gateDigest": outcome.gate_digest,
        "jobName": outcome.job_name,
        "usage": outcome.usage,
        "diffStat": outcome.diff_stat,
        "replay": outcome.replay.then_some(true),
        "evidence": outcome.evidence,
        "evidenceError": outcome.evidence_error,
        "transcriptRef": outcome.evidence.iter().find(|item| item.name == "transcript").map(|item| item.url.clone()),
        "result": result,
    })
}

/// Builds the status patch that gives a claim back; the operator sees a task without claim and schedules it anew.
pub fn build_release() -> Value {
    json!({ "claim": null })
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::AgenticTaskStatus;

    fn held() -> Held {
        let secret = ClaimSecret::new([7; 32]);
        Held {
            namespace: "default".into(),
            name: "t".into(),
            uid: "u1".into(),
            claim: Claim {
                node: "n".into(),
                agent: "a".into(),
                epoch: 2,
                secret_sha256: secret.sha256(),
            },
            secret,
        }
    }

    fn task(change: impl FnOnce(&mut AgenticTask)) -> AgenticTask {
        let mut task = AgenticTask::default();
        task.metadata.uid = Some("u1".into());
        task.status = Some(AgenticTaskStatus {
            phase: Some(Phase::Running),
            claim: Some(held().claim),
            ..Default::default()
        });
        change(&mut task);
        task
    }

    #[test]
    fn only_the_very_claim_on_the_very_object_counts_as_held() {
        assert!(is_held_by(&task(|_| ()), &held()));
        assert!(!is_held_by(&task(|t| t.metadata.uid = Some("u2".into())), &held()));
        assert!(!is_held_by(&task(|t| t.status.as_mut().unwrap().claim = None), &held()));
        assert!(!is_held_by(
            &task(|t| t.status.as_mut().unwrap().claim.as_mut().unwrap().epoch = 3),
            &held()
        ));
        assert!(!is_held_by(
            &task(|t| t.status.as_mut().unwrap().phase = Some(Phase::Failed)),
            &held()
        ));
    }

    #[test]
    fn a_task_is_claimable_only_by_its_node_while_scheduled_and_unclaimed() {
        let ready = task(|t| {
            let status = t.status.as_mut().unwrap();
            status.phase = Some(Phase::Scheduled);
            status.assigned_node = Some("n".into());
            status.claim = None;
        });
        assert!(is_claimable(&ready, "n"));
        assert!(!is_claimable(&ready, "m"));
        let mut held = ready.clone();
        held.status.as_mut().unwrap().claim = Some(super::tests::held().claim);
        assert!(!is_claimable(&held, "n"));
    }

    #[test]
    fn a_secret_shows_only_its_hash() {
        let secret = ClaimSecret::new([1; 32]);
        assert!(!format!("{secret:?}").contains("0101"));
        assert_ne!(secret.sha256(), secret.expose());
    }

    /// An API that keeps one task, and does the first write without an answer.
    fn losing_an_answer(task: &AgenticTask) -> Client {
        use std::sync::{Arc, Mutex};

        use axum::extract::{Request, State};
        use axum::http::{Method, StatusCode};
        use axum::response::IntoResponse;

        type Kept = Arc<Mutex<(Value, u32)>>;
        let kept: Kept = Arc::new(Mutex::new((json!(task), 0)));
        let app = axum::Router::new().fallback(|State(kept): State<Kept>, request: Request| async move {
            let method = request.method().clone();
            let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
            let mut kept = kept.lock().unwrap();
            if method == Method::PATCH {
                let patch: Value = serde_json::from_slice(&body).unwrap();
                let failed = |code: StatusCode| {
                    let status =
                        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code.as_u16() });
                    (code, axum::Json(status)).into_response()
                };
                if patch["metadata"]["resourceVersion"] != kept.0["metadata"]["resourceVersion"] {
                    return failed(StatusCode::CONFLICT);
                }
                kept.0["status"] = patch["status"].clone();
                kept.0["metadata"]["resourceVersion"] = json!("2");
                kept.1 += 1;
                if kept.1 == 1 {
                    return failed(StatusCode::GATEWAY_TIMEOUT);
                }
            }
            axum::Json(kept.0.clone()).into_response()
        });
        Client::new(app.with_state(kept), "default")
    }

    #[tokio::test]
    async fn a_claim_whose_answer_was_lost_is_this_agents_and_is_made_once() {
        let task = task(|task| {
            task.metadata.name = Some("t".into());
            task.metadata.namespace = Some("default".into());
            task.metadata.resource_version = Some("1".into());
            let status = task.status.as_mut().unwrap();
            status.phase = Some(Phase::Scheduled);
            status.claim = None;
        });
        let client = losing_an_answer(&task);
        let cancel = CancellationToken::new();
        let claimed = claim(&client, &task, "n", "a", [9; 32], &cancel).await.unwrap();
        let (held, written) = claimed.unwrap();
        assert_eq!(held.claim.epoch, 1);
        assert!(is_held_by(&written, &held));
        let other = claim(&client, &task, "n", "b", [8; 32], &cancel).await.unwrap();
        assert!(other.is_none(), "the version is another by now");
    }
}
