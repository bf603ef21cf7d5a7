//! The operator's HTTP: evidence, metrics, health.
//!
//! Writing needs the secret of the task's live claim. Reading is for loopback unless the operator is told otherwise;
//! what is served is plain text that no browser interprets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, FromRequest, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use futures::{StreamExt, TryStreamExt};
use kube::Client;
use schemas::AgenticTask;

use super::claim::admit;
use super::{Address, Error, Evidence, MAX_SEGMENT, Stored, Text};
use crate::cache::Cache;
use crate::metrics::{EVIDENCE, EVIDENCE_BYTES, Metrics};
use crate::probes::Probes;

/// How long a segment waits until there is memory for it.
const WAIT: Duration = Duration::from_secs(10);
/// How long a segment may take to come in.
const UPLOAD: Duration = Duration::from_secs(60);

/// Who may read evidence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readers {
    /// Processes on this machine.
    #[default]
    Loopback,
    /// Whoever reaches the port.
    Anyone,
}

/// What the HTTP works with.
#[derive(Clone)]
pub struct Serving {
    /// Store.
    pub evidence: Option<Evidence>,
    /// Tasks, by which claims are checked.
    pub tasks: Arc<Cache<AgenticTask>>,
    /// Reads a task anew where the cache does not know a claim yet.
    pub client: Client,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who may read evidence.
    pub readers: Readers,
    /// What is told of the operator itself.
    pub probes: Probes,
}

/// Builds the router.
pub fn router(serving: Serving) -> Router {
    let probes = telemetry::http::router(serving.probes.clone());
    Router::new()
        .route("/evidence/{task}", get(list))
        .route("/evidence/{task}/{epoch}/{name}", get(read))
        .route(
            "/evidence/{task}/{epoch}/{name}/{segment}",
            put(store).get(read_segment),
        )
        .layer(DefaultBodyLimit::max(MAX_SEGMENT))
        .with_state(serving)
        .merge(probes)
}

pub(super) fn refuse(status: StatusCode, text: impl Into<String>) -> Response {
    plain(status, format!("{}\n", text.into()).into_bytes())
}

/// Answers with text that is shown as it is, whatever is in it.
fn plain(status: StatusCode, text: impl Into<Body>) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Answers with evidence as it is read.
fn stream(text: Text) -> Response {
    let told = |error: &Error| tracing::warn!(%error, "evidence broke off while it was read");
    plain(StatusCode::OK, Body::from_stream(text.inspect_err(told)))
}

fn answer(error: &Error) -> Response {
    let status = match error {
        Error::Address(_) => StatusCode::BAD_REQUEST,
        Error::Differs(_) => StatusCode::CONFLICT,
        Error::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Open { .. } | Error::Store { .. } | Error::Broken { .. } => {
            tracing::warn!(%error, "the evidence store failed");
            return refuse(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the evidence store failed; see the operator's log",
            );
        }
    };
    refuse(status, error.to_string())
}

/// Reads on what is not wanted, without keeping it: a sender that is cut off while it sends may not see the answer.
fn discard(body: Body) {
    let mut left = MAX_SEGMENT;
    let frames = body.into_data_stream().take_while(move |frame| {
        let length = frame.as_ref().map_or(usize::MAX, Bytes::len);
        let fits = length <= left;
        left = left.saturating_sub(length);
        std::future::ready(fits)
    });
    tokio::spawn(async move {
        let _ = tokio::time::timeout(UPLOAD, frames.for_each(async |_| ())).await;
    });
}

