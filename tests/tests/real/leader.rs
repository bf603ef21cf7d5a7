//! Two operators and one Lease.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt};
use schemas::labels;

use super::site::Site;

const TASKS: usize = 150;
/// Objects that are made before the leader dies.
const BEFORE: usize = 60;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn a_standby_goes_on_where_a_killed_leader_stopped_and_nothing_is_done_twice() {
    let site = Site::open().await;
    site.node("a", 1000).await;
    let mut leader = site.operator("leader");
    leader.says(&["Starting workers", "TaskQueue"]);
    let mut standby = site.operator("standby");
    let mut tasks = site.tasks();
    site.queue().await;
    site.ask(TASKS);
    let made = tasks
        .until("work that is under way", |seen| {
            let names: BTreeSet<String> = seen.iter().map(ResourceExt::name_any).collect();
            (names.len() >= BEFORE).then_some(names.len())
        })
        .await;
    leader.kill();
    assert!(
        !standby.log().contains("Starting workers"),
        "it watches while another leads"
    );

    standby.says(&["leading"]);
    tasks.assigned(TASKS).await;
    tasks.assert_each_done_once(TASKS);
    let leases: Api<Lease> = site.api();
    let lease = leases.get(labels::OPERATOR_LEASE).await.unwrap().spec.unwrap();
    assert_eq!(lease.lease_transitions, Some(1));
    // What the leader had made, the standby found and did not write again.
    let counters = standby.settled().await;
    let applied: f64 = counters
        .iter()
        .filter(|(series, _)| {
            ["cause=\"taskqueue\"", "verb=\"create\"", "resource=\"agentictasks\""]
                .iter()
                .all(|label| series.contains(label))
        })
        .map(|(_, count)| count)
        .sum();
    let left = (TASKS - made) as f64;
    assert!(applied <= left, "{applied} were applied where {left} were left");
    site.delete_nodes(&["a"]).await;
}
