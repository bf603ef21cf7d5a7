//! The node daemon: registers, beats, claims tasks, carries them out and says what came of them.

pub mod claim;
pub mod registration;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use rand::RngCore;
use schemas::agentic_task::{FailureReason, TaskKind};
use schemas::fleet_node::{Capability, NodePhase};
use schemas::shared::LocalRef;
use schemas::{Agent, AgenticTask, labels};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::capability::{self, Probe, Served};
use crate::config::{Config, Mode};
use crate::evidence::Spool;
use crate::executor::native::Native;
use crate::executor::stub::Stub;
use crate::executor::{Executor, Run, Services};
use crate::outcome::Outcome;
use claim::{Held, Written};
use registration::{Beat, NodeLease};

/// What can keep a node agent from working.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The FleetNode could not be written.
    #[error("failed to register FleetNode {node}: {source}")]
    Register {
        /// Name of the node.
        node: String,
        /// Cause.
        source: kube::Error,
    },
    /// The workspace could not be used.
    #[error("failed to use the workspace folder {path}: {source}; name another with --workspace-dir")]
    Workspace {
        /// Folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// No sandbox works here.
    #[error("{0}")]
    Sandbox(String),
    /// An HTTP client could not be made.
    #[error("failed to set up the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// How a node agent is asked to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Takes nothing new and ends when what runs has ended.
    pub drain: CancellationToken,
    /// Cancels what runs, gives claims back and ends within two seconds.
    pub stop: CancellationToken,
}

/// Why a run is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// The claim is no longer ours: say nothing.
    Lost,
    /// Somebody asked for it.
    Cancelled,
    /// The wall time is spent.
    Timeout,
    /// This agent goes away: give the claim back.
    Shutdown,
}

#[derive(Clone)]
struct Running {
    held: Held,
    cancel: CancellationToken,
    stop: Arc<Mutex<Option<Stop>>>,
    /// Wall time of the whole run, in seconds.
    timeout: i64,
}

impl Running {
    fn end(&self, why: Stop) {
        self.stop
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(why);
        self.cancel.cancel();
    }
}

/// What this node does now, shared between its loops.
#[derive(Default)]
struct Desk {
    running: Mutex<HashMap<String, Running>>,
    changed: Notify,
}

impl Desk {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Running>) -> T) -> T {
        act(&mut self.running.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.with(|running| running.values().map(|run| run.held.name.clone()).collect());
        names.sort();
        names
    }
}

/// Runs a node agent until it is asked to end.
pub async fn run(config: Config, client: Client, shutdown: Shutdown) -> Result<(), Error> {
    let config = Arc::new(config);
    let services = services(&config, &client)?;
    let executor: Arc<dyn Executor> = match config.mode {
        Mode::Stub => Arc::new(Stub {
            sleep: config.stub_sleep,
        }),
        Mode::Native => Arc::new(Native),
    };
    if config.git_remote_url.is_none() {
        tracing::info!(
            "--git-remote-url is not set: tasks that name a repository as owner/name will fail with GitRemoteNotConfigured (GitRemoteURLNotConfigured)"
        );
    }
    let identity = identity(&config);
    let mut lease = NodeLease::new(&client, &config, &identity);
    if !hold_name(&mut lease, &config, &shutdown).await {
        return Ok(());
    }
    registration::register(&client, &config).await?;
    tracing::info!(node = config.node_name, mode = ?config.mode, slots = config.slots, identity, "node agent is ready");

    let desk = Arc::new(Desk::default());
    let mut tasks = JoinSet::new();
    let beats = tokio::spawn(beat(
        client.clone(),
        config.clone(),
        desk.clone(),
        services.repositories.clone(),
        shutdown.clone(),
    ));
    let lease_lost = CancellationToken::new();
    // The Lease goes last: an operator that sees it gone counts every claim that still stands as lost.
    let let_go = CancellationToken::new();
    let leases = tokio::spawn(keep_lease(
        lease,
        config.clone(),
        Shutdown {
            drain: shutdown.drain.clone(),
            stop: let_go.clone(),
        },
        desk.clone(),
        lease_lost.clone(),
    ));

    let mut events = watch_tasks(&client, &config).boxed();
    let mut waiting: HashMap<String, AgenticTask> = HashMap::new();
    // Verifiers that run: they wait for a gate Job, use no model, and take no slot from those that do.
    let mut verifiers: HashSet<String> = HashSet::new();
    loop {
        let draining = shutdown.drain.is_cancelled() || shutdown.stop.is_cancelled() || lease_lost.is_cancelled();
        if !draining {
            loop {
                let others = desk.with(|running| {
                    verifiers.retain(|uid| running.contains_key(uid));
                    running.len() - verifiers.len()
                });
                let Some(uid) = startable(&waiting, verifiers.len(), others, config.slots) else {
                    break;
                };
                if let Some(task) = waiting.remove(&uid) {
                    if task.spec.kind == TaskKind::Verify {
                        verifiers.insert(uid);
                    }
                    start(&mut tasks, &services, &executor, &desk, &identity, task).await;
                }
            }
        } else if tasks.is_empty() {
            break;
        }
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => observe(event, &config, &desk, &mut waiting),
                Some(Err(error)) => tracing::warn!(%error, "the watch on tasks broke off and is taken up again"),
                None => break,
            },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = shutdown.stop.cancelled() => {
                desk.with(|running| running.values().for_each(|run| run.end(Stop::Shutdown)));
                let ended = tokio::time::timeout(Duration::from_millis(1200), async {
                    while tasks.join_next().await.is_some() {}
                }).await;
                if ended.is_err() {
                    tasks.abort_all();
                    give_back_rest(&client, &desk).await;
                }
                break;
            }
            () = shutdown.drain.cancelled(), if !draining => tracing::info!("draining: waiting for running tasks"),
            () = lease_lost.cancelled(), if !draining => {
                tracing::error!(node = config.node_name, "another agent took this node's name; giving up what runs");
                desk.with(|running| running.values().for_each(|run| run.end(Stop::Lost)));
            }
        }
    }
    shutdown.drain.cancel();
    let_go.cancel();
    let _ = tokio::time::timeout(Duration::from_millis(400), async {
        let _ = beats.await;
        let _ = leases.await;
    })
    .await;
    Ok(())
}

