//! `foreman up --dry-run`: what one tick would do.

use crate::sample::Sample;
use crate::watch::ended;

#[tokio::test]
async fn a_tick_is_foretold_per_task_and_starts_nothing() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "done\n");
    sample.task("note", "Write the note.\n");
    sample.commit(&[(".foreman/tasks/typo.md", "---\ntitel: x\n---\nx\n")]);
    let row = |out: &str, path: &str| {
        let path = format!(".foreman/tasks/{path}");
        let row = out.lines().find(|line| line.starts_with(&path)).map(str::to_owned);
        row.unwrap_or_else(|| panic!("no row of {path} in {out}"))
    };
    let said = sample.call(&["up", "--dry-run"]);
    assert_eq!(said.code, Some(0), "{said:#?}");
    assert!(
        row(&said.out, "note.md").contains("start") && row(&said.out, "note.md").contains("coder"),
        "{}",
        said.out
    );
    assert!(row(&said.out, "typo.md").contains("invalid"), "{}", said.out);
    assert!(
        !sample.call(&["get", "workloads"]).out.contains("note"),
        "a dry run starts nothing"
    );

    let up = sample.up();
    ended(&up.client().await, "note", 1).await;
    assert_eq!(up.signal("-TERM"), Some(0));
    let said = sample.call(&["up", "--dry-run"]);
    assert!(!row(&said.out, "note.md").contains("start"), "it is done: {}", said.out);
    sample.task("note", "Write another note.\n");
    let said = sample.call(&["up", "--dry-run"]);
    assert!(
        row(&said.out, "note.md").contains("start"),
        "it was edited: {}",
        said.out
    );

    // What no file makes any more ends, unless no file is left at all.
    let remove = |paths: &[&str]| {
        sample.git(&[&["rm", "--quiet"], paths].concat());
        sample.commit(&[]);
    };
    let bare = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: AgenticTask\nmetadata: {name: bare}\n\
                spec: {kind: freeform, payload: {prompt: Look around.}}\n";
    sample.commit(&[(".foreman/tasks/bare.yaml", bare)]);
    remove(&[".foreman/tasks/note.md", ".foreman/tasks/typo.md"]);
    let said = sample.call(&["up", "--dry-run"]);
    assert!(row(&said.out, "note.md").contains("end"), "{}", said.out);
    assert!(row(&said.out, "bare.yaml").contains("become a task"), "{}", said.out);
    remove(&[".foreman/tasks/bare.yaml"]);
    let said = sample.call(&["up", "--dry-run"]);
    assert!(!said.out.contains("note.md"), "{}", said.out);
    assert!(said.out.contains("have made (1) would stay"), "{}", said.out);
}
