//! The operator: caches, HTTP, leader election, controllers.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use git::Git;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use schemas::{Agent, AgenticTask, FleetNode, ModelProfile, TaskQueue, Workload, labels};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::{self, Cache, Key};
use crate::clock::{Clock, SystemClock};
use crate::evidence::http::{Readers, Serving};
use crate::evidence::redact::Redactor;
use crate::evidence::{self, Evidence};
use crate::leader::{self, Election, Leadership};
use crate::metrics::{Metrics, RECONCILES, counted};
use crate::reporter::notes::Notes;
use crate::reporter::{self, Forge};
use crate::task_queue::source::{Nudge, Sources};
use crate::work_queue::{Next, WorkQueue, drive};
use crate::workload::observe::Links;
use crate::writer::Writer;
use crate::{agent, agentic_task, crd_check, fleet_node, task_queue, workload};

/// How the operator runs.
#[derive(Clone)]
pub struct Config {
    /// Kubernetes API.
    pub client: Client,
    /// Namespaces that are served; none means all.
    pub namespaces: Vec<String>,
    /// Namespace of the Leases.
    pub lease_namespace: String,
    /// Folder for mirrors and keys.
    pub state_dir: PathBuf,
    /// Credentials, certificates and roots for Git.
    pub git: git::Settings,
    /// Server that `owner/name` is looked up on.
    pub git_remote_url: Option<String>,
    /// Folder of the evidence; `None` stores none.
    pub evidence_dir: Option<PathBuf>,
    /// Where the HTTP listens; `None` serves none.
    pub listen: Option<SocketAddr>,
    /// Who may read evidence.
    pub readers: Readers,
    /// Values that are taken out of evidence.
    pub secrets: Vec<String>,
    /// How long evidence is kept after its task is gone.
    pub evidence_keep: Duration,
    /// How long tasks that ended are kept.
    pub task_ttl: Duration,
    /// Identity of this process.
    pub identity: String,
    /// Whether to lead by Lease; otherwise this process is alone by other means.
    pub leader_election: bool,
    /// Whether verdicts are reported as Git notes.
    pub notes: bool,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Config {
    /// Serves all namespaces alone, without HTTP, with state in `state_dir`.
    pub fn new(client: Client, state_dir: impl Into<PathBuf>) -> Self {
        let lease_namespace = client.default_namespace().to_owned();
        Self {
            client,
            namespaces: Vec::new(),
            lease_namespace,
            state_dir: state_dir.into(),
            git: git::Settings::default(),
            git_remote_url: None,
            evidence_dir: None,
            listen: None,
            readers: Readers::Loopback,
            secrets: Vec::new(),
            evidence_keep: Duration::from_secs(30 * 24 * 3600),
            task_ttl: Duration::from_secs(24 * 3600),
            identity: format!("foreman-operator-{}", std::process::id()),
            leader_election: false,
            notes: true,
            clock: Arc::new(SystemClock::default()),
        }
    }
}

/// Why the operator did not start or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CRDs do not fit.
    #[error(transparent)]
    Crds(#[from] crd_check::Error),
    /// The evidence folder cannot be used.
    #[error(transparent)]
    Evidence(#[from] evidence::Error),
    /// The HTTP cannot listen.
    #[error("failed to listen on {address}: {source}; is another operator running? choose another address")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The HTTP ended.
    #[error("failed to serve HTTP: {0}")]
    Serve(std::io::Error),
}

struct Caches {
    agents: Arc<Cache<Agent>>,
    tasks: Arc<Cache<AgenticTask>>,
    nodes: Arc<Cache<FleetNode>>,
    profiles: Arc<Cache<ModelProfile>>,
    queues: Arc<Cache<TaskQueue>>,
    workloads: Arc<Cache<Workload>>,
    leases: Arc<Cache<Lease>>,
}

/// An operator that is ready to run.
pub struct Operator {
    config: Config,
    metrics: Arc<Metrics>,
    caches: Caches,
    evidence: Option<Evidence>,
    listener: Option<(TcpListener, SocketAddr)>,
    stop: CancellationToken,
    sources: Arc<Sources>,
    queue_work: Arc<WorkQueue<Key>>,
}

impl Operator {
    /// Checks the CRDs, opens the evidence store and binds the HTTP's port. Nothing is written to the API.
    pub async fn prepare(config: Config) -> Result<Self, Error> {
        crd_check::check(&config.client).await?;
        let evidence = match &config.evidence_dir {
            Some(dir) => Some(Evidence::open(dir, Redactor::new(config.secrets.clone()))?),
            None => None,
        };
        let listener = match config.listen {
            Some(address) => {
                let fail = |source| Error::Listen { address, source };
                let listener = TcpListener::bind(address).await.map_err(fail)?;
                let bound = listener.local_addr().map_err(fail)?;
                Some((listener, bound))
            }
            None => None,
        };
        let metrics = Arc::new(Metrics::default());
        let stop = CancellationToken::new();
        let queue_work = Arc::new(WorkQueue::default());
        let client = counted(config.client.clone(), metrics.clone(), "taskqueue");
        let sources = Arc::new(Sources::new(
            config.git.clone(),
            config.state_dir.clone(),
            client,
            metrics.clone(),
            queue_work.clone(),
            stop.clone(),
        ));
        let caches = Caches {
            agents: Arc::default(),
            tasks: Arc::default(),
            nodes: Arc::default(),
            profiles: Arc::default(),
            queues: Arc::default(),
            workloads: Arc::default(),
            leases: Arc::default(),
        };
        Ok(Self {
            config,
            metrics,
            caches,
            evidence,
            listener,
            stop,
            sources,
            queue_work,
        })
    }

    /// Returns the counters.
    pub fn metrics(&self) -> Arc<Metrics> {
        self.metrics.clone()
    }

    /// Returns where the HTTP listens.
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.listener.as_ref().map(|(_, address)| *address)
    }

    /// Returns a handle that brings looks at repositories forward.
    pub fn nudge(&self) -> Nudge {
        self.sources.nudge()
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let stop = self.stop.clone();
        let forward = {
            let stop = stop.clone();
            async move {
                shutdown.cancelled().await;
                stop.cancel();
            }
        };
        tokio::select! {
            result = self.work() => {
                stop.cancel();
                result
            }
            () = async { forward.await; std::future::pending::<()>().await } => Ok(()),
        }
    }

    async fn work(self) -> Result<(), Error> {
        let Self {
            config,
            metrics,
            caches,
            evidence,
            listener,
            stop,
            sources,
            queue_work,
        } = self;
        let leadership = if config.leader_election {
            Leadership::never(config.clock.clone())
        } else {
            Leadership::always(config.clock.clone())
        };
        let mut background = JoinSet::new();
        keep_caches(&config, &caches, &metrics, &stop, &mut background);
        let mut served = None;
        if let Some((listener, address)) = listener {
            let serving = Serving {
                evidence: evidence.clone(),
                tasks: caches.tasks.clone(),
                client: counted(config.client.clone(), metrics.clone(), "evidence"),
                metrics: metrics.clone(),
                readers: config.readers,
            };
            tracing::info!(%address, "serving evidence, metrics and health");
            let app = evidence::http::router(serving).into_make_service_with_connect_info::<SocketAddr>();
            let quit = stop.clone();
            served = Some(tokio::spawn(async move {
                axum::serve(listener, app)
                    .with_graceful_shutdown(async move { quit.cancelled().await })
                    .await
            }));
        }
        let controllers = Arc::new(Controllers::new(
            &config,
            &metrics,
            &caches,
            leadership.clone(),
            sources,
            queue_work,
            evidence,
        ));
        tokio::select! {
            () = stop.cancelled() => {}
            () = controllers.caches_synced(&caches) => {}
        }
        controllers.observe(&config, &caches);
        if config.leader_election {
            let election = Election::new(config.lease_namespace.clone(), config.identity.clone());
            let client = counted(config.client.clone(), metrics.clone(), "leader");
            leader::elect(
                client,
                election,
                leadership,
                config.clock.clone(),
                stop.clone(),
                |term| controllers.clone().lead(term),
            )
            .await;
        } else {
            controllers.clone().lead(stop.clone()).await;
        }
        background.shutdown().await;
        if let Some(served) = served
            && let Ok(Ok(Err(error))) = tokio::time::timeout(Duration::from_secs(1), served).await
        {
            return Err(Error::Serve(error));
        }
        Ok(())
    }
}

/// Prepares an operator and runs it until `shutdown`.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    Operator::prepare(config).await?.run(shutdown).await
}