/// Returns a waiting task that has room: verifiers and the others have as many places each as the node has slots.
fn startable(waiting: &HashMap<String, AgenticTask>, verifiers: usize, others: usize, slots: usize) -> Option<String> {
    let has_room = |task: &AgenticTask| match task.spec.kind {
        TaskKind::Verify => verifiers < slots,
        _ => others < slots,
    };
    waiting
        .iter()
        .find(|(_, task)| has_room(task))
        .map(|(uid, _)| uid.clone())
}

/// Gives back the claims of runs that did not end in time; what they still do is fenced off by the next epoch.
async fn give_back_rest(client: &Client, desk: &Desk) {
    let rest: Vec<_> = desk.with(|running| running.values().map(|run| run.held.clone()).collect());
    let given = futures::future::join_all(rest.iter().map(|held| async move {
        match claim::patch_status(client, held, claim::build_release()).await {
            Ok(_) => tracing::warn!(
                task = held.name,
                "gave back the claim of a run that did not end in time"
            ),
            Err(error) => tracing::warn!(%error, task = held.name, "failed to give the claim back"),
        }
    }));
    if tokio::time::timeout(Duration::from_millis(300), given).await.is_err() {
        tracing::warn!("some claims could not be given back in time; they will be found dead");
    }
}

#[cfg(test)]
mod giving_back;

fn services(config: &Arc<Config>, client: &Client) -> Result<Services, Error> {
    for folder in ["mirrors", "work", "evidence", "gate-cache"] {
        let path = config.workspace_dir.join(folder);
        std::fs::create_dir_all(&path).map_err(|source| Error::Workspace { path, source })?;
    }
    let mut http = reqwest::Client::builder()
        .timeout(Duration::from_secs(60))
        .redirect(reqwest::redirect::Policy::none());
    if let Some(bundle) = &config.ca_bundle {
        let pem = std::fs::read(bundle).map_err(|source| Error::Workspace {
            path: bundle.clone(),
            source,
        })?;
        for certificate in reqwest::Certificate::from_pem_bundle(&pem)? {
            http = http.add_root_certificate(certificate);
        }
    }
    Ok(Services {
        config: config.clone(),
        client: client.clone(),
        git: git::Git::new(config.workspace_dir.join("mirrors"), config.git.clone()),
        repositories: crate::executor::Repositories::default(),
        sandbox: crate::executor::native::open_sandbox(config).map_err(Error::Sandbox)?,
        http: http.build()?,
    })
}

fn identity(config: &Config) -> String {
    let mut random = [0_u8; 4];
    rand::rng().fill_bytes(&mut random);
    format!("{}_{}_{}", config.node_name, std::process::id(), hex::encode(random))
}

