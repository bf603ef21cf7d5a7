//! `git http-backend` behind a small server that counts, asks for a password, or never answers.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::io::AsyncWriteExt;

/// A running server.
#[derive(Clone)]
pub struct GitServer {
    root: PathBuf,
    /// Value of the header Authorization that every request must carry.
    authorization: Option<String>,
    hangs: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<String>>>,
    /// Base URL, without a slash at its end.
    pub url: String,
}

impl GitServer {
    /// Serves the bare repositories below `root`.
    pub async fn start(root: PathBuf, authorization: Option<&str>) -> Self {
        Self::start_at("127.0.0.1", root, authorization).await
    }

    /// Serves them at an address of this machine.
    pub async fn start_at(address: &str, root: PathBuf, authorization: Option<&str>) -> Self {
        let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self {
            root,
            authorization: authorization.map(str::to_owned),
            hangs: Arc::default(),
            seen: Arc::default(),
            url,
        };
        let app = axum::Router::new().fallback(serve).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        server
    }

    /// Answers nothing from now on, or again.
    pub fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// Returns the requests so far: method and address.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

async fn serve(State(server): State<GitServer>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    server
        .seen
        .lock()
        .unwrap()
        .push(format!("{} {}", parts.method, parts.uri));
    if server.hangs.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("")
            .to_owned()
    };
    if server
        .authorization
        .as_ref()
        .is_some_and(|wanted| *wanted != header("authorization"))
    {
        let answer = Response::builder()
            .status(401)
            .header("www-authenticate", "Basic realm=\"git\"");
        return answer.body(Body::from("no")).unwrap();
    }
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let mut child = tokio::process::Command::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", &server.root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REMOTE_USER", "tester")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or(""))
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let sending = tokio::spawn(async move {
        let _ = input.write_all(&body).await;
    });
    let out = child.wait_with_output().await.unwrap().stdout;
    sending.await.unwrap();
    let end = out.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let mut answer = Response::builder();
    for line in std::str::from_utf8(&out[..end]).unwrap().lines() {
        let (name, value) = line.split_once(':').unwrap();
        answer = if name.eq_ignore_ascii_case("status") {
            answer.status(value.trim().split(' ').next().unwrap().parse::<u16>().unwrap())
        } else {
            answer.header(name, value.trim())
        };
    }
    answer.body(Body::from(out[end + 4..].to_vec())).unwrap()
}