async fn store(
    State(serving): State<Serving>,
    Path((task, epoch, name, segment)): Path<(String, String, String, String)>,
    headers: HeaderMap,
    request: Request,
) -> Response {
    let Some(evidence) = serving.evidence.clone() else {
        return refuse(StatusCode::NOT_FOUND, "no evidence is stored here");
    };
    let address = match Address::new(&task, &epoch, &name, &segment) {
        Ok(address) => address,
        Err(error) => return answer(&error),
    };
    if let Err(refused) = admit(&serving, &address, &headers).await {
        discard(request.into_body());
        return *refused;
    }
    let Ok(Some(room)) = tokio::time::timeout(WAIT, evidence.room()).await else {
        discard(request.into_body());
        return refuse(
            StatusCode::SERVICE_UNAVAILABLE,
            "too much is being stored at once; try again",
        );
    };
    let body = match tokio::time::timeout(UPLOAD, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        Ok(Err(broken)) => return broken.into_response(),
        Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the segment came too slowly; try again"),
    };
    let bytes = body.len() as u64;
    // The room is given back when the segment is gone from memory, also where the sender does not wait for that.
    let stored = tokio::spawn(async move {
        let stored = evidence.put(&address, body).await;
        drop(room);
        stored
    });
    let stored = stored.await.unwrap_or_else(|source| Err(Error::Broken { source }));
    let counted = |result: &str| serving.metrics.count(EVIDENCE, &[("verb", "put"), ("result", result)]);
    match stored {
        Ok(Stored::New) => {
            counted("new");
            serving.metrics.add(EVIDENCE_BYTES, &[], bytes);
            refuse(StatusCode::CREATED, "stored")
        }
        Ok(Stored::Same) => {
            counted("same");
            refuse(StatusCode::OK, "stored before")
        }
        Err(error) => {
            counted("failed");
            answer(&error)
        }
    }
}

fn may_read(serving: &Serving, peer: SocketAddr, headers: &HeaderMap) -> Result<Evidence, Box<Response>> {
    let Some(evidence) = &serving.evidence else {
        return Err(Box::new(refuse(StatusCode::NOT_FOUND, "no evidence is stored here")));
    };
    if serving.readers == Readers::Anyone {
        return Ok(evidence.clone());
    }
    // A page in a browser can reach loopback under a name of its own; it cannot make that name an address.
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|b| b.is_ascii_digit()) {
            name
        } else {
            host
        }
    });
    let local = name == "localhost"
        || name
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    if peer.ip().is_loopback() && local {
        Ok(evidence.clone())
    } else {
        Err(Box::new(refuse(
            StatusCode::FORBIDDEN,
            "evidence is served to this machine only",
        )))
    }
}

async fn list(
    State(serving): State<Serving>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path(task): Path<String>,
    headers: HeaderMap,
) -> Response {
    let evidence = match may_read(&serving, peer, &headers) {
        Ok(evidence) => evidence,
        Err(response) => return *response,
    };
    match evidence.list(&task).await {
        Ok(entries) => axum::Json(entries).into_response(),
        Err(error) => answer(&error),
    }
}

async fn read(
    State(serving): State<Serving>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((task, epoch, name)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let evidence = match may_read(&serving, peer, &headers) {
        Ok(evidence) => evidence,
        Err(response) => return *response,
    };
    match evidence.read(&task, &epoch, &name).await {
        Ok(Some(text)) => stream(text),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "there is no such evidence"),
        Err(error) => answer(&error),
    }
}