fn keep_caches(
    config: &Config,
    caches: &Caches,
    metrics: &Arc<Metrics>,
    stop: &CancellationToken,
    into: &mut JoinSet<()>,
) {
    let client = counted(config.client.clone(), metrics.clone(), "watch");
    let spaces = config.namespaces.clone();
    into.spawn(cache::keep(
        caches.agents.clone(),
        client.clone(),
        spaces.clone(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.tasks.clone(),
        client.clone(),
        spaces.clone(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.workloads.clone(),
        client.clone(),
        spaces.clone(),
        stop.clone(),
    ));
    into.spawn(cache::keep(caches.queues.clone(), client.clone(), spaces, stop.clone()));
    into.spawn(cache::keep(
        caches.nodes.clone(),
        client.clone(),
        Vec::new(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.profiles.clone(),
        client.clone(),
        Vec::new(),
        stop.clone(),
    ));
    into.spawn(cache::keep(
        caches.leases.clone(),
        client,
        vec![config.lease_namespace.clone()],
        stop.clone(),
    ));
}

struct Controllers {
    agent: Arc<agent::Context>,
    task: Arc<agentic_task::Context>,
    node: Arc<fleet_node::Context>,
    workload: Arc<workload::Context>,
    queue: Arc<task_queue::Context>,
    report: Option<Arc<reporter::Context>>,
    agent_work: Arc<WorkQueue<Key>>,
    workload_work: Arc<WorkQueue<Key>>,
    queue_work: Arc<WorkQueue<Key>>,
    report_work: Arc<WorkQueue<Key>>,
    evidence: Option<Evidence>,
    evidence_keep: Duration,
    namespaces: Vec<String>,
    client: Client,
    metrics: Arc<Metrics>,
}

impl Controllers {
    fn new(
        config: &Config,
        metrics: &Arc<Metrics>,
        caches: &Caches,
        leadership: Leadership,
        sources: Arc<Sources>,
        queue_work: Arc<WorkQueue<Key>>,
        evidence: Option<Evidence>,
    ) -> Self {
        let writer = |cause| {
            Writer::new(
                counted(config.client.clone(), metrics.clone(), cause),
                leadership.clone(),
            )
        };
        let scheduler = Arc::new(agentic_task::Scheduler::default());
        let links = Arc::new(Links::default());
        let clock = config.clock.clone();
        let forge: Option<Arc<dyn Forge>> = config.notes.then(|| {
            let git = Git::new(config.state_dir.join("mirrors"), config.git.clone());
            Arc::new(Notes::new(
                git,
                config.git_remote_url.clone(),
                clock.clone(),
                metrics.clone(),
            )) as Arc<dyn Forge>
        });
        Self {
            agent: Arc::new(agent::Context {
                writer: writer("agent"),
                agents: caches.agents.clone(),
                profiles: caches.profiles.clone(),
                clock: clock.clone(),
            }),
            task: Arc::new(agentic_task::Context {
                writer: writer("agentictask"),
                tasks: caches.tasks.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
                scheduler: scheduler.clone(),
            }),
            node: Arc::new(fleet_node::Context {
                writer: writer("fleetnode"),
                nodes: caches.nodes.clone(),
                clock: clock.clone(),
                scheduler,
                watch: Arc::default(),
            }),
            workload: Arc::new(workload::Context {
                writer: writer("workload"),
                workloads: caches.workloads.clone(),
                tasks: caches.tasks.clone(),
                links: links.clone(),
                clock: clock.clone(),
                task_ttl: config.task_ttl,
            }),
            queue: Arc::new(task_queue::Context {
                writer: writer("taskqueue"),
                queues: caches.queues.clone(),
                workloads: caches.workloads.clone(),
                tasks: caches.tasks.clone(),
                inventory: Arc::default(),
                sources,
                states: Mutex::default(),
                forge: forge.clone(),
                clock: clock.clone(),
                metrics: metrics.clone(),
            }),
            report: forge.map(|forge| {
                Arc::new(reporter::Context {
                    writer: writer("reporter"),
                    client: counted(config.client.clone(), metrics.clone(), "reporter"),
                    workloads: caches.workloads.clone(),
                    tasks: caches.tasks.clone(),
                    links,
                    forge,
                    clock,
                    metrics: metrics.clone(),
                })
            }),
            agent_work: Arc::default(),
            workload_work: Arc::default(),
            queue_work,
            report_work: Arc::default(),
            evidence,
            evidence_keep: config.evidence_keep,
            namespaces: config.namespaces.clone(),
            client: counted(config.client.clone(), metrics.clone(), "sweep"),
            metrics: metrics.clone(),
        }
    }

    async fn caches_synced(&self, caches: &Caches) {
        caches.agents.wait_synced().await;
        caches.tasks.wait_synced().await;
        caches.nodes.wait_synced().await;
        caches.profiles.wait_synced().await;
        caches.queues.wait_synced().await;
        caches.workloads.wait_synced().await;
        caches.leases.wait_synced().await;
    }

    /// Feeds indexes and queues from the caches; on every replica, so that a new leader begins at once.
    fn observe(&self, config: &Config, caches: &Caches) {
        self.task.scheduler.observe(
            &caches.tasks,
            &caches.nodes,
            &caches.agents,
            &caches.profiles,
            &config.clock,
        );
        self.node
            .watch
            .observe(&caches.nodes, &caches.leases, &config.lease_namespace, &config.clock);
        agent::observe(&self.agent_work, &caches.agents, &caches.profiles);
        workload::observe(
            &self.workload_work,
            &self.workload.links,
            &caches.workloads,
            &caches.tasks,
        );
        task_queue::observe(
            &self.queue_work,
            &self.queue.inventory,
            &caches.queues,
            &caches.workloads,
            &caches.tasks,
        );
        if self.report.is_some() {
            reporter::observe(&self.report_work, &caches.workloads);
        }
    }

    /// Runs every controller until `term` ends.
    async fn lead(self: Arc<Self>, term: CancellationToken) {
        // What an earlier term took off the queues and could not write is looked at again.
        self.workload
            .workloads
            .all()
            .iter()
            .for_each(|found| self.workload_work.add(Key::of(&found.meta)));
        self.queue
            .queues
            .all()
            .iter()
            .for_each(|found| self.queue_work.add(Key::of(&found.meta)));
        self.agent
            .agents
            .all()
            .iter()
            .for_each(|found| self.agent_work.add(Key::of(&found.meta)));
        let mut running = JoinSet::new();
        running.spawn(fleet_node::run(self.node.clone(), term.clone()));
        running.spawn(agentic_task::run(self.task.clone(), term.clone()));
        tracing::info!(controller = "Agent", "Starting workers");
        let (ctx, metrics) = (self.agent.clone(), self.metrics.clone());
        running.spawn(drive(self.agent_work.clone(), 2, term.clone(), move |key| {
            count("Agent", metrics.clone(), agent::reconcile(ctx.clone(), key))
        }));
        tracing::info!(controller = "Workload", "Starting workers");
        let (ctx, metrics) = (self.workload.clone(), self.metrics.clone());
        running.spawn(drive(self.workload_work.clone(), 8, term.clone(), move |key| {
            count("Workload", metrics.clone(), workload::reconcile(ctx.clone(), key))
        }));
        tracing::info!(controller = "TaskQueue", "Starting workers");
        let (ctx, metrics) = (self.queue.clone(), self.metrics.clone());
        running.spawn(drive(self.queue_work.clone(), 8, term.clone(), move |key| {
            count("TaskQueue", metrics.clone(), task_queue::reconcile(ctx.clone(), key))
        }));
        if let Some(ctx) = self.report.clone() {
            let metrics = self.metrics.clone();
            self.workload
                .workloads
                .all()
                .iter()
                .for_each(|found| self.report_work.add(Key::of(&found.meta)));
            running.spawn(drive(self.report_work.clone(), 4, term.clone(), move |key| {
                count("Reporter", metrics.clone(), reporter::reconcile(ctx.clone(), key))
            }));
        }
        running.spawn(self.clone().sweep(term.clone()));
        while running.join_next().await.is_some() {}
    }

    /// Takes away, now and then, evidence that nobody needs and Jobs whose task is gone.
    async fn sweep(self: Arc<Self>, term: CancellationToken) {
        loop {
            tokio::select! {
                () = term.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(600)) => {}
            }
            if let Some(evidence) = &self.evidence {
                let tasks = self.workload.tasks.clone();
                let live = move |uid: &str| tasks.by_uid(uid).is_some();
                match evidence.sweep(self.task.clock.now(), self.evidence_keep, live).await {
                    Ok(0) => {}
                    Ok(gone) => tracing::info!(gone, "old evidence was deleted"),
                    Err(error) => tracing::warn!(%error, "evidence was not swept"),
                }
            }
            if let Err(error) = self.sweep_jobs().await {
                tracing::warn!(%error, "Jobs were not swept");
            }
        }
    }

    async fn sweep_jobs(&self) -> Result<(), kube::Error> {
        let apis: Vec<Api<Job>> = if self.namespaces.is_empty() {
            vec![Api::all(self.client.clone())]
        } else {
            self.namespaces
                .iter()
                .map(|namespace| Api::namespaced(self.client.clone(), namespace))
                .collect()
        };
        for api in apis {
            for job in api.list(&ListParams::default().labels(labels::TASK_UID)).await? {
                let uid = job.labels().get(labels::TASK_UID).cloned().unwrap_or_default();
                if self.workload.tasks.by_uid(&uid).is_some() {
                    continue;
                }
                let key = Key::of(&job.metadata);
                let jobs: Cache<Job> = Cache::default();
                if let Err(error) = self
                    .workload
                    .writer
                    .delete(&jobs, &key, job.metadata.uid.as_deref().unwrap_or_default())
                    .await
                {
                    tracing::warn!(job = %key, %error, "a Job whose task is gone was not deleted");
                }
            }
        }
        Ok(())
    }
}

async fn count(controller: &'static str, metrics: Arc<Metrics>, work: impl Future<Output = Next>) -> Next {
    let next = work.await;
    let result = match next {
        Next::Failed(_) => "failed",
        Next::Lost => "lost",
        Next::Wait | Next::After(_) => "done",
    };
    metrics.count(RECONCILES, &[("controller", controller), ("result", result)]);
    next
}
