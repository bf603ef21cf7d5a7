//! A node whose clock is wrong by minutes works as any other.

use k8s_openapi::jiff::Timestamp;
use schemas::FleetNode;
use serde_json::json;

use crate::real::node::outside::{Outside, Seen, gate};

/// Lets a node whose clock is wrong by so many seconds do work from end to end.
async fn works_at(clock: &'static str) {
    let mut outside = Outside::open_at(Some(clock), &gate("sleep 12", 120), &[]).await;
    outside.until_ready(true).await;
    let node: FleetNode = outside.node().await;
    let beat = node.status.and_then(|status| status.last_heartbeat_time).unwrap();
    let wrong = beat.0.duration_since(Timestamp::now()).as_secs();
    let meant: i64 = clock.parse().unwrap();
    assert!(
        (wrong - meant).abs() < 60,
        "its clock is wrong by {wrong} s, not by {meant}"
    );
    let mut seen = Seen::of(&outside);
    outside.ask(&["one", "two"]);
    outside.assert_each_done_once(&mut seen).await;
    for task in seen.tasks.states() {
        let status = task.status.unwrap_or_default();
        assert_eq!(status.lost_claims.unwrap_or(0), 0, "{:#}", json!(status));
        assert!(status.epoch.unwrap_or(0) <= 1, "{:#}", json!(status));
        if let (Some(begun), Some(ended)) = (&status.started_at, &status.finished_at) {
            assert!(begun.0 <= ended.0, "{:#}", json!(status));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_node_whose_clock_is_five_minutes_ahead_works_as_any_other() {
    works_at("+300").await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_node_whose_clock_is_five_minutes_behind_works_as_any_other() {
    works_at("-300").await;
}
