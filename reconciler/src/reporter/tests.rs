//! The reporter over an API that holds one Workload, and a forge that remembers what it was told.
#![allow(clippy::unwrap_used, clippy::panic)]
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use kube::Client;
use kube::api::DynamicObject;
use kube::client::Body;

use super::*;
use crate::clock::ManualClock;
use crate::leader::Leadership;
use crate::writer::merge;
use schemas::labels;

/// What the API holds.
#[derive(Default)]
struct Api {
    workload: Mutex<Value>,
    /// Tasks that are listed, whether the watch told of them or not.
    tasks: Mutex<Vec<Value>>,
    /// Whether the gate's Job is still there.
    job: AtomicBool,
    /// Whether its CRD keeps `status.confirmed` no more than any field that it does not know.
    is_old: AtomicBool,
    /// What was asked, without the bodies.
    asked: Mutex<Vec<String>>,
}

impl Api {
    fn answer(&self, method: &http::Method, path: &str, body: &[u8]) -> (u16, Value) {
        lock(&self.asked).push(format!("{method} {path}"));
        if path.contains("/namespaces/hidden/") {
            return (
                403,
                json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403, "reason": "Forbidden", "message": "not here" }),
            );
        }
        if path.ends_with("/jobs/gate") || path.ends_with("/jobs/gate-two") {
            return match self.job.load(Ordering::Acquire) {
                true => (200, job()),
                false => (
                    404,
                    json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "gone" }),
                ),
            };
        }
        if let Some((_, query)) = path.split_once("/pods?") {
            let head = if query.contains("gate-two") { NEXT } else { HEAD };
            let pods = if self.job.load(Ordering::Acquire) {
                vec![pod(head)]
            } else {
                Vec::new()
            };
            return (
                200,
                json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods }),
            );
        }
        if path.contains("/agentictasks?") {
            let tasks = lock(&self.tasks).clone();
            return (
                200,
                json!({ "kind": "AgenticTaskList", "apiVersion": "foreman.llmkube.dev/v1alpha1", "metadata": {}, "items": tasks }),
            );
        }
        assert!(path.ends_with("/workloads/w/status?"), "{method} {path}");
        let mut patch: Value = serde_json::from_slice(body).unwrap();
        if self.is_old.load(Ordering::Acquire) {
            patch["status"].as_object_mut().unwrap().remove("confirmed");
        }
        let mut workload = lock(&self.workload);
        let version = workload["metadata"]["resourceVersion"].clone();
        let wanted = patch["metadata"]["resourceVersion"].clone();
        assert!(wanted.is_null() || wanted == version, "nobody else writes");
        merge(&mut workload["status"], &patch["status"]);
        let next = version.as_str().unwrap().parse::<u64>().unwrap() + 1;
        workload["metadata"]["resourceVersion"] = json!(next.to_string());
        (200, workload.clone())
    }
}

const HEAD: &str = "1111111111111111111111111111111111111111";
const NEXT: &str = "4444444444444444444444444444444444444444";
const BASE: &str = "2222222222222222222222222222222222222222";
const DIGEST: &str = "3333333333333333333333333333333333333333333333333333333333333333";

fn job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": "gate", "namespace": "n", "uid": "job" },
        "status": { "conditions": [{ "type": "Complete", "status": "True" }] }
    })
}

/// The Pod of a gate that passed.
fn pod(head: &str) -> Value {
    let report = json!({
        "format": gate::FORMAT, "head": head, "base": BASE, "digest": DIGEST, "outcome": "pass",
        "steps": [{ "name": "test", "outcome": "pass", "exitCode": 0, "ms": 1 }],
    });
    let ended = |message: String| json!({ "terminated": { "exitCode": 0, "reason": "Completed", "message": message } });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "gate-x", "namespace": "n", "ownerReferences": [{ "apiVersion": "batch/v1", "kind": "Job", "name": "gate", "uid": "job" }] },
        "status": {
            "phase": "Succeeded",
            "initContainerStatuses": [{ "name": "fetch", "state": ended(String::new()) }],
            "containerStatuses": [{ "name": "gate", "state": ended(report.to_string()) }],
        }
    })
}

/// A forge that remembers what it was told, and may be away.
#[derive(Default)]
struct Told {
    said: Mutex<Vec<(String, State, String)>>,
    away: AtomicBool,
}