async fn read_segment(
    State(serving): State<Serving>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Path((task, epoch, name, segment)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let evidence = match may_read(&serving, peer, &headers) {
        Ok(evidence) => evidence,
        Err(response) => return *response,
    };
    let found = match Address::new(&task, &epoch, &name, &segment) {
        Ok(address) => evidence.read_segment(&address).await,
        Err(error) => Err(error),
    };
    match found {
        Ok(Some(text)) => stream(text),
        Ok(None) => refuse(StatusCode::NOT_FOUND, "there is no such segment"),
        Err(error) => answer(&error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use kube::api::DynamicObject;
    use serde_json::json;
    use sha2::{Digest, Sha256};

    /// Sends bytes over a socket, as they are; returns the first line of the answer, empty where there was none.
    async fn send(address: SocketAddr, bytes: &[u8], whole: bool) -> String {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        if !whole {
            return String::new();
        }
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    /// Serves evidence of these tasks, with no API to ask for others; returns where.
    async fn serve(evidence: &Evidence, tasks: Arc<Cache<AgenticTask>>) -> SocketAddr {
        let nobody = tower::service_fn(|_: axum::http::Request<kube::client::Body>| async {
            Err::<axum::http::Response<kube::client::Body>, _>(std::io::Error::other("no API"))
        });
        let app = router(Serving {
            evidence: Some(evidence.clone()),
            tasks,
            client: Client::new(nobody, "n"),
            metrics: Arc::default(),
            readers: Readers::Loopback,
            probes: Probes::new(Arc::default(), telemetry::health::Health::from_now(), None),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
                .await
                .unwrap();
        });
        address
    }

    #[tokio::test]
    async fn a_task_that_is_not_known_yet_is_no_reason_to_refuse_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(dir.path(), super::super::redact::Redactor::default()).unwrap();
        let address = serve(&evidence, Arc::default()).await;
        let request = "PUT /evidence/uid-1/1/log/0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n\
                       Connection: close\r\nContent-Length: 1\r\n\r\nx";
        let said = send(address, request.as_bytes(), true).await;
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
    }

    /// Returns tasks with one that runs, by a claim whose secret is `secret`.
    fn running() -> Arc<Cache<AgenticTask>> {
        let tasks: Arc<Cache<AgenticTask>> = Arc::default();
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": "t", "namespace": "n", "uid": "uid-1", "resourceVersion": "1" },
            "spec": { "kind": "freeform", "payload": {} },
            "status": { "phase": "Running", "epoch": 1, "claim": { "node": "a", "agent": "p", "epoch": 1, "secretSHA256": hex::encode(Sha256::digest(b"secret")) } }
        }))
        .unwrap();
        tasks.observe(object);
        tasks
    }

    fn request(secret: &str, length: usize) -> String {
        format!(
            "PUT /evidence/uid-1/1/log/0 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        )
    }

    #[tokio::test]
    async fn whoever_may_not_write_is_told_before_the_body_is_read() {
        use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(dir.path(), super::super::redact::Redactor::default()).unwrap();
        let address = serve(&evidence, Arc::default()).await;
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let mut socket = BufReader::new(socket);
        let head = request("false", MAX_SEGMENT);
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        let answer = tokio::time::timeout(Duration::from_secs(20), socket.read_line(&mut said));
        answer.await.expect("an answer before the body").unwrap();
        assert!(said.starts_with("HTTP/1.1 503"), "{said}");
        // Who sends it nevertheless is not cut off.
        socket.write_all(&vec![b'x'; MAX_SEGMENT]).await.unwrap();
        let mut rest = String::new();
        socket.read_to_string(&mut rest).await.unwrap();
        assert!(rest.ends_with("try again\n"), "{rest}");
    }

    #[tokio::test]
    async fn a_segment_waits_until_there_is_room_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(dir.path(), super::super::redact::Redactor::default()).unwrap();
        let address = serve(&evidence, running()).await;
        let mut others = Vec::new();
        while evidence.uploads.available_permits() > 0 {
            others.push(evidence.room().await.unwrap());
        }
        let bytes = format!("{}x", request("secret", 1));
        let mut sent = tokio::spawn(async move { send(address, bytes.as_bytes(), true).await });
        let early = tokio::time::timeout(Duration::from_millis(300), &mut sent).await;
        assert!(early.is_err(), "{early:?}");
        assert!(evidence.list("uid-1").await.unwrap().is_empty());
        others.pop();
        assert_eq!(sent.await.unwrap(), "HTTP/1.1 201 Created");
        assert_eq!(evidence.uploads.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_segment_that_is_too_large_is_refused_and_leaves_room() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(dir.path(), super::super::redact::Redactor::default()).unwrap();
        let address = serve(&evidence, running()).await;
        let body = "x".repeat(MAX_SEGMENT + 1);
        let said = send(address, (request("secret", body.len()) + &body).as_bytes(), true).await;
        assert!(said.starts_with("HTTP/1.1 413"), "{said}");
        assert_eq!(evidence.uploads.available_permits(), super::super::UPLOADS);
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_stores_nothing_and_may_be_sent_again_twice() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(dir.path(), super::super::redact::Redactor::default()).unwrap();
        let address = serve(&evidence, running()).await;
        let body = "line\n".repeat(50_000);
        let request = format!("{}{body}", request("secret", body.len()));
        send(address, &request.as_bytes()[..request.len() / 2], false).await;
        assert_eq!(send(address, request.as_bytes(), true).await, "HTTP/1.1 201 Created");
        assert_eq!(send(address, request.as_bytes(), true).await, "HTTP/1.1 200 OK");
        assert_eq!(evidence.list("uid-1").await.unwrap()[0].bytes, body.len() as u64);
        let get = "GET /evidence/uid-1/1/log HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert_eq!(send(address, get.as_bytes(), true).await, "HTTP/1.1 200 OK");
    }
}
