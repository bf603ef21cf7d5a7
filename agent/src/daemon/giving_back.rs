//! What a node agent writes while it goes away, over an API that keeps objects.
#![allow(clippy::unwrap_used, clippy::panic)]
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::*;

#[derive(Default)]
struct Kept {
    /// Objects by path.
    objects: BTreeMap<String, Value>,
    /// What was written of claims and Leases, in order.
    said: Vec<String>,
    /// How many claims are refused before any is taken.
    refuses: u32,
    /// A task whose claim is never answered.
    silent: Option<&'static str>,
}

/// Where its tasks lie.
const ROOT: &str = "/apis/foreman.llmkube.dev/v1alpha1/namespaces/default/agentictasks";

/// An API that keeps objects.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<Kept>>);

impl Api {
    /// Says whether a task's claim is never answered, and notes that it was asked for.
    fn is_silent(&self, path: &str) -> bool {
        let mut kept = self.0.lock().unwrap();
        let silent = kept.silent.is_some_and(|name| path.ends_with(name));
        if silent {
            kept.said.push("asked".to_owned());
        }
        silent
    }

    fn said(&self) -> Vec<String> {
        self.0.lock().unwrap().said.clone()
    }
}

fn merge(into: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            for (name, value) in patch {
                if value.is_null() {
                    if let Some(object) = into.as_object_mut() {
                        object.remove(&name);
                    }
                } else {
                    merge(&mut into[name], value);
                }
            }
        }
        patch => *into = patch,
    }
}

/// Keeps objects as an API server would, as far as a node agent can tell.
async fn serve(State(api): State<Api>, request: Request) -> Response {
    let method = request.method().clone();
    let path = request.uri().path().trim_end_matches("/status").to_owned();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if query.contains("watch=") {
        return Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>()).into_response();
    }
    let claims = body["status"]["claim"].is_object();
    if claims && api.is_silent(&path) {
        return futures::future::pending().await;
    }
    let mut state = api.0.lock().unwrap();
    if claims && state.refuses > 0 {
        state.refuses -= 1;
        state.said.push("refused".to_owned());
        return crate::executor::sample::failure(StatusCode::FORBIDDEN);
    }
    let Kept { objects, said, .. } = &mut *state;
    let stored = match method {
        Method::GET if path.ends_with("/agentictasks") => {
            let items: Vec<&Value> = objects
                .iter()
                .filter(|(at, _)| at.contains("/agentictasks/"))
                .map(|(_, task)| task)
                .collect();
            let list = json!({ "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTaskList", "metadata": { "resourceVersion": "1" }, "items": items });
            return Json(list).into_response();
        }
        Method::GET => {
            return match objects.get(&path) {
                Some(found) => Json(found.clone()).into_response(),
                None => {
                    let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "none", "reason": "NotFound", "code": 404 });
                    (StatusCode::NOT_FOUND, Json(status)).into_response()
                }
            };
        }
        Method::POST => {
            let at = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            objects.insert(at.clone(), body);
            at
        }
        Method::PUT => {
            if path.contains("/leases/") && body["spec"]["holderIdentity"] == "" {
                said.push("the Lease was let go".to_owned());
            }
            objects.insert(path.clone(), body);
            path
        }
        _ => {
            if path.contains("/agentictasks/") {
                match body["status"].get("claim") {
                    Some(Value::Null) if body["status"].get("phase").is_none() => {
                        said.push("the claim was given back".to_owned())
                    }
                    Some(Value::Object(_)) => said.push("claimed".to_owned()),
                    _ => {}
                }
            }
            merge(objects.entry(path.clone()).or_default(), body);
            path
        }
    };
    let object = objects.get_mut(&stored).unwrap();
    object["metadata"]["resourceVersion"] = json!("1");
    Json(object.clone()).into_response()
}

async fn client(api: Api) -> Client {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let app = axum::Router::new().fallback(serve).with_state(api);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    Client::try_from(kube::Config::new(format!("http://{address}").parse().unwrap())).unwrap()
}

fn task(name: &str, kind: &str) -> Value {
    json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
        "metadata": { "name": name, "namespace": "default", "uid": name, "resourceVersion": "1" },
        "spec": { "kind": kind, "payload": {} },
        "status": { "phase": "Scheduled", "assignedNode": "n" },
    })
}

fn config(workspace: &std::path::Path) -> Config {
    let args = ["--fleet-node-name=n", "--agent-mode=stub", "--stub-sleep=1h"];
    let mut config = crate::config::tests::parse(&args);
    config.workspace_dir = workspace.to_owned();
    config.slots = 1;
    config
}

