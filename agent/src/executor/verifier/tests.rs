#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::{Arc, Mutex};

use axum::Json;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use kube::Client;

use gate::job::{GateObjects, INIT_CONTAINER, MAIN_CONTAINER};
use gate::network::{CODER, KIND_LABEL};
use k8s_openapi::api::batch::v1::Job;
use kube::api::Api;

use super::tries::{LAST_WORD, explained, once, run_job};
use super::*;
use crate::daemon::claim::Held;
use crate::executor::follow::{Followed, create};
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
    let made = async { create(&run, &jobs, &job).await.map(drop) };
    let ended = run_job(&gate, made, &mut Told::of(GATE_SCHEDULED, &run)).await;
    assert!(matches!(ended, Err(Unanswered::Refused(_))), "{ended:?}");
    assert_eq!(*asked.lock().unwrap(), [Method::POST, Method::GET, Method::DELETE]);
}

/// An API of a task, of Jobs and of plans, which notes what it was asked.
#[derive(Clone, Default)]
struct Cluster {
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// Requests that are refused, by method and the end of their path.
    refused: &'static str,
    /// What a list of Jobs holds.
    jobs: Value,
}

impl Cluster {
    fn client(&self) -> Client {
        let cluster = self.clone();
        let app = axum::Router::new().fallback(move |request: Request| {
            let cluster = cluster.clone();
            async move { cluster.answer(request).await }
        });
        Client::new(app, "jobs")
    }

    async fn answer(&self, request: Request) -> axum::response::Response {
        let uri = request.uri().clone();
        let what = uri
            .path()
            .rsplit_once("/namespaces/")
            .unwrap()
            .1
            .split_once('/')
            .unwrap()
            .1;
        let what = format!("{} {what}", request.method());
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        let watches = uri.query().is_some_and(|query| query.contains("watch=true"));
        if !watches {
            self.asked.lock().unwrap().push((what.clone(), sent.clone()));
        }
        if !self.refused.is_empty() && what.starts_with(self.refused) {
            return sample::failure(StatusCode::FORBIDDEN);
        }
        match what.as_str() {
            "POST jobs" | "POST configmaps" => {
                let mut made = sent;
                made["metadata"]["uid"] = json!(format!("uid of {}", made["metadata"]["name"].as_str().unwrap()));
                Json(made).into_response()
            }
            "GET jobs" if watches => {
                axum::body::Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>())
                    .into_response()
            }
            "GET jobs" => {
                let metadata = json!({ "resourceVersion": "1" });
                Json(json!({ "apiVersion": "batch/v1", "kind": "JobList", "metadata": metadata, "items": self.jobs }))
                    .into_response()
            }
            "GET pods" => {
                Json(json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [] })).into_response()
            }
            task if task.contains("agentictasks/") => Json(sample::task(&Held::sample(2))).into_response(),
            _ => {
                Json(json!({ "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "gate" } })).into_response()
            }
        }
    }

    /// Returns what was asked, in order, but for looks.
    fn written(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let writes = asked
            .iter()
            .map(|(what, _)| what)
            .filter(|what| !what.starts_with("GET"));
        writes.cloned().collect()
    }

    fn sent(&self, what: &str) -> Value {
        let asked = self.asked.lock().unwrap();
        asked.iter().find(|(asked, _)| asked == what).unwrap().1.clone()
    }
}

fn objects_of_a_gate(with_prepare: bool) -> GateObjects {
    let step = json!({ "name": "test", "command": "true", "timeoutSeconds": 60, "advisory": false });
    let prepare = json!({ "command": "fetch", "allowHosts": [], "timeoutSeconds": 60, "cacheKey": [] });
    let resources = json!({ "cpuRequest": "1", "memoryRequest": "1Gi", "cpuLimit": "1", "memoryLimit": "1Gi" });
    let gate: gate::ResolvedGate = serde_json::from_value(json!({
        "image": "i", "prepare": prepare, "steps": [step], "protected": [], "resources": resources,
        "deadlineSeconds": 7200, "source": "file",
    }))
    .unwrap();
    let key = gate::cache::CacheKey {
        repository: "0".repeat(16),
        key: "1".repeat(32),
    };
    let claim = "cache".to_owned();
    let request = GateRequest {
        task_name: "t".into(),
        task_uid: "u".into(),
        epoch: 2,
        attempt: 1,
        namespace: "jobs".into(),
        labels: BTreeMap::new(),
        repository: "https://git.example/a".into(),
        branch: "b".into(),
        head_sha: "a".repeat(40),
        base_sha: "b".repeat(40),
        file_roots: vec![],
        credentials: None,
        ca_bundle: None,
        cache: with_prepare.then_some(CacheMount { claim, key }),
        service_account: None,
        runtime_class: None,
        program_image: None,
        ttl_seconds: 600,
        user: 65_532,
    };
    build_job(&gate, &request).unwrap()
}

