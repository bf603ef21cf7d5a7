//! A namespace of a test's own, with a tasks repository, and nodes that the test plays.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use git::{FileEdit, Identity, Repository};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use schemas::agentic_task::Phase;
use schemas::{AgenticTask, FleetNode, TaskQueue};
use serde_json::{Value, json};

use crate::follower::Follower;
use crate::operator::{Operator, Setup};

pub struct Site {
    pub client: Client,
    pub namespace: String,
    pub folder: tempfile::TempDir,
    bare: Repository,
}

/// Reads the path of what a test on a real control plane needs.
pub fn needed(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.map(PathBuf::from)
        .unwrap_or_else(|| panic!("{variable} is not set; run this by `cargo xtask test --real`"))
}

/// Reads the administrator's kubeconfig, with something changed, into a file of its own.
pub fn kubeconfig(folder: &Path, name: &str, change: impl FnOnce(&mut Value)) -> PathBuf {
    let text = std::fs::read_to_string(needed("FOREMAN_REAL_KUBECONFIG")).unwrap();
    let mut config = schemas::yaml::parse_value(&text).unwrap();
    change(&mut config);
    let path = folder.join(name);
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

fn who() -> Identity {
    Identity::new("T", "t@example.invalid", 1_700_000_000)
}

impl Site {
    pub async fn open() -> Self {
        let client = super::client().await;
        super::install_crds(&client).await;
        let namespace = super::namespace(&client).await;
        let folder = tempfile::Builder::new().prefix("foreman-real-").tempdir().unwrap();
        let bare = Repository::init_bare(&folder.path().join("tasks.git"), "main").unwrap();
        let site = Self {
            client,
            namespace,
            folder,
            bare,
        };
        site.commit(&[("README.md".into(), "Tasks.\n".into())]);
        site
    }

    pub fn operator(&self, name: &str) -> Operator {
        self.operator_by(name, &needed("FOREMAN_REAL_KUBECONFIG"))
    }

    /// Starts an operator that reaches the API as a kubeconfig says.
    pub fn operator_by(&self, name: &str, kubeconfig: &Path) -> Operator {
        Operator::start(&Setup {
            kubeconfig,
            namespace: &self.namespace,
            folder: self.folder.path(),
            name,
            more: &[],
        })
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Commits files on top of the branch.
    pub fn commit(&self, files: &[(String, String)]) {
        let parent = self.bare.resolve("refs/heads/main").unwrap();
        let edits: Vec<FileEdit> = files
            .iter()
            .map(|(path, text)| FileEdit::write(path.as_str(), text.as_str()))
            .collect();
        let commit = self.bare.commit_files(parent, &edits, "change", &who()).unwrap();
        self.bare.set_ref("refs/heads/main", Some(commit)).unwrap();
    }

    /// Commits so many task files.
    pub fn ask(&self, tasks: usize) {
        let file = |n: usize| {
            (
                format!("tasks/t{n:03}.yaml"),
                self.task(&format!("t{n:03}")).to_string(),
            )
        };
        self.commit(&(0..tasks).map(file).collect::<Vec<_>>());
    }

    /// Builds a task that only nodes of this test may take.
    pub fn task(&self, name: &str) -> Value {
        json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask", "metadata": { "name": name },
            "spec": {
                "kind": "freeform", "requiredCapability": { "roles": [self.namespace] }, "payload": { "prompt": "do it" },
            },
        })
    }

    pub async fn create_task(&self, name: &str) {
        let task: AgenticTask = serde_json::from_value(self.task(name)).unwrap();
        let api: Api<AgenticTask> = self.api();
        api.create(&PostParams::default(), &task).await.unwrap();
    }

    /// Makes a TaskQueue on the repository.
    pub async fn queue(&self) {
        let url = format!("file://{}", self.bare.path().display());
        let queue: TaskQueue = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue", "metadata": { "name": "tasks" },
            "spec": { "git": { "url": url, "path": "tasks" } },
        }))
        .unwrap();
        let api: Api<TaskQueue> = self.api();
        api.create(&PostParams::default(), &queue).await.unwrap();
    }

    /// Returns a node's name; nodes belong to the whole cluster.
    pub fn node_name(&self, node: &str) -> String {
        format!("{}-{node}", self.namespace)
    }

    /// Makes a FleetNode of an agent that only writes heartbeats, and no Lease.
    pub async fn node(&self, node: &str, slots: i64) {
        let name = self.node_name(node);
        let object: FleetNode = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "metadata": { "name": name },
            "spec": { "nodeName": name, "roles": [self.namespace] },
        }))
        .unwrap();
        let api: Api<FleetNode> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &object).await.unwrap();
        let now = k8s_openapi::jiff::Timestamp::now();
        self.beat(
            node,
            json!({ "lastHeartbeatTime": now.to_string(), "capability": { "slots": slots, "totalRAMGB": 8 } }),
        )
        .await;
    }

    /// Writes a node's status as its agent does.
    pub async fn beat(&self, node: &str, mut status: Value) {
        status["phase"] = json!("Ready");
        let api: Api<FleetNode> = Api::all(self.client.clone());
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(&self.node_name(node), &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    pub async fn delete_nodes(&self, nodes: &[&str]) {
        let api: Api<FleetNode> = Api::all(self.client.clone());
        for node in nodes {
            api.delete(&self.node_name(node), &DeleteParams::default())
                .await
                .unwrap();
        }
    }

    /// Writes a task's status as its agent does.
    pub async fn write(&self, task: &str, status: Value) {
        let api: Api<AgenticTask> = self.api();
        let patch = Patch::Merge(json!({ "status": status }));
        api.patch_status(task, &PatchParams::default(), &patch).await.unwrap();
    }

    pub fn tasks(&self) -> Follower<AgenticTask> {
        Follower::of(self.api())
    }

    pub fn queues(&self) -> Follower<TaskQueue> {
        Follower::of(self.api())
    }
}

impl Follower<AgenticTask> {
    /// Waits until so many tasks were given a node.
    pub async fn assigned(&mut self, tasks: usize) {
        let what = format!("{tasks} assignments");
        let done = |seen: &[AgenticTask]| {
            let names: BTreeSet<String> = seen
                .iter()
                .filter(|task| is_in(task, Phase::Scheduled))
                .map(ResourceExt::name_any)
                .collect();
            (names.len() >= tasks).then_some(())
        };
        self.until(&what, done).await;
    }

    /// Fails unless every task was made once and given a node once.
    pub fn assert_each_done_once(&self, tasks: usize) {
        let mut states: BTreeMap<String, Vec<AgenticTask>> = BTreeMap::new();
        for state in self.states() {
            states.entry(state.name_any()).or_default().push(state);
        }
        assert_eq!(states.len(), tasks);
        for (name, states) in states {
            let uids: BTreeSet<Option<String>> = states.iter().map(ResourceExt::uid).collect();
            assert_eq!(uids.len(), 1, "{name} was made twice");
            let generation = states.last().unwrap().metadata.generation;
            assert_eq!(generation, Some(1), "the spec of {name} was written once");
            // Nobody claims here: that a task is taken back when the time for it is over is right, on a slow machine.
            let overdue = |task: &AgenticTask| {
                condition(task, "Scheduled").is_some_and(|said| said.contains("did not claim it within"))
            };
            let mut phases: Vec<Option<Phase>> = states
                .iter()
                .take_while(|task| !overdue(task))
                .map(|task| task.status.as_ref().and_then(|s| s.phase))
                .collect();
            phases.dedup();
            phases.retain(Option::is_some);
            // One that had to wait, and may begin before its admission is written, is admitted by its assignment.
            let once: &[_] = &[Some(Phase::Pending), Some(Phase::Scheduled)];
            assert!(phases == once || phases == once[1..], "{name}: {phases:?}");
        }
    }
}

pub fn is_in(task: &AgenticTask, phase: Phase) -> bool {
    task.status.as_ref().and_then(|status| status.phase) == Some(phase)
}

/// Finds a condition in any status, as `status reason: message`.
pub fn condition<K: serde::Serialize>(object: &K, kind: &str) -> Option<String> {
    let object = serde_json::to_value(object).unwrap();
    let list = object["status"]["conditions"].as_array()?.clone();
    let found = list.into_iter().find(|condition| condition["type"] == kind)?;
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    Some(format!("{} {}: {}", text("status"), text("reason"), text("message")))
}
