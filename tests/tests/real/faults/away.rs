//! The API server, or what stands behind it, is away for a while.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kube::ResourceExt;
use kube::api::{Api, DeleteParams};
use kube::runtime::wait::{await_condition, conditions};
use schemas::AgenticTask;
use schemas::agentic_task::Phase;

use super::relay::{Between, Fate, Line, failure, is_watch};
use crate::follower::Follower;
use crate::real::site::{Site, is_in};

const TASKS: usize = 150;

/// Waits until some of the tasks are made and not all.
async fn under_way(tasks: &mut Follower<AgenticTask>) {
    tasks
        .until("work that is under way", |seen| {
            let names: BTreeSet<String> = seen.iter().map(ResourceExt::name_any).collect();
            (names.len() >= TASKS / 5).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn an_api_server_that_goes_away_and_comes_back_costs_time_only() {
    let site = Site::open().await;
    site.node("a", 1000).await;
    let (line, kubeconfig) = Line::lay(site.folder.path()).await;
    let mut operator = site.operator_by("operator", &kubeconfig);
    operator.says(&["Starting workers", "TaskQueue"]);
    let mut tasks = site.tasks();
    site.queue().await;
    site.ask(TASKS);
    under_way(&mut tasks).await;
    line.cut();
    // It stops writing by itself once its Lease may be another's.
    operator.says(&["the lease was lost"]);
    // Meanwhile something happens that it cannot hear of.
    site.create_task("between").await;
    line.mend();
    operator.says(&["leading"]);
    tasks.assigned(TASKS + 1).await;
    tasks.assert_each_done_once(TASKS + 1);
    site.delete_nodes(&["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn while_etcd_is_gone_nothing_is_lost_and_an_unanswered_write_is_not_repeated_blindly() {
    let site = Site::open().await;
    site.node("a", 1000).await;
    let (between, kubeconfig) = Between::serve(site.client.clone(), site.folder.path()).await;
    let mut operator = site.operator_by("operator", &kubeconfig);
    operator.says(&["Starting workers", "TaskQueue"]);
    let mut tasks = site.tasks();
    site.queue().await;

    // Every third write happens, and the answer says that nobody knows whether it did.
    let lost = Arc::new(AtomicUsize::new(0));
    let count = lost.clone();
    between.judge(move |request| {
        let written = request.method != http::Method::GET && !request.uri.path().contains("leases");
        if written && count.fetch_add(1, Ordering::Relaxed).is_multiple_of(3) {
            let message = "Timeout: request did not complete within requested timeout - context deadline exceeded";
            Fate::Lose(504, failure(504, "Timeout", message))
        } else {
            Fate::Pass
        }
    });
    site.ask(TASKS);
    under_way(&mut tasks).await;
    between.judge(|request| {
        if is_watch(request) {
            // The watch cache goes on without etcd.
            return Fate::Pass;
        }
        Fate::Answer(500, failure(500, "InternalError", "etcdserver: request timed out"))
    });
    operator.says(&["the lease was lost"]);
    between.judge(|_| Fate::Pass);
    operator.says(&["leading"]);
    tasks.assigned(TASKS).await;
    tasks.assert_each_done_once(TASKS);
    assert!(lost.load(Ordering::Relaxed) > 10, "writes were lost");
    site.delete_nodes(&["a"]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn a_watch_that_expired_is_begun_anew_and_what_was_missed_is_seen() {
    let site = Site::open().await;
    site.node("a", 1).await;
    let (between, kubeconfig) = Between::serve(site.client.clone(), site.folder.path()).await;
    let mut operator = site.operator_by("operator", &kubeconfig);
    operator.says(&["Starting workers", "TaskQueue"]);
    let mut tasks = site.tasks();
    site.create_task("first").await;
    tasks.assigned(1).await;

    let of_tasks = |request: &http::request::Parts| is_watch(request) && request.uri.path().contains("agentictasks");
    between.judge(move |request| match of_tasks(request) {
        true => Fate::Answer(503, failure(503, "ServiceUnavailable", "not now")),
        false => Fate::Pass,
    });
    between.break_watches();
    // The only place becomes free, and somebody else wants it; neither is told.
    let api: Api<AgenticTask> = site.api();
    let uid = api.get("first").await.unwrap().uid().unwrap();
    api.delete("first", &DeleteParams::default()).await.unwrap();
    await_condition(api, "first", conditions::is_deleted(&uid))
        .await
        .unwrap();
    site.create_task("second").await;

    let expired = Arc::new(AtomicUsize::new(0));
    let count = expired.clone();
    between.judge(move |request| {
        if of_tasks(request) && count.fetch_add(1, Ordering::Relaxed) == 0 {
            let status = failure(410, "Expired", "too old resource version: 1 (2)");
            return Fate::Answer(200, serde_json::json!({ "type": "ERROR", "object": status }));
        }
        Fate::Pass
    });
    tasks
        .saw("the second in the place of the first", |task| {
            task.name_any() == "second" && is_in(task, Phase::Scheduled)
        })
        .await;
    assert!(
        expired.load(Ordering::Relaxed) > 1,
        "the watch expired and was begun anew"
    );
    assert!(operator.log().contains("a watch broke off"), "{}", operator.log());
    site.delete_nodes(&["a"]).await;
}
