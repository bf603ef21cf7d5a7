//! The node daemon: registers, beats, claims tasks, carries them out and says what came of them.

mod assignments;
mod beat;
mod carry_out;
pub mod claim;
mod desk;
mod finish;
#[cfg(test)]
mod giving_back;
pub mod lease;
pub mod registration;
mod workspace;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::Client;
use kube::runtime::watcher;
use rand::RngCore;
use schemas::AgenticTask;
use schemas::agentic_task::TaskKind;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Mode};
use crate::executor::native::Native;
use crate::executor::stub::Stub;
use crate::executor::{Executor, Services};
use crate::metrics::{RUNNING, SLOTS};
use crate::probes::Probes;
use assignments::{Assigned, watch_tasks};
use beat::beat;
use carry_out::start;
use desk::{Desk, Stop};
use lease::{NodeLease, hold_name, keep_lease};

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
    /// Metrics and probes cannot be served.
    #[error("failed to listen on {address} for metrics and probes: {source}; name another with --metrics-listen")]
    Listen {
        /// Address.
        address: std::net::SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// An HTTP client could not be made.
    #[error("failed to set up the HTTP client: {0}")]
    Http(#[from] reqwest::Error),
}

/// How long a claim that is being made may take once the agent is to stop.
const CLAIM_PATIENCE: Duration = Duration::from_millis(200);
/// How long the runs may take then to give their claims back.
const RUNS_PATIENCE: Duration = Duration::from_millis(1200);
/// How long the heartbeat and the lease may take to say goodbye.
const LOOPS_PATIENCE: Duration = Duration::from_millis(300);
/// How long all of it may take.
const STOP_PATIENCE: Duration = Duration::from_millis(1850);

/// How a node agent is asked to end.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Takes nothing new and ends when what runs has ended.
    pub drain: CancellationToken,
    /// Cancels what runs, gives claims back and ends within two seconds.
    pub stop: CancellationToken,
}

/// Runs a node agent until it is asked to end; it ends within two seconds of being asked to stop.
pub async fn run(config: Config, client: Client, shutdown: Shutdown) -> Result<(), Error> {
    tokio::select! {
        biased;
        ended = serve(config, client, &shutdown) => ended,
        () = leave(&shutdown, STOP_PATIENCE) => {
            tracing::warn!("not everything ended in time; what is left will be found dead");
            Ok(())
        }
    }
}

/// Waits until the agent is asked to stop, and then for as long as something may still take.
async fn leave(shutdown: &Shutdown, patience: Duration) {
    shutdown.stop.cancelled().await;
    tokio::time::sleep(patience).await;
}

async fn serve(config: Config, client: Client, shutdown: &Shutdown) -> Result<(), Error> {
    let config = Arc::new(config);
    let (folder, keep) = (config.workspace_dir.clone(), config.keep_workspace);
    let sent = config.evidence_url.is_some();
    let opened = tokio::task::spawn_blocking(move || workspace::open(&folder, keep, sent)).await;
    let opened = opened.unwrap_or_else(|error| Err((config.workspace_dir.clone(), error.into())));
    let _workspace = opened.map_err(|(path, source)| Error::Workspace { path, source })?;
    let probes = Probes::new(&config);
    let services = services(&config, &client, probes.clone())?;
    let desk = Arc::new(Desk::default());
    tell(&probes, &desk, config.slots);
    // Served before all else: who waits for the node's name says so.
    let served = CancellationToken::new();
    let _served = served.clone().drop_guard();
    if let Some(address) = config.metrics_listen {
        let listener = crate::probes::bind(address)
            .await
            .map_err(|source| Error::Listen { address, source })?;
        tracing::info!(%address, "serving metrics and probes");
        tokio::spawn(crate::probes::serve(listener, probes.clone(), served));
    }
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
    if !hold_name(&mut lease, &config, shutdown).await {
        return Ok(());
    }
    probes.holds_name(true);
    registration::register(&client, &config).await?;
    tracing::info!(node = config.node_name, mode = ?config.mode, slots = config.slots, identity, "node agent is ready");

    let lease_lost = CancellationToken::new();
    let beats = tokio::spawn(beat(
        client.clone(),
        config.clone(),
        desk.clone(),
        services.repositories.clone(),
        probes.clone(),
        shutdown.clone(),
        lease_lost.clone(),
    ));
    // The Lease goes last: an operator that sees it gone counts every claim that still stands as lost.
    let let_go = CancellationToken::new();
    let leases = tokio::spawn(keep_lease(
        lease,
        Shutdown {
            drain: shutdown.drain.clone(),
            stop: let_go.clone(),
        },
        desk.clone(),
        probes,
        lease_lost.clone(),
    ));

    let events = watch_tasks(&client, &config).boxed();
    work(&services, &executor, &desk, &identity, shutdown, &lease_lost, events).await;
    shutdown.drain.cancel();
    let_go.cancel();
    let _ = tokio::time::timeout(LOOPS_PATIENCE, async {
        let _ = beats.await;
        let _ = leases.await;
    })
    .await;
    Ok(())
}

