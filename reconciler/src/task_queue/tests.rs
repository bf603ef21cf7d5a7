//! The controller driven by hand: a plane in process, a bare repository, and one turn of the queue at a time.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::Request;
use axum::middleware;
use axum::response::IntoResponse;
use git::{FileEdit, Identity, Repository};
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Resource, ResourceExt};
use plane::{Plane, PlaneConfig};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::SystemClock;
use crate::leader::Leadership;

const PATIENCE: Duration = Duration::from_secs(30);
const NAMESPACE: &str = "default";

/// An API, a repository, and a controller that nobody but the test drives.
struct Stage {
    folder: tempfile::TempDir,
    plane: Plane,
    ctx: Arc<Context>,
    work: Arc<WorkQueue<Key>>,
    stop: CancellationToken,
    /// Whether the API refuses to delete anything.
    undeletable: Arc<AtomicBool>,
}

impl Stage {
    /// Opens an API and a repository that holds `files`.
    async fn open(files: &[(&str, &str)]) -> Self {
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
    async fn restart(&mut self) {
        self.stop.cancel();
        (self.ctx, self.work, self.stop) = controller(client(&self.plane, &self.undeletable), self.folder.path());
        for found in self.api::<TaskQueue>().list(&ListParams::default()).await.unwrap() {
            self.ctx.queues.observe(found);
        }
        for found in self.api::<Workload>().list(&ListParams::default()).await.unwrap() {
            self.ctx.workloads.observe(found);
        }
    }

    fn repository(&self) -> PathBuf {
        self.folder.path().join("tasks.git")
    }

    fn url(&self) -> String {
        format!("file://{}", self.repository().display())
    }

    fn nudge(&self) {
        self.ctx.sources.nudge().nudge(&self.url());
    }

    /// Commits on top of the branch, and has it looked at.
    fn commit(&self, edits: &[FileEdit]) -> git::Oid {
        let commit = self.write(edits);
        self.push(commit);
        commit
    }

    /// Writes a commit that lies on top of the branch.
    fn write(&self, edits: &[FileEdit]) -> git::Oid {
        let repository = Repository::open(&self.repository()).unwrap();
        let parent = repository.resolve("refs/heads/main").unwrap();
        let who = Identity::new("T", "t@example.invalid", 1_700_000_000);
        repository.commit_files(parent, edits, "change", &who).unwrap()
    }

    /// Moves the branch to a commit, and has it looked at.
    fn push(&self, commit: git::Oid) {
        let moved = std::process::Command::new("git")
            .arg("-C")
            .arg(self.repository())
            .args(["update-ref", "refs/heads/main", &commit.to_string()])
            .status();
        assert!(moved.unwrap().success());
        self.nudge();
    }

    fn tip(&self) -> git::Oid {
        let repository = Repository::open(&self.repository()).unwrap();
        repository.resolve("refs/heads/main").unwrap().unwrap()
    }

    fn api<K: Resource<DynamicType = ()>>(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.plane.client(), NAMESPACE, &ApiResource::erase::<K>(&()))
    }

