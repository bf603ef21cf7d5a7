//! Coders in Jobs of their own (`execution.mode: Job`) on a real node: one that works, one that cannot start, one that is
//! cancelled.

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use schemas::{Agent, AgenticTask, labels};
use serde_json::{Value, json};

use super::gates::{IMAGE, JOBS, ended, install};
use super::site::Site;
use crate::stage;

const LIMIT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_coder_in_a_pod_of_its_own_ends_with_a_verdict_or_leaves_nothing() {
    let site = Site::open().await;
    let gate = json!({
        "image": IMAGE, "resources": { "cpu": "50m", "memory": "128Mi" }, "deadlineSeconds": 120,
        "steps": [{ "name": "check", "command": "test \"$(cat notes.txt)\" = 'by a model'" }],
    });
    let bare = tokio::task::block_in_place(|| {
        install(&site, "coder,verifier", "");
        site.repository("team/coded", &[(".foreman/gate.yaml", &gate.to_string())], &[])
    });
    let client = site.client.clone();
    let model = tokio::task::block_in_place(|| site.shell("echo -n \"$MODEL_URL\""));
    let small = json!({ "requests": { "cpu": "50m", "memory": "128Mi" }, "limits": { "memory": "1Gi" } });
    agent(
        &client,
        "works",
        &model,
        json!({ "resources": small, "ttlSecondsAfterFinished": 300 }),
    )
    .await;
    let lost = json!({ "resources": small, "image": "127.0.0.1:9/nobody/nothing:1", "startupTimeoutSeconds": 15 });
    agent(&client, "lost", &model, lost).await;
    // It takes a question, and never answers.
    let silent = tokio::net::TcpListener::bind((model_host(&model), 0)).await.unwrap();
    let silent_url = format!("http://{}/v1", silent.local_addr().unwrap());
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((asked, _)) = silent.accept().await {
            held.push(asked);
        }
    });
    agent(&client, "hangs", &silent_url, json!({ "resources": small })).await;

    // From a task to the verdict of its gate.
    task(
        &client,
        "works",
        "freeform",
        json!({ "prompt": "Look around, and write notes.txt." }),
        &[],
    )
    .await;
    task(&client, "proof", "verify", json!({}), &["works"]).await;
    task(
        &client,
        "lost",
        "freeform",
        json!({ "prompt": "Write notes.txt." }),
        &[],
    )
    .await;
    let coded = ended(&client, "works").await;
    assert_eq!(coded["verdict"], "GO", "{coded:#}");
    let proof = ended(&client, "proof").await;
    assert_eq!(proof["verdict"], "GATE-PASS", "{proof:#}");
    assert_eq!(proof["commitSHA"], coded["commitSHA"], "{proof:#}");
    let branch = coded["branch"].as_str().unwrap();
    let show = |path: &str| stage::git(&bare, &["show", &format!("{branch}:{path}")]);
    assert_eq!(show("notes.txt"), "by a model\n");
    let around = show("around");
    assert!(around.contains("looked") && around.contains("uid=65532"), "{around}");
    for secret in ["let-me-in", "robot", "\"secret\"", "HOME="] {
        assert!(!around.contains(secret), "the model's command read {secret}: {around}");
    }
    let evidence: Vec<&str> = coded["evidence"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|item| item["name"].as_str())
        .collect();
    assert!(
        evidence.contains(&"transcript") && evidence.contains(&"job-log"),
        "{coded:#}"
    );
    let name = coded["jobName"].as_str().unwrap();
    let jobs: Api<Job> = Api::namespaced(client.clone(), JOBS);
    let spec = jobs.get(name).await.unwrap().spec.unwrap();
    assert_eq!(spec.ttl_seconds_after_finished, Some(300));
    let pod = &pods(&client, "works").await[0];
    let pod_spec = pod.spec.as_ref().unwrap();
    assert_eq!(pod_spec.automount_service_account_token, Some(false));
    assert_eq!(pod_spec.service_account_name.as_deref(), Some("foreman-coder"));
    assert!(
        !payload_is_there(&client, name).await,
        "its payload is gone, and the Job stays for its time"
    );

    // No image: the start is what took too long.
    let lost = ended(&client, "lost").await;
    assert_eq!(
        (&lost["phase"], &lost["failureReason"]),
        (&json!("Failed"), &json!("JobNotStarted")),
        "{lost:#}"
    );
    let summary = lost["result"]["summary"].as_str().unwrap();
    assert!(
        summary.contains("within 15 s") && summary.contains("ImagePull"),
        "{summary}"
    );
    nothing_is_left(&client, "lost", lost["jobName"].as_str().unwrap()).await;

    // Cancelled while the Pod runs.
    task(
        &client,
        "hangs",
        "freeform",
        json!({ "prompt": "Write notes.txt." }),
        &[],
    )
    .await;
    let name = job_that_runs(&client, "hangs").await;
    let tasks: Api<AgenticTask> = Api::namespaced(client.clone(), "default");
    assert!(payload_is_there(&client, &name).await);
    let cancel = json!({ "metadata": { "annotations": { (labels::CANCEL): "by-hand" } } });
    tasks
        .patch("hangs", &PatchParams::default(), &Patch::Merge(cancel))
        .await
        .unwrap();
    let cancelled = ended(&client, "hangs").await;
    assert_eq!(cancelled["failureReason"], "Cancelled", "{cancelled:#}");
    nothing_is_left(&client, "hangs", &name).await;
    held.abort();
}

