//! The controllers: what each works with, what wakes it, and the term in which it works.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use git::Git;
use kube::Client;
use telemetry::health::Health;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Config;
use super::caches::Caches;
use crate::cache::Key;
use crate::clock::{Clock, Pausing};
use crate::evidence::Evidence;
use crate::lanes::Lanes;
use crate::leader::Leadership;
use crate::metrics::{self, Metrics, QUEUE_DEPTH, RECONCILE_SECONDS, RECONCILES, counted};
use crate::reporter::notes::Notes;
use crate::reporter::{self, Forge};
use crate::task_queue::source::Sources;
use crate::work_queue::{Next, WorkQueue, drive};
use crate::workload::observe::Links;
use crate::writer::Writer;
use crate::{agent, agentic_task, bootstrap, fleet_node, task_queue, unsupported, workload};

/// Every controller with its queue.
pub(super) struct Controllers {
    agent: Arc<agent::Context>,
    pub(super) task: Arc<agentic_task::Context>,
    node: Arc<fleet_node::Context>,
    pub(super) workload: Arc<workload::Context>,
    queue: Arc<task_queue::Context>,
    report: Option<Arc<reporter::Context>>,
    unsupported: Arc<unsupported::Context>,
    agent_work: Arc<WorkQueue<Key>>,
    workload_work: Arc<WorkQueue<Key>>,
    queue_work: Arc<WorkQueue<Key>>,
    report_work: Arc<WorkQueue<Key>>,
    unsupported_work: Arc<WorkQueue<unsupported::Object>>,
    pub(super) evidence: Option<Evidence>,
    pub(super) evidence_keep: Duration,
    pub(super) namespaces: Vec<String>,
    pub(super) jobs_namespaces: Vec<String>,
    pub(super) client: Client,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    leadership: Leadership,
    bootstrap: Option<PathBuf>,
}

/// How long a reconcile that speaks to the API alone may take before it counts as stuck.
const API_LIMIT: Duration = Duration::from_secs(900);
/// Between two tries to create what the installation asks for.
const BEGIN_AGAIN: Duration = Duration::from_secs(10);
/// How long one may take that speaks to Git servers as well.
const GIT_LIMIT: Duration = Duration::from_secs(3600);

