//! The programs themselves under the accounts that the chart gives them: what they need is there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::cluster::{Cluster, Release};
use crate::foreman::program;
use crate::git_server::GitServer;
use crate::stage::{commit, git};

/// A process that is killed when dropped.
struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    fn start(name: &str, folder: &Path, login: &Cluster, arguments: &[String]) -> Self {
        let log = folder.join(format!("{name}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let child = Command::new(program().with_file_name(name))
            .arg("--kubeconfig")
            .arg(login.kubeconfig())
            .args(arguments)
            .env("RUST_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn operator_and_agent_work_under_their_accounts() {
    let queues =
        json!([{ "name": "first", "spec": { "git": { "url": "https://git.example.com/tasks" }, "suspend": true } }]);
    let release = Release::apply(&[
        "--set",
        "agent.mode=native,coder.gitCredentialsSecret=clone",
        "--set-json",
        &format!("taskQueues={queues}"),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let (repository, clone) = (folder.path().join("git/repo.git"), folder.path().join("clone"));
    std::fs::create_dir_all(&repository).unwrap();
    git(&repository, &["init", "-q", "--bare"]);
    let gate = "image: example/tools:1\nsteps:\n  - name: check\n    command: \"true\"\n";
    commit(&clone, &repository, &[(".foreman/gate.yaml", gate)]);
    git(&clone, &["push", "-q", "origin", "HEAD:refs/heads/work"]);
    let server = GitServer::start(folder.path().join("git"), None).await;

    let cluster = &release.cluster;
    let node = format!("{}-n", release.name);
    let operator = release.outside("operator");
    let agent = release.on_node("agent", &node);
    // The authorizer learns of roles a moment after they are stored.
    for (part, verb, resource, namespace) in [
        (
            "operator",
            "list",
            "agentictasks.foreman.llmkube.dev",
            "--all-namespaces",
        ),
        ("operator", "create", "leases.coordination.k8s.io", &release.namespace),
        ("operator", "list", "jobs.batch", &release.jobs),
        (
            "operator",
            "create",
            "taskqueues.foreman.llmkube.dev",
            &release.namespace,
        ),
        ("agent", "create", "fleetnodes.foreman.llmkube.dev", "--all-namespaces"),
        ("agent", "list", "agentictasks.foreman.llmkube.dev", "--all-namespaces"),
        ("agent", "create", "leases.coordination.k8s.io", &release.namespace),
        ("agent", "create", "jobs.batch", &release.jobs),
    ] {
        let account = format!("--as={}", release.account(part));
        let at = match namespace {
            all @ "--all-namespaces" => all.to_owned(),
            namespace => format!("--namespace={namespace}"),
        };
        let asked = ["auth", "can-i", verb, resource, &account, &at];
        cluster.until("the roles", || cluster.call(&asked, "").out.trim() == "yes");
    }
    let role = format!("role-{}", release.name);
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let state = folder.path().join("state").display().to_string();
    // The kinds were new to the API when the chart was rendered: the operator makes what the values ask for.
    let map = cluster.get(&[
        "configmap",
        &format!("{}-bootstrap", release.name),
        "--namespace",
        &release.namespace,
    ]);
    let bootstrap = folder.path().join("objects.json");
    std::fs::write(&bootstrap, map["data"]["objects.json"].as_str().unwrap()).unwrap();
    let bootstrap = bootstrap.display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let listen = format!("--evidence-listen=127.0.0.1:{port}");
    let operator = Process::start(
        "foreman-operator",
        folder.path(),
        &operator,
        &text(&[
            "--namespace",
            &release.namespace,
            "--lease-namespace",
            &release.namespace,
            "--jobs-namespace",
            &release.jobs,
            &listen,
            "--bootstrap",
            &bootstrap,
            "--state-dir",
            &state,
        ]),
    );
    let work = folder.path().join("work").display().to_string();
    let shared = text(&[
        "--fleet-node-name",
        &node,
        "--roles",
        &role,
        "--task-namespace",
        &release.namespace,
        "--foreman-namespace",
        &release.namespace,
        "--jobs-namespace",
        &release.jobs,
        "--gate-service-account=foreman-gate",
        "--coder-git-secret=clone",
        "--workspace-dir",
        &work,
        "--heartbeat-interval=1s",
        "--stub-sleep=100ms",
    ]);
    let with = |more: &str| [shared.clone(), vec![more.to_owned()]].concat();

    // A smoke task from Pending to Succeeded.
    let stub = Process::start("foreman-agent", folder.path(), &agent, &with("--agent-mode=stub"));
    let task = |name: &str, spec: serde_json::Value| {
        json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": name, "namespace": release.namespace }, "spec": spec,
        })
        .to_string()
    };
    let needs = json!({ "roles": [role] });
    let spec = json!({ "kind": "freeform", "requiredCapability": needs, "payload": { "prompt": "hello" }, "timeoutSeconds": 60 });
    cluster.run(&["create", "--filename", "-"], &task("smoke", spec));
    let phase =
        |name: &str| cluster.get(&["agentictask", name, "--namespace", &release.namespace])["status"]["phase"].clone();
    let told = |process: &Process| format!("operator:\n{}\nagent:\n{}", operator.said(), process.said());
    cluster.until_or("the smoke task's end", || phase("smoke") == "Succeeded", || told(&stub));
    drop(stub);

    let asked = |path: &'static str| async move {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, ready) = asked("/readyz").await;
    assert_eq!(status, 200, "{ready}");
    for part in [
        "[+] caches ok",
        "[+] leadership ok: leading",
        "[+] api ok",
        "[+] evidence ok",
    ] {
        assert!(ready.contains(part), "{ready}");
    }
    assert_eq!(asked("/livez").await, (200, "ok\n".to_owned()));
    let (_, metrics) = asked("/metrics").await;
    let sum = |name: &str, labels: &[(&str, &str)]| telemetry::metrics::sum(&metrics, name, labels);
    assert_eq!(sum("foreman_leader", &[]), 1.0, "{metrics}");
    assert_eq!(sum("foreman_node_alive", &[("node", &node)]), 1.0, "{metrics}");
    assert!(sum("foreman_assignments_total", &[]) >= 1.0, "{metrics}");
    assert!(
        sum("foreman_tasks_ended_total", &[("kind", "freeform")]) >= 1.0,
        "{metrics}"
    );
    cluster.until_or(
        "the first queue",
        || {
            let queue = ["taskqueues", "--namespace", release.namespace.as_str()];
            let queues = cluster.get(&queue)["items"].as_array().unwrap().clone();
            queues.iter().any(|queue| {
                let owner = &queue["metadata"]["annotations"]["meta.helm.sh/release-name"];
                queue["metadata"]["name"] == "first" && *owner == release.name.as_str()
            })
        },
        || operator.said(),
    );

    // A gate: its plan and its Job are made in the Jobs' namespace, and taken away when the task is cancelled.
    let native = Process::start("foreman-agent", folder.path(), &agent, &with("--agent-mode=native"));
    let verifier = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent",
        "metadata": { "name": "gate", "namespace": release.namespace },
        "spec": { "role": "verifier", "tools": ["run_gate_job"], "requiredCapability": needs },
    });
    cluster.run(&["create", "--filename", "-"], &verifier.to_string());
    let payload = json!({ "repo": format!("{}/repo.git", server.url), "branch": "work", "baseBranch": "main" });
    cluster.run(
        &["create", "--filename", "-"],
        &task(
            "gate",
            json!({ "kind": "verify", "agentRef": { "name": "gate" }, "payload": payload }),
        ),
    );
    let jobs = || {
        cluster.get(&["jobs", "--namespace", &release.jobs])["items"]
            .as_array()
            .unwrap()
            .clone()
    };
    cluster.until_or("the gate's Job", || !jobs().is_empty(), || told(&native));
    let job = jobs().remove(0);
    let pod = &job["spec"]["template"]["spec"];
    assert_eq!(pod["serviceAccountName"], "foreman-gate");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(job["metadata"]["labels"][schemas::labels::NODE], node.as_str());
    let cancel = format!("{}=now", schemas::labels::CANCEL);
    cluster.run(
        &[
            "annotate",
            "agentictask",
            "gate",
            "--namespace",
            &release.namespace,
            &cancel,
        ],
        "",
    );
    cluster.until_or("the task's end", || phase("gate") == "Failed", || told(&native));
    cluster.until_or(
        "the Job's end",
        || jobs().iter().all(|job| !job["metadata"]["deletionTimestamp"].is_null()),
        || told(&native),
    );

    for process in [&operator, &native] {
        let said = process.said();
        let denied: Vec<&str> = said.lines().filter(|line| line.contains("orbidden")).collect();
        assert!(denied.is_empty(), "{denied:#?}");
        assert!(!said.contains("ValidatingAdmissionPolicy"), "{said}");
    }
    cluster.run(&["delete", "fleetnode", &node], "");
}
