//! Coders in Jobs of their own (`execution.mode: Job`), on a plane that runs them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{Api, Client, ResourceExt};
use schemas::agentic_task::{FailureReason, Phase, TaskKind};
use schemas::shared::Verdict;
use schemas::workload::WorkloadPhase;
use schemas::{AgenticTask, Workload, labels};
use serde_json::{Value, json};

use crate::foreman::Up;
use crate::sample::Sample;
use crate::site::Process;
use crate::watch::{ended, until};

/// Writes that the model's command runs, and waits until a person lets it go on.
const WAIT: &str = "touch running; until test -e go; do sleep 0.1; done; rm running go";

/// Makes a repository whose coder has these words more in its spec.
fn sample(more: &str) -> Sample {
    let sample = Sample::new();
    let path = sample.repository().join(".foreman/agents.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("  role: coder\n", &format!("  role: coder\n{more}"));
    sample.commit(&[(".foreman/agents.yaml", &text)]);
    sample
}

fn wait_then_write(sample: &Sample) {
    let calls = [
        ("bash", json!({ "command": WAIT })),
        ("write_file", json!({ "path": "note.txt", "content": "done\n" })),
    ];
    sample.record_calls("note", 1, &calls);
}

fn passed(workload: &Workload) -> bool {
    let status = workload.status.clone().unwrap_or_default();
    status.phase == Some(WorkloadPhase::Completed) && status.verdict == Some(Verdict::GatePass)
}

fn api<K>(client: &Client) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    Api::namespaced(client.clone(), "default")
}

fn is_coders(job: &Job) -> bool {
    job.name_any().starts_with("coder-")
}

async fn coders(client: &Client) -> Vec<AgenticTask> {
    let tasks = api::<AgenticTask>(client).list(&Default::default()).await.unwrap();
    tasks
        .items
        .into_iter()
        .filter(|task| task.spec.kind != TaskKind::Verify)
        .collect()
}

/// Finds the work tree in which the model's command waits.
fn work_tree(below: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(below).into_iter().flatten().flatten();
    let folders: Vec<PathBuf> = entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    let here = below.file_name() == Some(OsStr::new("tree")) && below.join("running").exists();
    if here {
        return Some(below.to_owned());
    }
    folders.iter().find_map(|folder| work_tree(folder))
}

