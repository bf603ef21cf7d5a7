//! Argo CD with a release of Foreman's own, and what is done in place of a kubelet.

use std::path::Path;

use serde_json::{Value, json};

use crate::git_server::GitServer;
use crate::real::alone::{Alone, Operator};
use crate::stage;

/// The namespace of Applications.
pub const ARGOCD: &str = "argocd";
/// What of the repository is served.
const SERVED: [&str; 2] = ["charts/foreman", "argocd"];
/// What our kinds are served as.
pub const GROUP: &str = "foreman.llmkube.dev/v1alpha1";

/// Argo CD, a Git server with the chart, and a release of its own.
pub struct Site {
    pub alone: Alone,
    _runtime: tokio::runtime::Runtime,
    git: GitServer,
    pub app: String,
}

impl Site {
    pub fn open() -> Self {
        let alone = Alone::open("foreman");
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let served = alone.folder.path().join("git");
        let clone = alone.folder.path().join("foreman");
        for folder in SERVED {
            copy(&root.join(folder), &clone.join(folder));
        }
        let git = runtime.block_on(GitServer::start(served.clone(), None));
        let site = Self {
            app: alone.release.clone(),
            alone,
            _runtime: runtime,
            git,
        };
        for name in ["foreman", "tasks"] {
            std::fs::create_dir_all(served.join(format!("{name}.git"))).unwrap();
            stage::git(&served.join(format!("{name}.git")), &["init", "-q", "--bare", "."]);
        }
        stage::git(&clone, &["init", "-q"]);
        stage::git(
            &clone,
            &[
                "remote",
                "add",
                "origin",
                &served.join("foreman.git").display().to_string(),
            ],
        );
        site.commit("foreman", &[]);
        site.commit("tasks", &[("README.md", "No tasks yet.\n")]);
        site
    }

    /// Changes files of a repository, on the server too.
    pub fn commit(&self, name: &str, files: &[(&str, &str)]) {
        let bare = self.alone.folder.path().join("git").join(format!("{name}.git"));
        stage::commit(&self.alone.folder.path().join(name), &bare, files);
    }

    pub fn url(&self, name: &str) -> String {
        format!("{}/{name}.git", self.git.url)
    }

    /// Applies an Application of the repository, with what is its own here.
    pub fn application(&self, file: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../argocd").join(file);
        let mut application = schemas::yaml::parse_value(&std::fs::read_to_string(path).unwrap()).unwrap();
        application["metadata"]["name"] = json!(name);
        application["spec"]["source"]["repoURL"] = json!(self.url("foreman"));
        application["spec"]["destination"]["namespace"] = json!(self.alone.namespace);
        edit(&mut application);
        self.alone.apply(&application);
    }

    /// Applies the Application that installs everything.
    pub fn install(&self, edit: impl FnOnce(&mut Value)) {
        self.application("application.yaml", &self.app, |application| {
            application["spec"]["source"]["helm"]["releaseName"] = json!(self.alone.release);
            let values = &mut application["spec"]["source"]["helm"]["valuesObject"];
            let git = json!({ "url": self.url("tasks"), "interval": "1s" });
            values["taskQueues"] = json!([{ "name": "tasks", "spec": { "git": git } }]);
            edit(values);
        });
    }

    pub fn seen(&self, app: &str) -> Value {
        self.alone
            .find_in(ARGOCD, "application", app)
            .map_or(Value::Null, |it| it["status"].clone())
    }

    /// Makes Argo CD look now and forget what it has cached, and waits until it has looked.
    pub fn look(&self, app: &str) -> Value {
        let refresh = ["annotate", "application", app, "--namespace", ARGOCD, "--overwrite"];
        let hard = ["argocd.argoproj.io/refresh=hard"];
        self.alone.cluster.run(&[refresh.as_slice(), &hard].concat(), "");
        self.alone.until(
            "that Argo CD looks",
            || {
                let application = self.alone.find_in(ARGOCD, "application", app)?;
                let asked = application.pointer("/metadata/annotations/argocd.argoproj.io~1refresh");
                asked.is_none().then(|| application["status"].clone())
            },
            || self.told(app),
        )
    }

    /// Waits until an Application is so.
    pub fn until(&self, app: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let look = || Some(self.seen(app)).filter(&is);
        self.alone.until(&format!("{app}: {what}"), look, || self.told(app))
    }

