//! A webhook of somebody else's that stands before Foreman's writes: it refuses, it fails, and it lets them through.

use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use kube::api::{DeleteParams, Patch, PatchParams};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::refused::{admission, holds, queue_says};
use crate::real::site::Site;

/// How a webhook treats what it is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Refuses,
    Breaks,
    Allows,
}

/// A webhook behind TLS.
struct Webhook {
    mode: Arc<Mutex<Mode>>,
    url: String,
    /// Its certificate, which nobody else signed.
    pem: String,
}

impl Webhook {
    async fn start() -> Self {
        let mode = Arc::new(Mutex::new(Mode::Refuses));
        let asked = mode.clone();
        let answer = move |body: Bytes| {
            let mode = *asked.lock().unwrap();
            async move { answer(mode, &body) }
        };
        let app = axum::Router::new().fallback(answer);
        let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = plain.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(plain, app).await });

        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut outer) = acceptor.accept(stream).await else {
                        return;
                    };
                    let Ok(mut inner) = TcpStream::connect(inner).await else {
                        return;
                    };
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
        Self {
            mode,
            url: format!("https://localhost:{port}/"),
            pem: made.cert.pem(),
        }
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// Returns the object by which an API server asks it before tasks are made in a namespace.
    fn configuration(&self, namespace: &str) -> Value {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": { "name": namespace },
            "webhooks": [{
                "name": "tasks.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "timeoutSeconds": 5,
                "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": namespace } },
                "rules": [{
                    "apiGroups": ["foreman.llmkube.dev"], "apiVersions": ["*"], "operations": ["CREATE"],
                    "resources": ["agentictasks"],
                }],
                "clientConfig": { "url": self.url, "caBundle": k8s_openapi::ByteString(self.pem.clone().into_bytes()) },
            }],
        })
    }
}

fn answer(mode: Mode, body: &[u8]) -> Response {
    let Ok(review) = serde_json::from_slice::<Value>(body) else {
        return (http::StatusCode::BAD_REQUEST, "no review").into_response();
    };
    let said = match mode {
        Mode::Breaks => return (http::StatusCode::BAD_GATEWAY, "the webhook is being moved").into_response(),
        Mode::Refuses => json!({ "allowed": false, "status": { "message": "no tasks on a Sunday" } }),
        Mode::Allows => json!({ "allowed": true }),
    };
    let mut response = said;
    response["uid"] = review["request"]["uid"].clone();
    let review = json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
    ([("content-type", "application/json")], review.to_string()).into_response()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn a_webhook_that_refuses_or_fails_is_named_and_work_goes_on_once_it_lets_through() {
    let site = Site::open().await;
    let name = site.namespace.clone();
    let webhook = Webhook::start().await;
    let configurations = admission(&site, "ValidatingWebhookConfiguration");
    let params = PatchParams::apply("foreman-tests").force();
    configurations
        .patch(&name, &params, &Patch::Apply(webhook.configuration(&name)))
        .await
        .unwrap();
    holds(&site).await;

    site.node("a", 10).await;
    let mut operator = site.operator("operator");
    operator.says(&["Starting workers", "TaskQueue"]);
    let (mut tasks, mut queues) = (site.tasks(), site.queues());
    site.queue().await;
    site.ask(3);
    queue_says(
        &mut queues,
        &["False Refused:", "tasks.example.com", "no tasks on a Sunday"],
    )
    .await;
    webhook.set(Mode::Breaks);
    queue_says(
        &mut queues,
        &[
            "False WebhookFailed:",
            "tasks.example.com",
            "the webhook is being moved",
        ],
    )
    .await;
    webhook.set(Mode::Allows);
    tasks.assigned(3).await;
    tasks.assert_each_done_once(3);
    queue_says(&mut queues, &["True Applied"]).await;
    configurations.delete(&name, &DeleteParams::default()).await.unwrap();
    site.delete_nodes(&["a"]).await;
}
