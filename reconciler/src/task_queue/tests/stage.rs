//! An API and a repository that nobody but a test changes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::Request;
use axum::middleware;
use axum::response::IntoResponse;
use git::{FileEdit, Identity, Repository};
use http::{Method, StatusCode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Resource, ResourceExt};
use plane::{Plane, PlaneConfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::clock::SystemClock;
use crate::leader::Leadership;
use crate::task_queue::*;

const PATIENCE: Duration = Duration::from_secs(30);
pub const NAMESPACE: &str = "default";

/// An API, a repository, and a controller that nobody but the test drives.
pub struct Stage {
    pub folder: tempfile::TempDir,
    pub plane: Plane,
    pub ctx: Arc<Context>,
    pub work: Arc<WorkQueue<Key>>,
    pub stop: CancellationToken,
    /// Whether the API refuses to delete anything.
    pub undeletable: Arc<AtomicBool>,
}

impl Stage {
    /// Opens an API and a repository that holds `files`.
    pub async fn open(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let plane = Plane::open(PlaneConfig::new(folder.path().join("plane"), "0.1.0"))
            .await
            .unwrap();
        for crd in schemas::crds::all() {
            let (api, name) = (
                Api::<CustomResourceDefinition>::all(plane.client()),
                crd.metadata.name.clone().unwrap(),
            );
            api.create(&PostParams::default(), &crd).await.unwrap();
            await_condition(api, &name, conditions::is_crd_established())
                .await
                .unwrap();
        }
        let undeletable = Arc::<AtomicBool>::default();
        let (ctx, work, stop) = controller(client(&plane, &undeletable), folder.path());
        let stage = Self {
            folder,
            plane,
            ctx,
            work,
            stop,
            undeletable,
        };
        Repository::init_bare(&stage.repository(), "main").unwrap();
        let edits: Vec<FileEdit> = files.iter().map(|(path, text)| FileEdit::write(*path, *text)).collect();
        stage.commit(&edits);
        stage
    }

    /// Begins anew as another process would.
    pub async fn restart(&mut self) {
        self.stop.cancel();
        (self.ctx, self.work, self.stop) = controller(client(&self.plane, &self.undeletable), self.folder.path());
        for found in self.api::<TaskQueue>().list(&ListParams::default()).await.unwrap() {
            self.ctx.queues.observe(found);
        }
        for found in self.api::<Workload>().list(&ListParams::default()).await.unwrap() {
            self.ctx.workloads.observe(found);
        }
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.path().join("tasks.git")
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.repository().display())
    }

    pub fn nudge(&self) {
        self.ctx.sources.nudge().nudge(&self.url());
    }

    /// Commits on top of the branch, and has it looked at.
    pub fn commit(&self, edits: &[FileEdit]) -> git::Oid {
        let commit = self.write(edits);
        self.push(commit);
        commit
    }

    /// Writes a commit that lies on top of the branch.
    pub fn write(&self, edits: &[FileEdit]) -> git::Oid {
        let repository = Repository::open(&self.repository()).unwrap();
        let parent = repository.resolve("refs/heads/main").unwrap();
        let who = Identity::new("T", "t@example.invalid", 1_700_000_000);
        repository.commit_files(parent, edits, "change", &who).unwrap()
    }

    /// Moves the branch to a commit, and has it looked at.
    pub fn push(&self, commit: git::Oid) {
        let moved = std::process::Command::new("git")
            .arg("-C")
            .arg(self.repository())
            .args(["update-ref", "refs/heads/main", &commit.to_string()])
            .status();
        assert!(moved.unwrap().success());
        self.nudge();
    }

    pub fn tip(&self) -> git::Oid {
        let repository = Repository::open(&self.repository()).unwrap();
        repository.resolve("refs/heads/main").unwrap().unwrap()
    }

    pub fn api<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.plane.client(), NAMESPACE, &ApiResource::erase::<K>(&()))
    }

    /// Makes the queue `q`.
    pub async fn queue(&self, more: Value) {
        let mut spec = json!({ "git": { "url": self.url(), "interval": "1h" } });
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        let object = json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue", "metadata": { "name": "q" }, "spec": spec
        });
        let object = serde_json::from_value(object).unwrap();
        let made = self.api::<TaskQueue>().create(&PostParams::default(), &object).await;
        self.ctx.queues.observe(made.unwrap());
    }

    /// Edits the queue's spec.
    pub async fn edit(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let edited = self
            .api::<TaskQueue>()
            .patch("q", &PatchParams::default(), &patch)
            .await;
        self.ctx.queues.observe(edited.unwrap());
    }

    /// Deletes a Workload by hand.
    pub async fn delete(&self, name: &str) {
        self.api::<Workload>()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        self.ctx.workloads.forget(&Key::new(NAMESPACE, name), None);
    }

    /// Gives the queue one turn.
    pub async fn step(&self) -> Next {
        reconcile(self.ctx.clone(), Key::new(NAMESPACE, "q")).await
    }

    /// Waits until the queue is woken, and gives it its turn.
    pub async fn turn(&self) {
        let key = self.work.next().await;
        let next = reconcile(self.ctx.clone(), key.clone()).await;
        self.work.done(key, &next);
    }

    /// Gives the queue the turns that it is woken for, until `is` holds of its status.
    pub async fn turns_until(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let turns = async {
            while !is(&self.status()) {
                self.turn().await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, turns).await;
        assert!(ended.is_ok(), "{what} never came: {:#}", self.status());
    }

    /// Gives the queue turns until it acted on `commit`.
    pub async fn acts_on(&self, commit: git::Oid) {
        let wanted = format!("main@sha1:{commit}");
        self.turns_until(&wanted, |status| {
            status["observedRevision"] == wanted && says(status, "Ready", "True")
        })
        .await;
    }

    pub fn status(&self) -> Value {
        let queue = self.ctx.queues.get(&Key::new(NAMESPACE, "q")).unwrap();
        json!(queue.readable().unwrap().status)
    }

    /// Returns the paths that the API holds Workloads of, in order.
    pub async fn made(&self) -> Vec<String> {
        let found = self.api::<Workload>().list(&ListParams::default()).await.unwrap();
        let path = |object: DynamicObject| object.annotations().get(schemas::labels::SOURCE_PATH).cloned();
        let mut paths: Vec<String> = found.into_iter().filter_map(path).collect();
        paths.sort();
        paths
    }

    /// Returns the owners of a Workload.
    pub async fn owners(&self, name: &str) -> Vec<Value> {
        let found = self.api::<Workload>().get(name).await.unwrap();
        found
            .metadata
            .owner_references
            .into_iter()
            .flatten()
            .map(|owner| json!(owner))
            .collect()
    }

    /// Returns the name of the Workload of a path.
    pub fn name_of(&self, path: &str) -> String {
        let all = self.ctx.workloads.all();
        let found = all
            .iter()
            .find(|found| found.annotation(schemas::labels::SOURCE_PATH) == Some(path));
        found.unwrap().meta().name.clone().unwrap()
    }

    pub async fn close(self) {
        self.stop.cancel();
        self.plane.shutdown().await;
    }
}

