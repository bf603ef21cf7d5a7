//! One task from its claim to its end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use rand::RngCore;
use schemas::agentic_task::{FailureReason, TaskKind};
use schemas::shared::LocalRef;
use schemas::{Agent, AgenticTask};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::assignments::cancel_requested;
use super::claim;
use super::desk::{Desk, Running, Stop};
use super::finish::finish;
use crate::evidence::Spool;
use crate::executor::{Executor, HAND_IN_TIME, Run, Services};
use crate::metrics::CLAIMS;
use crate::outcome::Outcome;
use crate::patience::answered;

/// How long a cancelled run may take to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take where this agent itself has two seconds left.
const SHUTDOWN_PATIENCE: Duration = Duration::from_millis(600);

/// Claims a task and begins its run; returns the task where the API refused the claim.
pub(super) async fn start(
    tasks: &mut JoinSet<()>,
    services: &Services,
    executor: &Arc<dyn Executor>,
    desk: &Arc<Desk>,
    identity: &str,
    task: AgenticTask,
    stop: &CancellationToken,
) -> Option<AgenticTask> {
    let mut random = [0_u8; 32];
    rand::rng().fill_bytes(&mut random);
    let node = &services.config.node_name;
    let counted = |result: &str| services.probes.metrics.count(CLAIMS, &[("result", result)]);
    let (held, task) = match claim::claim(&services.client, &task, node, identity, random, stop).await {
        Ok(Some(claimed)) => {
            counted("held");
            claimed
        }
        Ok(None) => {
            counted("lost");
            return None;
        }
        Err(error) => {
            counted("failed");
            tracing::warn!(%error, task = task.name_any(), "failed to claim the task; trying again later");
            return Some(task);
        }
    };
    tracing::info!(task = held.name, epoch = held.claim.epoch, "claimed");
    let running = Running {
        held: held.clone(),
        cancel: CancellationToken::new(),
        stop: Arc::default(),
        kind: task.spec.kind,
        limit: task.spec.limit(),
    };
    desk.with(|map| map.insert(held.uid.clone(), running.clone()));
    desk.changed.notify_waiters();
    let (services, executor, desk) = (services.clone(), executor.clone(), desk.clone());
    tasks.spawn(async move {
        carry_out(&services, executor.as_ref(), &running, task).await;
        desk.with(|map| map.remove(&running.held.uid));
        desk.changed.notify_waiters();
    });
    None
}

async fn carry_out(services: &Services, executor: &dyn Executor, running: &Running, task: AgenticTask) {
    let held = &running.held;
    let (started, began) = (Timestamp::now(), Instant::now());
    let root = services.config.workspace_dir.join("evidence");
    let spool = match Spool::open(
        &root,
        services.config.evidence_url.as_deref(),
        held,
        services.http.clone(),
    ) {
        Ok(spool) => spool,
        Err(error) => {
            let outcome = Outcome::failed(FailureReason::InfrastructureError, error.to_string());
            return finish(services, running, None, outcome, started).await;
        }
    };
    let agent = match agent_of(services, &task, &running.cancel).await {
        Ok(agent) => agent,
        Err(outcome) => return finish(services, running, Some(&spool), *outcome, started).await,
    };
    if cancel_requested(&task).is_some() {
        running.end(Stop::Cancelled);
    }
    let run = Run {
        services: services.clone(),
        task,
        agent,
        held: held.clone(),
        began,
        limit: running.limit,
        cancel: running.cancel.clone(),
        spool: spool.clone(),
    };
    let left = longest(running).saturating_sub(began.elapsed());
    let outcome = until_left(executor.run(&run), running, left).await;
    finish(services, running, Some(&spool), outcome, started).await;
}

/// Returns how long a run may take before it is cancelled: a coder ends itself at its limit, and hands in what it has.
fn longest(running: &Running) -> Duration {
    match running.kind {
        TaskKind::Verify => running.limit,
        _ => running.limit.saturating_add(HAND_IN_TIME),
    }
}

/// Waits for a run; one that goes on after it was cancelled is left, since others wait for its claim.
async fn until_left(work: impl Future<Output = Outcome>, running: &Running, timeout: Duration) -> Outcome {
    let patience = async {
        tokio::select! {
            () = running.cancel.cancelled() => {}
            () = tokio::time::sleep(timeout) => running.end(Stop::Timeout),
        }
        let patience = match running.why() {
            Some(Stop::Shutdown) => SHUTDOWN_PATIENCE,
            _ => PATIENCE,
        };
        tokio::time::sleep(patience).await;
    };
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = patience => Outcome::failed(FailureReason::InfrastructureError, "the run did not end after it was cancelled"),
    }
}

async fn agent_of(
    services: &Services,
    task: &AgenticTask,
    cancel: &CancellationToken,
) -> Result<Option<Agent>, Box<Outcome>> {
    let Some(name) = task.spec.agent_ref.as_ref().and_then(LocalRef::named) else {
        return Ok(None);
    };
    let namespace = task.namespace().unwrap_or_default();
    let api: Api<Agent> = Api::namespaced(services.client.clone(), &namespace);
    match answered(cancel, name, |_| api.get_opt(name)).await {
        Ok(Some(agent)) => Ok(Some(agent)),
        Ok(None) => Err(Box::new(Outcome::failed(
            FailureReason::AgentNotFound,
            format!("Agent {name:?} does not exist in namespace {namespace:?}; see `foreman get agents`"),
        ))),
        Err(error) => Err(Box::new(Outcome::failed(
            FailureReason::InfrastructureError,
            format!("failed to read Agent {name:?}: {error}"),
        ))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::shared::Verdict;

    fn running() -> Running {
        let secret = claim::ClaimSecret::new([3; 32]);
        Running {
            held: claim::Held {
                namespace: "default".into(),
                name: "t".into(),
                uid: "u".into(),
                claim: schemas::agentic_task::Claim {
                    node: "n".into(),
                    agent: "a".into(),
                    epoch: 1,
                    secret_sha256: secret.sha256(),
                },
                secret,
            },
            cancel: CancellationToken::new(),
            stop: Arc::default(),
            kind: TaskKind::Verify,
            limit: Duration::from_secs(60),
        }
    }

    #[tokio::test]
    async fn a_run_that_ignores_the_shutdown_is_left_in_time_for_its_claim_to_be_given_back() {
        let running = running();
        running.end(Stop::Shutdown);
        let left = until_left(std::future::pending(), &running, Duration::from_secs(3600));
        let outcome = tokio::time::timeout(Duration::from_millis(1500), left).await.unwrap();
        assert_eq!(outcome.failure, Some(FailureReason::InfrastructureError));
    }

    #[test]
    fn a_coder_has_time_to_hand_in_what_it_has_before_anybody_takes_it_for_dead() {
        let mut running = running();
        assert_eq!(longest(&running), running.limit, "a gate has nothing to hand in");
        running.kind = TaskKind::IssueFix;
        assert!(longest(&running) >= running.limit + Duration::from_secs(30));
        let operators = running.limit + Duration::from_secs(120);
        assert!(longest(&running) + PATIENCE < operators);
    }

    #[tokio::test]
    async fn a_run_that_ends_after_it_was_cancelled_says_itself_what_it_came_to() {
        let running = running();
        let work = async {
            running.cancel.cancelled().await;
            Outcome::ended(Verdict::Incomplete, "cancelled in turn 3")
        };
        let outcome = until_left(work, &running, Duration::from_millis(1)).await;
        assert_eq!(running.why(), Some(Stop::Timeout));
        assert_eq!(outcome.summary, "cancelled in turn 3");
    }
}
