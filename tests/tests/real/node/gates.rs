//! How gates end on a real node: proved, refuted, and every way of not being able to tell.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, EvictParams, ListParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::{AgenticTask, labels};
use serde_json::{Value, json};

use super::site::Site;

/// How long all gates may take, tries and images included.
const LIMIT: Duration = Duration::from_secs(300);
pub(super) const JOBS: &str = "foreman-system-jobs";
pub(super) const IMAGE: &str = "docker.io/library/debian:bookworm-slim";

/// A gate, and how it must end.
struct Case {
    name: &'static str,
    image: &'static str,
    memory: &'static str,
    deadline: i64,
    command: &'static str,
    verdict: &'static str,
    /// What the summary must say.
    says: &'static str,
}

const CASE: Case = Case {
    name: "",
    image: IMAGE,
    memory: "128Mi",
    deadline: 120,
    command: "true",
    verdict: "GATE-ERROR",
    says: "",
};

const CASES: [Case; 7] = [
    Case {
        name: "pass",
        command: "test \"$(cat file)\" = changed",
        verdict: "GATE-PASS",
        says: "1 step passed",
        ..CASE
    },
    Case {
        name: "fail",
        command: "seq 1 20000; echo the sum is wrong >&2; exit 3",
        verdict: "GATE-FAIL",
        says: "step check failed with exit code 3",
        ..CASE
    },
    Case {
        name: "memory",
        memory: "64Mi",
        command: "head -c 400m /dev/zero | tail",
        verdict: "GATE-FAIL",
        says: "killed at the memory limit of 64Mi",
        ..CASE
    },
    Case {
        name: "image",
        // Nothing listens there.
        image: "127.0.0.1:9/nobody/nothing:1",
        says: "ImagePull",
        ..CASE
    },
    Case {
        name: "deadline",
        deadline: 8,
        command: "sleep 600",
        says: "DeadlineExceeded",
        ..CASE
    },
    Case {
        name: "deleted",
        command: "sleep 600",
        says: "PodMissing",
        ..CASE
    },
    Case {
        name: "evicted",
        command: "sleep 600",
        says: "PodMissing",
        ..CASE
    },
];

