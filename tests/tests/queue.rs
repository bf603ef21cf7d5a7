//! The queue as `foreman up` serves it: broken files, edits, removals, branches that go.

use kube::ResourceExt;
use schemas::Workload;
use schemas::workload::WorkloadPhase;

use crate::sample::Sample;
use crate::watch::{ended, is_from, queue, until};

#[tokio::test]
async fn a_broken_file_is_named_in_status_and_delays_no_good_one() {
    let sample = Sample::new();
    sample.record("good", 1, "note.txt", "done\n");
    let up = sample.up();
    let client = up.client().await;
    sample.commit(&[
        (".foreman/tasks/bad.md", "---\ntitel: x\n---\nx\n"),
        (".foreman/tasks/good.md", "Write the note.\n"),
    ]);
    let done = ended(&client, "good", 1).await;
    assert_eq!(done.status.unwrap().phase, Some(WorkloadPhase::Completed));
    let found = queue(&client, "the invalid file", |queue| {
        queue
            .status
            .as_ref()
            .and_then(|status| status.invalid_file_count)
            .is_some_and(|count| count > 0)
    })
    .await;
    let status = serde_json::to_value(found.status.unwrap()).unwrap();
    let invalid = &status["invalidFiles"][0];
    assert_eq!(
        (invalid["path"].as_str(), invalid["line"].as_i64()),
        (Some(".foreman/tasks/bad.md"), Some(2)),
        "{status:#}"
    );
    assert!(invalid["message"].as_str().unwrap().contains("titel"), "{status:#}");
    let tip = sample.git(&["rev-parse", "main"]);
    assert_eq!(status["observedRevision"], format!("main@sha1:{}", tip.trim()));
}

#[tokio::test]
async fn an_edit_starts_a_new_run_a_reformatted_file_none_and_a_removed_file_ends_its_objects() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "done\n");
    sample.record("other", 1, "note.txt", "done\n");
    let up = sample.up();
    let client = up.client().await;
    sample.commit(&[
        (".foreman/tasks/note.md", "Write the note.\n"),
        (".foreman/tasks/other.md", "Write it too.\n"),
    ]);
    ended(&client, "note", 1).await;
    ended(&client, "other", 1).await;
    sample.commit(&[
        (".foreman/tasks/note.md", "Write the note again.\n"),
        (
            ".foreman/tasks/other.md",
            "---\n# the same, with a remark\n---\nWrite it too.\n",
        ),
    ]);
    ended(&client, "note", 2).await;
    let other = ended(&client, "other", 1).await;
    assert_eq!(other.spec.run, Some(1), "a remark is no change");

    sample.git(&["rm", "--quiet", ".foreman/tasks/note.md"]);
    sample.git(&["commit", "--quiet", "--message", "forget the note"]);
    let left = until::<Workload>(&client, "the pruning", |all| {
        !all.values().any(|found| is_from(found, "note"))
    })
    .await;
    assert_eq!(
        left.len(),
        1,
        "{:?}",
        left.values().map(ResourceExt::name_any).collect::<Vec<_>>()
    );
    assert!(left.values().all(|found| is_from(found, "other")));
}

#[tokio::test]
async fn an_emptied_folder_prunes_nothing_and_sets_a_condition() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "done\n");
    let up = sample.up();
    let client = up.client().await;
    sample.task("note", "Write the note.\n");
    ended(&client, "note", 1).await;
    sample.git(&["rm", "--quiet", "-r", ".foreman/tasks"]);
    sample.git(&["commit", "--quiet", "--message", "empty the folder"]);
    queue(&client, "a condition about the empty folder", |queue| {
        let conditions = queue.status.as_ref().and_then(|status| status.conditions.as_ref());
        conditions.is_some_and(|all| {
            all.iter()
                .any(|found| found.type_ == "Ready" && found.status == "False")
        })
    })
    .await;
    let left = until::<Workload>(&client, "the workloads", |_| true).await;
    assert_eq!(left.len(), 1, "nothing is pruned to zero");
}
