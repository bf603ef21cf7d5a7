//! A real API server, namespaces of the measurement's own, and a bare repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use git::{FileEdit, Identity, Oid, Repository};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config, ResourceExt};
use schemas::TaskQueue;
use serde_json::json;

use crate::operator::{Operator, Setup};

/// Series with labels, and counts.
pub type Counters = BTreeMap<String, f64>;

pub struct Site {
    pub kubeconfig: PathBuf,
    pub client: Client,
    pub folder: tempfile::TempDir,
}

/// Reads the path of what a measurement needs.
pub fn needed(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable);
    path.map(PathBuf::from)
        .unwrap_or_else(|| panic!("{variable} is not set; run this by `cargo xtask bench operator`"))
}

impl Site {
    pub async fn open() -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let kubeconfig = needed("FOREMAN_REAL_KUBECONFIG");
        let client = connect(&kubeconfig).await;
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in schemas::crds::all() {
            let name = crd.name_any();
            let params = PatchParams::apply("foreman-bench").force();
            api.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
            await_condition(api.clone(), &name, conditions::is_crd_established())
                .await
                .unwrap();
        }
        Self {
            kubeconfig,
            client,
            folder: tempfile::Builder::new().prefix("foreman-bench-").tempdir().unwrap(),
        }
    }

    pub async fn namespace(&self) -> String {
        let mut namespace = Namespace::default();
        namespace.metadata.generate_name = Some("bench-".to_owned());
        let api: Api<Namespace> = Api::all(self.client.clone());
        api.create(&PostParams::default(), &namespace).await.unwrap().name_any()
    }

    /// Deletes a namespace and waits until all that it held is gone, so that it does not disturb what comes next.
    pub async fn clear(&self, namespace: &str) {
        let api: Api<Namespace> = Api::all(self.client.clone());
        let uid = api.get(namespace).await.unwrap().uid().unwrap();
        api.delete(namespace, &DeleteParams::default()).await.unwrap();
        await_condition(api, namespace, conditions::is_deleted(&uid))
            .await
            .unwrap();
    }

    pub fn operator(&self, namespace: &str) -> Operator {
        let mut operator = Operator::start(&Setup {
            kubeconfig: &self.kubeconfig,
            namespace,
            folder: self.folder.path(),
            name: &format!("state-{namespace}"),
            more: &[],
        });
        operator.says(&["Starting workers", "TaskQueue"]);
        operator
    }

    /// Makes a TaskQueue on a folder of a repository.
    pub async fn queue(&self, namespace: &str, tasks: &Tasks, suspend: bool) -> TaskQueue {
        let queue = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue", "metadata": { "name": "tasks" },
            "spec": { "git": { "url": tasks.url(), "path": "tasks" }, "suspend": suspend }
        }));
        let api: Api<TaskQueue> = Api::namespaced(self.client.clone(), namespace);
        api.create(&PostParams::default(), &queue.unwrap()).await.unwrap()
    }

    /// Waits until the queue says that it acted on a commit.
    pub async fn acted_on(&self, namespace: &str, commit: Oid) {
        let api: Api<TaskQueue> = Api::namespaced(self.client.clone(), namespace);
        let wanted = format!("main@sha1:{commit}");
        let acted = |queue: Option<&TaskQueue>| {
            let status = queue.and_then(|queue| queue.status.as_ref());
            status.and_then(|status| status.observed_revision.as_deref()) == Some(&wanted)
        };
        await_condition(api, "tasks", acted).await.unwrap();
    }
}

pub async fn connect(kubeconfig: &Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// Does something with each of `all`, so many at once, on all threads.
pub async fn parallel<T, F, Fut>(all: Vec<T>, at_once: usize, work: F)
where
    T: Send + 'static,
    F: Fn(T) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let running = futures::stream::iter(all).map(|one| tokio::spawn(work.clone()(one)));
    running
        .buffer_unordered(at_once)
        .for_each(|done| async { done.unwrap() })
        .await;
}

/// A bare repository with a branch `main`.
pub struct Tasks {
    bare: Repository,
    pub head: Oid,
}

fn who() -> Identity {
    Identity::new("Bench", "bench@localhost", 1_700_000_000)
}

impl Tasks {
    pub fn new(path: &Path, files: &[FileEdit]) -> Self {
        let bare = Repository::init_bare(path, "main").unwrap();
        let head = bare.commit_files(None, files, "begin", &who()).unwrap();
        bare.set_ref("refs/heads/main", Some(head)).unwrap();
        Self { bare, head }
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.bare.path().display())
    }

    /// Writes a commit, of which nobody knows yet.
    pub fn prepare(&mut self, files: &[FileEdit]) {
        let commit = self.bare.commit_files(Some(self.head), files, "change", &who());
        self.head = commit.unwrap();
        // A server keeps a push of so many objects as the pack that came, not as a file for each.
        let bare = self.url();
        let folder = bare.strip_prefix("file://").unwrap();
        let packed = std::process::Command::new("git")
            .args(["-C", folder, "repack", "-adq"])
            .status();
        assert!(packed.unwrap().success(), "git repack in {folder}");
    }

    /// Moves the branch to the commit that was prepared.
    pub fn publish(&self) {
        self.bare.set_ref("refs/heads/main", Some(self.head)).unwrap();
    }
}

/// An AgenticTask as a task file.
pub fn manifest(n: usize, text: &str) -> String {
    format!(
        "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: AgenticTask\nmetadata:\n  name: task-{n:05}\nspec:\n  kind: freeform\n  \
         requiredCapability:\n    roles: [worker]\n  timeoutSeconds: 1800\n  payload:\n    repo: team/service-{}\n    prompt: |\n      \
         {text}\n      Keep the change small, add a test that fails without it, and say in the commit what it is for.\n",
        n % 10
    )
}
