//! The Job runner: Jobs become Pods, and Pods' containers become sandboxed processes of this host.

pub mod container;
pub mod environment;
mod event;
pub mod job;
pub mod logs;
pub mod pod;
mod process;
mod program;
mod sources;
pub mod status;
pub mod volumes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use rand::Rng;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// The field manager of everything that the runner writes.
pub const FIELD_MANAGER: &str = "foreman-runner";
/// How long a Job is left alone whose reconciling broke off.
const BROKEN_PAUSE: jiff::SignedDuration = jiff::SignedDuration::from_mins(1);
/// How often a Pod is bound before it is left to its next event.
const BIND_TRIES: u32 = 6;

/// What the runner is told at its start.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// Folder for Pods, their logs and PersistentVolumeClaims.
    pub folder: PathBuf,
    /// Name of the node that Pods are bound to.
    pub node: String,
    /// Folders below which a hostPath may lie.
    pub host_paths: Vec<PathBuf>,
    /// Names, without tags, of the images that stand for the running executable.
    pub own_images: Vec<String>,
    /// Programs that stand for the running executable, whatever image they are called from.
    pub own_programs: Vec<String>,
    /// How containers are confined.
    pub sandbox: sandbox::Sandbox,
    /// The host's tools, for every other image.
    pub toolchain: sandbox::Toolchain,
    /// Bytes of one container's log.
    pub log_bytes: u64,
    /// Restarts of a container whose Pod allows them.
    pub most_restarts: i32,
}

impl RunnerConfig {
    /// Runs containers below `folder` with `sandbox` and this host's tools.
    pub fn new(folder: PathBuf, sandbox: sandbox::Sandbox) -> Self {
        Self {
            folder,
            node: "local".into(),
            host_paths: Vec::new(),
            own_images: Vec::new(),
            own_programs: Vec::new(),
            sandbox,
            toolchain: sandbox::Toolchain::host(),
            log_bytes: 32 << 20,
            most_restarts: 6,
        }
    }
}

/// What the runner's parts share.
pub struct Desk {
    /// Configuration.
    pub config: RunnerConfig,
    /// The API.
    pub client: Client,
    growing: logs::Growing,
    notes: Mutex<HashMap<String, BTreeMap<String, String>>>,
    program: program::Program,
}

/// A running Job runner.
pub struct Runner {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    logs: Arc<logs::LogFiles>,
}

impl Runner {
    /// Starts to run Jobs and Pods; Pods of an earlier start become Failed / NodeLost first.
    pub async fn start(client: Client, config: RunnerConfig) -> Result<Self, kube::Error> {
        let growing = logs::Growing::default();
        let logs = Arc::new(logs::LogFiles::new(config.folder.join("pod-logs"), growing.clone()));
        let desk = Arc::new(Desk {
            program: program::Program::new(&config.folder),
            config,
            client,
            growing,
            notes: Mutex::default(),
        });
        lose_earlier_pods(&desk).await?;
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(desk, stop.clone()));
        Ok(Self { stop, task, logs })
    }

    /// Returns what serves the logs of containers.
    pub fn logs(&self) -> Arc<logs::LogFiles> {
        self.logs.clone()
    }

    /// Kills what runs and ends; the Pods are found lost at the next start.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn lose_earlier_pods(desk: &Desk) -> Result<(), kube::Error> {
    let pods: Api<Pod> = Api::all(desk.client.clone());
    let bound = format!("spec.nodeName={}", desk.config.node);
    for pod in pods.list(&ListParams::default().fields(&bound)).await?.items {
        if is_over(&pod) {
            continue;
        }
        let seen = status::unstarted(&pod);
        let text = "the process that ran this Pod is gone; what it had done so far counts for nothing";
        let lost = status::build(&pod, &seen, Some(("NodeLost", text)), Timestamp::now());
        let own: Api<Pod> = Api::namespaced(desk.client.clone(), &pod.namespace().unwrap_or_default());
        let patch = json!({ "metadata": { "uid": pod.uid() }, "status": lost });
        own.patch_status(&pod.name_any(), &params(), &Patch::Merge(patch))
            .await?;
        event::write(desk, &pod, "Warning", "NodeLost", text).await;
        if pod.metadata.deletion_timestamp.is_some() {
            let now = DeleteParams {
                grace_period_seconds: Some(0),
                ..DeleteParams::default()
            };
            let _ = own.delete(&pod.name_any(), &now).await;
        }
    }
    let folder = desk.config.folder.join("pods");
    let _ = tokio::task::spawn_blocking(move || sandbox::remove_tree(&folder)).await;
    Ok(())
}

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(FIELD_MANAGER.into()),
        ..PatchParams::default()
    }
}

