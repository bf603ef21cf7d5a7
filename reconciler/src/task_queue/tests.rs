//! The controller driven by hand: a plane in process, a bare repository, and one turn of the queue at a time.
#![allow(clippy::unwrap_used, clippy::panic)]

mod stage;

use std::sync::atomic::Ordering;

use git::{FileEdit, Repository};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::*;
use stage::{NAMESPACE, Stage, says};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_made_suspended_makes_nothing_until_it_is_resumed() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n")]).await;
    stage.queue(json!({ "suspend": true })).await;
    stage
        .turns_until("the condition", |status| says(status, "Suspended", "True"))
        .await;
    assert_eq!(stage.made().await, [""; 0]);
    let tip = stage.commit(&[FileEdit::write("tasks/b.md", "do b\n")]);
    let before = stage.plane.latest_version();
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(
        stage.plane.latest_version(),
        before,
        "a queue that rests writes nothing"
    );
    stage.edit(json!({ "suspend": false })).await;
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["tasks/a.md", "tasks/b.md"]);
    assert!(!says(&stage.status(), "Suspended", "True"));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_while_a_queue_rested_is_acted_on_once_it_is_resumed() {
    for restarts in [false, true] {
        let mut stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
        stage.queue(json!({})).await;
        stage.acts_on(stage.tip()).await;
        stage.edit(json!({ "suspend": true })).await;
        stage
            .turns_until("the condition", |status| says(status, "Suspended", "True"))
            .await;
        stage.delete(&stage.name_of("tasks/a.md")).await;
        let tip = stage.commit(&[FileEdit::remove("tasks/b.md"), FileEdit::write("tasks/c.md", "do c\n")]);
        if restarts {
            stage.restart().await;
        }
        assert_eq!(stage.step().await, Next::Wait);
        assert_eq!(
            stage.made().await,
            ["tasks/b.md"],
            "nothing is made anew, and nothing is pruned"
        );
        stage.edit(json!({ "suspend": false })).await;
        stage.acts_on(tip).await;
        assert_eq!(stage.made().await, ["tasks/a.md", "tasks/c.md"]);
        stage.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_made_while_the_repository_is_away_is_acted_on_once_it_is_back() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("other/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    let tip = stage.tip();
    stage.acts_on(tip).await;
    let away = stage.folder.path().join("away.git");
    std::fs::rename(stage.repository(), &away).unwrap();
    stage.nudge();
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    stage.edit(json!({ "git": { "path": "other" } })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    assert!(says(&stage.status(), "Ready", "False"));
    std::fs::rename(&away, stage.repository()).unwrap();
    stage.nudge();
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["other/b.md"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pruning_that_is_asked_for_later_ends_what_removed_files_made() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
    stage.queue(json!({ "prune": false })).await;
    stage.acts_on(stage.tip()).await;
    let tip = stage.commit(&[FileEdit::remove("tasks/b.md")]);
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["tasks/a.md", "tasks/b.md"]);
    stage.edit(json!({ "prune": true })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    assert_eq!(stage.made().await, ["tasks/a.md"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_queue_made_ends_with_it_as_long_as_pruning_is_asked_for() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let (a, b) = (stage.name_of("tasks/a.md"), stage.name_of("tasks/b.md"));
    let map: ConfigMap = serde_json::from_value(json!({ "metadata": { "name": "other" } })).unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(stage.plane.client(), NAMESPACE);
    let map = maps.create(&PostParams::default(), &map).await.unwrap();
    let other = json!({ "apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": map.uid() });
    let more = stage
        .owners(&a)
        .await
        .into_iter()
        .chain([other.clone()])
        .collect::<Vec<_>>();
    let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": more } }));
    let tied = stage.api::<Workload>().patch(&a, &PatchParams::default(), &patch).await;
    stage.ctx.workloads.observe(tied.unwrap());

    // What a broken file made before is no exception.
    let tip = stage.commit(&[FileEdit::write("tasks/b.md", "---\nnonsense: [\n---\n")]);
    stage.acts_on(tip).await;

    stage.edit(json!({ "prune": false })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    assert_eq!(stage.owners(&a).await, [other], "what others say stays");
    assert_eq!(stage.owners(&b).await, [] as [Value; 0]);
    stage.edit(json!({ "prune": true })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 3)
        .await;
    assert_eq!(stage.owners(&a).await.len(), 2);
    assert_eq!(stage.owners(&b).await[0]["kind"], "TaskQueue");

    // An edit of the file and of the queue, seen together.
    stage.edit(json!({ "prune": false, "suspend": true })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 4)
        .await;
    let tip = stage.commit(&[FileEdit::write("tasks/a.md", "do a otherwise\n")]);
    stage.edit(json!({ "suspend": false })).await;
    stage.acts_on(tip).await;
    assert_eq!(stage.owners(&a).await.len(), 1, "the queue is no owner any more");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_while_there_was_no_file_is_pruned_once_there_is_one() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let tip = stage.commit(&[FileEdit::remove("tasks/a.md"), FileEdit::write("README.md", "Tasks.\n")]);
    let reads = |tip: git::Oid| move |status: &Value| status["observedRevision"] == format!("main@sha1:{tip}");
    stage.turns_until("the empty folder", reads(tip)).await;
    let tip = stage.commit(&[FileEdit::write("README.md", "More.\n")]);
    stage.turns_until("the next commit", reads(tip)).await;
    assert_eq!(stage.made().await, ["tasks/a.md"]);
    assert!(says(&stage.status(), "PruneGuarded", "True"), "{:#}", stage.status());
    let tip = stage.commit(&[FileEdit::write("tasks/b.md", "do b\n")]);
    stage.acts_on(tip).await;
    assert_eq!(stage.made().await, ["tasks/b.md"]);
    assert!(!says(&stage.status(), "PruneGuarded", "True"), "{:#}", stage.status());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_that_passed_leaves_the_status_as_it_was_and_a_restart_writes_nothing() {
    let mut stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "---\nbad: [\n---\nb\n")]).await;
    stage.queue(json!({})).await;
    let tip = stage.tip();
    stage.acts_on(tip).await;
    let reason = |status: &Value| {
        let all = status["conditions"].as_array().unwrap().iter();
        all.filter(|it| it["type"] == "Ready")
            .map(|it| it["reason"].clone())
            .next()
    };
    assert_eq!(reason(&stage.status()), Some(json!("AppliedWithInvalidFiles")));
    let away = stage.folder.path().join("away.git");
    std::fs::rename(stage.repository(), &away).unwrap();
    stage.nudge();
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    std::fs::rename(&away, stage.repository()).unwrap();
    stage.nudge();
    stage.acts_on(tip).await;
    assert_eq!(reason(&stage.status()), Some(json!("AppliedWithInvalidFiles")));
    // An edit that asks for no other objects is taken note of, and a restart after it has nothing to do.
    stage.edit(json!({ "git": { "interval": "2h" } })).await;
    stage
        .turns_until("a status about the edit", |status| status["observedGeneration"] == 2)
        .await;
    let before = stage.plane.latest_version();
    stage.restart().await;
    while stage.ctx.metrics.sum(crate::metrics::TICKS, &[]) == 0 {
        stage.turn().await;
    }
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(
        (
            stage.plane.latest_version(),
            stage.ctx.metrics.sum(crate::metrics::FILES_PARSED, &[])
        ),
        (before, 0)
    );
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_was_somebody_elses_is_taken_once_it_is_free() {
    let manifest = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: mine\nspec:\n  intent: from the file\n";
    let mut stage = Stage::open(&[("tasks/w.yaml", manifest)]).await;
    let foreign = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "mine" },
        "spec": { "intent": "by hand" }
    }));
    let made = stage
        .api::<Workload>()
        .create(&PostParams::default(), &foreign.unwrap())
        .await;
    stage.ctx.workloads.observe(made.unwrap());
    stage.queue(json!({})).await;
    let taken = |status: &Value| says(status, "NameTaken", "True");
    stage.turns_until("the condition", taken).await;
    let tip = format!("main@sha1:{}", stage.commit(&[FileEdit::write("tasks/b.md", "do b\n")]));
    stage
        .turns_until("the next commit", |status| status["observedRevision"] == tip)
        .await;
    for restarts in [false, true] {
        if restarts {
            stage.restart().await;
            stage
                .turns_until("the files", |_| {
                    stage.ctx.metrics.sum(crate::metrics::FILES_PARSED, &[]) > 0
                })
                .await;
        }
        assert!(taken(&stage.status()), "another change does not free the name");
        // What the one Workload that was made is counted as is written once.
        stage.step().await;
        let before = stage.plane.latest_version();
        assert_eq!(stage.step().await, Next::After(AGAIN));
        assert_eq!(stage.plane.latest_version(), before, "waiting writes nothing");
    }
    assert_eq!(stage.made().await, ["tasks/b.md"]);
    stage.delete("mine").await;
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(stage.made().await, ["tasks/b.md", "tasks/w.yaml"]);
    assert!(!taken(&stage.status()) && says(&stage.status(), "Ready", "True"));
    stage.close().await;
}

/// A file with one AgenticTask named `t`.
fn task(prompt: &str) -> String {
    format!(
        "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: AgenticTask\nmetadata:\n  name: t\nspec:\n  kind: freeform\n  payload:\n    prompt: {prompt}\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_somebody_made_meanwhile_is_not_taken_over() {
    let stage = Stage::open(&[("tasks/t.yaml", &task("from the file"))]).await;
    let api = stage.api::<AgenticTask>();
    let foreign = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask", "metadata": { "name": "t" },
        "spec": { "kind": "freeform", "payload": { "prompt": "by hand" } }
    }));
    // The operator has not heard of it yet.
    let made = api.create(&PostParams::default(), &foreign.unwrap()).await.unwrap();
    stage.queue(json!({})).await;
    while stage.ctx.metrics.sum(crate::metrics::FILES_PARSED, &[]) == 0 {
        stage.turn().await;
    }
    assert_eq!(stage.step().await, Next::Lost);
    assert_eq!(api.get("t").await.unwrap().resource_version(), made.resource_version());
    stage.ctx.tasks.observe(made);
    stage
        .turns_until("the condition", |status| says(status, "NameTaken", "True"))
        .await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_task_is_made_when_the_one_before_it_is_gone() {
    let stage = Stage::open(&[("tasks/t.yaml", &task("one"))]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let api = stage.api::<AgenticTask>();
    let held_by = |holders: Value| Patch::Merge(json!({ "metadata": { "finalizers": holders } }));
    let parameters = PatchParams::default();
    let held = api
        .patch("t", &parameters, &held_by(json!(["example.invalid/hold"])))
        .await;
    stage.ctx.tasks.observe(held.unwrap());
    stage
        .acts_on(stage.commit(&[FileEdit::write("tasks/t.yaml", task("two"))]))
        .await;
    let leaving = api.get("t").await.unwrap();
    assert!(leaving.metadata.deletion_timestamp.is_some());
    // The next edit finds it on its way out, and leaves it alone.
    stage
        .acts_on(stage.commit(&[FileEdit::write("tasks/t.yaml", task("three"))]))
        .await;
    assert_eq!(stage.step().await, Next::After(AGAIN));
    let now = api.get("t").await.unwrap();
    assert_eq!(now.resource_version(), leaving.resource_version());

    let freed = api.patch("t", &parameters, &held_by(json!(null))).await.unwrap();
    assert_eq!(freed.uid(), leaving.uid());
    stage.ctx.tasks.forget(&Key::new(NAMESPACE, "t"), None);
    assert_eq!(stage.step().await, Next::Wait);
    let made = api.get("t").await.unwrap();
    assert_ne!(made.uid(), leaving.uid());
    assert_eq!(made.data["spec"]["payload"]["prompt"], "three");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_whose_file_is_renamed_stays_and_says_where_it_comes_from() {
    let stage = Stage::open(&[("tasks/t.yaml", &task("one"))]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let api = stage.api::<AgenticTask>();
    let before = api.get("t").await.unwrap();
    let renamed = [
        FileEdit::remove("tasks/t.yaml"),
        FileEdit::write("tasks/u.yaml", task("one")),
    ];
    stage.acts_on(stage.commit(&renamed)).await;
    let now = api.get("t").await.unwrap();
    assert_eq!(now.uid(), before.uid());
    assert_eq!(now.annotations()[schemas::labels::SOURCE_PATH], "tasks/u.yaml");
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_deleted_by_hand_is_made_again_after_a_commit_that_could_not_be_fetched() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let commit = stage.write(&[FileEdit::write("tasks/b.md", "do b\n")]);
    let tree = Repository::open(&stage.repository())
        .unwrap()
        .tree_of(commit)
        .unwrap()
        .to_string();
    // The branch can be listed, and what it leads to cannot be read.
    let object = stage.repository().join("objects").join(&tree[..2]).join(&tree[2..]);
    let away = stage.folder.path().join("tree");
    std::fs::rename(&object, &away).unwrap();
    stage.push(commit);
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    stage.delete(&stage.name_of("tasks/a.md")).await;
    assert_eq!(stage.step().await, Next::After(AGAIN));
    std::fs::rename(&away, &object).unwrap();
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(stage.made().await, ["tasks/a.md", "tasks/b.md"]);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_edited_folder_leaves_behind_is_pruned_also_where_that_was_refused_at_first() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("other/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    stage.undeletable.store(true, Ordering::Release);
    stage.edit(json!({ "git": { "path": "other" } })).await;
    stage
        .turns_until("the refusal", |status| says(status, "Ready", "False"))
        .await;
    assert_eq!(stage.made().await, ["other/b.md", "tasks/a.md"]);
    stage.undeletable.store(false, Ordering::Release);
    assert_eq!(stage.step().await, Next::Wait);
    assert_eq!(stage.made().await, ["other/b.md"]);
    assert!(says(&stage.status(), "Ready", "True"));
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_that_was_read_again_is_said_to_be_read_also_where_writes_are_refused() {
    let stage = Stage::open(&[("tasks/a.md", "do a\n"), ("tasks/b.md", "do b\n")]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let away = stage.folder.path().join("away.git");
    std::fs::rename(stage.repository(), &away).unwrap();
    stage.nudge();
    stage
        .turns_until("the failure", |status| says(status, "Fetched", "False"))
        .await;
    std::fs::rename(&away, stage.repository()).unwrap();
    stage.undeletable.store(true, Ordering::Release);
    stage.commit(&[FileEdit::remove("tasks/b.md")]);
    let refused = |status: &Value| {
        let all = status["conditions"].as_array().into_iter().flatten();
        let mut ready = all.filter(|it| it["type"] == "Ready");
        ready.any(|it| it["status"] == "False" && it["reason"] == "Refused")
    };
    stage.turns_until("the refusal", refused).await;
    assert!(says(&stage.status(), "Fetched", "True"), "{:#}", stage.status());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_waits_for_what_a_file_makes_that_came_later_or_changed_its_name() {
    let waits = "---\ntitle: second\ndepends: [first.yaml]\n---\nDo it.\n";
    let manifest = |name: &str| {
        format!(
            "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Workload\nmetadata:\n  name: {name}\nspec:\n  intent: x\n  repo: o/r\n"
        )
    };
    let stage = Stage::open(&[("tasks/second.md", waits)]).await;
    stage.queue(json!({})).await;
    stage.acts_on(stage.tip()).await;
    let second = stage.name_of("tasks/second.md");
    for name in ["one", "two"] {
        let commit = stage.commit(&[FileEdit::write("tasks/first.yaml", manifest(name))]);
        stage.acts_on(commit).await;
        let found = stage.api::<Workload>().get(&second).await.unwrap();
        assert_eq!(
            (&found.data["spec"]["dependsOn"], &found.data["spec"]["run"]),
            (&json!([name]), &json!(1))
        );
    }
    stage.close().await;
}
