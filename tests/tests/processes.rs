//! `foreman-operator` and `foreman-agent` as the processes that a cluster runs, meeting in an API served over TLS.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use plane::{Plane, PlaneConfig};
use schemas::agentic_task::Phase;
use schemas::fleet_node::NodePhase;
use schemas::{AgenticTask, FleetNode, labels};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::foreman::{LIMIT, program};

/// The controllers that the runbook looks for in the operator's log.
const CONTROLLERS: [&str; 4] = ["Agent", "AgenticTask", "FleetNode", "Workload"];

/// An API with Foreman's kinds, and a folder for those who use it.
struct Site {
    folder: tempfile::TempDir,
    plane: Plane,
    kubeconfig: PathBuf,
    client: Client,
}

impl Site {
    async fn open() -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::Builder::new().prefix("foreman-processes-").tempdir().unwrap();
        let config = PlaneConfig::new(folder.path().join("plane"), "0.1.0").listening(([127, 0, 0, 1], 0).into());
        let plane = Plane::open(config).await.unwrap();
        let kubeconfig = plane.serve_tls().await.unwrap().kubeconfig;
        let crds: Api<CustomResourceDefinition> = Api::all(plane.client());
        for crd in schemas::crds::all() {
            let apply = PatchParams::apply("foreman").force();
            crds.patch(&crd.name_any(), &apply, &Patch::Apply(&crd)).await.unwrap();
        }
        let client = plane.client();
        Self {
            folder,
            plane,
            kubeconfig,
            client,
        }
    }

    /// Starts an operator whose Leases lie in `default`.
    fn operator(&self, name: &str) -> Process {
        self.operator_of("default", name)
    }

    /// Starts an operator whose Leases lie in a release namespace.
    fn operator_of(&self, namespace: &str, name: &str) -> Process {
        let state = self.folder.path().join(name);
        Process::start(
            "foreman-operator",
            name,
            &[
                OsStr::new("--kubeconfig"),
                self.kubeconfig.as_os_str(),
                OsStr::new("--lease-namespace"),
                OsStr::new(namespace),
                OsStr::new("--evidence-listen=127.0.0.1:0"),
                OsStr::new("--state-dir"),
                state.as_os_str(),
            ],
        )
    }

    /// Starts an agent with quick heartbeats, whose Lease lies in `default`.
    fn agent(&self, node: &str, more: &[&str]) -> Process {
        self.agent_of("default", node, more)
    }

    /// Starts an agent whose Lease lies in a release namespace.
    fn agent_of(&self, namespace: &str, node: &str, more: &[&str]) -> Process {
        let workspace = self.folder.path().join(node);
        let mut arguments = vec![
            OsStr::new("--kubeconfig"),
            self.kubeconfig.as_os_str(),
            OsStr::new("--fleet-node-name"),
            OsStr::new(node),
            OsStr::new("--workspace-dir"),
            workspace.as_os_str(),
            OsStr::new("--foreman-namespace"),
            OsStr::new(namespace),
            OsStr::new("--heartbeat-interval=200ms"),
        ];
        arguments.extend(more.iter().map(OsStr::new));
        Process::start("foreman-agent", node, &arguments)
    }

    /// Applies the runbook's smoke task under a name.
    async fn smoke(&self, name: &str) {
        let task: AgenticTask = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1",
            "kind": "AgenticTask",
            "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "kind": "freeform",
                "requiredCapability": { "roles": ["verifier"] },
                "payload": { "prompt": "Say that you are there." },
                "timeoutSeconds": 60,
            },
        }))
        .unwrap();
        let api: Api<AgenticTask> = Api::namespaced(self.client.clone(), "default");
        api.create(&PostParams::default(), &task).await.unwrap();
    }

    fn tasks(&self) -> Follower<AgenticTask> {
        Follower::of(Api::namespaced(self.client.clone(), "default"))
    }

    fn nodes(&self) -> Follower<FleetNode> {
        Follower::of(Api::all(self.client.clone()))
    }
}

/// A process whose lines are read; killed when dropped.
struct Process {
    name: String,
    child: Child,
    lines: UnboundedReceiver<String>,
    said: String,
}

