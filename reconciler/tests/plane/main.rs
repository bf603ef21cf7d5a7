//! The operator against a real API and real bare Git repositories.
//!
//! The API is a plane in process; `cargo xtask test --real` runs the same tests on kube-apiserver.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod bare_tasks;
mod broken_files;
#[allow(dead_code, reason = "no other process is told of the API here")]
#[path = "../../../tests/tests/served.rs"]
mod served;
mod support;

use serde_json::json;
use support::{World, agents, node, queue, run_on_n1};

const TASK: &str = "---\ntitle: Fix it\n---\nPlease fix the bug.\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_becomes_a_workload_whose_second_round_passes() {
    let world = World::start().await;
    let repo = world.repo("tasks", &[("tasks/fix.md", TASK)]);
    let head = repo.tip();
    agents(&world).await;
    node(&world, "n1", 2).await;
    let agent = world.agent("n1", move |task| {
        let round = task["spec"]["round"].as_i64().unwrap_or(1);
        match task["spec"]["kind"].as_str() {
            Some("verify") if round == 1 => json!({ "verdict": "GATE-FAIL", "commitSHA": head, "baseSHA": head, "gateDigest": "d1", "result": { "summary": "step test failed" } }),
            Some("verify") => json!({ "verdict": "GATE-PASS", "commitSHA": head, "baseSHA": head, "gateDigest": "d1", "jobName": "no-such-job", "result": { "summary": "passed" } }),
            _ => json!({ "verdict": "GO", "commitSHA": head, "baseSHA": head, "branch": "foreman/x" }),
        }
    });
    queue(&world, "q", &repo.url(), json!({ "defaults": { "repo": repo.url() } })).await;
    let workload = world
        .wait("workloads", "a Workload that ended", |w| {
            w["status"]["phase"] == "Completed"
        })
        .await;
    assert_eq!(workload["status"]["verdict"], "GATE-PASS", "{workload:#}");
    assert_eq!(
        (&workload["status"]["run"], &workload["status"]["round"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(workload["status"]["rounds"].as_array().unwrap().len(), 2);
    assert_eq!(workload["status"]["rounds"][0]["verdict"], "GATE-FAIL");
    let name = workload["metadata"]["name"].as_str().unwrap();
    let tasks = world.list("agentictasks").await;
    let of = |suffix: &str| {
        tasks
            .iter()
            .find(|task| task["metadata"]["name"] == format!("{name}-{suffix}"))
            .unwrap()
    };
    assert_eq!(of("code-r2")["spec"]["feedbackFrom"], format!("{name}-verify"));
    assert_eq!(
        of("verify")["spec"]["baseSHA"],
        repo.tip(),
        "the base is pinned before the gate runs"
    );
    assert_eq!(of("code-r2")["spec"]["baseSHA"], repo.tip());
    let conditions = &workload["status"]["conditions"];
    let ready = conditions
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Ready")
        .unwrap();
    assert_eq!(
        (&ready["status"], &ready["observedGeneration"]),
        (&json!("True"), &workload["metadata"]["generation"])
    );
    // There is no Job that says what the status says, so that no success is reported.
    let note = world
        .eventually("a note", || {
            repo.note(&repo.tip()).filter(|note| !note.contains("pending"))
        })
        .await;
    assert!(note.starts_with("foreman/gate: error the evidence is gone"), "{note}");
    let confirmed = world
        .wait("workloads", "what its Job says", |w| {
            w["status"]["confirmed"].is_object()
        })
        .await["status"]["confirmed"]
        .take();
    let read: Vec<&serde_json::Value> = confirmed.as_object().unwrap().values().collect();
    let job = format!("{}/no-such-job", workload["metadata"]["namespace"].as_str().unwrap());
    assert_eq!((read.len(), &read[0]["job"]), (1, &json!(job)));
    assert!(read[0]["doubt"].is_string(), "{confirmed:#}");
    assert!(note.lines().next().unwrap().chars().count() <= 140);
    assert!(note.contains(&repo.tip()) && note.contains("\"gateDigest\": \"d1\""));
    agent.abort();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_tick_is_one_listing_and_nothing_else_and_a_change_costs_what_changed() {
    let world = World::start().await;
    let files: Vec<(String, String)> = (0..120)
        .map(|i| (format!("tasks/t{i:03}.md"), format!("task number {i}\n")))
        .collect();
    let borrowed: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    let repo = world.repo("tasks", &borrowed);
    for name in ["q1", "q2"] {
        queue(
            &world,
            name,
            &repo.url(),
            json!({ "git": { "path": if name == "q1" { "tasks" } else { "other" } } }),
        )
        .await;
    }
    world.wait_count("workloads", 120).await;
    world.settled().await;
    let metrics = world.metrics();
    let git = |operation: &str| metrics.sum(reconciler::metrics::GIT_REQUESTS, &[("operation", operation)]);
    let before = (
        git("list"),
        git("fetch"),
        metrics.api_writes(),
        metrics.api_reads(),
        metrics.sum(reconciler::metrics::TICKS, &[]),
    );
    for tick in 1..=20 {
        world.nudge(&repo.url());
        world
            .eventually("a tick", || {
                (metrics.sum(reconciler::metrics::TICKS, &[]) >= before.4 + tick).then_some(())
            })
            .await;
    }
    let ticks = metrics.sum(reconciler::metrics::TICKS, &[]) - before.4;
    assert!(ticks >= 20);
    assert_eq!(git("list") - before.0, ticks, "one listing a tick, for both queues");
    assert_eq!(git("fetch"), before.1, "nothing is fetched");
    assert_eq!(
        (metrics.api_writes(), metrics.api_reads()),
        (before.2, before.3),
        "nothing is read or written"
    );

    let parsed = metrics.sum(reconciler::metrics::FILES_PARSED, &[]);
    repo.commit(&[("tasks/t007.md", Some("something else\n"))]);
    world.wait("workloads", "a second run", |w| w["spec"]["run"] == 2).await;
    assert_eq!(
        metrics.sum(reconciler::metrics::FILES_PARSED, &[]) - parsed,
        1,
        "one file is read"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_change_break_move_and_go() {
    let world = World::start().await;
    let repo = world.repo(
        "tasks",
        &[
            ("tasks/a.md", TASK),
            ("tasks/b.md", "do b\n"),
            ("tasks/deep/c.md", "do c\n"),
        ],
    );
    queue(&world, "q", &repo.url(), json!({})).await;
    world.wait_count("workloads", 3).await;
    let by_path = |objects: &[serde_json::Value], path: &str| {
        let found = objects
            .iter()
            .find(|o| o["metadata"]["annotations"]["foreman.llmkube.dev/source-path"] == path);
        found.cloned()
    };
    // A reformatted file starts nothing; a broken one keeps what it made; a good one beside it goes on.
    let tip = repo.commit(&[
        (
            "tasks/a.md",
            Some("---\n# a comment\ntitle:   \"Fix it\"\n---\n\nPlease fix the bug.\n\n"),
        ),
        ("tasks/b.md", Some("---\npriorty: 3\n---\ndo b\n")),
        ("tasks/d.md", Some("do d\n")),
    ]);
    let queue = world
        .wait("taskqueues", "the new revision", |q| {
            q["status"]["observedRevision"] == format!("main@sha1:{tip}")
        })
        .await;
    let status = &queue["status"];
    assert_eq!((&status["files"], &status["invalidFileCount"]), (&json!(4), &json!(1)));
    assert_eq!(status["invalidFiles"][0]["path"], "tasks/b.md");
    assert_eq!(status["invalidFiles"][0]["line"], 2);
    assert!(
        status["invalidFiles"][0]["message"]
            .as_str()
            .unwrap()
            .contains("priority"),
        "{status:#}"
    );
    assert_eq!(status["observedGeneration"], queue["metadata"]["generation"]);
    let workloads = world.list("workloads").await;
    assert_eq!(workloads.len(), 4);
    assert!(workloads.iter().all(|w| w["spec"]["run"] == 1));
    let events = world.list("events").await;
    assert_eq!(events.iter().filter(|e| e["reason"] == "InvalidFile").count(), 1);

    // A file that goes takes with it exactly what it made.
    let c = by_path(&workloads, "tasks/deep/c.md").unwrap();
    repo.commit(&[("tasks/deep/c.md", None)]);
    world.wait_count("workloads", 3).await;
    assert!(
        world
            .list("workloads")
            .await
            .iter()
            .all(|w| w["metadata"]["uid"] != c["metadata"]["uid"])
    );

    // A Workload deleted by hand comes again.
    let a = by_path(&workloads, "tasks/a.md").unwrap();
    world.delete("workloads", a["metadata"]["name"].as_str().unwrap()).await;
    world
        .wait("workloads", "a new one", |w| {
            w["metadata"]["name"] == a["metadata"]["name"] && w["metadata"]["uid"] != a["metadata"]["uid"]
        })
        .await;

    // A force-pushed branch is followed; an emptied folder prunes nothing.
    let forced = repo.force(&[
        ("tasks/a.md", "quite another prompt\n"),
        ("tasks/b.md", "do b\n"),
        ("tasks/d.md", "do d\n"),
    ]);
    world
        .wait("taskqueues", "the forced revision", |q| {
            q["status"]["observedRevision"] == format!("main@sha1:{forced}")
        })
        .await;
    world
        .wait("workloads", "run 2 of a", |w| {
            w["metadata"]["name"] == a["metadata"]["name"] && w["spec"]["run"] == 2
        })
        .await;
    repo.force(&[("README", "nothing here\n")]);
    let guarded = world
        .wait("taskqueues", "the guard", |q| {
            q["status"]["conditions"].to_string().contains("PruneGuarded")
        })
        .await;
    assert!(
        guarded["status"]["conditions"]
            .to_string()
            .contains("3 objects are kept"),
        "{guarded:#}"
    );
    assert_eq!(world.list("workloads").await.len(), 3);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_repository_says_so_and_delays_no_other() {
    let world = World::start().await;
    let good = world.repo("good", &[("tasks/a.md", "do a\n")]);
    let empty = world.repo("empty", &[]);
    let missing = format!("file://{}", world.folder().join("missing.git").display());
    queue(&world, "missing", &missing, json!({})).await;
    queue(&world, "empty", &empty.url(), json!({})).await;
    queue(
        &world,
        "no-branch",
        &good.url(),
        json!({ "git": { "branch": "develop" } }),
    )
    .await;
    queue(&world, "outside", "file:///etc", json!({})).await;
    queue(&world, "good", &good.url(), json!({})).await;
    world.wait_count("workloads", 1).await;
    for (name, part) in [
        ("missing", "missing.git"),
        ("empty", "no branch"),
        ("no-branch", "develop"),
        ("outside", "allowed only below"),
    ] {
        let found = world
            .wait("taskqueues", "a condition", |q| {
                q["metadata"]["name"] == name && q["status"]["conditions"].to_string().contains("\"Fetched\"")
            })
            .await;
        let conditions = found["status"]["conditions"].as_array().unwrap();
        let fetched = conditions.iter().find(|c| c["type"] == "Fetched").unwrap();
        assert_eq!(fetched["status"], "False", "{name}");
        assert!(fetched["message"].as_str().unwrap().contains(part), "{name}: {fetched}");
    }
    // What is mended is found.
    empty.commit(&[("tasks/b.md", Some("do b\n"))]);
    world.nudge(&empty.url());
    world.wait_count("workloads", 2).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_at_the_same_revision_writes_nothing() {
    let mut world = World::start().await;
    let repo = world.repo(
        "tasks",
        &[("tasks/a.md", "do a\n"), ("tasks/b.md", "---\nbad: [\n---\nb\n")],
    );
    queue(&world, "q", &repo.url(), json!({})).await;
    world
        .wait("taskqueues", "a revision", |q| q["status"]["invalidFileCount"] == 1)
        .await;
    world.settled().await;
    let before = (world.list("taskqueues").await, world.list("workloads").await);
    world.restart().await;
    let metrics = world.metrics();
    world
        .eventually("a tick", || {
            (metrics.sum(reconciler::metrics::TICKS, &[]) >= 1).then_some(())
        })
        .await;
    world.settled().await;
    assert_eq!(
        (
            metrics.api_writes(),
            metrics.sum(reconciler::metrics::FILES_PARSED, &[])
        ),
        (0, 0),
        "{}",
        metrics.render()
    );
    assert_eq!((world.list("taskqueues").await, world.list("workloads").await), before);
    repo.commit(&[("tasks/a.md", Some("do more\n"))]);
    let found = world.wait("workloads", "run 2", |w| w["spec"]["run"] == 2).await;
    assert_eq!(found["spec"]["intent"], "do more");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_echoed_and_a_foreign_object_is_never_adopted() {
    let world = World::start().await;
    let manifest = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: mine\nspec:\n  intent: from the file\n  coderAgentRef: {name: c}\n  pipeline:\n  - {name: code, kind: freeform, agentRef: {name: c}, payload: {}}\n";
    let repo = world.repo("tasks", &[("tasks/w.yaml", manifest)]);
    world
        .create(
            "workloads",
            json!({ "kind": "Workload", "metadata": { "name": "mine" }, "spec": { "intent": "by hand" } }),
        )
        .await;
    queue(&world, "q", &repo.url(), json!({})).await;
    world
        .wait("taskqueues", "the condition", |q| {
            q["status"]["conditions"].to_string().contains("NameTaken")
        })
        .await;
    assert_eq!(world.list("workloads").await[0]["spec"]["intent"], "by hand");
    let by_hand = world
        .wait("workloads", "NotSupportedYet", |w| {
            w["status"]["conditions"].to_string().contains("NotSupportedYet")
        })
        .await;
    assert!(
        by_hand["status"]["message"].as_str().unwrap().contains("planner"),
        "{by_hand:#}"
    );
    world
        .patch(
            "taskqueues",
            "q",
            json!({ "metadata": { "annotations": { "foreman.llmkube.dev/requestedAt": "now-1" } } }),
        )
        .await;
    world
        .wait("taskqueues", "the echo", |q| {
            q["status"]["lastHandledReconcileAt"] == "now-1"
        })
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_nodes_task_runs_elsewhere_and_the_old_claim_is_void() {
    let world = World::start().await;
    node(&world, "n1", 1).await;
    world.create("agentictasks", json!({ "kind": "AgenticTask", "metadata": { "name": "t" }, "spec": { "kind": "freeform", "payload": {} } })).await;
    let scheduled = world
        .wait("agentictasks", "an assignment", |t| t["status"]["phase"] == "Scheduled")
        .await;
    assert_eq!(scheduled["status"]["assignedNode"], "n1");
    run_on_n1(&world).await;
    node(&world, "n2", 1).await;
    // The agent lets go of its Lease, as one that is killed and replaced by nobody would lose it.
    world.lease("n1", "").await;
    let moved = world
        .wait("agentictasks", "another node", |t| t["status"]["assignedNode"] == "n2")
        .await;
    assert_eq!(
        (&moved["status"]["lostClaims"], &moved["status"]["epoch"]),
        (&json!(1), &json!(1))
    );
    assert!(moved["status"]["claim"].is_null());
    world
        .wait("fleetnodes", "NotReady", |n| {
            n["metadata"]["name"] == "n1" && n["status"]["phase"] == "NotReady"
        })
        .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancel_and_retry_are_echoed_and_a_new_key_ends_the_old_run_first() {
    let world = World::start().await;
    let repo = world.repo("tasks", &[("tasks/a.md", "do a\n")]);
    queue(&world, "q", &repo.url(), json!({})).await;
    agents(&world).await;
    let first = world
        .wait("workloads", "tasks", |w| w["status"]["phase"] == "Dispatched")
        .await;
    let name = first["metadata"]["name"].as_str().unwrap().to_owned();
    world
        .patch(
            "workloads",
            &name,
            json!({ "metadata": { "annotations": { "foreman.llmkube.dev/cancel": "c1" } } }),
        )
        .await;
    let cancelled = world
        .wait("workloads", "the end", |w| w["status"]["phase"] == "Failed")
        .await;
    assert_eq!(
        (
            &cancelled["status"]["failureReason"],
            &cancelled["status"]["handledCancel"]
        ),
        (&json!("Cancelled"), &json!("c1"))
    );
    let tasks = world.list("agentictasks").await;
    assert!(
        tasks.iter().all(|t| t["status"]["failureReason"] == "Cancelled"),
        "{tasks:#?}"
    );
    world
        .patch(
            "workloads",
            &name,
            json!({ "metadata": { "annotations": { "foreman.llmkube.dev/retry": "r1" } } }),
        )
        .await;
    let again = world
        .wait("workloads", "run 2", |w| {
            w["status"]["run"] == 2 && w["status"]["phase"] == "Dispatched"
        })
        .await;
    assert_eq!(
        (&again["status"]["handledRetry"], &again["spec"]["run"]),
        (&json!("r1"), &json!(2))
    );
    repo.commit(&[("tasks/a.md", Some("do something else\n"))]);
    world
        .wait("workloads", "run 3", |w| {
            w["status"]["run"] == 3 && w["status"]["phase"] == "Dispatched"
        })
        .await;
    let tasks = world.list("agentictasks").await;
    let of = |run: i64| {
        tasks
            .iter()
            .filter(move |t| t["spec"]["run"] == run)
            .collect::<Vec<_>>()
    };
    assert!(of(2).iter().all(|t| t["status"]["phase"] == "Failed"), "{tasks:#?}");
    assert_eq!(of(3).len(), 2);
    assert!(
        of(3)
            .iter()
            .all(|t| t["metadata"]["name"].as_str().unwrap().ends_with("-x3"))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_in_a_local_repository_is_seen_at_once() {
    let world = World::start().await;
    let repo = world.repo("tasks", &[("tasks/a.md", "do a\n")]);
    queue(&world, "q", &repo.url(), json!({ "git": { "interval": "10m" } })).await;
    world.wait_count("workloads", 1).await;
    repo.commit(&[("tasks/b.md", Some("do b\n"))]);
    // The interval is longer than this waits: only the watch can tell.
    world.wait_count("workloads", 2).await;
    world.stop().await;
}