impl Forge for Told {
    fn commit_status<'a>(
        &'a self,
        _: &'a str,
        commit: &'a str,
        status: &'a CommitStatus,
    ) -> BoxFuture<'a, Result<String, Error>> {
        async move {
            if self.away.load(Ordering::Acquire) {
                return Err(Error::Push("the server is away".into()));
            }
            lock(&self.said).push((commit.to_owned(), status.state, status.description.clone()));
            Ok("there".to_owned())
        }
        .boxed()
    }

    fn note<'a>(&'a self, _: &'a str, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<String, Error>> {
        async { Ok("there".to_owned()) }.boxed()
    }
}

/// Returns the path of a request, and its query.
fn asked(uri: &http::Uri) -> String {
    match uri.query() {
        Some(query) => format!("{}?{query}", uri.path()),
        None => uri.path().to_owned(),
    }
}

struct Stage {
    api: Arc<Api>,
    forge: Arc<Told>,
    ctx: Arc<Context>,
    clock: Arc<ManualClock>,
    work: Arc<WorkQueue<Key>>,
    key: Key,
}

fn seen<K>(cache: &Cache<K>, object: Value)
where
    K: kube::Resource + serde::de::DeserializeOwned,
    K::DynamicType: Default,
{
    cache.observe(serde_json::from_value::<DynamicObject>(object).unwrap());
}

impl Stage {
    /// A Workload whose verifier was just begun.
    fn new(api: Arc<Api>, forge: Arc<Told>) -> Self {
        let served = api.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let served = served.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.unwrap();
                let (code, answer) = served.answer(&parts.method, &asked(&parts.uri), &body);
                let body = Body::from(serde_json::to_vec(&answer).unwrap());
                Ok::<_, Infallible>(http::Response::builder().status(code).body(body).unwrap())
            }
        });
        let client = Client::new(service, "n");
        let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
        let ctx = Arc::new(Context {
            writer: Writer::new(client.clone(), Leadership::always(clock.clone())),
            reader: Reader::new(client, clock.clone()),
            workloads: Arc::default(),
            tasks: Arc::default(),
            links: Arc::default(),
            forge: forge.clone(),
            metrics: Arc::default(),
            deleted: Arc::default(),
            failures: Mutex::default(),
        });
        let links = ctx.links.clone();
        ctx.tasks.subscribe(move |change| links.set_task(change, &|_| {}));
        let work = Arc::default();
        observe(&work, &ctx);
        let stage = Self {
            api,
            forge,
            ctx,
            clock,
            work,
            key: Key::new("n", "w"),
        };
        if lock(&stage.api.workload).is_null() {
            *lock(&stage.api.workload) = json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload",
                "metadata": { "name": "w", "namespace": "n", "uid": "u", "resourceVersion": "1" },
                "spec": { "intent": "x", "repo": "o/r", "verifierAgentRef": { "name": "v" } },
                "status": { "run": 1, "phase": "Dispatched", "headSHA": HEAD, "baseSHA": BASE }
            });
        }
        seen(&stage.ctx.workloads, lock(&stage.api.workload).clone());
        stage
    }

    fn fresh() -> Self {
        let api = Arc::new(Api::default());
        api.job.store(true, Ordering::Release);
        Self::new(api, Arc::default())
    }

    /// Changes what the Workload's status says, as its controller does.
    fn status(&self, patch: Value) {
        let mut workload = lock(&self.api.workload);
        merge(&mut workload["status"], &patch);
        let version: u64 = workload["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap();
        workload["metadata"]["resourceVersion"] = json!((version + 1).to_string());
        let now = workload.clone();
        drop(workload);
        seen(&self.ctx.workloads, now);
    }

    fn verifier_passes(&self) {
        seen(&self.ctx.tasks, Self::verifier());
    }

    fn verifier() -> Value {
        json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
                "metadata": {
                    "name": "w-verify", "namespace": "n", "uid": "verifier", "resourceVersion": "2",
                    "ownerReferences": [{ "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "name": "w", "uid": "u" }]
                },
                "spec": { "kind": "verify", "payload": {}, "workloadRef": { "name": "w" }, "run": 1, "round": 1, "baseSHA": BASE },
                "status": { "phase": "Succeeded", "verdict": "GATE-PASS", "commitSHA": HEAD, "gateDigest": DIGEST, "jobName": "gate" }
        })
    }

    fn run_ends(&self) {
        self.status(json!({ "phase": "Completed", "verdict": "GATE-PASS", "gateDigest": DIGEST, "message": "the gate passed in round 1" }));
    }

    /// Reports as often as there is something to do.
    async fn turns(&self) -> Next {
        let mut last = Next::Wait;
        while self.work.depth() > 0 {
            let key = self.work.next().await;
            last = reconcile(self.ctx.clone(), key.clone()).await;
            self.work.done(key, &Next::Wait);
        }
        last
    }

    fn said(&self) -> Vec<(String, State, String)> {
        lock(&self.forge.said).clone()
    }

    fn workload_status(&self) -> Value {
        lock(&self.api.workload)["status"].clone()
    }
}

