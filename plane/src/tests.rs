//! The plane as its clients see it: through `kube::Client` and through raw requests.
#![allow(clippy::unwrap_used, clippy::panic)]

mod collect;
mod custom;
mod durability;
mod edges;
mod forms;
mod going;
mod hostile;
mod kube_client;
mod older;
mod over_tls;
mod replay;
mod requests;
mod watches;

use axum::body::Body;
use http::{HeaderMap, Method, Request};
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt;

use crate::storage::Retention;
use crate::{Plane, PlaneConfig};

/// A plane in a folder of its own.
struct Fixture {
    plane: Plane,
    folder: TempDir,
}

struct Answer {
    code: u16,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Answer {
    async fn of(response: axum::response::Response) -> Answer {
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            body: serde_json::from_str(&text).unwrap_or(Value::Null),
            text,
        }
    }
}

impl Fixture {
    async fn new() -> Fixture {
        Fixture::with(|config| config).await
    }

    async fn with(change: impl FnOnce(PlaneConfig) -> PlaneConfig) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let config = PlaneConfig::new(folder.path().join("state"), "0.1.0");
        let plane = Plane::open(change(config)).await.unwrap();
        Fixture { plane, folder }
    }

    async fn forgetful(changes: usize) -> Fixture {
        Fixture::with(|config| PlaneConfig {
            retention: Retention {
                changes,
                ..Retention::default()
            },
            ..config
        })
        .await
    }

    /// With the kind Thing of example.com defined.
    async fn with_things() -> Fixture {
        let fixture = Fixture::new().await;
        let answer = fixture
            .post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", things())
            .await;
        assert_eq!(answer.code, 201, "{}", answer.text);
        fixture
    }

    async fn send(&self, method: Method, path: &str, kind: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", kind)
            .header("user-agent", "tester/1.0")
            .body(body.into())
            .unwrap();
        self.request(request).await
    }

    async fn request(&self, request: Request<Body>) -> Answer {
        Answer::of(self.plane.router().oneshot(request).await.unwrap()).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", Body::empty()).await
    }

    async fn accept(&self, path: &str, accept: &str) -> Answer {
        let request = Request::builder().uri(path).header("accept", accept);
        self.request(request.body(Body::empty()).unwrap()).await
    }

    async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, "application/json", body.to_string())
            .await
    }

    async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, "application/json", body.to_string()).await
    }

    async fn merge(&self, path: &str, body: Value) -> Answer {
        let kind = "application/merge-patch+json";
        self.send(Method::PATCH, path, kind, body.to_string()).await
    }

    async fn apply(&self, path: &str, body: Value) -> Answer {
        let kind = "application/apply-patch+yaml";
        self.send(Method::PATCH, path, kind, body.to_string()).await
    }

    async fn delete(&self, path: &str, body: Value) -> Answer {
        self.send(Method::DELETE, path, "application/json", body.to_string())
            .await
    }

    /// Waits until a path answers with the code; events of the store drive the wait.
    async fn until(&self, path: &str, code: u16) {
        let mut latest = self.plane.shared.server.store.subscribe();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(20), async {
            loop {
                latest.borrow_and_update();
                if self.get(path).await.code == code {
                    return;
                }
                latest.changed().await.unwrap();
            }
        });
        waited.await.unwrap_or_else(|_| panic!("{path} never answered {code}"));
    }
}

const CMS: &str = "/api/v1/namespaces/default/configmaps";
const THINGS: &str = "/apis/example.com/v1/namespaces/default/things";

fn config_map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": "v"}})
}

fn thing(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

fn things() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "shortNames": ["th"], "categories": ["all"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}},
                "selectableFields": [{"jsonPath": ".spec.color"}],
                "additionalPrinterColumns": [{"name": "Color", "type": "string", "jsonPath": ".spec.color"}],
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "properties": {
                        "spec": {
                            "type": "object",
                            "required": ["size"],
                            "properties": {
                                "size": {"type": "integer", "minimum": 1},
                                "color": {"type": "string", "default": "red", "enum": ["red", "blue"]},
                                "fixed": {"type": "string", "x-kubernetes-validations": [
                                    {"rule": "self == oldSelf", "message": "fixed stays"}
                                ]}
                            }
                        },
                        "status": {"type": "object", "properties": {"phase": {"type": "string"}}}
                    }
                }}
            }]
        }
    })
}
