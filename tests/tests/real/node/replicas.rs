//! Two operators of one release, each in a Pod of its own.

use std::fs;
use std::process::Command;
use std::time::Instant;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use schemas::labels;
use serde_json::{Value, json};

use super::barrier::Barrier;
use super::gates::{JOBS, ended, install, repository, verify};
use super::outside::{gate, runs};
use super::site::Site;
use crate::follower::Follower;

const NAMESPACE: &str = "foreman-system";
const ROLLOUT: &str = "kubectl -n foreman-system rollout status deployment foreman-operator --timeout=3m";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn of_two_operators_in_pods_one_goes_on_when_the_other_is_killed() {
    let site = Site::open().await;
    let client = site.client.clone();
    let barrier = Barrier::at(site.address()).await;
    tokio::task::block_in_place(|| {
        install(
            &site,
            "verifier",
            "--set operator.replicaCount=2 --set 'evidence.accessModes={ReadWriteMany}'",
        );
        repository(&site, "held", &gate(barrier.command(), 120).to_string());
        repository(&site, "later", &gate("true", 120).to_string());
    });
    let operators = operators(&client).await;
    assert_eq!(operators.len(), 2, "{operators:#?}");

    // A gate is under way when the leader dies without a word.
    let mut leases: Follower<Lease> = Follower::of(Api::namespaced(client.clone(), NAMESPACE));
    let mut gates: Follower<Pod> = Follower::of(Api::namespaced(client.clone(), JOBS));
    verify(&client, "held").await;
    gates.saw("a gate that runs", runs).await;
    let before = leases.saw("a leader", |lease| holder(lease).is_some()).await;
    let before = holder(&before).unwrap().to_owned();
    let leader = operators
        .iter()
        .find(|pod| before.starts_with(&pod.name_any()))
        .unwrap_or_else(|| panic!("{before} leads, which is none of {operators:#?}"));
    let killed = Instant::now();
    kill(leader);
    let next = leases
        .saw("another leader", |lease| holder(lease).is_some_and(|it| it != before))
        .await;
    println!(
        "{} leads {:.1} s after {before} was killed",
        holder(&next).unwrap(),
        killed.elapsed().as_secs_f64()
    );
    barrier.open();
    passed(&ended(&client, "held").await);
    let jobs: Api<Job> = Api::namespaced(client.clone(), JOBS);
    let made = jobs.list(&ListParams::default()).await.unwrap().items;
    let names: Vec<String> = made.iter().map(ResourceExt::name_any).collect();
    assert_eq!(names.len(), 1, "the gate ran once: {names:?}");

    // Others come in their places one by one, and one alone is made of two.
    tokio::task::block_in_place(|| {
        site.shell("helm upgrade --reuse-values foreman charts/foreman -n foreman-system --set operator.podAnnotations.round=two");
        site.shell(ROLLOUT);
    });
    verify(&client, "later").await;
    passed(&ended(&client, "later").await);
    tokio::task::block_in_place(|| {
        site.shell(
            "helm upgrade --reuse-values foreman charts/foreman -n foreman-system --set operator.replicaCount=1",
        );
        site.shell(ROLLOUT);
    });
}

/// Returns the Pods of operators that run.
async fn operators(client: &Client) -> Vec<Pod> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let params = ListParams::default().labels("app.kubernetes.io/component=operator");
    let mut found = pods.list(&params).await.unwrap().items;
    found.retain(runs);
    found
}

/// Returns who holds the operators' Lease, if this is it.
fn holder(lease: &Lease) -> Option<&str> {
    let held = lease.metadata.name.as_deref() == Some(labels::OPERATOR_LEASE);
    let spec = lease.spec.as_ref().filter(|_| held)?;
    spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
}

/// Kills the operator of a Pod, from the node.
fn kill(pod: &Pod) {
    let uid = pod.uid().unwrap();
    // A cgroup's name is the Pod's, with other dashes under systemd.
    let of_pod = |text: &str| text.contains(&uid) || text.contains(&uid.replace('-', "_"));
    let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let folder = entry.ok()?.path();
        let is_operator = fs::read_to_string(folder.join("comm"))
            .ok()?
            .starts_with("foreman-operat");
        let own = is_operator && of_pod(&fs::read_to_string(folder.join("cgroup")).ok()?);
        own.then(|| folder.file_name().unwrap().to_owned())
    });
    let processes: Vec<_> = processes.collect();
    assert_eq!(processes.len(), 1, "{processes:?}");
    assert!(
        Command::new("kill")
            .arg("-KILL")
            .args(&processes)
            .status()
            .unwrap()
            .success()
    );
}

fn passed(status: &Value) {
    assert_eq!(status["verdict"], "GATE-PASS", "{status:#}");
    assert_eq!(status["result"]["extra"]["tries"], json!(1), "{status:#}");
    // Whichever operator its Service led to took it.
    let evidence = status["evidence"].as_array();
    assert!(evidence.is_some_and(|evidence| !evidence.is_empty()), "{status:#}");
}