/// Waits until the model's command runs, and returns its work tree.
async fn waits(sample: &Sample, but: &[PathBuf]) -> PathBuf {
    let runner = sample.state().join("runner");
    let found = async {
        loop {
            if let Some(tree) = work_tree(&runner).filter(|tree| !but.contains(tree)) {
                return tree;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    match tokio::time::timeout(crate::foreman::LIMIT, found).await {
        Ok(tree) => tree,
        Err(_) => panic!(
            "no command of the model ran: {:#?} {:#?}\n{}",
            sample.call(&["show", "note.md"]),
            sample.call(&["logs", "note.md"]),
            std::fs::read_to_string(sample.state().with_extension("stderr")).unwrap_or_default()
        ),
    }
}

fn go_on(tree: &Path) {
    std::fs::write(tree.join("go"), "").unwrap();
}

#[tokio::test]
async fn a_coder_in_a_job_of_its_own_pushes_what_the_gate_then_proves() {
    // The image is not pulled here, no more than a gate's is.
    let sample = sample(
        "  execution: { mode: Job, image: 'registry.example/team/coder:1', activeDeadlineSeconds: 600, ttlSecondsAfterFinished: 900 }\n",
    );
    sample.record("note", 1, "note.txt", "not yet\n");
    // What the Pod holds of secrets is not the model's to read.
    let steal = "cat /foreman/payload/* /foreman/credentials/*; cat ../../../*/* | head -c 1; env; true";
    let calls = [
        ("bash", json!({ "command": format!("({steal}) >stolen 2>&1") })),
        ("write_file", json!({ "path": "note.txt", "content": "done\n" })),
    ];
    sample.record_calls("note", 2, &calls);
    let up = sample.up();
    let client = up.client().await;
    sample.task("note", "Write the note.\n");
    let done = ended(&client, "note", 1).await;
    assert!(passed(&done), "{done:#?}");
    let status = done.status.unwrap();
    let (branch, head) = (status.branch.unwrap(), status.head_sha.unwrap());
    assert_eq!(sample.git(&["rev-parse", &branch]).trim(), head);
    assert_eq!(sample.git(&["show", &format!("{branch}:note.txt")]), "done\n");
    let stolen = sample.git(&["show", &format!("{branch}:stolen")]);
    assert!(stolen.contains("HOME="), "the command ran: {stolen}");
    assert!(!stolen.contains("secret") && !stolen.contains("\"task\""), "{stolen}");

    let coders = coders(&client).await;
    assert_eq!(coders.len(), 2, "two rounds");
    let base = sample.git(&["merge-base", &branch, "main"]);
    for coder in coders {
        let status = coder.status.as_ref().unwrap();
        let name = status.job_name.as_deref().unwrap();
        assert!(name.starts_with("coder-"), "{name}");
        assert_eq!(status.replay, Some(true));
        assert_eq!(status.base_sha.as_deref(), Some(base.trim()));
        assert!(status.usage.as_ref().unwrap().turns >= 2);
        assert_eq!(status.evidence_error, None);
        let evidence = status.evidence.iter().flatten();
        let stored: Vec<&str> = evidence.map(|item| item.name.as_str()).collect();
        assert!(stored.contains(&"transcript") && stored.contains(&"diff"), "{stored:?}");
        let job = api::<Job>(&client).get(name).await.unwrap();
        assert_eq!(job.labels()[labels::TASK_UID], coder.uid().unwrap());
        assert_eq!(job.spec.unwrap().ttl_seconds_after_finished, Some(900));
        assert!(
            api::<Secret>(&client).get_opt(name).await.unwrap().is_none(),
            "its payload is gone"
        );
    }
    let transcript = sample.call(&["logs", "note.md"]);
    assert!(transcript.out.contains("note.txt"), "{transcript:#?}");
}

#[tokio::test]
async fn a_cancelled_coder_leaves_no_job_no_pod_and_no_payload() {
    let sample = sample("  execution: { mode: Job }\n");
    wait_then_write(&sample);
    let up = sample.up();
    let client = up.client().await;
    sample.task("note", "Write the note.\n");
    waits(&sample, &[]).await;
    let jobs = api::<Job>(&client).list(&Default::default()).await.unwrap().items;
    let name = jobs.iter().find(|job| is_coders(job)).unwrap().name_any();
    let payload = api::<Secret>(&client).get(&name).await.unwrap();
    assert_eq!(payload.owner_references()[0].name, name, "it goes with the Job");
    let shown = serde_json::to_string(&jobs).unwrap();
    let secret: Value = serde_json::from_slice(&payload.data.unwrap()["payload.json"].0).unwrap();
    assert!(
        !shown.contains(secret["secret"].as_str().unwrap()),
        "the claim's secret stands in no Job"
    );

    assert_eq!(sample.call(&["cancel", "note.md"]).code, Some(0));
    let done = ended(&client, "note", 1).await;
    assert!(!passed(&done), "{done:#?}");
    until::<Job>(&client, "no Job", |jobs| !jobs.values().any(is_coders)).await;
    until::<Pod>(&client, "no Pod", |pods| pods.is_empty()).await;
    assert!(api::<Secret>(&client).get_opt(&name).await.unwrap().is_none());
    assert_eq!(
        coders(&client).await[0].status.as_ref().unwrap().failure_reason,
        Some(FailureReason::Cancelled)
    );
    assert!(
        work_tree(&sample.state().join("runner")).is_none(),
        "the command ended with its Pod"
    );
    assert!(sample.git(&["branch", "--list", "foreman/*"]).is_empty());
}

#[tokio::test]
async fn a_run_that_takes_longer_than_its_agent_says_hands_in_what_it_has() {
    let sample = sample("  execution: { mode: Job, activeDeadlineSeconds: 12 }\n");
    let calls = [
        ("write_file", json!({ "path": "note.txt", "content": "half\n" })),
        ("bash", json!({ "command": WAIT })),
    ];
    sample.record_calls("note", 1, &calls);
    let up = sample.up();
    let client = up.client().await;
    sample.task("note", "Write the note.\n");
    let done = ended(&client, "note", 1).await;
    assert!(!passed(&done), "{done:#?}");
    let status = coders(&client).await.remove(0).status.unwrap();
    assert_eq!(status.phase, Some(Phase::Failed));
    assert_eq!(status.failure_reason, Some(FailureReason::Timeout));
    let result = json!(status.result);
    let summary = result["summary"].as_str().unwrap();
    assert!(summary.contains("activeDeadlineSeconds is 12 s"), "{summary}");
    let evidence = json!(status.evidence).to_string();
    assert!(evidence.contains("transcript"), "{evidence}");
    let half = sample.git(&["show", &format!("{}:note.txt", status.branch.unwrap())]);
    assert_eq!(half, "half\n", "its work so far is on the branch");
    let payload = api::<Secret>(&client).get_opt(&status.job_name.unwrap()).await.unwrap();
    assert!(payload.is_none());
}

/// Starts an agent beside the one of `foreman up`, for the Agents that ask for the pool `jobs`.
fn agent(sample: &Sample, up: &Up) -> Process {
    let kubeconfig = up.kubeconfig();
    let workspace = sample.root().join("agent");
    let (sessions, repository) = (sample.sessions(), sample.repository());
    let arguments = [
        OsStr::new("--kubeconfig"),
        kubeconfig.as_os_str(),
        OsStr::new("--workspace-dir"),
        workspace.as_os_str(),
        OsStr::new("--replay-sessions"),
        sessions.as_os_str(),
        OsStr::new("--file-root"),
        repository.as_os_str(),
        OsStr::new("--evidence-url"),
        OsStr::new(&up.evidence),
        OsStr::new("--fleet-node-name=beside"),
        OsStr::new("--node-labels=pool=jobs"),
        OsStr::new("--roles=worker"),
        OsStr::new("--agent-mode=native"),
        OsStr::new("--foreman-namespace=default"),
        OsStr::new("--task-namespace=default"),
        OsStr::new("--heartbeat-interval=200ms"),
    ];
    Process::start("foreman-agent", "beside", &arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_killed_takes_its_job_over_and_nothing_is_done_twice() {
    // The command waits for longer than a dead agent's Lease lasts.
    let sample = sample(
        "  execution: { mode: Job }\n  requiredCapability: { nodeSelector: { pool: jobs } }\n  bashTimeoutSeconds: 300\n",
    );
    wait_then_write(&sample);
    let up = sample.up();
    let client = up.client().await;
    let mut first = agent(&sample, &up);
    first.says(&["node agent is ready"]).await;
    sample.task("note", "Write the note.\n");
    let tree = waits(&sample, &[]).await;
    first.kill().await;
    let mut second = agent(&sample, &up);
    second.says(&["took over the coder's Job"]).await;
    go_on(&tree);
    let done = ended(&client, "note", 1).await;
    assert!(passed(&done), "{done:#?}");
    let task = coders(&client).await.remove(0);
    let status = task.status.clone().unwrap();
    assert_eq!(status.epoch, Some(2), "a claim of its own, and the Job of the first");
    assert_eq!(status.evidence_error, None);
    let evidence = json!(status.evidence).to_string();
    assert!(
        evidence.contains("/1/transcript"),
        "the Pod's own claim told of it: {evidence}"
    );
    let jobs = api::<Job>(&client).list(&Default::default()).await.unwrap().items;
    let jobs: Vec<String> = jobs
        .iter()
        .filter(|job| is_coders(job))
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(jobs, [status.job_name.unwrap()], "one Job did it");
    let branch = done.status.unwrap().branch.unwrap();
    let commits = sample.git(&["rev-list", "--count", &format!("main..{branch}")]);
    assert_eq!(commits.trim(), "1", "and pushed once, with no marker before it");
    assert!(
        api::<Secret>(&client).get_opt(&jobs[0]).await.unwrap().is_none(),
        "its payload is gone"
    );
}

#[tokio::test]
async fn a_coders_job_that_died_with_its_machine_is_begun_anew_and_fenced() {
    let sample = sample("  execution: { mode: Job }\n");
    wait_then_write(&sample);
    let up = sample.up();
    sample.task("note", "Write the note.\n");
    let lost = waits(&sample, &[]).await;
    assert_eq!(up.signal("-KILL"), None);
    let up = sample.up();
    let client = up.client().await;
    go_on(&waits(&sample, &[lost]).await);
    let done = ended(&client, "note", 1).await;
    assert!(passed(&done), "{done:#?}");
    let status = done.status.unwrap();
    let message = sample.git(&["log", "-1", "--format=%B", &status.branch.unwrap()]);
    assert!(message.to_lowercase().contains("epoch: 2"), "{message}");
}