fn ended_job(condition: &str) -> Value {
    let conditions = json!([{ "type": condition, "status": "True" }]);
    json!([{ "metadata": { "name": "gate", "uid": "j" }, "status": { "conditions": conditions } }])
}

async fn tried(cluster: &Cluster, objects: &GateObjects) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let run = sample::run(folder.path(), cluster.client(), Held::sample(2));
    once(&run, "jobs", objects, 1, &mut Told::of(GATE_SCHEDULED, &run))
        .await
        .unwrap()
        .0
}

#[tokio::test]
async fn a_gates_plan_goes_with_its_job_whoever_removes_that() {
    let cluster = Cluster {
        jobs: ended_job("Complete"),
        ..Cluster::default()
    };
    let objects = objects_of_a_gate(false);
    tried(&cluster, &objects).await;
    let name = objects.job.name_any();
    let begin = format!("PATCH jobs/{name}");
    assert_eq!(
        cluster.written(),
        ["PATCH agentictasks/t/status", "POST jobs", "POST configmaps", &begin]
    );
    assert_eq!(
        cluster.sent("POST jobs")["spec"]["suspend"],
        true,
        "no Pod before its plan"
    );
    assert_eq!(
        cluster.sent("POST configmaps")["metadata"]["ownerReferences"],
        json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": format!("uid of {name}") }])
    );
    assert_eq!(cluster.sent(&begin)["spec"]["suspend"], false);
}

#[tokio::test]
async fn a_gate_that_cannot_begin_leaves_no_job_that_waits() {
    for (refused, with_prepare) in [("POST configmaps", false), ("PATCH jobs", false), ("", true)] {
        let cluster = Cluster {
            refused,
            jobs: ended_job("Failed"),
            ..Cluster::default()
        };
        let objects = objects_of_a_gate(with_prepare);
        let verdict = tried(&cluster, &objects).await;
        assert!(matches!(verdict, Verdict::Error(_)), "{verdict:?}");
        let removed = format!("DELETE jobs/{}", objects.job.name_any());
        assert_eq!(cluster.written().last(), Some(&removed), "{refused:?}");
    }
}

#[tokio::test]
async fn gates_that_an_earlier_claim_left_on_this_node_are_removed_before_the_first_try() {
    let job = |name: &str, epoch: &str, kind: &str, condition: &str| {
        let mut job = ended_job(condition)[0].take();
        let labels = json!({ (labels::EPOCH): epoch, (KIND_LABEL): kind });
        job["metadata"] = json!({ "name": name, "labels": labels });
        job
    };
    let cluster = Cluster {
        jobs: json!([
            job("runs", "1", "gate", "Suspended"),
            job("prepares", "1", "prepare", "x"),
            job("ended", "1", "gate", "Complete"),
            job("failed", "1", "gate", "Failed"),
            job("own", "2", "gate", "x"),
            job("coder", "1", CODER, "x"),
        ]),
        ..Cluster::default()
    };
    for (epoch, removed) in [(1, &[][..]), (2, &["DELETE jobs/runs", "DELETE jobs/prepares"][..])] {
        let folder = tempfile::tempdir().unwrap();
        let run = sample::run(folder.path(), cluster.client(), Held::sample(epoch));
        clear_earlier(&run, "jobs").await;
        assert_eq!(cluster.written(), removed);
    }
}

#[tokio::test]
async fn a_gate_that_may_take_longer_than_its_task_says_which_field_to_raise() {
    let cluster = Cluster {
        jobs: json!([{ "metadata": { "name": "gate", "uid": "j" } }]),
        ..Cluster::default()
    };
    let folder = tempfile::tempdir().unwrap();
    let mut run = sample::run(folder.path(), cluster.client(), Held::sample(2));
    run.limit = LAST_WORD + Duration::from_millis(50);
    let objects = objects_of_a_gate(true);
    let (verdict, _) = in_time(&run, "jobs", &objects, 1, &mut Told::of(GATE_SCHEDULED, &run))
        .await
        .unwrap();
    let Verdict::Error(failure) = &verdict else {
        panic!("{verdict:?}")
    };
    assert!(!failure.retry, "no time is left");
    let outcome = outcome_of(&verdict, None);
    assert_eq!(outcome.verdict, Some(Published::GateError));
    for part in [
        "the 30 s of the verify task",
        "deadlineSeconds 7200",
        "raise timeoutSeconds",
        "or lower the gate's",
    ] {
        assert!(outcome.summary.contains(part), "{part}: {}", outcome.summary);
    }
    let written = cluster.written();
    for job in objects.prepare_job.iter().chain([&objects.job]) {
        assert!(
            written.contains(&format!("DELETE jobs/{}", job.name_any())),
            "{written:?}"
        );
    }
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
