//! One task from its claim to its end.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;
use rand::RngCore;
use schemas::agentic_task::FailureReason;
use schemas::shared::LocalRef;
use schemas::{Agent, AgenticTask};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::assignments::cancel_requested;
use super::claim;
use super::desk::{Desk, Running, Stop};
use super::finish::finish;
use crate::evidence::Spool;
use crate::executor::{Executor, Run, Services};
use crate::outcome::Outcome;

pub(super) async fn start(
    tasks: &mut JoinSet<()>,
    services: &Services,
    executor: &Arc<dyn Executor>,
    desk: &Arc<Desk>,
    identity: &str,
    task: AgenticTask,
) {
    let mut random = [0_u8; 32];
    rand::rng().fill_bytes(&mut random);
    let node = &services.config.node_name;
    let (held, task) = match claim::claim(&services.client, &task, node, identity, random).await {
        Ok(Some(claimed)) => claimed,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, task = task.name_any(), "failed to claim the task; the next event tries again");
            return;
        }
    };
    tracing::info!(task = held.name, epoch = held.claim.epoch, "claimed");
    let running = Running {
        held: held.clone(),
        cancel: CancellationToken::new(),
        stop: Arc::default(),
        timeout: task.spec.timeout().max(1),
    };
    desk.with(|map| map.insert(held.uid.clone(), running.clone()));
    desk.changed.notify_waiters();
    let (services, executor, desk) = (services.clone(), executor.clone(), desk.clone());
    tasks.spawn(async move {
        carry_out(&services, executor.as_ref(), &running, task).await;
        desk.with(|map| map.remove(&running.held.uid));
        desk.changed.notify_waiters();
    });
}

async fn carry_out(services: &Services, executor: &dyn Executor, running: &Running, task: AgenticTask) {
    let held = &running.held;
    let started = Timestamp::now();
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
    let agent = match agent_of(services, &task).await {
        Ok(agent) => agent,
        Err(outcome) => return finish(services, running, Some(&spool), *outcome, started).await,
    };
    if cancel_requested(&task).is_some() {
        running.end(Stop::Cancelled);
    }
    let timeout = Duration::from_secs(running.timeout as u64);
    let run = Run {
        services: services.clone(),
        task,
        agent,
        held: held.clone(),
        cancel: running.cancel.clone(),
        spool: spool.clone(),
    };
    let outcome = {
        let work = executor.run(&run);
        tokio::pin!(work);
        tokio::select! {
            outcome = &mut work => outcome,
            () = tokio::time::sleep(timeout) => {
                running.end(Stop::Timeout);
                work.await
            }
        }
    };
    finish(services, running, Some(&spool), outcome, started).await;
}

async fn agent_of(services: &Services, task: &AgenticTask) -> Result<Option<Agent>, Box<Outcome>> {
    let Some(name) = task.spec.agent_ref.as_ref().and_then(LocalRef::named) else {
        return Ok(None);
    };
    let namespace = task.namespace().unwrap_or_default();
    let api: Api<Agent> = Api::namespaced(services.client.clone(), &namespace);
    match api.get_opt(name).await {
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