fn model_host(url: &str) -> String {
    let rest = url.strip_prefix("http://").unwrap();
    rest.split(':').next().unwrap().to_owned()
}

async fn agent(client: &Client, name: &str, model: &str, execution: Value) {
    let mut execution = execution;
    execution["mode"] = json!("Job");
    let agent: Agent = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent", "metadata": { "name": name },
        "spec": {
            "role": "coder", "tools": ["bash", "write_file", "submit_result"],
            "providerConfig": { "baseURL": model, "model": "steady" }, "execution": execution,
        },
    }))
    .unwrap();
    let api: Api<Agent> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &agent).await.unwrap();
}

async fn task(client: &Client, name: &str, kind: &str, payload: Value, after: &[&str]) {
    let mut payload = payload;
    payload["repo"] = json!("team/coded");
    payload["baseBranch"] = json!("main");
    let mut spec = json!({ "kind": kind, "payload": payload, "dependsOn": after });
    if kind != "verify" {
        spec["agentRef"] = json!({ "name": name });
    }
    let task: AgenticTask = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
        "metadata": { "name": name, "namespace": "default" }, "spec": spec,
    }))
    .unwrap();
    let api: Api<AgenticTask> = Api::namespaced(client.clone(), "default");
    api.create(&PostParams::default(), &task).await.unwrap();
}

async fn pods(client: &Client, task: &str) -> Vec<Pod> {
    let api: Api<Pod> = Api::namespaced(client.clone(), JOBS);
    let params = ListParams::default().labels(&format!("{}={task}", labels::TASK));
    api.list(&params).await.unwrap().items
}

/// Waits until the Pod of a task runs, and returns the name of its Job.
async fn job_that_runs(client: &Client, task: &str) -> String {
    let api: Api<Pod> = Api::namespaced(client.clone(), JOBS);
    let config = watcher::Config::default().labels(&format!("{}={task}", labels::TASK));
    let mut events = watcher(api, config).default_backoff().boxed();
    let waited = tokio::time::timeout(LIMIT, async {
        loop {
            if let Some(Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod))) = events.next().await
                && pod
                    .status
                    .as_ref()
                    .is_some_and(|it| it.phase.as_deref() == Some("Running"))
            {
                return pod.labels()["job-name"].clone();
            }
        }
    });
    waited.await.expect("the Pod runs")
}

async fn payload_is_there(client: &Client, name: &str) -> bool {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), JOBS);
    secrets.get_opt(name).await.unwrap().is_some()
}

/// Waits until Job and Pods are gone, and finds no payload.
async fn nothing_is_left(client: &Client, task: &str, job: &str) {
    let jobs: Api<Job> = Api::namespaced(client.clone(), JOBS);
    let api: Api<Pod> = Api::namespaced(client.clone(), JOBS);
    if let Some(found) = jobs.get_opt(job).await.unwrap() {
        let uid = found.uid().unwrap();
        let gone = await_condition(jobs, job, conditions::is_deleted(&uid));
        tokio::time::timeout(LIMIT, gone).await.expect("the Job goes").unwrap();
    }
    for pod in pods(client, task).await {
        let (name, uid) = (pod.name_any(), pod.uid().unwrap());
        let gone = await_condition(api.clone(), &name, conditions::is_deleted(&uid));
        tokio::time::timeout(LIMIT, gone).await.expect("the Pod goes").unwrap();
    }
    assert!(
        !payload_is_there(client, job).await,
        "the payload of {job} is still there"
    );
}
