//! `foreman-operator` and `foreman-agent` as the processes that a cluster runs, meeting in an API served over TLS.
//!
//! The API is a plane's; `cargo xtask test --real` runs the same tests on kube-apiserver.

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::Api;
use schemas::agentic_task::Phase;
use schemas::fleet_node::NodePhase;
use schemas::{FleetNode, labels};
use serde_json::json;

use crate::site::{Site, VERIFIER, heartbeat, node_phase};

#[tokio::test(flavor = "multi_thread")]
async fn the_runbooks_smoke_task_goes_through_operator_and_agent() {
    let site = Site::open().await;
    let (mut tasks, mut nodes) = (site.tasks(), site.nodes());
    let mut operator = site.operator("operator");
    operator.works().await;
    let agent = site.agent("Smoke_Node", VERIFIER);

    let first = nodes
        .saw_of("smoke-node", "ready", |node| heartbeat(node).is_some())
        .await;
    assert_eq!(
        first.spec.roles.as_deref(),
        Some(&["worker".to_owned(), "verifier".to_owned()][..])
    );
    let status = first.status.clone().unwrap();
    assert_eq!(status.agent_version.as_deref(), Some(env!("CARGO_PKG_VERSION")));
    let capability = status.capability.unwrap();
    assert!(capability.total_ram_gb.unwrap() >= capability.available_ram_gb.unwrap());
    let before = heartbeat(&first);
    nodes
        .saw_of("smoke-node", "heard of again", |node| {
            heartbeat(node).is_some_and(|beat| Some(beat) > before)
        })
        .await;

    site.smoke("verifier-smoke").await;
    let done = tasks.phase("verifier-smoke", Phase::Succeeded).await.status.unwrap();
    tasks.assert_done_once("verifier-smoke");
    assert_eq!(done.assigned_node.as_deref(), Some("smoke-node"));
    assert_eq!(json!(done.verdict), "GO");
    assert_eq!(done.claim, None);

    assert_eq!(agent.terminate().await, Some(0));
    assert_eq!(operator.terminate().await, Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_writes_its_spec_only_where_flags_changed() {
    let site = Site::open().await;
    let mut nodes = site.nodes();
    let mut beats = Vec::new();
    let runs: [(&[&str], i64); 3] = [
        (&["--roles", "worker,verifier"], 1),
        (&["--roles", "worker,verifier"], 1),
        (&["--roles", "verifier", "--tailscale-addr", "100.64.0.7"], 2),
    ];
    for (flags, generation) in runs {
        let agent = site.agent("node", flags);
        let last: Option<String> = beats.last().cloned();
        let node = nodes
            .saw_of("node", "heard of after a start", |node| {
                heartbeat(node).is_some() && heartbeat(node) > last && node.metadata.generation >= Some(generation)
            })
            .await;
        assert_eq!(node.metadata.generation, Some(generation), "{flags:?}");
        assert_eq!(agent.terminate().await, Some(0));
        // Its last word; what is newer is a word of the next process.
        let drained = nodes
            .saw_of("node", "draining", |node| {
                node_phase(node) == Some(NodePhase::Draining)
                    && Some(json!(node.status.as_ref().unwrap().last_heartbeat_time).to_string()) > last
            })
            .await;
        beats.push(json!(drained.status.unwrap().last_heartbeat_time).to_string());
    }
    let api: Api<FleetNode> = Api::all(site.client.clone());
    let spec = api.get("node").await.unwrap().spec;
    assert_eq!(spec.roles.as_deref(), Some(&["verifier".to_owned()][..]));
    assert_eq!(spec.tailscale_addr.as_deref(), Some("100.64.0.7"));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_agent_drains_and_another_finishes_its_task() {
    let site = Site::open().await;
    let (mut tasks, mut nodes) = (site.tasks(), site.nodes());
    let _operator = site.operator("operator");
    // Longer than anything here may take: only giving the claim back lets the task end.
    let leaving = site.agent("leaving", &["--roles", "verifier", "--stub-sleep", "1h"]);
    site.smoke("passed-on").await;
    tasks.phase("passed-on", Phase::Running).await;
    let _staying = site.agent("staying", VERIFIER);
    nodes
        .saw_of("staying", "ready", |node| node_phase(node) == Some(NodePhase::Ready))
        .await;

    assert_eq!(leaving.terminate().await, Some(0));
    nodes
        .saw_of("leaving", "draining", |node| {
            node_phase(node) == Some(NodePhase::Draining)
        })
        .await;
    let done = tasks.phase("passed-on", Phase::Succeeded).await.status.unwrap();
    assert_eq!(done.assigned_node.as_deref(), Some("staying"));
    let claims = tasks.claims("passed-on");
    assert_eq!(claims.keys().collect::<Vec<_>>(), [&1, &2], "{claims:?}");
    assert!(
        claims[&1].len() == 1 && claims[&1][0].starts_with("leaving_"),
        "{claims:?}"
    );
    assert!(
        claims[&2].len() == 1 && claims[&2][0].starts_with("staying_"),
        "{claims:?}"
    );

    // One that left on purpose goes on saying so, and is not called lost.
    let api: Api<FleetNode> = Api::all(site.client.clone());
    let left = api.get("leaving").await.unwrap();
    assert_eq!(node_phase(&left), Some(NodePhase::Draining));
    assert_eq!(left.status.unwrap().current_task, None);
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_takes_over_from_a_killed_leader_and_nothing_is_done_twice() {
    let site = Site::open().await;
    let (mut tasks, mut nodes) = (site.tasks(), site.nodes());
    let mut leader = site.operator("leader");
    leader.works().await;
    let mut standby = site.operator("standby");
    standby.says(&["serving evidence"]).await;
    let _agent = site.agent("node", VERIFIER);
    nodes
        .saw_of("node", "ready", |node| node_phase(node) == Some(NodePhase::Ready))
        .await;
    site.smoke("before").await;
    tasks.phase("before", Phase::Succeeded).await;
    let leases: Api<Lease> = Api::namespaced(site.client.clone(), &site.namespace);
    let held = leases.get(labels::OPERATOR_LEASE).await.unwrap().spec.unwrap();
    assert_eq!(held.lease_transitions, Some(0), "the standby only watched");

    leader.kill().await;
    site.smoke("between").await;
    standby.works().await;
    tasks.phase("between", Phase::Succeeded).await;
    site.smoke("after").await;
    tasks.phase("after", Phase::Succeeded).await;
    let taken = leases.get(labels::OPERATOR_LEASE).await.unwrap().spec.unwrap();
    assert_ne!(taken.holder_identity, held.holder_identity);
    assert_eq!(taken.lease_transitions, Some(1));
    for name in ["before", "between", "after"] {
        tasks.assert_done_once(name);
    }
    assert_eq!(standby.terminate().await, Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_native_agent_without_a_git_server_says_so_and_stays() {
    let site = Site::open().await;
    let mut nodes = site.nodes();
    let flags = ["--agent-mode", "native", "--roles", "verifier", "--unsafe-no-sandbox"];
    let mut agent = site.agent("native", &flags);
    let line = agent.says(&["--git-remote-url is not set"]).await;
    assert!(line.contains("INFO"), "{line}");
    agent.says(&["node agent is ready"]).await;
    let first = nodes.saw_of("native", "ready", |node| heartbeat(node).is_some()).await;
    nodes
        .saw_of("native", "heard of again", |node| heartbeat(node) > heartbeat(&first))
        .await;
    assert_eq!(agent.terminate().await, Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_works_without_its_release_namespace() {
    let site = Site::open().await;
    let mut tasks = site.tasks();
    let _operator = site.operator("operator");
    let agent = site.agent_of("not-there", "node", VERIFIER);
    site.smoke("task").await;
    tasks.phase("task", Phase::Succeeded).await;
    tasks.assert_done_once("task");
    assert_eq!(agent.terminate().await, Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_without_its_lease_namespace_says_what_to_create() {
    let site = Site::open().await;
    let mut operator = site.operator_of("not-there", "operator");
    operator.says(&["WARN", "namespace", "not-there"]).await;
    assert_eq!(operator.terminate().await, Some(0));
    site.close().await;
}