    /// Makes the queue `q`.
    async fn queue(&self, more: Value) {
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
    async fn edit(&self, spec: Value) {
        let patch = Patch::Merge(json!({ "spec": spec }));
        let edited = self
            .api::<TaskQueue>()
            .patch("q", &PatchParams::default(), &patch)
            .await;
        self.ctx.queues.observe(edited.unwrap());
    }

    /// Deletes a Workload by hand.
    async fn delete(&self, name: &str) {
        self.api::<Workload>()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
        self.ctx.workloads.forget(&Key::new(NAMESPACE, name), None);
    }

    /// Gives the queue one turn.
    async fn step(&self) -> Next {
        reconcile(self.ctx.clone(), Key::new(NAMESPACE, "q")).await
    }

    /// Waits until the queue is woken, and gives it its turn.
    async fn turn(&self) {
        let key = self.work.next().await;
        let next = reconcile(self.ctx.clone(), key.clone()).await;
        self.work.done(key, &next);
    }

    /// Gives the queue the turns that it is woken for, until `is` holds of its status.
    async fn turns_until(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let turns = async {
            while !is(&self.status()) {
                self.turn().await;
            }
        };
        let ended = tokio::time::timeout(PATIENCE, turns).await;
        assert!(ended.is_ok(), "{what} never came: {:#}", self.status());
    }

    /// Gives the queue turns until it acted on `commit`.
    async fn acts_on(&self, commit: git::Oid) {
        let wanted = format!("main@sha1:{commit}");
        self.turns_until(&wanted, |status| {
            status["observedRevision"] == wanted && says(status, "Ready", "True")
        })
        .await;
    }

    fn status(&self) -> Value {
        let queue = self.ctx.queues.get(&Key::new(NAMESPACE, "q")).unwrap();
        json!(queue.readable().unwrap().status)
    }

    /// Returns the paths that the API holds Workloads of, in order.
    async fn made(&self) -> Vec<String> {
        let found = self.api::<Workload>().list(&ListParams::default()).await.unwrap();
        let path = |object: DynamicObject| object.annotations().get(schemas::labels::SOURCE_PATH).cloned();
        let mut paths: Vec<String> = found.into_iter().filter_map(path).collect();
        paths.sort();
        paths
    }

    /// Returns the owners of a Workload.
    async fn owners(&self, name: &str) -> Vec<Value> {
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
    fn name_of(&self, path: &str) -> String {
        let all = self.ctx.workloads.all();
        let found = all
            .iter()
            .find(|found| found.annotation(schemas::labels::SOURCE_PATH) == Some(path));
        found.unwrap().meta().name.clone().unwrap()
    }

    async fn close(self) {
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

fn says(status: &Value, condition: &str, value: &str) -> bool {
    let found = |condition_of: &Value| condition_of["type"] == condition && condition_of["status"] == value;
    status["conditions"].as_array().is_some_and(|all| all.iter().any(found))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_made_suspended_makes_nothing_until_it_is_resumed() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n")]).await;
    stage.queue(json!({ "suspend": true })).await;
    stage
        .turns_until("the condition", |status| says(status, "Suspended", "True"))
        .await;
    assert_eq!(stage.made().await, [""; 0]);
    let tip = stage.commit(&[FileEdit::write("tasks/b.md", "do b\n")]);
    let before = stage.plane.latest_version();
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(
        stage.plane.latest_version(),
        before,
        "a queue that rests writes nothing"
    );
    stage.edit(json!({ "suspend": false })).await;
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["tasks/a.md", "tasks/b.md"]);
    assert!(!says(&stage.status(), "Suspended", "True"));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_while_a_queue_rested_is_acted_on_once_it_is_resumed() {
    for restarts in [false, true] {
        let mut stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
        stage.queue(json!({})).await;
        stage.acts_on(stage.tip()).await;
        stage.edit(json!({ "suspend": true })).await;
        stage
            .turns_until("the condition", |status| says(status, "Suspended", "True"))
            .await;
        stage.delete(&stage.name_of("tasks/a.md")).await;
        let tip = stage.commit(&[FileEdit::remove("tasks/b.md"), FileEdit::write("tasks/c.md", "do c\n")]);
        if restarts {
            stage.restart().await;
        }
        assert_eq!(stage.step().await, Next::Wait);
        assert_eq!(
            stage.made().await,
            ["tasks/b.md"],
            "nothing is made anew, and nothing is pruned"
        );
        stage.edit(json!({ "suspend": false })).await;
        stage.acts_on(tip).await;
        assert_eq!(stage.made().await, ["tasks/a.md", "tasks/c.md"]);
        stage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_made_while_the_repository_is_away_is_acted_on_once_it_is_back() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("other/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    let tip = stage.tip();
    stage.acts_on(tip).await;
    let away = stage.folder.path().join("away.git");
    std::fs::rename(stage.repository(), &away).unwrap();
    stage.nudge();
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    stage.edit(json!({ "git": { "path": "other" } })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    assert!(says(&stage.status(), "Ready", "False"));
    std::fs::rename(&away, stage.repository()).unwrap();
    stage.nudge();
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["other/b.md"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_that_is_asked_for_later_ends_what_removed_files_made() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
    stage.queue(json!({ "prune": false })).await;
    stage.acts_on(stage.tip()).await;
    let tip = stage.commit(&[FileEdit::remove("tasks/b.md")]);
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["tasks/a.md", "tasks/b.md"]);
    stage.edit(json!({ "prune": true })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    assert_eq!(stage.made().await, ["tasks/a.md"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_queue_made_ends_with_it_as_long_as_pruning_is_asked_for() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let (a, b) = (stage.name_of("tasks/a.md"), stage.name_of("tasks/b.md"));
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "other" } })).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(stage.plane.client(), NAMESPACE);
    let map = maps.create(&PostParams::default(), &map).await.unwrap();
    let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": map.uid() });
    let more = stage
        .owners(&a)
        .await
        .into_iter()
        .chain([other.clone()])
        .collect::<Vec<_>>();
    let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": more } }));
    let tied = stage.api::<Workload>().patch(&a, &PatchParams::default(), &patch).await;
    stage.ctx.workloads.observe(tied.unwrap());

    // What a broken file made before is no exception.
    let tip = stage.commit(&[FileEdit::write("tasks/b.md", "---\nnonsense: [\n---\n")]);
    stage.acts_on(tip).await;

    stage.edit(json!({ "prune": false })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    assert_eq!(stage.owners(&a).await, [other], "what others say stays");
    assert_eq!(stage.owners(&b).await, [] as [Value; 0]);
    stage.edit(json!({ "prune": true })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 3)
        .await;
    assert_eq!(stage.owners(&a).await.len(), 2);
    assert_eq!(stage.owners(&b).await[0]["kind"], "TaskQueue");

    // An edit of the file and of the queue, seen together.
    stage.edit(json!({ "prune": false, "suspend": true })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 4)
        .await;
    let tip = stage.commit(&[FileEdit::write("tasks/a.md", "do a otherwise\n")]);
    stage.edit(json!({ "suspend": false })).await;
    stage.acts_on(tip).await;
    assert_eq!(stage.owners(&a).await.len(), 1, "the queue is no owner any more");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_while_there_was_no_file_is_pruned_once_there_is_one() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let tip = stage.commit(&[FileEdit::remove("tasks/a.md"), FileEdit::write("README.md", "Tasks.\n")]);
    let reads = |tip: git::Oid| move |status: &Value| status["observedRevision"] == format!("main@sha1:{tip}");
    stage.turns_until("the empty folder", reads(tip)).await;
    let tip = stage.commit(&[FileEdit::write("README.md", "More.\n")]);
    stage.turns_until("the next commit", reads(tip)).await;
    assert_eq!(stage.made().await, ["tasks/a.md"]);
    assert!(says(&stage.status(), "PruneGuarded", "True"), "{:#}", stage.status());
    let tip = stage.commit(&[FileEdit::write("tasks/b.md", "do b\n")]);
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["tasks/b.md"]);
    assert!(!says(&stage.status(), "PruneGuarded", "True"), "{:#}", stage.status());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_passed_leaves_the_status_as_it_was_and_a_restart_writes_nothing() {
    let mut stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "---\nbad: [\n---\nb\n")]).await;
    stage.queue(json!({})).await;
    let tip = stage.tip();
    stage.acts_on(tip).await;
    let reason = |status: &Value| {
        let all = status["conditions"].as_array().unwrap().iter();
        all.filter(|it| it["type"] == "Ready")
            .map(|it| it["reason"].clone())
            .next()
    };
    assert_eq!(reason(&stage.status()), Some(json!("AppliedWithInvalidFiles")));
    let away = stage.folder.path().join("away.git");
    std::fs::rename(stage.repository(), &away).unwrap();
    stage.nudge();
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    std::fs::rename(&away, stage.repository()).unwrap();
    stage.nudge();
    stage.acts_on(tip).await;
    assert_eq!(reason(&stage.status()), Some(json!("AppliedWithInvalidFiles")));
    // An edit that asks for no other objects is taken note of, and a restart after it has nothing to do.
    stage.edit(json!({ "git": { "interval": "2h" } })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    let before = stage.plane.latest_version();
    stage.restart().await;
    while stage.ctx.metrics.sum(crate::metrics::TICKS, &[]) == 0 {
        stage.turn().await;
    }
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(
        (
            stage.plane.latest_version(),
            stage.ctx.metrics.sum(crate::metrics::FILES_PARSED, &[])
        ),
        (before, 0)
    );
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_was_somebody_elses_is_taken_once_it_is_free() {
    let manifest = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: mine\nspec:\n  intent: from the file\n";
    let mut stage = Stage::open(&[("tasks/w.yaml", manifest)]).await;
    let foreign = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "mine" },
        "spec": { "intent": "by hand" }
    }));
    let made = stage
        .api::<Workload>()
        .create(&PostParams::default(), &foreign.unwrap())
        .await;
    stage.ctx.workloads.observe(made.unwrap());
    stage.queue(json!({})).await;
    let taken = |status: &Value| says(status, "NameTaken", "True");
    stage.turns_until("the condition", taken).await;
    let tip = format!("main@sha1:{}", stage.commit(&[FileEdit::write("tasks/b.md", "do b\n")]));
    stage
        .turns_until("the next commit", |status| status["observedRevision"] == tip)
        .await;
    for restarts in [false, true] {
        if restarts {
            stage.restart().await;
            stage
                .turns_until("the files", |_| {
                    stage.ctx.metrics.sum(crate::metrics::FILES_PARSED, &[]) > 0
                })
                .await;
        }
        assert!(taken(&stage.status()), "another change does not free the name");
        // What the one Workload that was made is counted as is written once.
        stage.step().await;
        let before = stage.plane.latest_version();
        assert_eq!(stage.step().await, Next::After(AGAIN));
        assert_eq!(stage.plane.latest_version(), before, "waiting writes nothing");
    }
    assert_eq!(stage.made().await, ["tasks/b.md"]);
    stage.delete("mine").await;
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(stage.made().await, ["tasks/b.md", "tasks/w.yaml"]);
    assert!(!taken(&stage.status()) && says(&stage.status(), "Ready", "True"));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_by_hand_is_made_again_after_a_commit_that_could_not_be_fetched() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let commit = stage.write(&[FileEdit::write("tasks/b.md", "do b\n")]);
    let tree = Repository::open(&stage.repository())
        .unwrap()
        .tree_of(commit)
        .unwrap()
        .to_string();
    // The branch can be listed, and what it leads to cannot be read.
    let object = stage.repository().join("objects").join(&tree[..2]).join(&tree[2..]);
    let away = stage.folder.path().join("tree");
    std::fs::rename(&object, &away).unwrap();
    stage.push(commit);
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    stage.delete(&stage.name_of("tasks/a.md")).await;
    assert_eq!(stage.step().await, Next::After(AGAIN));
    std::fs::rename(&away, &object).unwrap();
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(stage.made().await, ["tasks/a.md", "tasks/b.md"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_edited_folder_leaves_behind_is_pruned_also_where_that_was_refused_at_first() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("other/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    stage.undeletable.store(true, Ordering::Release);
    stage.edit(json!({ "git": { "path": "other" } })).await;
    stage
        .turns_until("the refusal", |status| says(status, "Ready", "False"))
        .await;
    assert_eq!(stage.made().await, ["other/b.md", "tasks/a.md"]);
    stage.undeletable.store(false, Ordering::Release);
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(stage.made().await, ["other/b.md"]);
    assert!(says(&stage.status(), "Ready", "True"));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_was_read_again_is_said_to_be_read_also_where_writes_are_refused() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let away = stage.folder.path().join("away.git");
    std::fs::rename(stage.repository(), &away).unwrap();
    stage.nudge();
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    std::fs::rename(&away, stage.repository()).unwrap();
    stage.undeletable.store(true, Ordering::Release);
    stage.commit(&[FileEdit::remove("tasks/b.md")]);
    let refused = |status: &Value| {
        let all = status["conditions"].as_array().into_iter().flatten();
        let mut ready = all.filter(|it| it["type"] == "Ready");
        ready.any(|it| it["status"] == "False" && it["reason"] == "Refused")
    };
    stage.turns_until("the refusal", refused).await;
    assert!(says(&stage.status(), "Fetched", "True"), "{:#}", stage.status());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_waits_for_what_a_file_makes_that_came_later_or_changed_its_name() {
    let waits = "---\ntitle: second\ndepends: [first.yaml]\n---\nDo it.\n";
    let manifest = |name: &str| {
        format!(
            "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\nspec:\n  intent: x\n  repo: o/r\n"
        )
    };
    let stage = Stage::open(&[("tasks/second.md", waits)]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let second = stage.name_of("tasks/second.md");
    for name in ["one", "two"] {
        let commit = stage.commit(&[FileEdit::write("tasks/first.yaml", manifest(name))]);
        stage.acts_on(commit).await;
        let found = stage.api::<Workload>().get(&second).await.unwrap();
        assert_eq!(
            (&found.data["spec"]["dependsOn"], &found.data["spec"]["run"]),
            (&json!([name]), &json!(1))
        );
    }
    stage.close().await;
}