impl Case {
    fn gate(&self) -> String {
        json!({
            "image": self.image,
            "resources": { "cpu": "50m", "memory": self.memory },
            "deadlineSeconds": self.deadline,
            "steps": [{ "name": "check", "command": self.command }],
        })
        .to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn every_end_of_a_gate_is_told_for_what_it_is() {
    let site = Site::open().await;
    tokio::task::block_in_place(|| install(&site, "verifier", ""));
    let client = site.client.clone();
    for case in &CASES {
        repository(&site, case.name, &case.gate());
        verify(&client, case.name).await;
    }
    let deleting = tokio::spawn(disturb(client.clone(), "deleted", |pods, name| async move {
        pods.delete(&name, &Default::default()).await.map(drop)
    }));
    let evicting = tokio::spawn(disturb(client.clone(), "evicted", |pods, name| async move {
        pods.evict(&name, &EvictParams::default()).await.map(drop)
    }));
    for case in &CASES {
        let status = ended(&client, case.name).await;
        let told = format!("{}: {status:#}", case.name);
        assert_eq!(status["verdict"], case.verdict, "{told}");
        let summary = status["result"]["summary"].as_str().unwrap_or_default();
        assert!(summary.contains(case.says), "{told}");
        let extra = &status["result"]["extra"];
        assert_eq!(
            extra["tries"],
            if case.verdict == "GATE-ERROR" { 3 } else { 1 },
            "{told}"
        );
        assert_eq!(extra["namespace"], JOBS, "{told}");
        if case.name == "fail" {
            assert_eq!(extra["firstFailingStep"], "check", "{told}");
            let tail = extra["logTail"].as_str().unwrap();
            assert!(tail.contains("19999") && tail.contains("the sum is wrong"), "{told}");
            assert!(!tail.contains("\n1\n2\n"), "the head of the log was kept: {told}");
        }
    }
    deleting.abort();
    evicting.abort();

    // Now the Jobs' own credential is refused; the agent's still works.
    tokio::task::block_in_place(|| {
        site.shell(&secret(
            "clone",
            JOBS,
            "--from-literal=username=robot --from-literal=password=wrong",
        ))
    });
    repository(&site, "clone", &CASE.gate());
    verify(&client, "clone").await;
    let status = ended(&client, "clone").await;
    assert_eq!(status["verdict"], "GATE-ERROR", "{status:#}");
    assert_eq!(status["result"]["extra"]["reason"], "CloneFailed", "{status:#}");
    let text = status.to_string();
    assert!(
        !text.contains("wrong") && !text.contains("let-me-in"),
        "a password is shown: {text}"
    );
}

/// Installs Foreman with an agent of these roles and `more` options, for repositories that ask for a password.
pub(super) fn install(site: &Site, roles: &str, more: &str) {
    site.shell("kubectl create namespace foreman-system");
    site.shell(&secret(
        "git",
        "foreman-system",
        "--from-literal=credentials=\"http://$GIT_USER:$GIT_PASSWORD@${GIT_URL#*://}\"",
    ));
    site.shell(&format!(
        "helm upgrade --install foreman charts/foreman -n foreman-system --set agent.mode=native \
         --set 'agent.roles={{{roles}}}' --set agent.slots=8 --set agent.gateCache.enabled=false \
         --set \"agent.gitRemoteURL=$GIT_URL\" --set agent.gitCredentials.secretName=git \
         --set operator.gitCredentials.secretName=git --set coder.gitCredentialsSecret=clone {more}",
    ));
    site.shell(&secret(
        "clone",
        JOBS,
        "--from-literal=username=\"$GIT_USER\" --from-literal=password=\"$GIT_PASSWORD\"",
    ));
    site.shell(
        "kubectl -n foreman-system rollout status deployment -l app.kubernetes.io/instance=foreman --timeout=5m",
    );
}

/// Makes or replaces a Secret.
fn secret(name: &str, namespace: &str, literals: &str) -> String {
    format!(
        "kubectl -n {namespace} create secret generic {name} {literals} --dry-run=client -o yaml | kubectl apply -f -"
    )
}

/// Makes a repository with this gate, and a branch that changes a file.
pub(super) fn repository(site: &Site, name: &str, gate: &str) {
    site.repository(
        &format!("team/{name}"),
        &[(".foreman/gate.yaml", gate), ("file", "as it was\n")],
        &[("change", &[("file", "changed\n")])],
    );
}

/// Makes a task that proves that branch.
pub(super) async fn verify(client: &Client, name: &str) {
    let task: AgenticTask = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1",
        "kind": "AgenticTask",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "kind": "verify",
            "payload": { "repo": format!("team/{name}"), "baseBranch": "main", "branch": "change" },
        },
    }))
    .unwrap();
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &task).await.unwrap();
}

/// Waits until a task has ended, and returns its status.
pub(super) async fn ended(client: &Client, name: &str) -> Value {
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), "default");
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = watcher(api.clone(), config).default_backoff().boxed();
    let waited = tokio::time::timeout(LIMIT, async {
        loop {
            if let Some(Ok(watcher::Event::Apply(task) | watcher::Event::InitApply(task))) = events.next().await
                && let Some(status) = task.status
                && status.phase.is_some_and(|phase| phase.is_terminal())
            {
                return json!(status);
            }
        }
    })
    .await;
    match waited {
        Ok(status) => status,
        Err(_) => panic!("{name} never ended: {:#}", json!(api.get(name).await.unwrap())),
    }
}

/// Does something to every Pod of a task whose steps run.
async fn disturb<F>(client: Client, task: &str, act: impl Fn(Api<Pod>, String) -> F)
where
    F: Future<Output = kube::Result<()>>,
{
    let pods: Api<Pod> = Api::namespaced(client, JOBS);
    let params = ListParams::default().labels(&format!("{}={task}", labels::TASK));
    loop {
        for pod in pods.list(&params).await.unwrap().items {
            let status = pod.status.clone().unwrap_or_default();
            let containers = status.container_statuses.unwrap_or_default();
            let runs = containers
                .iter()
                .any(|it| it.state.as_ref().is_some_and(|state| state.running.is_some()));
            if runs && pod.metadata.deletion_timestamp.is_none() {
                // Whoever ended meanwhile needs nothing more.
                let _ = act(pods.clone(), pod.name_any()).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
