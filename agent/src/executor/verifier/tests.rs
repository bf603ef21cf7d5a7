#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use kube::Client;

use super::*;
use crate::daemon::claim::Held;
use crate::executor::sample;

#[test]
fn a_gates_objects_are_found_by_their_work_and_never_name_another_node() {
    let mut task = AgenticTask::default();
    task.labels_mut().extend(
        [
            (labels::WORKLOAD, "fix-login"),
            (labels::NODE, "elsewhere"),
            ("team", "a"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let found = job_labels(&task, "here");
    let expected = [(labels::NODE, "here"), (labels::WORKLOAD, "fix-login")];
    assert_eq!(
        found,
        expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
    );
}

#[test]
fn a_claim_that_stays_unbound_is_named_with_what_to_do() {
    let said = "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.";
    let told = explained(said, Some("gate-cache"), "jobs");
    for part in [said, "\"gate-cache\"", "\"jobs\"", "agent.gateCache.enabled=false"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(explained(said, None, "jobs"), said);
    let busy = "0/1 nodes are available: 1 Insufficient cpu.";
    assert_eq!(explained(busy, Some("gate-cache"), "jobs"), busy);
}

#[test]
fn only_a_pass_becomes_a_pass() {
    let error = Verdict::Error(Failure {
        reason: "Evicted".into(),
        detail: "x".into(),
        retry: true,
    });
    let outcome = outcome_of(&error, Some(b"GATE-PASS"));
    assert_eq!(outcome.verdict, Some(Published::GateError));
    assert_eq!(outcome.failure, Some(FailureReason::GateError));
    let refused = outcome_of(
        &Verdict::Refused {
            paths: vec![".foreman/gate.yaml".into()],
        },
        None,
    );
    assert_eq!(
        (refused.verdict, refused.failure),
        (None, Some(FailureReason::ConstraintViolated))
    );
}

#[tokio::test]
async fn a_job_that_cannot_be_followed_is_removed_before_the_next_try() {
    let asked: Arc<Mutex<Vec<Method>>> = Arc::default();
    let kept = asked.clone();
    let app = axum::Router::new().fallback(move |request: Request| async move {
        let method = request.method().clone();
        kept.lock().unwrap().push(method.clone());
        if method == Method::GET {
            return sample::failure(StatusCode::FORBIDDEN);
        }
        Json(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "gate-t" } })).into_response()
    });
    let folder = tempfile::tempdir().unwrap();
    let run = sample::run(folder.path(), Client::new(app, "jobs"), Held::sample(1));
    let jobs: Api<Job> = Api::namespaced(run.services.client.clone(), "jobs");
    let gate = Followed {
        run: &run,
        namespace: "jobs",
        name: "gate-t".into(),
        init: INIT_CONTAINER,
        main: MAIN_CONTAINER,
    };
    let mut job = Job::default();
    job.metadata.name = Some(gate.name.clone());
    let ended = run_job(&gate, &jobs, &job, &mut Told::default()).await;
    assert!(matches!(ended, Err(Unanswered::Refused(_))), "{ended:?}");
    assert_eq!(*asked.lock().unwrap(), [Method::POST, Method::GET, Method::DELETE]);
}

#[test]
fn a_list_of_packages_that_another_takes_in_changes_the_key_of_the_cache() {
    let folder = tempfile::tempdir().unwrap();
    let repository = git::Repository::init_bare(folder.path(), "main").unwrap();
    let who = git::Identity::new("Tester", "tester@example.com", 1_700_000_000);
    let commit = |parent, path: &str, text: &str| {
        let edit = git::FileEdit::write(path, text.as_bytes().to_vec());
        repository.commit_files(parent, &[edit], "x", &who).unwrap()
    };
    let one = commit(None, "requirements.txt", "-r lists/base.list\n");
    let two = commit(Some(one), "lists/base.list", "six==1.16.0\n");
    let three = commit(Some(two), "lists/base.list", "six==1.17.0\n");
    let four = commit(Some(three), "app.py", "import six\n");
    let key = |commit| {
        let tree = source::CommitTree::new(repository.clone(), commit);
        let gate = source::gate_in(&AgenticTask::default(), &tree).unwrap();
        let files = files_of(&repository, commit).unwrap();
        let key = cache_key(&gate, "https://git.example/a", "main", &tree, &files);
        tree.checked(key).unwrap().unwrap()
    };
    assert_ne!(key(two), key(three));
    assert_eq!(key(three), key(four));
}

#[test]
fn a_gate_runs_under_the_runtime_class_of_its_verifier() {
    let mut agent = Agent::default();
    assert_eq!(runtime_class(Some(&agent)), None);
    for (named, wanted) in [("", None), ("gvisor", Some("gvisor".to_owned()))] {
        agent.spec.execution = Some(schemas::agent::Execution {
            runtime_class_name: Some(named.into()),
            ..Default::default()
        });
        assert_eq!(runtime_class(Some(&agent)), wanted);
    }
}
