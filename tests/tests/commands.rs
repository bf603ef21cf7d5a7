//! The commands of `foreman` that speak to a cluster, on an operator and an agent that are processes of their own.
//!
//! The API is a plane's; `cargo xtask test --real` runs the same tests on kube-apiserver.

use schemas::agentic_task::Phase;
use serde_json::Value;

use crate::foreman::{Said, call};
use crate::site::{Site, heartbeat};

/// Calls `foreman` on the site as on a cluster, without any state of this machine.
fn foreman(site: &Site, arguments: &[&str]) -> Said {
    let folder = tempfile::tempdir().unwrap();
    let kubeconfig = site.kubeconfig.to_str().unwrap();
    let mut all = vec!["--kubeconfig", kubeconfig, "--namespace", &site.namespace];
    all.extend(arguments);
    call(folder.path(), &all)
}

fn works(site: &Site, arguments: &[&str]) -> String {
    let said = foreman(site, arguments);
    assert_eq!(said.code, Some(0), "{arguments:?}: {said:#?}");
    said.out
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_listed_shown_cancelled_and_tried_again_on_a_cluster() {
    let site = Site::open().await;
    let (mut tasks, mut nodes) = (site.tasks(), site.nodes());
    let mut operator = site.operator("operator");
    operator.works().await;
    // Longer than anything here may take: only the request ends the task.
    let agent = site.agent("node", &["--roles", "verifier", "--stub-sleep", "1h"]);
    nodes.saw_of("node", "ready", |node| heartbeat(node).is_some()).await;
    site.smoke("task").await;
    tasks.phase("task", Phase::Running).await;

    let listed = works(&site, &["get", "tasks"]);
    assert!(listed.contains("task") && listed.contains("Running"), "{listed}");
    let listed: Value = serde_json::from_str(&works(&site, &["get", "tasks", "-o", "json"])).unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed:#}");
    assert_eq!(listed["items"][0]["status"]["assignedNode"], "node");
    let listed = works(&site, &["get", "nodes"]);
    assert!(
        listed.contains("node") && listed.contains("Ready") && listed.contains("task"),
        "{listed}"
    );
    let shown = works(&site, &["show", "task"]);
    assert!(shown.contains("task") && shown.contains("Running"), "{shown}");

    let cancelled = works(&site, &["cancel", "task"]);
    assert!(cancelled.contains("task: cancelled"), "{cancelled}");
    let over = tasks.phase("task", Phase::Failed).await.status.unwrap();
    assert_eq!(serde_json::json!(over.failure_reason), "Cancelled");
    let again = works(&site, &["cancel", "task"]);
    assert!(again.contains("it is over already"), "{again}");
    let retried = works(&site, &["retry", "task"]);
    assert!(retried.contains("a new run starts"), "{retried}");
    tasks.phase("task-x2", Phase::Running).await;

    let said = foreman(&site, &["show", "nothing"]);
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert!(said.err.contains("nothing"), "{said:#?}");
    assert_eq!(agent.terminate().await, Some(0));
    assert_eq!(operator.terminate().await, Some(0));
    site.close().await;
}