impl Process {
    fn start(binary: &str, name: &str, arguments: &[&OsStr]) -> Self {
        let path = program().with_file_name(binary);
        assert!(
            path.exists(),
            "{} is not built; run the tests by `cargo xtask test`",
            path.display()
        );
        let mut command = Command::new(path);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        // Neither settings of the one who runs the tests nor those of a Pod in which they run.
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if text.starts_with("FOREMAN_") || ["KUBECONFIG", "POD_NAMESPACE", "RUST_LOG"].contains(&&*text) {
                command.env_remove(&variable);
            }
        }
        command.env("NO_COLOR", "1");
        let mut child = command.spawn().unwrap();
        let (sender, lines) = unbounded_channel();
        forward(child.stdout.take().unwrap(), sender.clone());
        forward(child.stderr.take().unwrap(), sender);
        Self {
            name: name.to_owned(),
            child,
            lines,
            said: String::new(),
        }
    }

    /// Waits until a line says all of `parts`, among those that were not waited for yet.
    async fn says(&mut self, parts: &[&str]) -> String {
        let found = tokio::time::timeout(LIMIT, async {
            while let Some(line) = self.lines.recv().await {
                self.said.push_str(&line);
                self.said.push('\n');
                if parts.iter().all(|part| line.contains(part)) {
                    return Some(line);
                }
            }
            None
        })
        .await;
        let Ok(Some(line)) = found else {
            panic!("{} never said {parts:?}; it said:\n{}", self.name, self.said)
        };
        line
    }

    /// Waits until every controller of the operator says that it works.
    async fn works(&mut self) {
        let mut missing = CONTROLLERS.map(|name| format!("controller=\"{name}\"")).to_vec();
        while !missing.is_empty() {
            let line = self.says(&["Starting workers"]).await;
            missing.retain(|controller| !line.contains(controller.as_str()));
        }
    }

    /// Asks it to end, as a kubelet does, and returns the exit code.
    async fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-TERM", &id]).status().await.unwrap();
        assert!(sent.success());
        let ended = tokio::time::timeout(LIMIT, self.child.wait()).await;
        let Ok(ended) = ended else {
            panic!("{} does not end on SIGTERM; it said:\n{}", self.name, self.said)
        };
        ended.unwrap().code()
    }

    /// Kills it as nothing can be killed harder.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

fn forward(stream: impl AsyncRead + Unpin + Send + 'static, into: UnboundedSender<String>) {
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            // Also where nobody listens any more: a full pipe would stop the process.
            let _ = into.send(line);
        }
    });
}

/// Everything that a watch showed, in order.
struct Follower<K> {
    seen: Arc<Mutex<Vec<K>>>,
    count: watch::Receiver<usize>,
}

impl<K> Follower<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    fn of(api: Api<K>) -> Self {
        let seen: Arc<Mutex<Vec<K>>> = Arc::default();
        let (sender, count) = watch::channel(0);
        let into = seen.clone();
        tokio::spawn(async move {
            let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
            while let Some(event) = events.next().await {
                if let Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object)) = event {
                    let mut seen = into.lock().unwrap();
                    seen.push(object);
                    if sender.send(seen.len()).is_err() {
                        return;
                    }
                }
            }
        });
        Self { seen, count }
    }

    /// Returns every state in which an object was seen.
    fn states(&self, name: &str) -> Vec<K> {
        let seen = self.seen.lock().unwrap();
        seen.iter()
            .filter(|object| object.name_any() == name)
            .cloned()
            .collect()
    }

    /// Waits until an object was seen in a state that pleases `done`, and returns the first.
    async fn saw(&mut self, name: &str, what: &str, done: impl Fn(&K) -> bool) -> K {
        let found = tokio::time::timeout(LIMIT, async {
            loop {
                self.count.borrow_and_update();
                if let Some(state) = self.states(name).into_iter().find(&done) {
                    return state;
                }
                self.count.changed().await.unwrap();
            }
        })
        .await;
        found.unwrap_or_else(|_| panic!("{name} was never {what}: {:#?}", self.states(name)))
    }
}

impl Follower<AgenticTask> {
    async fn phase(&mut self, name: &str, phase: Phase) -> AgenticTask {
        self.saw(name, &format!("{phase:?}"), |task| phase_of(task) == Some(phase))
            .await
    }

    /// Returns the phases that a task went through.
    fn phases(&self, name: &str) -> Vec<Phase> {
        let mut phases: Vec<Phase> = self.states(name).iter().filter_map(phase_of).collect();
        phases.dedup();
        phases
    }

    /// Returns which agents held a task, by epoch.
    fn claims(&self, name: &str) -> BTreeMap<i64, Vec<String>> {
        let mut claims: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for task in self.states(name) {
            if let Some(claim) = task.status.and_then(|status| status.claim) {
                let holders = claims.entry(claim.epoch).or_default();
                if !holders.contains(&claim.agent) {
                    holders.push(claim.agent);
                }
            }
        }
        claims
    }

