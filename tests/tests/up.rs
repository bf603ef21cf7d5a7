//! `foreman up`: commits become gated branches, and no end of the process loses anything.

use kube::{Api, ResourceExt};
use schemas::shared::Verdict;
use schemas::workload::WorkloadPhase;
use schemas::{AgenticTask, Workload};

use crate::sample::Sample;
use crate::watch::{ended, until, workload};

fn passed(workload: &Workload) -> bool {
    let status = workload.status.clone().unwrap_or_default();
    status.phase == Some(WorkloadPhase::Completed) && status.verdict == Some(Verdict::GatePass)
}

#[tokio::test]
async fn a_committed_task_becomes_a_branch_whose_verdict_names_what_was_tested() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "done\n");
    let up = sample.up();
    let client = up.client().await;
    let base = sample.git(&["rev-parse", "HEAD"]);
    sample.task("note", "Write the note.\n");
    // The queue's interval is longer than this waits: only a watch on the repository sees the commit.
    workload(&client, "note", "the commit to be seen", |_| true).await;
    let done = ended(&client, "note", 1).await;
    assert!(passed(&done), "{done:#?}");
    let status = done.status.unwrap();
    let branch = status.branch.unwrap();
    let head = status.head_sha.unwrap();
    assert_eq!(sample.git(&["rev-parse", &branch]).trim(), head);
    assert_eq!(sample.git(&["show", &format!("{branch}:note.txt")]), "done\n");
    assert!(!status.gate_digest.unwrap().is_empty());
    let tested = status.base_sha.unwrap();
    assert_eq!(sample.git(&["merge-base", &branch, "main"]).trim(), tested);
    assert!(tested == base.trim() || tested == sample.git(&["rev-parse", "main"]).trim());
    let notes = sample.git(&["log", "--notes=foreman", "-1", "--format=%N", &head]);
    assert!(notes.contains(&tested), "a note names the base: {notes}");

    let shown = sample.call(&["show", "note.md"]);
    assert!(
        shown.out.contains("GATE-PASS") && shown.out.contains(&head),
        "{shown:#?}"
    );
    assert!(shown.out.contains("recorded session was replayed"), "{}", shown.out);
    let log = sample.call(&["logs", "note.md", "--gate"]);
    assert!(log.out.contains("step note passed"), "{log:#?}");
}

/// An upgrade replaces the program of a running `up`: what it starts from then on is still itself.
#[tokio::test]
async fn work_goes_on_where_the_program_is_replaced_or_gone() {
    let sample = Sample::new();
    let program = sample.root().join("foreman");
    std::fs::copy(crate::foreman::program(), &program).unwrap();
    let up = sample.up_of(&program);
    let client = up.client().await;
    for (task, replacement) in [("other", Some("#!/bin/sh\nexit 77\n")), ("gone", None)] {
        sample.record(task, 1, "note.txt", "done\n");
        std::fs::remove_file(&program).unwrap();
        if let Some(text) = replacement {
            std::fs::write(&program, text).unwrap();
        }
        sample.task(task, "Write the note.\n");
        let done = ended(&client, task, 1).await;
        assert!(passed(&done), "{done:#?}");
    }
}

#[test]
fn up_tells_what_happens_while_it_happens() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "done\n");
    let up = sample.up();
    up.lines_with(&[&["queue tasks", "main at", "0 task files"]]);
    up.lines_with(&[&["idle", "nothing to do yet"]]);
    sample.commit(&[
        (".foreman/tasks/note.md", "Write the note.\n"),
        (".foreman/tasks/bad.md", "---\ntitel: x\n---\nx\n"),
    ]);
    // The queue's status is written after the work was made, so that the first lines come in any order.
    up.lines_with(&[
        &["queue tasks", "2 task files, 1 invalid"],
        &[".foreman/tasks/bad.md:2:1:", "titel"],
        &["note", "#1", "coder runs on"],
        &["note", "#1", "gate GATE-PASS"],
        &["note", "== Completed after round 1: GATE-PASS, branch foreman/"],
        &["idle", "1 Completed"],
    ]);
    sample.git(&["rm", "--quiet", ".foreman/tasks/note.md"]);
    sample.git(&["commit", "--quiet", "--message", "Not wanted any more"]);
    up.lines_with(&[&["note", "removed"]]);
}