fn is_over(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .is_some_and(|phase| matches!(phase, "Succeeded" | "Failed"))
}

/// What the runner knows of Jobs and Pods, from its watches.
#[derive(Default)]
struct World {
    jobs: HashMap<String, Job>,
    pods: HashMap<String, Pod>,
    running: HashMap<String, CancellationToken>,
    /// Pods that were begun, as long as they are there.
    begun: HashSet<String>,
    synced: (bool, bool),
}

impl World {
    /// Says whether a Pod is to be begun. It runs once: the watch may show it as it was before its end when its run is over.
    fn is_to_begin(&self, pod: &Pod) -> bool {
        !is_over(pod) && !self.begun.contains(&pod.uid().unwrap_or_default())
    }
}

async fn serve(desk: Arc<Desk>, stop: CancellationToken) {
    let jobs: Api<Job> = Api::all(desk.client.clone());
    let pods: Api<Pod> = Api::all(desk.client.clone());
    let mut jobs = watcher(jobs, watcher::Config::default()).default_backoff().boxed();
    let mut pods = watcher(pods, watcher::Config::default()).default_backoff().boxed();
    let mut world = World::default();
    let mut running: JoinSet<String> = JoinSet::new();
    let mut wakes: BTreeMap<Timestamp, Vec<String>> = BTreeMap::new();
    loop {
        let nap = wakes.keys().next().map(|wake| {
            let left = wake.duration_since(Timestamp::now());
            Duration::try_from(left).unwrap_or(Duration::ZERO)
        });
        let dirty: Vec<String> = tokio::select! {
            () = stop.cancelled() => break,
            event = jobs.next() => match event {
                Some(Ok(event)) => observe_job(&mut world, event),
                Some(Err(error)) => { tracing::warn!(%error, "the watch on jobs broke off"); vec![] }
                None => break,
            },
            event = pods.next() => match event {
                Some(Ok(event)) => observe_pod(&desk, &mut world, &mut running, event).await,
                Some(Err(error)) => { tracing::warn!(%error, "the watch on pods broke off"); vec![] }
                None => break,
            },
            Some(ended) = running.join_next(), if !running.is_empty() => {
                if let Ok(uid) = ended {
                    world.running.remove(&uid);
                    // Its deletion may have been asked for when its run was over and not known to be.
                    if let Some(pod) = world.pods.get(&uid).filter(|pod| pod.metadata.deletion_timestamp.is_some()) {
                        forget(&desk, pod).await;
                    }
                }
                vec![]
            }
            () = tokio::time::sleep(nap.unwrap_or_default()), if nap.is_some() => {
                wakes.pop_first().map(|(_, uids)| uids).unwrap_or_default()
            }
        };
        if world.synced != (true, true) {
            continue;
        }
        for uid in dirty {
            if let Some(wake) = reconcile_alone(&desk, &mut world, &uid).await {
                wakes.entry(wake).or_default().push(uid);
            }
        }
    }
    for cancel in world.running.values() {
        cancel.cancel();
    }
    while running.join_next().await.is_some() {}
}