async fn hold_name(lease: &mut NodeLease, config: &Config, shutdown: &Shutdown) -> bool {
    let mut said = false;
    loop {
        match lease.tick(config).await {
            Ok(true) => return true,
            Ok(false) if !said => {
                said = true;
                tracing::info!(
                    node = config.node_name,
                    "another agent holds this node's name; waiting for its lease to lapse"
                );
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "failed to take the node's lease; trying again"),
        }
        tokio::select! {
            () = shutdown.drain.cancelled() => return false,
            () = shutdown.stop.cancelled() => return false,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
    }
}

async fn keep_lease(
    mut lease: NodeLease,
    config: Arc<Config>,
    shutdown: Shutdown,
    desk: Arc<Desk>,
    lost: CancellationToken,
) {
    let every = Duration::from_secs(registration::LEASE_SECONDS as u64 / 3);
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => match lease.tick(&config).await {
                Ok(true) => {}
                Ok(false) => return lost.cancel(),
                Err(error) => tracing::warn!(%error, "failed to renew the node's lease; trying again"),
            },
            () = ended(&shutdown, &desk) => return lease.release().await,
        }
    }
}

async fn ended(shutdown: &Shutdown, desk: &Desk) {
    tokio::select! {
        () = shutdown.stop.cancelled() => {}
        () = async {
            shutdown.drain.cancelled().await;
            loop {
                // Made before the look, so that no change falls between the two.
                let changed = desk.changed.notified();
                if desk.with(|running| running.is_empty()) {
                    break;
                }
                changed.await;
            }
        } => {}
    }
}

async fn beat(
    client: Client,
    config: Arc<Config>,
    desk: Arc<Desk>,
    repositories: crate::executor::Repositories,
    shutdown: Shutdown,
) {
    let mut probe = Probe::new();
    let mut served = Served::default();
    let mut draining = false;
    loop {
        if config.mode == Mode::Native && served == Served::default() {
            served = crate::executor::native::served(&client, &config).await;
        }
        let capability: Capability = capability::capability(&probe.look(), &served, &config.capability, config.slots);
        let tasks = desk.names();
        let cached = repositories.list();
        let phase = if draining {
            NodePhase::Draining
        } else {
            NodePhase::Ready
        };
        let beat = Beat {
            phase,
            capability: &capability,
            tasks: &tasks,
            repositories: &cached,
        };
        if let Err(error) = registration::heartbeat(&client, &config.node_name, &beat, Timestamp::now()).await {
            tracing::warn!(%error, "failed to write the heartbeat; trying again at the next");
            if matches!(&error, kube::Error::Api(status) if status.code == 404) {
                if let Err(error) = registration::register(&client, &config).await {
                    tracing::warn!(%error, "failed to register again");
                }
                continue;
            }
        }
        if draining && (tasks.is_empty() || shutdown.stop.is_cancelled()) {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(config.heartbeat_interval) => {}
            () = desk.changed.notified() => {}
            () = shutdown.drain.cancelled(), if !draining => draining = true,
            () = shutdown.stop.cancelled() => draining = true,
        }
    }
}

fn watch_tasks(
    client: &Client,
    config: &Config,
) -> impl futures::Stream<Item = Result<watcher::Event<AgenticTask>, watcher::Error>> + use<> {
    let api: Api<AgenticTask> = match &config.task_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let selector = format!("status.assignedNode={}", config.node_name);
    watcher(api, watcher::Config::default().fields(&selector)).default_backoff()
}

fn observe(
    event: watcher::Event<AgenticTask>,
    config: &Config,
    desk: &Desk,
    waiting: &mut HashMap<String, AgenticTask>,
) {
    match event {
        watcher::Event::Init | watcher::Event::InitDone => {}
        watcher::Event::Delete(task) => {
            let uid = task.uid().unwrap_or_default();
            waiting.remove(&uid);
            if let Some(run) = desk.with(|running| running.get(&uid).cloned()) {
                run.end(Stop::Lost);
            }
        }
        watcher::Event::Apply(task) | watcher::Event::InitApply(task) => {
            let uid = task.uid().unwrap_or_default();
            if let Some(run) = desk.with(|running| running.get(&uid).cloned()) {
                if !claim::is_held_by(&task, &run.held) {
                    run.end(Stop::Lost);
                } else if cancel_requested(&task).is_some() {
                    run.end(Stop::Cancelled);
                }
            } else if claim::is_claimable(&task, &config.node_name) {
                waiting.insert(uid, task);
            } else {
                waiting.remove(&uid);
            }
        }
    }
}