    /// Fails unless a task was done once: by one claim, in one pass through its phases.
    fn assert_done_once(&self, name: &str) {
        use Phase::{Pending, Running, Scheduled, Succeeded};
        assert_eq!(self.phases(name), [Pending, Scheduled, Running, Succeeded], "{name}");
        let claims = self.claims(name);
        assert_eq!(claims.keys().collect::<Vec<_>>(), [&1], "{name}: {claims:?}");
        assert_eq!(claims[&1].len(), 1, "{name}: {claims:?}");
    }
}

fn phase_of(task: &AgenticTask) -> Option<Phase> {
    task.status.as_ref().and_then(|status| status.phase)
}

fn node_phase(node: &FleetNode) -> Option<NodePhase> {
    node.status.as_ref().and_then(|status| status.phase)
}

/// Returns when a ready node was last heard of.
fn heartbeat(node: &FleetNode) -> Option<String> {
    let status = node.status.as_ref()?;
    let ready = status.phase == Some(NodePhase::Ready);
    ready.then(|| json!(status.last_heartbeat_time).to_string())
}

const VERIFIER: &[&str] = &["--roles", "worker,verifier", "--stub-sleep", "100ms"];

#[tokio::test(flavor = "multi_thread")]
async fn the_runbooks_smoke_task_goes_through_operator_and_agent() {
    let site = Site::open().await;
    let (mut tasks, mut nodes) = (site.tasks(), site.nodes());
    let mut operator = site.operator("operator");
    operator.works().await;
    let agent = site.agent("Smoke_Node", VERIFIER);

    let first = nodes.saw("smoke-node", "ready", |node| heartbeat(node).is_some()).await;
    assert_eq!(
        first.spec.roles.as_deref(),
        Some(&["worker".to_owned(), "verifier".to_owned()][..])
    );
    let status = first.status.clone().unwrap();
    assert_eq!(status.agent_version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    let capability = status.capability.unwrap();
    assert!(capability.total_ram_gb.unwrap() >= capability.available_ram_gb.unwrap());
    let before = heartbeat(&first);
    nodes
        .saw("smoke-node", "heard of again", |node| {
            heartbeat(node).is_some_and(|beat| Some(beat) > before)
        })
        .await;

    site.smoke("verifier-smoke").await;
    let done = tasks.phase("verifier-smoke", Phase::Succeeded).await.status.unwrap();
    tasks.assert_done_once("verifier-smoke");
    assert_eq!(done.assigned_node.as_deref(), Some("smoke-node"));
    assert_eq!(json!(done.verdict), "GO");
    assert_eq!(done.claim, None);

    assert_eq!(agent.terminate().await, Some(0));
    assert_eq!(operator.terminate().await, Some(0));
    site.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_writes_its_spec_only_where_flags_changed() {
    let site = Site::open().await;
    let mut nodes = site.nodes();
    let mut beats = Vec::new();
    let runs: [(&[&str], i64); 3] = [
        (&["--roles", "worker,verifier"], 1),
        (&["--roles", "worker,verifier"], 1),
        (&["--roles", "verifier", "--tailscale-addr", "100.64.0.7"], 2),
    ];
    for (flags, generation) in runs {
        let agent = site.agent("node", flags);
        let last: Option<String> = beats.last().cloned();
        let node = nodes
            .saw("node", "heard of after a start", |node| {
                heartbeat(node).is_some() && heartbeat(node) > last && node.metadata.generation >= Some(generation)
            })
            .await;
        assert_eq!(node.metadata.generation, Some(generation), "{flags:?}");
        assert_eq!(agent.terminate().await, Some(0));
        // Its last word; what is newer is a word of the next process.
        let drained = nodes
            .saw("node", "draining", |node| {
                node_phase(node) == Some(NodePhase::Draining)
                    && Some(json!(node.status.as_ref().unwrap().last_heartbeat_time).to_string()) > last
            })
            .await;
        beats.push(json!(drained.status.unwrap().last_heartbeat_time).to_string());
    }
    let api: Api<FleetNode> = Api::all(site.client.clone());
    let spec = api.get("node").await.unwrap().spec;
    assert_eq!(spec.roles.as_deref(), Some(&["verifier".to_owned()][..]));
    assert_eq!(spec.tailscale_addr.as_deref(), Some("100.64.0.7"));
    site.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_agent_drains_and_another_finishes_its_task() {
    let site = Site::open().await;
    let (mut tasks, mut nodes) = (site.tasks(), site.nodes());
    let _operator = site.operator("operator");
    // Longer than anything here may take: only giving the claim back lets the task end.
    let leaving = site.agent("leaving", &["--roles", "verifier", "--stub-sleep", "1h"]);
    site.smoke("passed-on").await;
    tasks.phase("passed-on", Phase::Running).await;
    let _staying = site.agent("staying", VERIFIER);
    nodes
        .saw("staying", "ready", |node| node_phase(node) == Some(NodePhase::Ready))
        .await;

    assert_eq!(leaving.terminate().await, Some(0));
    nodes
        .saw("leaving", "draining", |node| {
            node_phase(node) == Some(NodePhase::Draining)
        })
        .await;
    let done = tasks.phase("passed-on", Phase::Succeeded).await.status.unwrap();
    assert_eq!(done.assigned_node.as_deref(), Some("staying"));
    let claims = tasks.claims("passed-on");
    assert_eq!(claims.keys().collect::<Vec<_>>(), [&1, &2], "{claims:?}");
    assert!(
        claims[&1].len() == 1 && claims[&1][0].starts_with("leaving_"),
        "{claims:?}"
    );
    assert!(
        claims[&2].len() == 1 && claims[&2][0].starts_with("staying_"),
        "{claims:?}"
    );

    // One that left on purpose goes on saying so, and is not called lost.
    let api: Api<FleetNode> = Api::all(site.client.clone());
    let left = api.get("leaving").await.unwrap();
    assert_eq!(node_phase(&left), Some(NodePhase::Draining));
    assert_eq!(left.status.unwrap().current_task, None);
    site.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_leader_and_nothing_is_done_twice() {
    let site = Site::open().await;
    let (mut tasks, mut nodes) = (site.tasks(), site.nodes());
    let mut leader = site.operator("leader");
    leader.works().await;
    let mut standby = site.operator("standby");
    standby.says(&["serving evidence"]).await;
    let _agent = site.agent("node", VERIFIER);
    nodes
        .saw("node", "ready", |node| node_phase(node) == Some(NodePhase::Ready))
        .await;
    site.smoke("before").await;
    tasks.phase("before", Phase::Succeeded).await;
    let leases: Api<Lease> = Api::namespaced(site.client.clone(), "default");
    let held = leases.get(labels::OPERATOR_LEASE).await.unwrap().spec.unwrap();
    assert_eq!(held.lease_transitions, Some(0), "the standby only watched");

    leader.kill().await;
    site.smoke("between").await;
    standby.works().await;
    tasks.phase("between", Phase::Succeeded).await;
    site.smoke("after").await;
    tasks.phase("after", Phase::Succeeded).await;
    let taken = leases.get(labels::OPERATOR_LEASE).await.unwrap().spec.unwrap();
    assert_ne!(taken.holder_identity, held.holder_identity);
    assert_eq!(taken.lease_transitions, Some(1));
    for name in ["before", "between", "after"] {
        tasks.assert_done_once(name);
    }
    assert_eq!(standby.terminate().await, Some(0));
    site.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_agent_without_a_git_server_says_so_and_stays() {
    let site = Site::open().await;
    let mut nodes = site.nodes();
    let flags = ["--agent-mode", "native", "--roles", "verifier", "--unsafe-no-sandbox"];
    let mut agent = site.agent("native", &flags);
    let line = agent.says(&["--git-remote-url is not set"]).await;
    assert!(line.contains("INFO"), "{line}");
    agent.says(&["node agent is ready"]).await;
    let first = nodes.saw("native", "ready", |node| heartbeat(node).is_some()).await;
    nodes
        .saw("native", "heard of again", |node| heartbeat(node) > heartbeat(&first))
        .await;
    assert_eq!(agent.terminate().await, Some(0));
    site.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_works_without_its_release_namespace() {
    let site = Site::open().await;
    let mut tasks = site.tasks();
    let _operator = site.operator("operator");
    let agent = site.agent_of("not-there", "node", VERIFIER);
    site.smoke("task").await;
    tasks.phase("task", Phase::Succeeded).await;
    tasks.assert_done_once("task");
    assert_eq!(agent.terminate().await, Some(0));
    site.plane.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_its_lease_namespace_says_what_to_create() {
    let site = Site::open().await;
    let mut operator = site.operator_of("not-there", "operator");
    operator.says(&["WARN", "namespace", "not-there"]).await;
    assert_eq!(operator.terminate().await, Some(0));
    site.plane.shutdown().await;
}
