//! A plane, an operator, repositories and an agent that does what a closure says.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use reconciler::metrics::Metrics;
use reconciler::operator::{Config, Operator};
use reconciler::task_queue::source::Nudge;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::served::Served;

const PATIENCE: Duration = Duration::from_secs(60);

struct Running {
    metrics: Arc<Metrics>,
    nudge: Nudge,
    stop: CancellationToken,
    done: JoinHandle<()>,
}

/// An API with an operator on it, and a folder that goes away.
pub struct World {
    dir: tempfile::TempDir,
    api: Served,
    running: Option<Running>,
}

/// A bare repository.
pub struct Repo {
    path: PathBuf,
}

fn git(at: &Path, args: &[&str]) -> Option<String> {
    let out = Command::new("git")
        .arg("-C")
        .arg(at)
        .args(args)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .env("GIT_AUTHOR_NAME", "T")
        .env("GIT_AUTHOR_EMAIL", "t@example.invalid")
        .env("GIT_COMMITTER_NAME", "T")
        .env("GIT_COMMITTER_EMAIL", "t@example.invalid")
        .output()
        .unwrap();
    out.status
        .success()
        .then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}

impl Repo {
    pub fn url(&self) -> String {
        format!("file://{}", self.path.display())
    }

    pub fn tip(&self) -> String {
        git(&self.path, &["rev-parse", "refs/heads/main"]).unwrap()
    }

    pub fn note(&self, commit: &str) -> Option<String> {
        git(&self.path, &["notes", "--ref", "refs/notes/foreman", "show", commit])
    }

    /// Commits on top of the branch; `None` removes a file.
    pub fn commit(&self, files: &[(&str, Option<&str>)]) -> String {
        let repository = git::Repository::open(&self.path).unwrap();
        let parent = repository.resolve("refs/heads/main").unwrap();
        let edits: Vec<git::FileEdit> = files
            .iter()
            .map(|(path, text)| match text {
                Some(text) => git::FileEdit::write(*path, *text),
                None => git::FileEdit::remove(*path),
            })
            .collect();
        self.move_to(&repository, parent, &edits)
    }

    /// Commits edits of any sort on top of the branch.
    pub fn edit(&self, edits: &[git::FileEdit]) -> String {
        let repository = git::Repository::open(&self.path).unwrap();
        let parent = repository.resolve("refs/heads/main").unwrap();
        self.move_to(&repository, parent, edits)
    }

    /// Replaces the branch by a commit without history.
    pub fn force(&self, files: &[(&str, &str)]) -> String {
        let repository = git::Repository::open(&self.path).unwrap();
        let edits: Vec<git::FileEdit> = files
            .iter()
            .map(|(path, text)| git::FileEdit::write(*path, *text))
            .collect();
        self.move_to(&repository, None, &edits)
    }

    fn move_to(&self, repository: &git::Repository, parent: Option<git::Oid>, edits: &[git::FileEdit]) -> String {
        let who = git::Identity::new("T", "t@example.invalid", 1_700_000_000);
        let commit = repository.commit_files(parent, edits, "change", &who).unwrap();
        // Through git itself, as a person's push would.
        git(&self.path, &["update-ref", "refs/heads/main", &commit.to_string()]).unwrap();
        commit.to_string()
    }
}

