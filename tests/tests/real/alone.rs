//! What tests share that have a cluster to themselves, since they change what belongs to all of it: its kinds.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::chart::cluster::Cluster;
use super::chart::helm::helm;
use crate::foreman::{Said, program};
use crate::poll;

/// How long anything here may take: much of it is done by programs that look again only now and then.
const LIMIT: Duration = Duration::from_secs(300);
/// The controllers of the operator, as its log names them.
const CONTROLLERS: [&str; 4] = ["Agent", "AgenticTask", "FleetNode", "Workload"];

/// Whoever holds it has the cluster to itself.
static ALONE: Mutex<()> = Mutex::new(());

/// A cluster that no other test changes meanwhile, a namespace for a release, and a folder.
pub struct Alone {
    _held: MutexGuard<'static, ()>,
    pub cluster: Cluster,
    pub folder: tempfile::TempDir,
    /// Name of the release; what it makes is called so.
    pub release: String,
    pub namespace: String,
    pub jobs: String,
}

impl Alone {
    /// Waits for the others.
    pub fn open(name: &str) -> Self {
        let held = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let release = format!("{name}-{:04x}", rand::random::<u16>());
        let alone = Self {
            _held: held,
            cluster: Cluster::new(),
            folder: tempfile::tempdir().unwrap(),
            namespace: format!("{release}-system"),
            jobs: format!("{release}-system-jobs"),
            release,
        };
        alone.clear();
        alone
    }

    /// Takes away what another test left; the kinds stay.
    fn clear(&self) {
        let all = "taskqueues,workloads,agentictasks,agents,fleetnodes";
        let _ = self
            .cluster
            .call(&["delete", all, "--all", "--all-namespaces", "--wait=false"], "");
    }

    /// Calls Helm on the cluster.
    pub fn helm(&self, arguments: &[&str]) -> Said {
        helm(Some(self.cluster.kubeconfig()), arguments)
    }

    /// Calls Helm for what must work.
    pub fn helm_does(&self, arguments: &[&str]) -> String {
        let said = self.helm(arguments);
        assert_eq!(said.code, Some(0), "helm {arguments:?}: {}{}", said.out, said.err);
        said.out
    }

    /// Applies an object as its author.
    pub fn apply(&self, object: &Value) {
        let words = ["apply", "--server-side", "--force-conflicts", "--filename", "-"];
        self.cluster.run(&words, &object.to_string());
    }

    /// Reads a namespaced object; nothing where there is none.
    pub fn find(&self, kind: &str, name: &str) -> Option<Value> {
        self.find_in(&self.namespace, kind, name)
    }

    /// As `find`, in a namespace.
    pub fn find_in(&self, namespace: &str, kind: &str, name: &str) -> Option<Value> {
        let words = ["get", kind, name, "--namespace", namespace, "--output", "json"];
        let said = self.cluster.call(&words, "");
        match said.code {
            Some(0) => Some(serde_json::from_str(&said.out).unwrap()),
            // The kind, too, may be unknown.
            _ if said.err.contains("not found") || said.err.contains("doesn't have a resource type") => None,
            _ => panic!("kubectl {words:?}: {}", said.err),
        }
    }

    /// Writes a status, as the program does whose work it is.
    pub fn says(&self, kind: &str, name: &str, status: &Value) {
        let patch = json!({ "status": status }).to_string();
        let words = [
            "patch",
            kind,
            name,
            "--namespace",
            &self.namespace,
            "--subresource=status",
        ];
        self.cluster
            .run(&[words.as_slice(), &["--type=merge", "--patch", &patch]].concat(), "");
    }

    /// Tries until something is there.
    pub fn until<T>(&self, what: &str, look: impl FnMut() -> Option<T>, told: impl Fn() -> String) -> T {
        poll::until(LIMIT, what, look, told)
    }

    /// Starts `foreman-operator` as the Pod of the release would: with its service account and its namespaces.
    pub fn operator(&self) -> Operator {
        let account = format!("{}-operator", self.release);
        self.operator_as(&account)
    }

    /// As `operator`, by the name of its account.
    pub fn operator_as(&self, account: &str) -> Operator {
        let token = self
            .cluster
            .run(&["create", "token", account, "--namespace", &self.namespace], "");
        let login = self.cluster.login("operator", token.trim());
        let operator = Operator::start(login, &self.namespace, &self.jobs, self.folder.path());
        self.until(
            "that every controller of the operator works",
            || {
                let log = operator.log();
                let works = |name: &&str| {
                    let mut lines = log.lines().filter(|line| line.contains("Starting workers"));
                    lines.any(|line| line.contains(&format!("controller=\"{name}\"")))
                };
                CONTROLLERS.iter().all(works).then_some(())
            },
            || operator.log(),
        );
        operator
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.cluster.delete_namespaces(&[&self.namespace, &self.jobs]);
        for kind in [
            "validatingadmissionpolicies",
            "validatingadmissionpolicybindings",
            "clusterroles",
            "clusterrolebindings",
        ] {
            let names = self.cluster.call(&["get", kind, "--output", "name"], "").out;
            for name in names.lines().filter(|name| name.contains(&self.release)) {
                let _ = self.cluster.call(&["delete", name, "--wait=false"], "");
            }
        }
    }
}

/// `foreman-operator` as a process; killed when dropped.
pub struct Operator {
    child: Child,
    log: PathBuf,
    _login: Cluster,
}

impl Operator {
    fn start(login: Cluster, namespace: &str, jobs: &str, folder: &Path) -> Self {
        let path = program().with_file_name("foreman-operator");
        let log = folder.join("operator.log");
        let mut command = Command::new(path);
        command
            .arg("--kubeconfig")
            .arg(login.kubeconfig())
            .args(["--lease-namespace", namespace, "--jobs-namespace", jobs])
            .args(["--evidence-listen=127.0.0.1:0", "--state-dir"])
            .arg(folder.join("operator"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG")
            .env_remove("KUBECONFIG");
        Self {
            child: command.spawn().unwrap(),
            log,
            _login: login,
        }
    }

    /// Returns what it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