/// Claims what is assigned to this node and carries it out, until the agent is asked to end or loses its name.
async fn work(
    services: &Services,
    executor: &Arc<dyn Executor>,
    desk: &Arc<Desk>,
    identity: &str,
    shutdown: &Shutdown,
    lease_lost: &CancellationToken,
    mut events: impl Stream<Item = watcher::Result<watcher::Event<AgenticTask>>> + Unpin,
) {
    let config = &services.config;
    let mut tasks = JoinSet::new();
    let mut assigned = Assigned::default();
    // Verifiers that run: they wait for a gate Job, use no model, and take no slot from those that do.
    let mut verifiers: HashSet<String> = HashSet::new();
    let mut name_lost = false;
    loop {
        // Here, since it may be lost at any time: while a claim is made, or while the agent drains.
        if lease_lost.is_cancelled() && !name_lost {
            name_lost = true;
            tracing::error!(
                node = config.node_name,
                "another agent took this node's name; giving up what runs"
            );
            desk.with(|running| running.values().for_each(|run| run.end(Stop::Lost)));
        }
        let draining = shutdown.drain.is_cancelled() || shutdown.stop.is_cancelled() || lease_lost.is_cancelled();
        if !draining {
            loop {
                let (others, mut in_hand) = desk.with(|running| {
                    verifiers.retain(|uid| running.contains_key(uid));
                    (
                        running.len() - verifiers.len(),
                        running.keys().cloned().collect::<HashSet<_>>(),
                    )
                });
                in_hand.extend(assigned.paused(Instant::now()).map(|(uid, _)| uid.clone()));
                let Some(uid) = startable(&assigned.waiting, &in_hand, verifiers.len(), others, config.slots) else {
                    break;
                };
                if let Some(task) = assigned.waiting.remove(&uid) {
                    if task.spec.kind == TaskKind::Verify {
                        verifiers.insert(uid);
                    }
                    tokio::select! {
                        biased;
                        () = lease_lost.cancelled() => break,
                        refused = start(&mut tasks, services, executor, desk, identity, task, &shutdown.stop) => {
                            if let Some(task) = refused {
                                assigned.put_back(task, Instant::now());
                            }
                        }
                        () = leave(shutdown, CLAIM_PATIENCE) => break,
                    }
                }
            }
        } else if tasks.is_empty() {
            break;
        }
        let again = assigned.paused(Instant::now()).map(|(_, again)| again).min();
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => assigned.observe(event, config, desk),
                Some(Err(error)) => tracing::warn!(%error, "the watch on tasks broke off and is taken up again"),
                None => break,
            },
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            () = shutdown.stop.cancelled() => {
                desk.with(|running| running.values().for_each(|run| run.end(Stop::Shutdown)));
                let ended = tokio::time::timeout(RUNS_PATIENCE, async {
                    while tasks.join_next().await.is_some() {}
                }).await;
                if ended.is_err() {
                    tasks.abort_all();
                    give_back_rest(&services.client, desk).await;
                }
                break;
            }
            () = shutdown.drain.cancelled(), if !draining => tracing::info!("draining: waiting for running tasks"),
            () = lease_lost.cancelled(), if !name_lost => {}
            () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
    }
}

/// Returns a waiting task that has room: verifiers and the others have as many places each as the node has slots. One whose
/// earlier run has not ended waits for that end.
fn startable(
    waiting: &HashMap<String, AgenticTask>,
    in_hand: &HashSet<String>,
    verifiers: usize,
    others: usize,
    slots: usize,
) -> Option<String> {
    let has_room = |task: &AgenticTask| match task.spec.kind {
        TaskKind::Verify => verifiers < slots,
        _ => others < slots,
    };
    waiting
        .iter()
        .find(|(uid, task)| !in_hand.contains(*uid) && has_room(task))
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

/// Tells of what is in hand whenever somebody looks.
fn tell(probes: &Probes, desk: &Arc<Desk>, slots: usize) {
    let desk = desk.clone();
    probes.metrics.on_render(&[RUNNING, SLOTS], move |set| {
        set(SLOTS, &[], slots as f64);
        let mut kinds: std::collections::BTreeMap<&'static str, f64> = std::collections::BTreeMap::new();
        desk.with(|running| {
            for run in running.values() {
                *kinds.entry(run.kind.as_str()).or_default() += 1.0;
            }
        });
        for (kind, count) in kinds {
            set(RUNNING, &[("kind", kind)], count);
        }
    });
}

fn services(config: &Arc<Config>, client: &Client, probes: Probes) -> Result<Services, Error> {
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
        sandbox: crate::executor::confinement::open_sandbox(config).map_err(Error::Sandbox)?,
        http: http.build()?,
        probes,
    })
}

fn identity(config: &Config) -> String {
    let mut random = [0_u8; 4];
    rand::rng().fill_bytes(&mut random);
    format!("{}_{}_{}", config.node_name, std::process::id(), hex::encode(random))
}