fn observe_job(world: &mut World, event: watcher::Event<Job>) -> Vec<String> {
    match event {
        watcher::Event::Init => vec![],
        watcher::Event::InitDone => {
            world.synced.0 = true;
            world.jobs.keys().cloned().collect()
        }
        watcher::Event::Apply(job) | watcher::Event::InitApply(job) => {
            let uid = job.uid().unwrap_or_default();
            world.jobs.insert(uid.clone(), job);
            vec![uid]
        }
        watcher::Event::Delete(job) => {
            world.jobs.remove(&job.uid().unwrap_or_default());
            vec![]
        }
    }
}

fn owner(pod: &Pod) -> Option<String> {
    pod.owner_references()
        .iter()
        .find(|owner| owner.kind == "Job" && owner.controller == Some(true))
        .map(|owner| owner.uid.clone())
}

async fn observe_pod(
    desk: &Arc<Desk>,
    world: &mut World,
    running: &mut JoinSet<String>,
    event: watcher::Event<Pod>,
) -> Vec<String> {
    match event {
        watcher::Event::Init => vec![],
        watcher::Event::InitDone => {
            world.synced.1 = true;
            world.jobs.keys().cloned().collect()
        }
        watcher::Event::Delete(pod) => {
            let uid = pod.uid().unwrap_or_default();
            if let Some(cancel) = world.running.get(&uid) {
                cancel.cancel();
            }
            world.pods.remove(&uid);
            world.begun.remove(&uid);
            let logs = desk.config.folder.join("pod-logs").join(&uid);
            tokio::task::spawn_blocking(move || std::fs::remove_dir_all(logs));
            owner(&pod).into_iter().collect()
        }
        watcher::Event::Apply(pod) | watcher::Event::InitApply(pod) => {
            let uid = pod.uid().unwrap_or_default();
            let owner = owner(&pod);
            world.pods.insert(uid.clone(), pod.clone());
            if pod.metadata.deletion_timestamp.is_some() {
                match world.running.get(&uid) {
                    Some(cancel) => cancel.cancel(),
                    None if is_another_nodes(desk, &pod) => {}
                    None => forget(desk, &pod).await,
                }
            } else if world.is_to_begin(&pod) && bind(desk, &pod).await {
                let cancel = CancellationToken::new();
                world.begun.insert(uid.clone());
                world.running.insert(uid.clone(), cancel.clone());
                let desk = desk.clone();
                running.spawn(async move {
                    pod::run(desk, pod, cancel).await;
                    uid
                });
            }
            owner.into_iter().collect()
        }
    }
}

/// Says whether a Pod is bound to another node, which alone may say that it has ended.
fn is_another_nodes(desk: &Desk, pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.is_some_and(|node| !node.is_empty() && node != desk.config.node)
}

async fn forget(desk: &Desk, pod: &Pod) {
    let pods: Api<Pod> = Api::namespaced(desk.client.clone(), &pod.namespace().unwrap_or_default());
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    match pods.delete(&pod.name_any(), &now).await {
        Ok(_) => {}
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        Err(error) => tracing::warn!(%error, pod = pod.name_any(), "failed to remove a Pod that is to go"),
    }
}

/// Tells whether a Pod without a node waits for this one: not if another scheduler binds it, nor while it is gated.
fn is_to_be_bound(pod: &Pod) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let scheduler = spec.scheduler_name.unwrap_or_default();
    matches!(scheduler.as_str(), "" | "default-scheduler") && spec.scheduling_gates.unwrap_or_default().is_empty()
}