/// Returns the id of a request to cancel that has not been dealt with.
fn cancel_requested(task: &AgenticTask) -> Option<&String> {
    let id = task.annotations().get(labels::CANCEL)?;
    (task.status.as_ref().and_then(|status| status.handled_cancel.as_ref()) != Some(id)).then_some(id)
}

async fn start(
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

/// Turns what a cancelled run came to into what is said of it; `None` gives the claim back.
fn settle(stop: Option<Stop>, outcome: Outcome, timeout: i64) -> Option<Outcome> {
    let keep = |reason, summary: String| {
        let mut settled = Outcome::failed(reason, summary);
        settled.verdict = Some(schemas::shared::Verdict::Incomplete);
        Some(Outcome {
            failure: settled.failure,
            summary: settled.summary,
            verdict: settled.verdict,
            ..outcome.clone()
        })
    };
    match stop {
        None => Some(outcome),
        Some(Stop::Cancelled) => keep(FailureReason::Cancelled, "cancelled by request".into()),
        Some(Stop::Timeout) => keep(FailureReason::Timeout, format!("the wall time of {timeout} s is spent")),
        Some(Stop::Shutdown | Stop::Lost) => None,
    }
}

async fn finish(services: &Services, running: &Running, spool: Option<&Spool>, outcome: Outcome, started: Timestamp) {
    let (held, timeout) = (&running.held, running.timeout);
    let stop = *running.stop.lock().unwrap_or_else(PoisonError::into_inner);
    if stop == Some(Stop::Lost) {
        tracing::info!(
            task = held.name,
            epoch = held.claim.epoch,
            "the claim was lost; nothing is written"
        );
        return;
    }
    let Some(mut outcome) = settle(stop, outcome, timeout) else {
        match claim::patch_status(&services.client, held, claim::build_release()).await {
            Ok(_) => tracing::info!(task = held.name, "gave the claim back"),
            Err(error) => tracing::warn!(%error, task = held.name, "failed to give the claim back"),
        }
        return;
    };
    if let Some(spool) = spool {
        let (stored, error) = spool.send_all().await;
        outcome.evidence = stored;
        outcome.evidence_error = error.map(|error| crate::outcome::shorten(&error.to_string(), 500));
        if let Some(error) = &outcome.evidence_error {
            tracing::warn!(task = held.name, error, "evidence is missing");
        }
    }
    let mut status = claim::build_end(&outcome, started, Timestamp::now());
    if stop == Some(Stop::Cancelled) {
        let api: Api<AgenticTask> = Api::namespaced(services.client.clone(), &held.namespace);
        if let Ok(Some(task)) = api.get_opt(&held.name).await {
            status["handledCancel"] = json!(task.annotations().get(labels::CANCEL));
        }
    }
    let mut pause = Duration::from_millis(100);
    loop {
        match claim::patch_status(&services.client, held, status.clone()).await {
            Ok(Written::Done(_)) => {
                tracing::info!(task = held.name, verdict = ?outcome.verdict, failure = ?outcome.failure, "ended: {}", outcome.summary);
                if let Some(spool) = spool.filter(|_| outcome.evidence_error.is_none()) {
                    spool.remove();
                }
                return;
            }
            Ok(Written::Lost) => {
                tracing::info!(
                    task = held.name,
                    "the claim was lost before its end could be written; nothing is written"
                );
                return;
            }
            Err(kube::Error::Api(refused)) if (400..500).contains(&refused.code) && refused.code != 429 => {
                tracing::error!(
                    task = held.name,
                    error = refused.message,
                    "the end of the task was refused"
                );
                return;
            }
            Err(error) => {
                tracing::warn!(%error, task = held.name, "failed to write the end of the task; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(services.config.poll_interval.max(Duration::from_secs(1)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::shared::Verdict;

    #[test]
    fn a_cancelled_run_never_keeps_a_good_verdict() {
        for stop in [Stop::Cancelled, Stop::Timeout] {
            let outcome = settle(Some(stop), Outcome::ended(Verdict::GatePass, "ok"), 60).unwrap();
            assert_eq!(outcome.verdict, Some(Verdict::Incomplete));
            assert!(outcome.failure.is_some());
        }
        for stop in [Stop::Lost, Stop::Shutdown] {
            assert!(settle(Some(stop), Outcome::ended(Verdict::GatePass, "ok"), 60).is_none());
        }
    }
}
