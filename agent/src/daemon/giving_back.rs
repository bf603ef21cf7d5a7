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

/// Objects by path, and what was written of claims and Leases, in order.
type Kept = (BTreeMap<String, Value>, Vec<String>);

/// An API that keeps objects.
#[derive(Clone, Default)]
struct Api(Arc<Mutex<Kept>>);

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
    let mut state = api.0.lock().unwrap();
    let (objects, said) = &mut *state;
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

async fn until(api: &Api, claims: usize) {
    for _ in 0..2000 {
        let said = api.0.lock().unwrap().1.clone();
        if said.iter().filter(|word| *word == "claimed").count() >= claims {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", api.0.lock().unwrap().1);
}

#[tokio::test]
async fn claims_are_given_back_before_the_lease_and_a_verifier_takes_no_coders_slot() {
    let folder = tempfile::tempdir().unwrap();
    let api = Api::default();
    let root = "/apis/foreman.llmkube.dev/v1alpha1/namespaces/default/agentictasks";
    for (name, kind) in [
        ("code-1", "freeform"),
        ("code-2", "freeform"),
        ("gate-1", "verify"),
        ("gate-2", "verify"),
    ] {
        api.0
            .lock()
            .unwrap()
            .0
            .insert(format!("{root}/{name}"), task(name, kind));
    }
    let shutdown = Shutdown::default();
    let agent = tokio::spawn(run(config(folder.path()), client(api.clone()).await, shutdown.clone()));
    // One slot: one coder and, beside it, one verifier.
    until(&api, 2).await;
    shutdown.stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), agent)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let (objects, said) = api.0.lock().unwrap().clone();
    assert_eq!(
        said,
        [
            "claimed",
            "claimed",
            "the claim was given back",
            "the claim was given back",
            "the Lease was let go"
        ]
    );
    let claimed = |prefix: &str| {
        objects
            .iter()
            .filter(|(at, task)| at.contains(&format!("/{prefix}-")) && task["status"]["epoch"] == 1)
            .count()
    };
    assert_eq!((claimed("code"), claimed("gate")), (1, 1));
}