/// Binds a Pod to this node; says whether it is ours.
async fn bind(desk: &Desk, pod: &Pod) -> bool {
    match pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .filter(|name| !name.is_empty())
    {
        Some(name) => name == desk.config.node,
        None if !is_to_be_bound(pod) => false,
        None => {
            let pods: Api<Pod> = Api::namespaced(desk.client.clone(), &pod.namespace().unwrap_or_default());
            let name = pod.name_any();
            let patch = json!({ "metadata": { "uid": pod.uid() }, "spec": { "nodeName": desk.config.node } });
            // No event comes for a Pod that changes no more, so what failed is tried again.
            for attempt in 0..BIND_TRIES {
                match pods.patch(&name, &params(), &Patch::Merge(&patch)).await {
                    Ok(_) => return true,
                    Err(kube::Error::Api(refused)) if (400..500).contains(&refused.code) => {
                        tracing::warn!(error = refused.message, pod = name, "the pod was not bound");
                        return false;
                    }
                    Err(error) => tracing::warn!(%error, pod = name, "failed to bind the pod; trying again"),
                }
                tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
            }
            false
        }
    }
}

/// Reconciles a Job so that a defect which one Job brings to light does not keep all others from running.
async fn reconcile_alone(desk: &Desk, world: &mut World, uid: &str) -> Option<Timestamp> {
    // What it leaves half done in the world are objects that were read, each by itself.
    match AssertUnwindSafe(reconcile(desk, world, uid)).catch_unwind().await {
        Ok(wake) => wake,
        Err(panic) => {
            let said = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
            let said = said.or_else(|| panic.downcast_ref::<String>().cloned());
            let job = world.jobs.get(uid).map(|job| (job.namespace(), job.name_any()));
            let (namespace, name) = job.unwrap_or_default();
            tracing::error!(
                namespace,
                job = name,
                said,
                "failed to reconcile the job: the runner has a defect; other jobs go on"
            );
            Timestamp::now().checked_add(BROKEN_PAUSE).ok()
        }
    }
}

async fn reconcile(desk: &Desk, world: &mut World, uid: &str) -> Option<Timestamp> {
    let live = world.jobs.get(uid)?.clone();
    if live.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let pods: Vec<Pod> = world
        .pods
        .values()
        .filter(|pod| owner(pod).as_deref() == Some(uid))
        .cloned()
        .collect();
    let suffix: String = {
        let mut rng = rand::rng();
        (0..5)
            .map(|_| char::from(b"bcdfghjklmnpqrstvwxz2456789"[rng.random_range(0..27)]))
            .collect()
    };
    let job::Plan {
        create,
        delete,
        status,
        expire,
        wake,
    } = job::plan(&live, &pods, &suffix, Timestamp::now());
    let namespace = live.namespace().unwrap_or_default();
    let jobs: Api<Job> = Api::namespaced(desk.client.clone(), &namespace);
    let pods: Api<Pod> = Api::namespaced(desk.client.clone(), &namespace);
    let mut failed = None;
    if let Some(pod) = create {
        match pods.create(&PostParams::default(), &pod).await {
            Ok(pod) => {
                world.pods.insert(pod.uid().unwrap_or_default(), pod);
            }
            Err(error) => failed = Some(error),
        }
    }
    for name in delete {
        let now = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        if let Err(error) = pods.delete(&name, &now).await {
            failed = Some(error);
        }
    }
    if let Some(status) = status {
        let mut written = json!(status);
        for field in ["active", "ready", "failed", "succeeded"] {
            written[field] = written.get(field).cloned().unwrap_or_default();
        }
        let patch = json!({ "metadata": { "uid": uid }, "status": written });
        match jobs
            .patch_status(&live.name_any(), &params(), &Patch::Merge(patch))
            .await
        {
            Ok(job) => {
                world.jobs.insert(uid.to_owned(), job);
            }
            Err(error) => failed = Some(error),
        }
    }
    if expire && let Err(error) = jobs.delete(&live.name_any(), &DeleteParams::background()).await {
        failed = Some(error);
    }
    match failed {
        Some(kube::Error::Api(status)) if status.code == 404 => None,
        Some(error) => {
            tracing::warn!(%error, job = live.name_any(), "failed to reconcile the job; trying again");
            Timestamp::now()
                .checked_add(jiff::SignedDuration::from_millis(500))
                .ok()
        }
        None => wake,
    }
}

#[cfg(test)]
mod tests;