    pub fn until_well(&self, app: &str) -> Value {
        self.until(app, "Synced and Healthy", |status| {
            status["health"]["status"] == "Healthy" && status["sync"]["status"] == "Synced"
        })
    }

    /// Describes an Application, for a test that fails.
    pub fn told(&self, app: &str) -> String {
        let status = self.seen(app);
        let mut lines = vec![format!(
            "{} {} {} {}\n{}",
            status["sync"]["status"],
            status["health"],
            status["operationState"]["phase"],
            status["operationState"]["message"],
            status["conditions"]
        )];
        for object in status["resources"].as_array().into_iter().flatten() {
            let well =
                object["status"] == "Synced" && matches!(object["health"]["status"].as_str(), None | Some("Healthy"));
            if !well {
                lines.push(object.to_string());
            }
        }
        lines.join("\n")
    }

    pub fn part(&self, part: &str) -> String {
        format!("{}-{part}", self.alone.release)
    }

    /// Does what the scheduler and a volume's provider do once a Pod wants it.
    pub fn bind(&self) {
        let claim = json!({ "namespace": self.alone.namespace, "name": self.part("evidence") });
        self.alone.apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": self.part("evidence") },
            "spec": { "capacity": { "storage": "10Gi" }, "accessModes": ["ReadWriteOnce"], "claimRef": claim,
                      "storageClassName": "", "hostPath": { "path": "/nonexistent" } },
        }));
    }

    /// Does what a kubelet does where the Pods' programs run and are ready.
    pub fn kubelet(&self, component: &str) {
        let label = format!("app.kubernetes.io/component={component}");
        let words = ["pods", "--namespace", &self.alone.namespace, "--selector", &label];
        let pods = self.alone.until(
            "a Pod",
            || Some(self.alone.cluster.get(&words)).filter(|pods| !pods["items"].as_array().unwrap().is_empty()),
            String::new,
        );
        let now = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
        for pod in pods["items"].as_array().unwrap() {
            let conditions = ["PodScheduled", "Initialized", "ContainersReady", "Ready"]
                .map(|kind| json!({ "type": kind, "status": "True", "lastTransitionTime": now }));
            let containers = pod["spec"]["containers"].as_array().unwrap().iter().map(|container| {
                json!({ "name": container["name"], "image": container["image"], "imageID": "", "ready": true,
                        "started": true, "restartCount": 0, "state": { "running": { "startedAt": now } } })
            });
            let status = json!({ "phase": "Running", "startTime": now, "conditions": conditions,
                                 "containerStatuses": containers.collect::<Vec<_>>() });
            self.alone
                .says("pod", pod["metadata"]["name"].as_str().unwrap(), &status);
        }
    }

    /// Brings the release up as a cluster with nodes would.
    pub fn run(&self) -> Operator {
        let deployment = self.part("operator");
        let there = || self.alone.find("deployment", &deployment).map(drop);
        self.alone
            .until("the operator's Deployment", there, || self.told(&self.app));
        self.bind();
        self.kubelet("agent");
        let operator = self.alone.operator();
        self.kubelet("operator");
        operator
    }

    pub fn uid(&self, namespace: &str, kind: &str, name: &str) -> String {
        let found = self.alone.find_in(namespace, kind, name);
        let found = found.unwrap_or_else(|| panic!("{kind} {name} is gone\n{}", self.told(&self.app)));
        assert_eq!(
            found["metadata"].get("deletionTimestamp"),
            None,
            "{kind} {name} is being deleted"
        );
        found["metadata"]["uid"].as_str().unwrap().to_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // With the finalizer, a sync that waits for an operator would be waited for; what was made goes with its namespace.
        let words = ["get", "applications", "--namespace", ARGOCD, "--output", "name"];
        for name in self.alone.cluster.call(&words, "").out.lines() {
            let now = ["patch", name, "--namespace", ARGOCD, "--type=merge", "--patch"];
            let patch = [r#"{"metadata":{"finalizers":null}}"#];
            let _ = self.alone.cluster.call(&[now.as_slice(), &patch].concat(), "");
        }
        let delete = [
            "delete",
            "applications",
            "--all",
            "--namespace",
            ARGOCD,
            "--timeout=60s",
        ];
        let _ = self.alone.cluster.call(&delete, "");
        let volume = self.part("evidence");
        let _ = self
            .alone
            .cluster
            .call(&["delete", "persistentvolume", &volume, "--wait=false"], "");
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(from, to).unwrap();
        }
    }
}
