//! What befalls a gate's Pod and the node that it runs on: a kubelet that is gone, evictions, a node that is deleted, and a
//! volume that nobody makes.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::ListParams;
use schemas::{AgenticTask, labels};
use serde_json::{Value, json};

use super::servers::{Away, real};
use crate::foreman::LIMIT;
use crate::real::chart::helm::needed;
use crate::real::node::barrier::Barrier;
use crate::real::node::outside::{Outside, Seen, gate, runs};
use crate::real::site::condition;

/// The node of the tier.
const NODE: &str = "foreman-node";

/// Calls kubectl for what a test changes of the cluster.
fn kubectl(outside: &Outside, command: &str) {
    tokio::task::block_in_place(|| outside.site.shell(&format!("kubectl {command}")));
}

/// Undoes what a test did to the cluster, also when it fails.
struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Calls kubectl where a test may have failed already.
fn undo(arguments: &[&str]) {
    let _ = std::process::Command::new(needed("FOREMAN_KUBECTL"))
        .arg("--kubeconfig")
        .arg(needed("FOREMAN_REAL_KUBECONFIG"))
        .args(arguments)
        .status();
}

/// Waits until a task has ended, and returns its status.
async fn ended(outside: &mut Outside, seen: &mut Seen, name: &str) -> Value {
    let over = |task: &AgenticTask| {
        let phase = task.status.as_ref().and_then(|status| status.phase);
        phase.is_some_and(|phase| phase.is_terminal())
    };
    let task = seen.tasks.saw_of(name, "over", over).await;
    outside.assert_alive().await;
    json!(task.status)
}

/// Fails unless a gate passed at this try, by one Pod for each.
async fn passed(outside: &mut Outside, seen: &mut Seen, name: &str, tries: &[i64]) {
    let status = ended(outside, seen, name).await;
    let told = format!("{name}: {status:#}\n{}", outside.logs());
    assert_eq!(status["verdict"], "GATE-PASS", "{told}");
    let took = status["result"]["extra"]["tries"].as_i64().unwrap();
    assert!(tries.contains(&took), "{told}");
    assert_eq!(status["epoch"], 1, "{told}");
    // One Job for each try, and one that prepares.
    let jobs: BTreeSet<String> = seen
        .jobs
        .states()
        .iter()
        .filter(|job| job.labels().get(schemas::labels::TASK).is_some_and(|task| task == name))
        .filter(|job| job.name_any().starts_with("gate-"))
        .map(|job| format!("{} {:?}", job.name_any(), job.uid()))
        .collect();
    assert_eq!(jobs.len() as i64, took, "{name}: {jobs:?}");
    println!("{name}: GATE-PASS at try {took}");
}

