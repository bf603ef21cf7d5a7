//! What stands between an operator and its API, and fails as a test says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::real::site::kubeconfig;

/// A line to the API server that can be cut.
pub struct Line {
    address: SocketAddr,
    whole: watch::Sender<bool>,
}

impl Line {
    /// Lays a line to the server of the administrator's kubeconfig.
    pub async fn lay(folder: &Path) -> (Self, PathBuf) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let line = Self {
            address: listener.local_addr().unwrap(),
            whole: watch::Sender::new(true),
        };
        let mut target = String::new();
        let config = kubeconfig(folder, "line.kubeconfig", |config| {
            let server = &mut config["clusters"][0]["cluster"]["server"];
            target = server.as_str().unwrap().trim_start_matches("https://").to_owned();
            *server = json!(format!("https://{}", line.address));
        });
        let whole = line.whole.subscribe();
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let (target, mut whole) = (target.clone(), whole.clone());
                tokio::spawn(async move {
                    if !*whole.borrow_and_update() {
                        return;
                    }
                    let mut far = TcpStream::connect(&target).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = whole.wait_for(|whole| !whole) => {}
                    }
                });
            }
        });
        (line, config)
    }

    /// Ends all connections and takes no others: the server is gone.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Has the server back.
    pub fn mend(&self) {
        self.whole.send_replace(true);
    }
}

/// What becomes of one request.
pub enum Fate {
    /// It is forwarded.
    Pass,
    /// It is answered like this, and nobody else hears of it.
    Answer(u16, Value),
    /// It is forwarded, and then the caller is told this instead of its answer.
    Lose(u16, Value),
}

type Judge = Box<dyn Fn(&http::request::Parts) -> Fate + Send + Sync>;

/// A server that forwards requests to the API, or does what a test says.
pub struct Between {
    judge: Mutex<Judge>,
    streams: Mutex<CancellationToken>,
    client: Client,
}

impl Between {
    /// Serves; returns the kubeconfig that leads to it.
    pub async fn serve(client: Client, folder: &Path) -> (Arc<Self>, PathBuf) {
        let between = Arc::new(Self {
            judge: Mutex::new(Box::new(|_| Fate::Pass)),
            streams: Mutex::default(),
            client,
        });
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = axum::Router::new().fallback(forward).with_state(between.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        let config = kubeconfig(folder, "between.kubeconfig", |config| {
            config["clusters"][0]["cluster"] = json!({ "server": format!("http://{address}") });
            config["users"][0]["user"] = json!({});
        });
        (between, config)
    }

    /// Has every request judged from now on.
    pub fn judge(&self, judge: impl Fn(&http::request::Parts) -> Fate + Send + Sync + 'static) {
        *self.judge.lock().unwrap() = Box::new(judge);
    }

    /// Breaks off all watches.
    pub fn break_watches(&self) {
        let mut streams = self.streams.lock().unwrap();
        streams.cancel();
        *streams = CancellationToken::new();
    }
}

/// Builds the Status of a failure.
pub fn failure(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

pub fn is_watch(parts: &http::request::Parts) -> bool {
    parts.uri.query().is_some_and(|query| query.contains("watch="))
}

fn answer(code: u16, body: &Value) -> Response {
    let answer = Response::builder()
        .status(code)
        .header("content-type", "application/json");
    answer.body(Body::from(format!("{body}\n"))).unwrap()
}

async fn forward(State(between): State<Arc<Between>>, request: Request) -> Response {
    let (mut parts, body) = request.into_parts();
    let fate = (between.judge.lock().unwrap())(&parts);
    if let Fate::Answer(code, body) = &fate {
        return answer(*code, body);
    }
    let body = axum::body::to_bytes(body, 64 << 20).await.unwrap();
    parts.headers.remove("host");
    let watches = is_watch(&parts);
    let request = http::Request::from_parts(parts, kube::client::Body::from(body.to_vec()));
    let answered = match between.client.send(request).await {
        Ok(answered) => answered,
        Err(error) => return answer(502, &failure(502, "BadGateway", &error.to_string())),
    };
    if let Fate::Lose(code, body) = &fate {
        return answer(*code, body);
    }
    let (parts, body) = answered.into_parts();
    let body = Body::new(body);
    if !watches {
        return Response::from_parts(parts, body);
    }
    let over = between.streams.lock().unwrap().clone();
    let stream = body
        .into_data_stream()
        .take_until(async move { over.cancelled().await });
    Response::from_parts(parts, Body::from_stream(stream))
}
