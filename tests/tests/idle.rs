//! What an idle queue costs: one ref listing a tick, nothing read, nothing written, by two counts.

use std::time::Duration;

use crate::git_server::GitServer;
use crate::stage::{self, Setup, Stage};

/// Sums the series of a counter whose labels include `label`.
fn sum(metrics: &str, name: &str, label: &str) -> f64 {
    metrics
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn writes(metrics: &str) -> f64 {
    ["create", "update", "patch", "delete"]
        .iter()
        .map(|verb| sum(metrics, "foreman_api_requests_total", &format!("verb=\"{verb}\"")))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_queue_lists_refs_and_does_nothing_else_until_something_changes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let server = GitServer::start(root.clone(), None).await;
    let tasks_url = Some(format!("{}/tasks.git", server.url));
    let stage = Stage::below(
        &root,
        &Setup {
            tasks_url,
            interval: "200ms",
            ..Setup::default()
        },
    );
    stage.ask(&["first".into()]);
    let up = stage.up(&[]);
    let client = up.client().await;
    stage::ended(&client, 1, Duration::from_secs(60)).await;
    let settled = async || {
        // What follows an end (report, counts) is written shortly after it.
        let mut before = writes(&up.metrics().await);
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let now = writes(&up.metrics().await);
            if now == before {
                return;
            }
            before = now;
        }
    };
    settled().await;
    let ticks = |metrics: &str| sum(metrics, "foreman_queue_ticks_total", "");
    let (before, asked) = (up.metrics().await, server.seen().len());
    let mut after = before.clone();
    while ticks(&after) < ticks(&before) + 20.0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        after = up.metrics().await;
    }
    let seen = server.seen().split_off(asked);
    let looked = ticks(&after) - ticks(&before);
    let moved = |name: &str, label: &str| sum(&after, name, label) - sum(&before, name, label);
    println!(
        "{looked} ticks, {} requests to the Git server, {} writes",
        seen.len(),
        writes(&after) - writes(&before)
    );
    assert_eq!(writes(&after), writes(&before), "an idle tick writes nothing:\n{after}");
    assert_eq!(moved("foreman_task_files_parsed_total", ""), 0.0);
    assert_eq!(moved("foreman_git_requests_total", "\"fetch\""), 0.0);
    // One listing is two requests in protocol 2: what the server can do, and ls-refs.
    let fetched: Vec<&String> = seen
        .iter()
        .filter(|one| one.starts_with("GET") && !one.contains("info/refs?service=git-upload-pack"))
        .collect();
    assert!(fetched.is_empty(), "{fetched:?}");
    assert!(
        seen.len() as f64 >= looked - 1.0 && seen.len() as f64 <= (looked + 2.0) * 2.0,
        "{looked} ticks: {seen:#?}"
    );
    assert!(!seen.iter().any(|one| one.contains("receive-pack")), "{seen:#?}");
    stage.ask(&["second".into()]);
    stage::ended(&client, 2, Duration::from_secs(60)).await;
    let changed = up.metrics().await;
    assert!(writes(&changed) > writes(&after), "a change is counted");
    assert!(sum(&changed, "foreman_task_files_parsed_total", "") > sum(&after, "foreman_task_files_parsed_total", ""));
    assert!(
        sum(&changed, "foreman_git_requests_total", "\"fetch\"")
            > sum(&after, "foreman_git_requests_total", "\"fetch\"")
    );
    assert!(up.stop().success());
}