impl Controllers {
    /// Puts the controllers together.
    #[allow(clippy::too_many_arguments, reason = "every part is handed over once, here")]
    pub(super) fn new(
        config: &Config,
        metrics: &Arc<Metrics>,
        health: &Arc<Health>,
        caches: &Caches,
        leadership: Leadership,
        sources: Arc<Sources>,
        queue_work: Arc<WorkQueue<Key>>,
        evidence: Option<Evidence>,
    ) -> Self {
        let lanes = Arc::new(Lanes::default());
        let writer = |cause| {
            let client = counted(config.client.clone(), metrics.clone(), cause);
            Writer::new(client, leadership.clone()).sharing(lanes.clone())
        };
        let scheduler = Arc::new(agentic_task::Scheduler::default());
        let links = Arc::new(Links::default());
        let clock = config.clock.clone();
        // A node is not silent, and no work overdue, for as long as the operator itself cannot hear of anybody.
        let counted_from = metrics.clone();
        let heard: Arc<dyn Clock> = Arc::new(Pausing::new(clock.clone(), move || counted_from.api_away()));
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
                clock: heard.clone(),
                metrics: metrics.clone(),
                scheduler: scheduler.clone(),
                health: health.clone(),
            }),
            node: Arc::new(fleet_node::Context {
                writer: writer("fleetnode"),
                nodes: caches.nodes.clone(),
                clock: heard,
                scheduler,
                watch: Arc::default(),
                health: health.clone(),
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
            unsupported: Arc::new(unsupported::Context {
                writer: writer("unsupported"),
                forges: caches.forges.clone(),
                releases: caches.releases.clone(),
                profiles: caches.profiles.clone(),
                clock: clock.clone(),
            }),
            report: forge.map(|forge| {
                Arc::new(reporter::Context {
                    writer: writer("reporter"),
                    reader: reporter::reading::Reader::new(
                        counted(config.client.clone(), metrics.clone(), "reporter"),
                        clock,
                    ),
                    workloads: caches.workloads.clone(),
                    tasks: caches.tasks.clone(),
                    links,
                    forge,
                    metrics: metrics.clone(),
                    deleted: Arc::default(),
                    failures: Mutex::default(),
                })
            }),
            agent_work: Arc::default(),
            workload_work: Arc::default(),
            queue_work,
            report_work: Arc::default(),
            unsupported_work: Arc::default(),
            evidence,
            evidence_keep: config.evidence_keep,
            namespaces: config.namespaces.clone(),
            jobs_namespaces: config.jobs_namespaces.clone(),
            client: counted(config.client.clone(), metrics.clone(), "sweep"),
            metrics: metrics.clone(),
            health: health.clone(),
            leadership,
            bootstrap: config.bootstrap.clone(),
        }
    }

    /// Feeds indexes and queues from the caches; on every replica, so that a new leader begins at once.
    pub(super) fn observe(&self, config: &Config, caches: &Caches) {
        metrics::observe(
            &self.metrics,
            &metrics::Sources {
                tasks: &caches.tasks,
                workloads: &caches.workloads,
                queues: &caches.queues,
                nodes: &caches.nodes,
                watch: &self.node.watch,
                leadership: &self.leadership,
                clock: &config.clock,
                heard: &self.node.clock,
            },
        );
        let queues = [
            ("Agent", self.agent_work.clone()),
            ("Workload", self.workload_work.clone()),
            ("TaskQueue", self.queue_work.clone()),
            ("Reporter", self.report_work.clone()),
        ];
        self.metrics.on_render(&[QUEUE_DEPTH], move |set| {
            for (controller, queue) in &queues {
                set(QUEUE_DEPTH, &[("controller", controller)], queue.depth() as f64);
            }
        });
        self.task.scheduler.observe(
            &caches.tasks,
            &caches.nodes,
            &caches.agents,
            &caches.profiles,
            &self.task.clock,
        );
        self.node
            .watch
            .observe(&caches.nodes, &caches.leases, &config.lease_namespace, &self.node.clock);
        agent::observe(&self.agent_work, &caches.agents, &caches.profiles);
        unsupported::observe(&self.unsupported_work, &self.unsupported);
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
        if let Some(report) = &self.report {
            reporter::observe(&self.report_work, report);
        }
    }

    /// Runs every controller until `term` ends.
    pub(super) async fn lead(self: Arc<Self>, term: CancellationToken) {
        // Workers of an earlier term were stopped wherever they were: what they held is free, and what a queue knew of
        // its files while it wrote is read anew. What they took off the queues and could not write is looked at again.
        for queue in [
            &self.agent_work,
            &self.workload_work,
            &self.queue_work,
            &self.report_work,
        ] {
            queue.begin_term();
        }
        self.unsupported_work.begin_term();
        crate::clock::lock(&self.queue.states).clear();
        self.workload
            .workloads
            .all()
            .iter()
            .for_each(|found| self.workload_work.add(Key::of(found.meta())));
        self.queue
            .queues
            .all()
            .iter()
            .for_each(|found| self.queue_work.add(Key::of(found.meta())));
        self.agent
            .agents
            .all()
            .iter()
            .for_each(|found| self.agent_work.add(Key::of(found.meta())));
        let unsupported = unsupported::all(&self.unsupported);
        unsupported
            .into_iter()
            .for_each(|found| self.unsupported_work.add(found));
        // Before either of the two: one judges nodes, the other one takes tasks from those that are not heard of.
        self.task.scheduler.begin_term();
        let mut running = JoinSet::new();
        running.spawn(fleet_node::run(self.node.clone(), term.clone()));
        running.spawn(agentic_task::run(self.task.clone(), term.clone()));
        tracing::info!(controller = "Agent", "Starting workers");
        let (ctx, all) = (self.agent.clone(), self.clone());
        running.spawn(drive(self.agent_work.clone(), 2, term.clone(), move |key| {
            all.clone()
                .measured("Agent", API_LIMIT, agent::reconcile(ctx.clone(), key))
        }));
        let (ctx, all) = (self.unsupported.clone(), self.clone());
        running.spawn(drive(self.unsupported_work.clone(), 1, term.clone(), move |object| {
            all.clone()
                .measured("Unsupported", API_LIMIT, unsupported::reconcile(ctx.clone(), object))
        }));
        tracing::info!(controller = "Workload", "Starting workers");
        let (ctx, all) = (self.workload.clone(), self.clone());
        running.spawn(drive(self.workload_work.clone(), 16, term.clone(), move |key| {
            all.clone()
                .measured("Workload", API_LIMIT, workload::reconcile(ctx.clone(), key))
        }));
        tracing::info!(controller = "TaskQueue", "Starting workers");
        let (ctx, all) = (self.queue.clone(), self.clone());
        running.spawn(drive(self.queue_work.clone(), 8, term.clone(), move |key| {
            all.clone()
                .measured("TaskQueue", GIT_LIMIT, task_queue::reconcile(ctx.clone(), key))
        }));
        if let Some(ctx) = self.report.clone() {
            let all = self.clone();
            self.workload
                .workloads
                .all()
                .iter()
                .for_each(|found| self.report_work.add(Key::of(found.meta())));
            let deleted: Vec<Key> = crate::clock::lock(&ctx.deleted).keys().cloned().collect();
            deleted.into_iter().for_each(|key| self.report_work.add(key));
            running.spawn(drive(self.report_work.clone(), 4, term.clone(), move |key| {
                all.clone()
                    .measured("Reporter", GIT_LIMIT, reporter::reconcile(ctx.clone(), key))
            }));
        }
        running.spawn(self.clone().begin(term.clone()));
        running.spawn(self.clone().sweep(term.clone()));
        while let Some(ended) = running.join_next().await {
            if ended.is_err_and(|error| error.is_panic()) {
                self.health.broke("a controller's loop panicked; see the log");
            }
        }
    }

    /// Creates what the installation asks for, until it is there.
    async fn begin(self: Arc<Self>, term: CancellationToken) {
        let Some(file) = &self.bootstrap else { return };
        while let Err(error) = bootstrap::create(&self.queue.writer, file).await {
            tracing::warn!(%error, "what the installation asks for is not there; trying again");
            tokio::select! {
                () = term.cancelled() => return,
                () = tokio::time::sleep(BEGIN_AGAIN) => {}
            }
        }
    }

    /// Counts a reconcile, measures it, and knows of it while it is under way.
    async fn measured(
        self: Arc<Self>,
        controller: &'static str,
        limit: Duration,
        work: impl Future<Output = Next>,
    ) -> Next {
        let begun = Instant::now();
        let working = self.health.begin(controller, limit);
        // One object that nobody thought of must not end the worker that all others share.
        let next = AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
            tracing::error!(controller, "a reconcile panicked; it is tried again later");
            Next::Failed("the reconcile panicked".to_owned())
        });
        drop(working);
        let result = match next {
            Next::Failed(_) => "failed",
            Next::Lost => "lost",
            Next::Wait | Next::After(_) => "done",
        };
        let labels = [("controller", controller)];
        self.metrics
            .observe(RECONCILE_SECONDS, &labels, begun.elapsed().as_secs_f64());
        self.metrics
            .count(RECONCILES, &[("controller", controller), ("result", result)]);
        next
    }
}