mod several;
mod trouble;

#[tokio::test]
async fn a_pass_that_was_confirmed_in_time_is_a_success_long_after_its_job_is_gone() {
    let stage = Stage::fresh();
    stage.turns().await;
    assert_eq!(
        stage.said(),
        [(HEAD.to_owned(), State::Pending, "Dispatched".to_owned())]
    );
    stage.verifier_passes();
    stage.turns().await;
    assert_eq!(stage.workload_status()["confirmed"]["verifier"]["job"], "n/gate");
    // Other steps go on, the Git server is away, the operator starts anew, and the Job's time is over.
    stage.api.job.store(false, Ordering::Release);
    stage.forge.away.store(true, Ordering::Release);
    stage.run_ends();
    assert_eq!(stage.turns().await, Next::After(FIRST_PAUSE));
    let stage = Stage::new(stage.api.clone(), stage.forge.clone());
    stage.verifier_passes();
    stage.forge.away.store(false, Ordering::Release);
    assert_eq!(stage.turns().await, Next::Wait);
    assert_eq!(
        stage.said().last().unwrap(),
        &(HEAD.to_owned(), State::Success, "the gate passed in round 1".to_owned())
    );
    assert_eq!(stage.workload_status()["pendingHeads"], json!({}));
    let asked = lock(&stage.api.asked).len();
    stage.work.add(stage.key.clone());
    stage.turns().await;
    assert_eq!(
        (stage.said().len(), lock(&stage.api.asked).len()),
        (2, asked),
        "all was told"
    );
}

#[tokio::test]
async fn a_pass_whose_job_went_before_it_was_read_says_that_the_evidence_is_gone() {
    let stage = Stage::fresh();
    stage.turns().await;
    stage.api.job.store(false, Ordering::Release);
    stage.verifier_passes();
    stage.run_ends();
    stage.turns().await;
    let (_, state, said) = stage.said().last().unwrap().clone();
    assert_eq!(state, State::Error);
    assert!(said.starts_with("the evidence is gone: the Job was removed"), "{said}");
}

#[tokio::test]
async fn a_pass_of_a_task_that_the_watch_did_not_tell_of_yet_is_not_said_to_be_gone() {
    let stage = Stage::fresh();
    lock(&stage.api.tasks).push(Stage::verifier());
    stage.run_ends();
    stage.turns().await;
    let said: Vec<State> = stage.said().iter().map(|(_, state, _)| *state).collect();
    assert_eq!(said, [State::Success]);
}

#[tokio::test]
async fn no_head_that_was_pending_stays_so() {
    let next = NEXT;
    let stage = Stage::fresh();
    stage.turns().await;
    stage.status(json!({
        "headSHA": next, "round": 2,
        "rounds": [{ "run": 1, "round": 1, "headSHA": HEAD, "verdict": "GATE-FAIL", "summary": "step test: exit 1" }]
    }));
    stage.turns().await;
    let told = |head: &str, state, said: &str| (head.to_owned(), state, said.to_owned());
    assert_eq!(
        stage.said()[1..],
        [
            told(HEAD, State::Failure, "step test: exit 1"),
            told(next, State::Pending, "Dispatched")
        ]
    );
    assert_eq!(
        stage.workload_status()["pendingHeads"],
        json!({ next: { "run": 1, "repo": "o/r", "told": true } })
    );
    stage.ctx.workloads.forget(&stage.key, Some("u"));
    stage.turns().await;
    assert_eq!(
        stage.said().last().unwrap(),
        &told(next, State::Error, "the Workload was deleted before the gate ended")
    );
}

#[tokio::test]
async fn the_pauses_grow_while_a_repository_cannot_be_reached() {
    let stage = Stage::fresh();
    stage.forge.away.store(true, Ordering::Release);
    let report = || reconcile(stage.ctx.clone(), stage.key.clone());
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let Next::After(pause) = report().await else {
            panic!("the repository is away")
        };
        pauses.push(pause.as_secs());
    }
    assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
    stage.forge.away.store(false, Ordering::Release);
    assert_eq!(report().await, Next::Wait);
    stage.forge.away.store(true, Ordering::Release);
    stage.status(json!({ "phase": "Failed", "message": "no" }));
    assert_eq!(report().await, Next::After(FIRST_PAUSE), "it was reached in between");
}
