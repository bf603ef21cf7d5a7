#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::daemon::claim::Held;
use crate::executor::sample;
use axum::http::{StatusCode, Uri};
use axum::response::IntoResponse;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

#[tokio::test]
async fn the_tasks_of_a_workload_are_listed_once_the_api_is_there_again() {
    let asked = Arc::new(AtomicU32::new(0));
    let app = axum::Router::new().fallback(move |uri: Uri| async move {
        if asked.fetch_add(1, Ordering::Relaxed) == 0 {
            return sample::failure(StatusCode::SERVICE_UNAVAILABLE);
        }
        assert!(
            uri.query().is_some_and(|query| query.contains("workload%3Dfix-login")),
            "{uri}"
        );
        axum::Json(serde_json::json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTaskList",
            "metadata": { "resourceVersion": "1" }, "items": [sample::task(&Held::sample(1))],
        }))
        .into_response()
    });
    let folder = tempfile::tempdir().unwrap();
    let run = sample::run(folder.path(), kube::Client::new(app, "default"), Held::sample(1));
    let mut workload = Workload::default();
    workload.metadata.name = Some("fix-login".into());
    let found = siblings(&run, &workload).await.unwrap();
    assert_eq!(found.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["t"]);
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let ran = Command::new("git")
        .args(["-c", "user.name=t", "-c", "user.email=t@example.org"])
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(
        ran.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    String::from_utf8_lossy(&ran.stdout).trim().to_owned()
}

/// Makes a commit with a gate file; returns it and the id of `object` in it.
fn commit_with_a_gate(folder: &Path, object: &str) -> (String, String) {
    git(folder, &["init", "-q", "."]);
    std::fs::create_dir(folder.join(".foreman")).unwrap();
    let gate =
        "image: docker.io/library/alpine:3\nsteps:\n- name: t\n  command: \"true\"\nprotectedPaths: [\"ci/**\"]\n";
    std::fs::write(folder.join(".foreman/gate.yaml"), gate).unwrap();
    git(folder, &["add", "-A"]);
    git(folder, &["commit", "-qm", "one"]);
    let commit = git(folder, &["rev-parse", "HEAD"]);
    let oid = git(folder, &["rev-parse", &format!("HEAD:{object}")]);
    (commit, oid)
}

fn tree(folder: &Path, commit: &str) -> CommitTree {
    CommitTree::new(Repository::open(&folder.join(".git")).unwrap(), parse(commit).unwrap())
}

fn damage(folder: &Path, oid: &str) {
    let object = folder.join(".git/objects").join(&oid[..2]).join(&oid[2..]);
    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, b"not an object").unwrap();
}

#[test]
fn an_object_that_cannot_be_read_is_an_error_and_not_an_absent_gate() {
    for object in [".foreman", ".foreman/gate.yaml"] {
        let folder = tempfile::tempdir().unwrap();
        let (commit, oid) = commit_with_a_gate(folder.path(), object);
        damage(folder.path(), &oid);
        let resolved = resolve_gate(&AgenticTask::default(), tree(folder.path(), &commit));
        assert!(resolved.is_err(), "{object}: {:?}", resolved.map(|gate| gate.map(drop)));
    }
}

#[test]
fn what_is_really_absent_is_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let (commit, _) = commit_with_a_gate(folder.path(), ".foreman");
    let sound = tree(folder.path(), &commit);
    assert!(!sound.exists("Cargo.toml") && sound.exists(".foreman/gate.yaml"));
    assert_eq!(sound.read(".foreman/gate.yaml", 3), None, "longer than asked for");
    assert!(sound.checked(()).is_ok());
}

/// Asks a server that is away for the first `away` tries, or refuses; returns how often it was asked and the answer.
async fn asked(away: u32, refuses: bool, cancel: &CancellationToken) -> (u32, bool) {
    let mut tries = 0;
    let answered = reached_by(&[Duration::ZERO; 3], cancel, || {
        tries += 1;
        let (action, url, reason) = ("push to", String::new(), String::new());
        std::future::ready(match (refuses, tries > away) {
            (true, _) => Err(git::Error::Refused { action, url, reason }),
            (false, false) => Err(git::Error::Network { action, url, reason }),
            (false, true) => Ok(()),
        })
    });
    let answered = answered.await.is_ok();
    (tries, answered)
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_tried_again_and_one_that_refuses_is_not() {
    let cancel = CancellationToken::new();
    assert_eq!(asked(0, false, &cancel).await, (1, true));
    assert_eq!(asked(3, false, &cancel).await, (4, true));
    assert_eq!(asked(9, false, &cancel).await, (4, false));
    assert_eq!(asked(0, true, &cancel).await, (1, false));
}

#[tokio::test]
async fn a_run_that_is_cancelled_waits_for_no_server() {
    let cancel = CancellationToken::new();
    cancel.cancel();
    let always = || {
        let (action, url, reason) = ("push to", String::new(), String::new());
        std::future::ready(Err::<(), _>(git::Error::Network { action, url, reason }))
    };
    // The pause never ends by itself.
    assert!(reached_by(&[Duration::MAX], &cancel, always).await.is_err());
}