/// Waits until a gate was tried so often in vain.
async fn tried(seen: &mut Seen, name: &str, tries: i64) {
    let tried = |task: &AgenticTask| task.status.as_ref().and_then(|status| status.gate_tries) == Some(tries);
    seen.tasks.saw_of(name, &format!("tried {tries} times"), tried).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn gates_outlive_a_kubelet_that_crashes_and_those_that_run_out_of_time_are_tried_again() {
    let mut outside = Outside::open(&gate("true", 120), &[]).await;
    let barrier = Barrier::at(outside.site.address()).await;
    let mut seen = Seen::of(&outside);
    outside.verify("goes-on", &gate(barrier.command(), 120)).await;
    outside.verify("out-of-time", &gate(barrier.command(), 10)).await;
    for name in ["goes-on", "out-of-time"] {
        seen.gate_runs(Some(name)).await;
    }
    let kubelet = Away::stop("kubelet", "kill");
    // Nobody says of the one that it ended, and nobody ends the other.
    barrier.open();
    let pushed_meanwhile = gate("true", 120);
    outside.verify("meanwhile", &pushed_meanwhile).await;
    tried(&mut seen, "out-of-time", 1).await;
    kubelet.back();
    passed(&mut outside, &mut seen, "goes-on", &[1]).await;
    passed(&mut outside, &mut seen, "out-of-time", &[2]).await;
    passed(&mut outside, &mut seen, "meanwhile", &[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_gate_that_is_evicted_by_a_taint_waits_for_a_node_and_is_tried_again() {
    let mut outside = Outside::open(&gate("true", 120), &[]).await;
    let barrier = Barrier::at(outside.site.address()).await;
    let mut seen = Seen::of(&outside);
    outside.verify("tainted", &gate(barrier.command(), 120)).await;
    seen.gate_runs(Some("tainted")).await;
    let undo = Undo(|| undo(&["taint", "node", NODE, "foreman-test-"]));
    kubectl(&outside, &format!("taint node {NODE} foreman-test=gone:NoExecute"));
    tried(&mut seen, "tainted", 1).await;
    let waits = |task: &AgenticTask| condition(task, "GateScheduled").is_some_and(|said| said.starts_with("False"));
    let task = seen.tasks.saw_of("tainted", "without a node", waits).await;
    let said = condition(&task, "GateScheduled").unwrap();
    assert!(said.contains("untolerated taint"), "{said}");
    barrier.open();
    drop(undo);
    // The scheduler may hear of it before the one who evicts.
    passed(&mut outside, &mut seen, "tainted", &[2, 3]).await;
    let task: AgenticTask = outside.api().get("tainted").await.unwrap();
    let said = condition(&task, "GateScheduled").unwrap();
    assert!(said.starts_with("True "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_node_that_is_deleted_under_a_gate_costs_a_try_at_most() {
    let mut outside = Outside::open(&gate("true", 120), &[]).await;
    let barrier = Barrier::at(outside.site.address()).await;
    let mut seen = Seen::of(&outside);
    outside.verify("under-way", &gate(barrier.command(), 120)).await;
    seen.gate_runs(Some("under-way")).await;
    // A kubelet makes its Node when it starts.
    let undo = Undo(|| {
        tokio::task::block_in_place(|| {
            real(&["stop", "kubelet"]);
            real(&["start", "kubelet"]);
        });
    });
    kubectl(&outside, &format!("delete node {NODE}"));
    outside.verify("later", &gate("true", 120)).await;
    let waits = |task: &AgenticTask| condition(task, "GateScheduled").is_some_and(|said| said.starts_with("False"));
    let task = seen.tasks.saw_of("later", "without a node", waits).await;
    let said = condition(&task, "GateScheduled").unwrap();
    assert!(said.contains("no nodes available"), "{said}");
    drop(undo);
    barrier.open();
    passed(&mut outside, &mut seen, "later", &[1]).await;
    passed(&mut outside, &mut seen, "under-way", &[1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn an_agent_that_is_killed_under_a_gate_leaves_nothing_that_goes_on() {
    let mut outside = Outside::open(&gate("true", 120), &[]).await;
    let barrier = Barrier::at(outside.site.address()).await;
    let mut seen = Seen::of(&outside);
    outside.verify("cut-off", &gate(barrier.command(), 120)).await;
    let first = seen.gate_runs(Some("cut-off")).await;
    let job = first.labels()["job-name"].clone();
    outside.restart_agent().await;
    seen.pods
        .saw("the gate of the second claim", |pod| {
            pod.labels().get("job-name").is_some_and(|of| *of != job) && runs(pod)
        })
        .await;
    // The plan is the Job's, and goes with it.
    let (jobs, plans) = (outside.api::<Job>(), outside.api::<ConfigMap>());
    let waited = tokio::time::timeout(LIMIT, async {
        while jobs.get_opt(&job).await.unwrap().is_some() || plans.get_opt(&job).await.unwrap().is_some() {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    });
    assert!(waited.await.is_ok(), "{job} was not removed:\n{}", outside.logs());
    barrier.open();
    let status = ended(&mut outside, &mut seen, "cut-off").await;
    let told = format!("{status:#}\n{}", outside.logs());
    assert_eq!(
        (&status["verdict"], &status["epoch"]),
        (&json!("GATE-PASS"), &json!(2)),
        "{told}"
    );
    let own: Vec<String> = plans
        .list(&ListParams::default().labels(labels::TASK))
        .await
        .unwrap()
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(own.len(), 1, "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_cache_that_no_storage_class_makes_is_explained_with_what_to_do() {
    let mut outside = Outside::open(&gate("true", 120), &["--gate-cache-pvc=gate-cache"]).await;
    let mut seen = Seen::of(&outside);
    let default = "storageclass.kubernetes.io/is-default-class";
    let undo = Undo(|| {
        undo(&[
            "annotate",
            "--overwrite",
            "storageclass",
            "local",
            &format!("{default}=true"),
        ])
    });
    kubectl(
        &outside,
        &format!("annotate --overwrite storageclass local {default}=false"),
    );
    // As the chart renders it, where no class is named.
    kubectl(
        &outside,
        &format!(
            "-n {} create -f - <<'END'\n{}\nEND",
            outside.namespace,
            json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "gate-cache" },
                "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "20Gi" } } },
            })
        ),
    );
    let mut cached = gate("true", 20);
    cached["prepare"] = json!({ "command": "true", "cacheKey": ["file"] });
    outside.verify("cached", &cached).await;
    let waits = |task: &AgenticTask| condition(task, "GateScheduled").is_some_and(|said| said.starts_with("False"));
    let task = seen.tasks.saw_of("cached", "without a volume", waits).await;
    let said = condition(&task, "GateScheduled").unwrap();
    println!("{said}");
    for part in [
        "gate-cache",
        "PersistentVolumeClaim",
        "agent.gateCache.enabled=false",
        "storageClass",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // Somebody names a class: the claim gets it, and the gate goes on.
    drop(undo);
    kubectl(
        &outside,
        &format!(
            "-n {} wait --for=jsonpath='{{.spec.storageClassName}}'=local --timeout=60s pvc/gate-cache",
            outside.namespace
        ),
    );
    // A kube-scheduler that hears of the class may look before its own cache of claims has it, and then not for 5 minutes.
    kubectl(
        &outside,
        &format!("-n {} label pvc/gate-cache foreman-test=look", outside.namespace),
    );
    passed(&mut outside, &mut seen, "cached", &[1, 2]).await;
}