/// Returns a client whose deletions are refused as long as `undeletable` says so.
fn client(plane: &Plane, undeletable: &Arc<AtomicBool>) -> Client {
    let undeletable = undeletable.clone();
    let refuse = move |request: Request, next: middleware::Next| {
        let refused = request.method() == Method::DELETE && undeletable.load(Ordering::Acquire);
        async move {
            if refused {
                let status =
                    json!({ "status": "Failure", "message": "a policy says no", "reason": "Forbidden", "code": 403 });
                return (StatusCode::FORBIDDEN, axum::Json(status)).into_response();
            }
            next.run(request).await
        }
    };
    Client::new(plane.router().layer(middleware::from_fn(refuse)), NAMESPACE)
}

fn controller(client: Client, folder: &Path) -> (Arc<Context>, Arc<WorkQueue<Key>>, CancellationToken) {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let (work, stop, metrics) = (
        Arc::<WorkQueue<Key>>::default(),
        CancellationToken::new(),
        Arc::default(),
    );
    let settings = git::Settings {
        file_roots: vec![folder.to_owned()],
        ..git::Settings::default()
    };
    let ctx = Context {
        writer: Writer::new(client.clone(), Leadership::always(clock.clone())),
        queues: Arc::default(),
        workloads: Arc::default(),
        tasks: Arc::default(),
        inventory: Arc::default(),
        sources: Arc::new(Sources::new(
            settings,
            folder.join("state"),
            client,
            Arc::clone(&metrics),
            work.clone(),
            stop.clone(),
        )),
        states: Mutex::default(),
        forge: None,
        clock,
        metrics,
    };
    observe(&work, &ctx.inventory, &ctx.queues, &ctx.workloads, &ctx.tasks);
    (Arc::new(ctx), work, stop)
}

pub fn says(status: &Value, condition: &str, value: &str) -> bool {
    let found = |condition_of: &Value| condition_of["type"] == condition && condition_of["status"] == value;
    status["conditions"].as_array().is_some_and(|all| all.iter().any(found))
}