async fn until(api: &Api, word: &str, times: usize) {
    for _ in 0..2000 {
        if api.said().iter().filter(|said| *said == word).count() >= times {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", api.said());
}

#[tokio::test]
async fn claims_are_given_back_before_the_lease_and_a_verifier_takes_no_coders_slot() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::default();
    for (name, kind) in [
        ("code-1", "freeform"),
        ("code-2", "freeform"),
        ("gate-1", "verify"),
        ("gate-2", "verify"),
    ] {
        let path = format!("{ROOT}/{name}");
        api.0.lock().unwrap().objects.insert(path, task(name, kind));
    }
    let shutdown = Shutdown::default();
    let agent = tokio::spawn(run(config(folder.path()), client(api.clone()).await, shutdown.clone()));
    // One slot: one coder and, beside it, one verifier.
    until(&api, "claimed", 2).await;
    shutdown.stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), agent)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        api.said(),
        [
            "claimed",
            "claimed",
            "the claim was given back",
            "the claim was given back",
            "the Lease was let go"
        ]
    );
    let claimed = |prefix: &str| {
        let kept = api.0.lock().unwrap();
        kept.objects
            .iter()
            .filter(|(at, task)| at.contains(&format!("/{prefix}-")) && task["status"]["epoch"] == 1)
            .count()
    };
    assert_eq!((claimed("code"), claimed("gate")), (1, 1));
}

/// An agent at work, which is told of its tasks by hand.
struct Working {
    api: Api,
    told: tokio::sync::mpsc::Sender<AgenticTask>,
    shutdown: Shutdown,
    lease_lost: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Working {
    fn begin(kept: Kept) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let api = Api(Arc::new(Mutex::new(kept)));
        let client = Client::new(axum::Router::new().fallback(serve).with_state(api.clone()), "default");
        let mut services = crate::executor::sample::run(folder.path(), client, claim::Held::sample(1)).services;
        services.config = Arc::new(config(folder.path()));
        let (told, heard) = tokio::sync::mpsc::channel::<AgenticTask>(1);
        let (shutdown, lease_lost) = (Shutdown::default(), CancellationToken::new());
        let (shutdown_too, lost) = (shutdown.clone(), lease_lost.clone());
        let ended = tokio::spawn(async move {
            let events = futures::stream::unfold(heard, |mut heard| async {
                let task = heard.recv().await?;
                Some((Ok(watcher::Event::Apply(task)), heard))
            });
            let sleep = Duration::from_secs(3600);
            let executor: Arc<dyn Executor> = Arc::new(Stub { sleep });
            let desk = Arc::default();
            work(&services, &executor, &desk, "a", &shutdown_too, &lost, events.boxed()).await;
        });
        Self {
            api,
            told,
            shutdown,
            lease_lost,
            ended,
            _folder: folder,
        }
    }

    /// Assigns a task to the node, and waits until the agent has heard of it.
    async fn assign(&self, name: &str, kind: &str) {
        let task = task(name, kind);
        let path = format!("{ROOT}/{name}");
        self.api.0.lock().unwrap().objects.insert(path, task.clone());
        self.told.send(serde_json::from_value(task).unwrap()).await.unwrap();
        while self.told.capacity() < self.told.max_capacity() {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for the end of the agent, which must not take as long as what runs.
    async fn end(self) -> Vec<String> {
        tokio::time::timeout(Duration::from_secs(20), self.ended)
            .await
            .unwrap()
            .unwrap();
        self.api.said()
    }
}

#[tokio::test]
async fn an_agent_that_loses_its_name_while_it_drains_gives_up_what_runs_and_writes_nothing() {
    let agent = Working::begin(Kept::default());
    agent.assign("code-1", "freeform").await;
    until(&agent.api, "claimed", 1).await;
    agent.shutdown.drain.cancel();
    // What it hears of now, it hears while it drains, and nothing else comes after that.
    agent.assign("code-2", "freeform").await;
    agent.lease_lost.cancel();
    assert_eq!(agent.end().await, ["claimed"]);
}

#[tokio::test]
async fn an_agent_that_loses_its_name_while_it_makes_a_claim_gives_up_what_runs() {
    let agent = Working::begin(Kept {
        silent: Some("gate-1"),
        ..Kept::default()
    });
    agent.assign("code-1", "freeform").await;
    until(&agent.api, "claimed", 1).await;
    agent.assign("gate-1", "verify").await;
    until(&agent.api, "asked", 1).await;
    agent.lease_lost.cancel();
    assert_eq!(agent.end().await, ["claimed", "asked"]);
}

#[tokio::test]
async fn a_claim_that_was_refused_is_made_again_though_nobody_says_a_word() {
    let agent = Working::begin(Kept {
        refuses: 1,
        ..Kept::default()
    });
    agent.assign("code-1", "freeform").await;
    until(&agent.api, "claimed", 1).await;
    agent.shutdown.stop.cancel();
    assert_eq!(agent.end().await, ["refused", "claimed", "the claim was given back"]);
}
