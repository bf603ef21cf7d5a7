//! A real API server, with releases of a test's own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::helm::{needed, parse, template_as};
use crate::foreman::{LIMIT, Said};
use crate::poll;

/// kubectl on the API server of this tier.
pub struct Cluster {
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
}

impl Cluster {
    pub fn new() -> Self {
        Self {
            kubeconfig: needed("FOREMAN_REAL_KUBECONFIG"),
            home: tempfile::tempdir().unwrap(),
        }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Calls kubectl with something on its standard input.
    pub fn call(&self, arguments: &[&str], input: &str) -> Said {
        let mut child = Command::new(needed("FOREMAN_KUBECTL"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .env("HOME", self.home.path())
            .env_remove("KUBECONFIG")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A call that reads nothing may be over by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    /// Calls what must work.
    pub fn run(&self, arguments: &[&str], input: &str) -> String {
        let said = self.call(arguments, input);
        assert_eq!(said.code, Some(0), "kubectl {arguments:?}: {}", said.err);
        said.out
    }

    /// Reads one object.
    pub fn get(&self, words: &[&str]) -> Value {
        let mut all = vec!["get", "--output", "json"];
        all.extend(words);
        serde_json::from_str(&self.run(&all, "")).unwrap()
    }

    /// Tries until `done` holds: what the API server knows of roles and policies follows its store.
    pub fn until(&self, what: &str, done: impl FnMut() -> bool) {
        self.until_or(what, done, String::new);
    }

    /// As `until`, and tells what `told` says where it fails.
    pub fn until_or(&self, what: &str, mut done: impl FnMut() -> bool, told: impl Fn() -> String) {
        poll::until(LIMIT, what, || done().then_some(()), told);
    }

    /// Makes a kubeconfig for the bearer of a token.
    pub fn login(&self, name: &str, token: &str) -> Cluster {
        let view = self.run(
            &["config", "view", "--raw", "--minify", "--flatten", "--output", "json"],
            "",
        );
        let mut config: Value = serde_json::from_str(&view).unwrap();
        config["users"] = json!([{ "name": "user", "user": { "token": token } }]);
        config["contexts"][0]["context"]["user"] = json!("user");
        let home = tempfile::tempdir().unwrap();
        let kubeconfig = home.path().join(format!("{name}.kubeconfig"));
        std::fs::write(&kubeconfig, config.to_string()).unwrap();
        Cluster { kubeconfig, home }
    }

    /// Deletes namespaces; what is in them goes later.
    pub fn delete_namespaces(&self, names: &[&str]) {
        for name in names {
            let _ = self.call(&["delete", "namespace", name, "--wait=false", "--ignore-not-found"], "");
        }
    }
}

/// A release of the chart that this test alone has, as rendered by Helm and applied by kubectl.
pub struct Release {
    pub cluster: Cluster,
    /// Name of the release, and beginning of the names of what it made.
    pub name: String,
    pub namespace: String,
    pub jobs: String,
    more: Vec<String>,
    objects: Vec<Value>,
}

impl Release {
    /// Applies the chart.
    pub fn apply(arguments: &[&str]) -> Self {
        let name = format!("foreman-{:06x}", rand::random::<u32>() & 0xff_ffff);
        Self::apply_as(&name, arguments, &[])
    }

    /// Applies the chart as a release of this name, with more namespaces beside its own.
    pub fn apply_as(name: &str, arguments: &[&str], more: &[&str]) -> Self {
        let cluster = Cluster::new();
        let namespace = format!("{name}-system");
        let rendered = template_as(name, &namespace, arguments);
        assert_eq!(rendered.code, Some(0), "{}", rendered.err);
        let release = Self {
            jobs: format!("{namespace}-jobs"),
            more: more.iter().map(|space| (*space).to_owned()).collect(),
            objects: parse(&rendered.out),
            cluster,
            name: name.to_owned(),
            namespace,
        };
        release.install();
        release
    }

    fn install(&self) {
        let spaces = self.more.iter().chain([&self.namespace]);
        spaces.for_each(|space| drop(self.cluster.run(&["create", "namespace", space], "")));
        let is_crd = |object: &&Value| object["kind"] == "CustomResourceDefinition";
        let crds: Vec<&Value> = self.objects.iter().filter(is_crd).collect();
        // The kinds are everybody's: they stay, and another test may apply them at this moment.
        let crds = json!({ "apiVersion": "v1", "kind": "List", "items": crds }).to_string();
        let words = ["apply", "--server-side", "--force-conflicts", "--filename", "-"];
        self.cluster.run(&words, &crds);
        let established = ["wait", "--for=condition=Established", "--filename", "-"];
        self.cluster.run(&established, &crds);
        self.apply_objects();
    }

    fn apply_objects(&self) {
        let plain = |object: &&Value| object["kind"] != "CustomResourceDefinition";
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": self.objects.iter().filter(plain).collect::<Vec<_>>() });
        self.cluster
            .run(&["apply", "--server-side", "--filename", "-"], &list.to_string());
    }

    /// Applies the chart with other values; what they leave out stays.
    pub fn change(&mut self, arguments: &[&str]) {
        let rendered = template_as(&self.name, &self.namespace, arguments);
        assert_eq!(rendered.code, Some(0), "{}", rendered.err);
        self.objects = parse(&rendered.out);
        self.apply_objects();
    }

    /// Names a service account of the release as the API server does.
    pub fn account(&self, part: &str) -> String {
        format!("system:serviceaccount:{}:{}-{part}", self.namespace, self.name)
    }

    /// Makes a Pod of an account on a node and logs in as it; the token names the node.
    pub fn on_node(&self, part: &str, node: &str) -> Cluster {
        let account = format!("{}-{part}", self.name);
        let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node } });
        self.cluster
            .run(&["apply", "--server-side", "--filename", "-"], &object.to_string());
        let pod = format!("{account}-{}", node.replace('.', "-"));
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": pod, "namespace": self.namespace },
            "spec": {
                "serviceAccountName": account, "nodeName": node,
                "containers": [{ "name": "agent", "image": "example/agent:1" }],
            },
        });
        self.cluster
            .run(&["apply", "--server-side", "--filename", "-"], &object.to_string());
        let token = self.cluster.run(
            &[
                "create",
                "token",
                &account,
                "--namespace",
                &self.namespace,
                "--bound-object-kind",
                "Pod",
                "--bound-object-name",
                &pod,
            ],
            "",
        );
        self.cluster.login(&pod, token.trim())
    }

    /// Logs in as an account outside of any Pod.
    pub fn outside(&self, part: &str) -> Cluster {
        let account = format!("{}-{part}", self.name);
        let token = self
            .cluster
            .run(&["create", "token", &account, "--namespace", &self.namespace], "");
        self.cluster.login(&account, token.trim())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        for object in &self.objects {
            let kind = object["kind"].as_str().unwrap_or_default();
            let policy = kind.starts_with("ValidatingAdmissionPolicy");
            if policy || matches!(kind, "ClusterRole" | "ClusterRoleBinding") {
                let name = object["metadata"]["name"].as_str().unwrap_or_default();
                let _ = self
                    .cluster
                    .call(&["delete", kind, name, "--ignore-not-found", "--wait=false"], "");
            }
        }
        // Where no kubelet runs, nobody else would end them, and their namespace would never go.
        let now = ["delete", "pods", "--all", "--force", "--grace-period=0", "--namespace"];
        let _ = self
            .cluster
            .call(&[now.as_slice(), &[self.namespace.as_str()]].concat(), "");
        self.cluster.delete_namespaces(&[&self.namespace, &self.jobs]);
        for space in &self.more {
            self.cluster.delete_namespaces(&[space]);
        }
    }
}
