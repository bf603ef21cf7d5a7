//! An API served over TLS, and the processes that a cluster runs on it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;

use kube::Client;
use kube::api::{Api, PostParams};
use schemas::agentic_task::Phase;
use schemas::fleet_node::NodePhase;
use schemas::{AgenticTask, FleetNode};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::follower::Follower;
use crate::foreman::{LIMIT, program};
use crate::served::Served;

/// The controllers that the runbook looks for in the operator's log.
const CONTROLLERS: [&str; 4] = ["Agent", "AgenticTask", "FleetNode", "Workload"];

/// An API with Foreman's kinds, and a folder for those who use it.
pub struct Site {
    folder: tempfile::TempDir,
    served: Served,
    pub namespace: String,
    pub kubeconfig: PathBuf,
    pub client: Client,
}

impl Site {
    pub async fn open() -> Self {
        let folder = tempfile::Builder::new().prefix("foreman-processes-").tempdir().unwrap();
        let served = Served::open(&folder.path().join("plane")).await;
        Self {
            folder,
            namespace: served.namespace.clone(),
            kubeconfig: served.kubeconfig().await,
            client: served.client.clone(),
            served,
        }
    }

    /// Ends the API.
    pub async fn close(self) {
        self.served.close().await;
    }

    /// Starts an operator whose Leases lie in the test's namespace.
    pub fn operator(&self, name: &str) -> Process {
        self.operator_of(&self.namespace, name)
    }

    /// Starts an operator whose Leases lie in a release namespace.
    pub fn operator_of(&self, namespace: &str, name: &str) -> Process {
        let state = self.folder.path().join(name);
        let kept_to = self.served.kept_to().join(",");
        Process::start(
            "foreman-operator",
            name,
            &[
                OsStr::new("--kubeconfig"),
                self.kubeconfig.as_os_str(),
                OsStr::new("--namespace"),
                OsStr::new(&kept_to),
                OsStr::new("--lease-namespace"),
                OsStr::new(namespace),
                OsStr::new("--evidence-listen=127.0.0.1:0"),
                OsStr::new("--state-dir"),
                state.as_os_str(),
            ],
        )
    }

    /// Starts an agent with quick heartbeats, whose Lease lies in the test's namespace.
    pub fn agent(&self, node: &str, more: &[&str]) -> Process {
        self.agent_of(&self.namespace, node, more)
    }

    /// Starts an agent whose Lease lies in a release namespace.
    pub fn agent_of(&self, namespace: &str, node: &str, more: &[&str]) -> Process {
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
            OsStr::new("--task-namespace"),
            OsStr::new(&self.namespace),
            OsStr::new("--heartbeat-interval=200ms"),
        ];
        arguments.extend(more.iter().map(OsStr::new));
        Process::start("foreman-agent", node, &arguments)
    }

    /// Applies the runbook's smoke task under a name.
    pub async fn smoke(&self, name: &str) {
        let task: AgenticTask = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1",
            "kind": "AgenticTask",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": {
                "kind": "freeform",
                "requiredCapability": { "roles": ["verifier"] },
                "payload": { "prompt": "Say that you are there." },
                "timeoutSeconds": 60,
            },
        }))
        .unwrap();
        let api: Api<AgenticTask> = Api::namespaced(self.client.clone(), &self.namespace);
        api.create(&PostParams::default(), &task).await.unwrap();
    }

    pub fn tasks(&self) -> Follower<AgenticTask> {
        Follower::of(Api::namespaced(self.client.clone(), &self.namespace))
    }

    pub fn nodes(&self) -> Follower<FleetNode> {
        Follower::of(Api::all(self.client.clone()))
    }
}

/// A process whose lines are read; killed when dropped.
pub struct Process {
    name: String,
    child: Child,
    lines: UnboundedReceiver<String>,
    said: String,
}

impl Process {
    pub fn start(binary: &str, name: &str, arguments: &[&OsStr]) -> Self {
        Self::start_in(binary, name, arguments, &[])
    }

    /// Starts a program with more variables in its environment.
    pub fn start_in(binary: &str, name: &str, arguments: &[&OsStr], environment: &[(&str, &OsStr)]) -> Self {
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
        command.env("NO_COLOR", "1").envs(environment.iter().copied());
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
    pub async fn says(&mut self, parts: &[&str]) -> String {
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
    pub async fn works(&mut self) {
        let mut missing = CONTROLLERS.map(|name| format!("controller=\"{name}\"")).to_vec();
        while !missing.is_empty() {
            let line = self.says(&["Starting workers"]).await;
            missing.retain(|controller| !line.contains(controller.as_str()));
        }
    }

    /// Returns whether it goes on.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Returns all that it said until now.
    pub fn log(&mut self) -> &str {
        while let Ok(line) = self.lines.try_recv() {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        &self.said
    }

    /// Asks it to end, as a kubelet does, and returns the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
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
    pub async fn kill(&mut self) {
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

impl Follower<AgenticTask> {
    pub async fn phase(&mut self, name: &str, phase: Phase) -> AgenticTask {
        self.saw_of(name, &format!("{phase:?}"), |task| phase_of(task) == Some(phase))
            .await
    }

    /// Returns the phases that a task went through.
    pub fn phases(&self, name: &str) -> Vec<Phase> {
        let mut phases: Vec<Phase> = self.states_of(name).iter().filter_map(phase_of).collect();
        phases.dedup();
        phases
    }

    /// Returns which agents held a task, by epoch.
    pub fn claims(&self, name: &str) -> BTreeMap<i64, Vec<String>> {
        let mut claims: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for task in self.states_of(name) {
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
    pub fn assert_done_once(&self, name: &str) {
        use Phase::{Pending, Running, Scheduled, Succeeded};
        assert_eq!(self.phases(name), [Pending, Scheduled, Running, Succeeded], "{name}");
        let claims = self.claims(name);
        assert_eq!(claims.keys().collect::<Vec<_>>(), [&1], "{name}: {claims:?}");
        assert_eq!(claims[&1].len(), 1, "{name}: {claims:?}");
    }
}

pub fn phase_of(task: &AgenticTask) -> Option<Phase> {
    task.status.as_ref().and_then(|status| status.phase)
}

pub fn node_phase(node: &FleetNode) -> Option<NodePhase> {
    node.status.as_ref().and_then(|status| status.phase)
}

/// Returns when a ready node was last heard of.
pub fn heartbeat(node: &FleetNode) -> Option<String> {
    let status = node.status.as_ref()?;
    let ready = status.phase == Some(NodePhase::Ready);
    ready.then(|| json!(status.last_heartbeat_time).to_string())
}

/// Flags of an agent that does any task as a verifier, at once.
pub const VERIFIER: &[&str] = &["--roles", "worker,verifier", "--stub-sleep", "100ms"];
