//! Nodes that go, nodes that only write heartbeats, and clocks that disagree.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::Api;
use schemas::agentic_task::Phase;
use schemas::fleet_node::NodePhase;
use schemas::{AgenticTask, FleetNode};
use serde_json::json;

use crate::follower::Follower;
use crate::real::site::{Site, condition, is_in};

fn node_of(task: &AgenticTask) -> Option<&str> {
    task.status.as_ref()?.assigned_node.as_deref()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn a_node_that_is_deleted_in_the_middle_of_a_task_loses_it_to_another() {
    let site = Site::open().await;
    site.node("a", 1).await;
    let mut operator = site.operator("operator");
    operator.says(&["Starting workers", "AgenticTask"]);
    let mut tasks = site.tasks();
    site.create_task("t").await;
    tasks.assigned(1).await;
    let claim = json!({ "node": site.node_name("a"), "agent": "p", "epoch": 1, "secretSHA256": "0".repeat(64) });
    site.write("t", json!({ "phase": "Running", "epoch": 1, "claim": claim }))
        .await;
    tasks.saw("running", |task| is_in(task, Phase::Running)).await;
    site.delete_nodes(&["a"]).await;

    let pending = tasks
        .saw("pending again", |task| {
            is_in(task, Phase::Pending) && task.status.as_ref().unwrap().lost_claims == Some(1)
        })
        .await;
    let said = condition(&pending, "Scheduled").unwrap();
    assert!(
        said.starts_with("False ClaimLost:") && said.contains(&site.node_name("a")) && said.contains("does not exist"),
        "{said}"
    );
    assert_eq!(pending.status.as_ref().unwrap().claim, None);
    site.node("b", 1).await;
    let b = site.node_name("b");
    let again = tasks
        .saw("a place on the other node", |task| node_of(task) == Some(&b))
        .await;
    assert_eq!(
        again.status.unwrap().epoch,
        Some(1),
        "the next claim has the next epoch"
    );
    site.delete_nodes(&["b"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn agents_that_only_write_heartbeats_are_served_whatever_their_clock_says() {
    let site = Site::open().await;
    let skew = SignedDuration::from_mins(5);
    let names = ["slow", "right", "fast"];
    let clock = |node: &str| match node {
        "slow" => Timestamp::now() - skew,
        "fast" => Timestamp::now() + skew,
        _ => Timestamp::now(),
    };
    for node in names {
        site.node(node, 1).await;
        site.beat(node, json!({ "lastHeartbeatTime": clock(node).to_string() }))
            .await;
    }
    let mut operator = site.operator("operator");
    operator.says(&["Starting workers", "AgenticTask"]);
    let (mut tasks, mut nodes) = (site.tasks(), Follower::<FleetNode>::of(Api::all(site.client.clone())));
    for task in ["one", "two", "three"] {
        site.create_task(task).await;
    }
    tasks.assigned(3).await;

    // Two of them fall silent. A heartbeat is good for 90 seconds, three of the usual intervals, from when it was seen.
    let beating = {
        let site_client = site.client.clone();
        let name = site.node_name("right");
        tokio::spawn(async move {
            let api: Api<FleetNode> = Api::all(site_client);
            let mut tick = tokio::time::interval(std::time::Duration::from_secs(10));
            loop {
                tick.tick().await;
                let beat = json!({ "status": { "phase": "Ready", "lastHeartbeatTime": Timestamp::now().to_string() } });
                let patch = kube::api::Patch::Merge(beat);
                api.patch_status(&name, &Default::default(), &patch).await.unwrap();
            }
        })
    };
    for node in ["slow", "fast"] {
        let name = site.node_name(node);
        let stale = nodes
            .saw("stale", |seen| {
                seen.name_any() == name
                    && seen.status.as_ref().and_then(|status| status.phase) == Some(NodePhase::NotReady)
            })
            .await;
        let said = condition(&stale, "Ready").unwrap();
        assert!(said.starts_with("False NotHeardOf:") && said.contains("90 s"), "{said}");
    }
    let lost = |task: &AgenticTask| {
        is_in(task, Phase::Pending) && condition(task, "Scheduled").is_some_and(|said| said.starts_with("False"))
    };
    tasks
        .until("the tasks of both are pending again", |seen| {
            let mut names: Vec<String> = seen
                .iter()
                .filter(|task| lost(task))
                .map(ResourceExt::name_any)
                .collect();
            names.sort();
            names.dedup();
            (names.len() == 2).then_some(())
        })
        .await;
    let api: Api<FleetNode> = Api::all(site.client.clone());
    let right = api.get(&site.node_name("right")).await.unwrap();
    assert_eq!(
        right.status.unwrap().phase,
        Some(NodePhase::Ready),
        "the one that goes on lives"
    );
    beating.abort();
    site.delete_nodes(&names).await;
}