#[test]
fn an_empty_list_of_workloads_says_what_stands_of_the_queue() {
    let sample = Sample::new();
    let up = sample.up();
    up.lines_with(&[&["idle"]]);
    let said = sample.call(&["get", "workloads"]);
    assert!(said.err.contains("commit one below .foreman/tasks"), "{said:#?}");
    assert_eq!(up.signal("-TERM"), Some(0));
    let said = sample.call(&["get", "workloads"]);
    assert!(said.err.contains("run `foreman up`"), "{said:#?}");
}

#[test]
fn a_reader_that_goes_away_ends_a_command_in_silence() {
    let sample = Sample::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = crate::foreman::command(&sample.repository());
    let ended = command.arg("validate").stdout(writer).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert_eq!(ended.status.code(), Some(141));
}

#[tokio::test]
async fn a_failed_gate_goes_back_to_the_coder_and_show_tells_both_rounds() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "not yet\n");
    sample.record("note", 2, "note.txt", "done\n");
    let up = sample.up();
    sample.task("note", "Write the note.\n");
    let done = ended(&up.client().await, "note", 1).await;
    assert!(passed(&done), "{done:#?}");
    let verdicts: Vec<_> = done
        .status
        .unwrap()
        .rounds
        .unwrap()
        .iter()
        .map(|round| round.verdict)
        .collect();
    assert_eq!(verdicts, [Some(Verdict::GateFail), Some(Verdict::GatePass)]);
    let shown = sample.call(&["show", "note.md"]).out;
    assert!(
        shown.contains("run 1, round 1") && shown.contains("run 1, round 2"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_change_to_a_protected_path_is_refused_before_the_push() {
    let sample = Sample::new();
    sample.record("note", 1, ".foreman/gate.yaml", "steps: []\n");
    let up = sample.up();
    sample.task("note", "Make the gate quick.\n");
    let done = ended(&up.client().await, "note", 1).await;
    assert!(!passed(&done), "{done:#?}");
    let branch = done.status.unwrap().branch.unwrap();
    assert_eq!(sample.git(&["branch", "--list", &branch]), "", "nothing was pushed");
}

#[tokio::test]
async fn finished_work_survives_a_restart_and_does_not_run_again() {
    let sample = Sample::new();
    sample.record("note", 1, "note.txt", "done\n");
    sample.record("other", 1, "note.txt", "done\n");
    let up = sample.up();
    sample.task("note", "Write the note.\n");
    let before = ended(&up.client().await, "note", 1).await;
    assert_eq!(up.signal("-TERM"), Some(0));

    let said = sample.call(&["get", "workloads", "-o", "json"]);
    let list: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(
        list["items"][0]["status"]["verdict"], "GATE-PASS",
        "read without a server: {said:#?}"
    );

    let up = sample.up();
    let client = up.client().await;
    // The other task's end shows that the queue was read again.
    sample.task("other", "Write the other note.\n");
    assert!(passed(&ended(&client, "other", 1).await));
    let after = ended(&client, "note", 1).await;
    assert_eq!(after.uid(), before.uid());
    assert_eq!(after.status.unwrap().finished_at, before.status.unwrap().finished_at);
    let tasks = until::<AgenticTask>(&client, "the tasks", |_| true).await;
    assert_eq!(
        tasks.keys().filter(|name| name.contains("note")).count(),
        2,
        "{:?}",
        tasks.keys()
    );
}

#[test]
fn a_second_up_on_one_state_folder_refuses_and_names_the_first() {
    let sample = Sample::new();
    let up = sample.up();
    let said = sample.call(&["up"]);
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains(&format!("process {}", up.pid())), "{}", said.err);
    assert_eq!(up.signal("-TERM"), Some(0));
}

#[tokio::test]
async fn work_goes_on_after_a_kill_and_no_branch_is_corrupt() {
    let sample = Sample::with_gate("steps:\n  - name: note\n    command: sleep 2 && grep -q done note.txt\n");
    sample.record("note", 1, "note.txt", "done\n");
    let mut up = sample.up();
    sample.task("note", "Write the note.\n");
    for phase in ["Running", "Verifying"] {
        let client = up.client().await;
        // Some task in this phase, or later: a phase that is over before it is watched must not hang the test.
        until::<AgenticTask>(&client, phase, |tasks| {
            tasks.values().any(|task| {
                let found = task.status.as_ref().and_then(|status| status.phase);
                found.is_some_and(|found| found.as_str() == phase || found.is_terminal())
            })
        })
        .await;
        assert_eq!(up.signal("-KILL"), None);
        up = sample.up();
    }
    let client = up.client().await;
    let done = ended(&client, "note", 1).await;
    assert!(passed(&done), "{done:#?}");
    sample.git(&["fsck", "--strict", "--no-dangling"]);
    let status = done.status.unwrap();
    assert_eq!(
        sample.git(&["rev-parse", &status.branch.unwrap()]).trim(),
        status.head_sha.unwrap()
    );
    let tasks: Api<AgenticTask> = Api::namespaced(client, "default");
    for task in tasks.list(&Default::default()).await.unwrap() {
        let status = task.status.clone().unwrap_or_default();
        assert!(status.phase.is_some_and(|phase| phase.is_terminal()), "{task:#?}");
    }
}

#[tokio::test]
async fn cancel_ends_what_runs_and_retry_starts_a_new_run() {
    let sample =
        Sample::with_gate("steps:\n  - name: note\n    command: test -e go || sleep 600; grep -q done note.txt\n");
    sample.record("note", 1, "note.txt", "done\n");
    let up = sample.up();
    let client = up.client().await;
    sample.task("note", "Write the note.\n");
    until::<AgenticTask>(&client, "a gate that runs", |tasks| {
        tasks.values().any(|task| {
            task.status
                .as_ref()
                .and_then(|status| status.phase)
                .is_some_and(|phase| phase.as_str() == "Verifying")
        })
    })
    .await;
    assert_eq!(sample.call(&["cancel", "note.md"]).code, Some(0));
    let done = ended(&client, "note", 1).await;
    assert!(!passed(&done), "{done:#?}");
    sample.commit(&[("go", "")]);
    assert_eq!(sample.call(&["retry", "note.md"]).code, Some(0));
    let done = ended(&client, "note", 2).await;
    assert!(passed(&done), "{done:#?}");
}

#[test]
fn run_beside_up_refuses_what_only_the_server_decides_and_what_it_does_not_know() {
    let sample = Sample::new();
    let up = sample.up();
    let pid = format!("process {}", up.pid());
    let refused = |arguments: &[&str], words: &[&str]| {
        let said = sample.call(&[&["run", "Write the note."], arguments].concat());
        assert_eq!(said.code, Some(2), "{said:#?}");
        for word in words {
            assert!(said.err.contains(word), "{word}: {said:#?}");
        }
    };
    refused(
        &["--sandbox", "landlock", "--file-root", "/srv"],
        &["--sandbox, --file-root", &pid],
    );
    refused(
        &["--kubeconfig", "/nowhere"],
        &["works on this machine", "--kubeconfig"],
    );
    let agents = sample.repository().join(".foreman/agents.yaml");
    let more = std::fs::read_to_string(&agents).unwrap();
    let more = format!(
        "{more}---\n{}",
        more.split("---").next().unwrap().replace("name: coder", "name: newer")
    );
    std::fs::write(&agents, more).unwrap();
    refused(&["--agent", "newer"], &["does not know agent \"newer\"", &pid]);
}