impl World {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let api = Served::open(&dir.path().join("plane")).await;
        let mut world = Self {
            dir,
            api,
            running: None,
        };
        world.run().await;
        world
    }

    async fn run(&mut self) {
        let mut config = Config::new(self.api.client.clone(), self.dir.path().join("operator"));
        config.namespaces = self.api.kept_to();
        config.git.file_roots = vec![self.dir.path().to_owned()];
        let operator = Operator::prepare(config).await.unwrap();
        let stop = CancellationToken::new();
        let (metrics, nudge) = (operator.metrics(), operator.nudge());
        let token = stop.clone();
        let done = tokio::spawn(async move { operator.run(token).await.unwrap() });
        self.running = Some(Running {
            metrics,
            nudge,
            stop,
            done,
        });
    }

    pub async fn restart(&mut self) {
        self.halt().await;
        self.run().await;
    }

    async fn halt(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            tokio::time::timeout(PATIENCE, running.done).await.unwrap().unwrap();
        }
    }

    pub async fn stop(mut self) {
        self.halt().await;
        self.api.close().await;
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        self.running.as_ref().unwrap().metrics.clone()
    }

    pub fn nudge(&self, url: &str) {
        self.running.as_ref().unwrap().nudge.nudge(url);
    }

    pub fn folder(&self) -> &Path {
        self.dir.path()
    }

    pub fn repo(&self, name: &str, files: &[(&str, &str)]) -> Repo {
        let path = self.dir.path().join(format!("{name}.git"));
        git::Repository::init_bare(&path, "main").unwrap();
        let repo = Repo { path };
        if !files.is_empty() {
            repo.force(files);
        }
        repo
    }

    pub fn api(&self, plural: &str) -> Api<DynamicObject> {
        api(self.api.client.clone(), plural)
    }

    pub async fn list(&self, plural: &str) -> Vec<Value> {
        let items = self.api(plural).list(&ListParams::default()).await.unwrap().items;
        items
            .into_iter()
            .map(|item| serde_json::to_value(item).unwrap())
            .collect()
    }

    pub async fn create(&self, plural: &str, mut object: Value) {
        object["apiVersion"] = json!("foreman.llmkube.dev/v1alpha1");
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        self.api(plural).create(&PostParams::default(), &object).await.unwrap();
    }

    pub async fn delete(&self, plural: &str, name: &str) {
        self.api(plural).delete(name, &DeleteParams::default()).await.unwrap();
    }

    pub async fn patch(&self, plural: &str, name: &str, patch: Value) {
        self.api(plural)
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    pub async fn patch_status(&self, plural: &str, name: &str, status: Value) {
        let patch = Patch::Merge(json!({ "status": status }));
        self.api(plural)
            .patch_status(name, &PatchParams::default(), &patch)
            .await
            .unwrap();
    }

    /// Sets the holder of a node's Lease.
    pub async fn lease(&self, node: &str, holder: &str) {
        let name = format!("foreman-node-{node}");
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": { "name": name },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 3600, "renewTime": "2026-01-01T00:00:00.000000Z" }
        });
        let parameters = PatchParams::apply("agent").force();
        self.api("leases")
            .patch(&name, &parameters, &Patch::Apply(lease))
            .await
            .unwrap();
    }

    /// Waits for an object of a kind that `is` accepts.
    pub async fn wait(&self, plural: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begun = tokio::time::Instant::now();
        loop {
            let found = self.list(plural).await;
            if let Some(found) = found.iter().find(|object| is(object)) {
                return found.clone();
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "no {what} among {plural}: {}",
                serde_json::to_string_pretty(&found).unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn wait_count(&self, plural: &str, count: usize) {
        let begun = tokio::time::Instant::now();
        loop {
            let found = self.list(plural).await;
            if found.len() == count {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{} {plural} in place of {count}; queues: {:#?}",
                found.len(),
                self.list("taskqueues").await
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn eventually<T>(&self, what: &str, mut found: impl FnMut() -> Option<T>) -> T {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(found) = found() {
                return found;
            }
            assert!(begun.elapsed() < PATIENCE, "{what} never came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until nothing was written for a while.
    pub async fn settled(&self) {
        let metrics = self.metrics();
        let begun = tokio::time::Instant::now();
        let mut writes = metrics.api_writes();
        let mut still = 0;
        while still < 25 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = metrics.api_writes();
            still = if now == writes { still + 1 } else { 0 };
            writes = now;
            assert!(begun.elapsed() < PATIENCE * 2, "writes never end: {}", metrics.render());
        }
    }

    /// Runs an agent that claims what is assigned to `node` and ends it with what `work` says.
    pub fn agent(&self, node: &str, work: impl Fn(&Value) -> Value + Send + 'static) -> JoinHandle<()> {
        let (api, node) = (self.api("agentictasks"), node.to_owned());
        tokio::spawn(async move {
            loop {
                for task in api.list(&ListParams::default()).await.unwrap().items {
                    let task = serde_json::to_value(task).unwrap();
                    if task["status"]["phase"] != "Scheduled" || task["status"]["assignedNode"] != node.as_str() {
                        continue;
                    }
                    let name = task["metadata"]["name"].as_str().unwrap();
                    let epoch = task["status"]["epoch"].as_i64().unwrap_or(0) + 1;
                    let claim = json!({ "node": node, "agent": format!("{node}-process"), "epoch": epoch, "secretSHA256": "0".repeat(64) });
                    let mut done = work(&task);
                    done["phase"] = json!("Succeeded");
                    done["finishedAt"] = json!(jiff::Timestamp::now().to_string());
                    for status in [
                        json!({ "epoch": epoch, "claim": claim }),
                        json!({ "phase": "Running" }),
                        done,
                    ] {
                        let patch = Patch::Merge(json!({ "status": status }));
                        api.patch_status(name, &PatchParams::default(), &patch).await.unwrap();
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
    }
}

fn api(client: Client, plural: &str) -> Api<DynamicObject> {
    let (group, kind) = match plural {
        "workloads" => ("foreman.llmkube.dev", "Workload"),
        "agentictasks" => ("foreman.llmkube.dev", "AgenticTask"),
        "taskqueues" => ("foreman.llmkube.dev", "TaskQueue"),
        "agents" => ("foreman.llmkube.dev", "Agent"),
        "fleetnodes" => ("foreman.llmkube.dev", "FleetNode"),
        "forges" => ("foreman.llmkube.dev", "Forge"),
        "modelprofiles" => ("foreman.llmkube.dev", "ModelProfile"),
        "leases" => ("coordination.k8s.io", "Lease"),
        "events" => ("", "Event"),
        other => panic!("{other}"),
    };
    let version = match group {
        "foreman.llmkube.dev" => "v1alpha1",
        _ => "v1",
    };
    let mut resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    resource.plural = plural.to_owned();
    if matches!(plural, "fleetnodes" | "modelprofiles") {
        Api::all_with(client, &resource)
    } else {
        Api::default_namespaced_with(client, &resource)
    }
}

/// Makes a TaskQueue on a repository; `more` is merged into its spec.
pub async fn queue(world: &World, name: &str, url: &str, more: Value) {
    let mut spec = json!({ "git": { "url": url, "interval": "1h" } });
    for (field, value) in more.as_object().unwrap() {
        for (inner, value) in value.as_object().unwrap() {
            spec[field][inner] = value.clone();
        }
    }
    world
        .create(
            "taskqueues",
            json!({ "kind": "TaskQueue", "metadata": { "name": name }, "spec": spec }),
        )
        .await;
}

/// Makes the Agents `coder` and `verifier`.
pub async fn agents(world: &World) {
    let coder = json!({ "role": "coder", "tools": ["bash"], "providerConfig": { "baseURL": "http://127.0.0.1:9/v1" } });
    let verifier = json!({ "role": "verifier", "tools": ["run_gate_job"] });
    for (name, spec) in [("coder", coder), ("verifier", verifier)] {
        world
            .create(
                "agents",
                json!({ "kind": "Agent", "metadata": { "name": name }, "spec": spec }),
            )
            .await;
    }
}

/// Lets the agent of the node `n1` claim the task `t` and run it.
pub async fn run_on_n1(world: &World) {
    let claim = json!({ "node": "n1", "agent": "n1-process", "epoch": 1, "secretSHA256": "0".repeat(64) });
    world
        .patch_status(
            "agentictasks",
            "t",
            json!({ "phase": "Running", "epoch": 1, "claim": claim }),
        )
        .await;
}

/// Registers a node that holds its Lease.
pub async fn node(world: &World, name: &str, slots: i64) {
    world
        .create(
            "fleetnodes",
            json!({ "kind": "FleetNode", "metadata": { "name": name }, "spec": { "nodeName": name } }),
        )
        .await;
    world.lease(name, &format!("{name}-process")).await;
    let status =
        json!({ "phase": "Ready", "lastHeartbeatTime": "2026-01-01T00:00:00Z", "capability": { "slots": slots } });
    world.patch_status("fleetnodes", name, status).await;
}
