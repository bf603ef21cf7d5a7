//! Files that cannot be used stand beside files that can.

use serde_json::json;

use super::support::{World, queue};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_broken_files_delay_none_of_a_hundred_good_ones() {
    let world = World::start().await;
    let mut edits = Vec::new();
    for number in 0..100 {
        edits.push(git::FileEdit::write(
            format!("tasks/good-{number:03}.md"),
            format!("do {number}\n"),
        ));
        edits.push(git::FileEdit::write(
            format!("tasks/broken-{number:03}.md"),
            "---\ntitle: x\npriorty: 3\n---\ndo it\n",
        ));
    }
    let repo = world.repo("tasks", &[]);
    let tip = repo.edit(&edits);
    queue(&world, "q", &repo.url(), json!({})).await;
    world.wait_count("workloads", 100).await;
    let found = world
        .wait("taskqueues", "the revision", |q| {
            q["status"]["observedRevision"] == format!("main@sha1:{tip}")
        })
        .await;
    let status = &found["status"];
    assert_eq!(
        (&status["files"], &status["invalidFileCount"]),
        (&json!(200), &json!(100))
    );
    let listed = status["invalidFiles"].as_array().unwrap();
    assert_eq!(listed.len(), 20);
    for (number, invalid) in listed.iter().enumerate() {
        assert_eq!(invalid["path"], format!("tasks/broken-{number:03}.md"));
        assert_eq!(invalid["line"], 3);
        assert!(invalid["message"].as_str().unwrap().contains("priority"), "{invalid}");
    }
    let mut made: Vec<_> = world
        .list("workloads")
        .await
        .iter()
        .map(|w| {
            w["metadata"]["annotations"]["foreman.llmkube.dev/source-path"]
                .as_str()
                .unwrap()
                .to_owned()
        })
        .collect();
    made.sort();
    let good: Vec<String> = (0..100).map(|number| format!("tasks/good-{number:03}.md")).collect();
    assert_eq!(made, good);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_too_large_a_link_and_bytes_that_are_no_text_are_named_with_what_was_expected() {
    let world = World::start().await;
    let secret = world.folder().join("secret.md");
    std::fs::write(&secret, "a secret of the host\n").unwrap();
    let repo = world.repo("tasks", &[]);
    repo.edit(&[
        git::FileEdit::write("tasks/good.md", "do it\n"),
        git::FileEdit::write("tasks/large.md", "x".repeat(5 * 1024 * 1024)),
        git::FileEdit::symlink("tasks/link.md", secret.to_str().unwrap()),
        git::FileEdit::symlink("tasks/up.md", "../../../../etc/passwd"),
        git::FileEdit::write("tasks/latin.md", b"---\ntitle: caf\xe9\n---\ndo it\n".to_vec()),
    ]);
    queue(&world, "q", &repo.url(), json!({})).await;
    let found = world
        .wait("taskqueues", "the bad files", |q| q["status"]["invalidFileCount"] == 4)
        .await;
    let listed = found["status"]["invalidFiles"].as_array().unwrap();
    let said = |path: &str| {
        let found = listed.iter().find(|invalid| invalid["path"] == path);
        found.unwrap_or_else(|| panic!("{path} is not listed: {listed:#?}"))["message"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    for (path, part) in [
        ("tasks/large.md", "1024 KiB"),
        ("tasks/link.md", "link"),
        ("tasks/up.md", "link"),
        ("tasks/latin.md", "UTF-8"),
    ] {
        assert!(said(path).contains(part), "{path}: {}", said(path));
    }
    world.wait_count("workloads", 1).await;
    let whole = format!(
        "{found}{:?}{:?}",
        world.list("workloads").await,
        world.list("events").await
    );
    assert!(
        !whole.contains("a secret of the host") && !whole.contains("root:"),
        "{whole}"
    );
    world.stop().await;
}
