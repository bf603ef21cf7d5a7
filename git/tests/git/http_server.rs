//! `git http-backend` behind a small server that can also misbehave.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use git::RemoteUrl;
use tokio::io::AsyncWriteExt;

/// What the server does besides serving.
#[derive(Clone, Default)]
pub struct Behaviour {
    /// Basic authentication that every request must carry.
    pub auth: Option<(&'static str, &'static str)>,
    /// Paths that begin so are redirected to this base.
    pub redirect: Option<(&'static str, String)>,
    /// Answers with this status and an HTML page.
    pub status: Option<u16>,
    /// Never answers.
    pub hangs: bool,
    /// Answers one byte a second, for ever.
    pub drips: bool,
    /// Runs the push and then answers nothing useful.
    pub cuts_push: bool,
}

/// Requests as they came: method and address, and what proved who sent them.
pub type Seen = Vec<(String, Option<String>)>;

#[derive(Clone)]
struct Backend {
    root: PathBuf,
    behaviour: Behaviour,
    seen: Arc<Mutex<Seen>>,
}

pub struct Server {
    pub port: u16,
    seen: Arc<Mutex<Seen>>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub fn start(root: PathBuf, behaviour: Behaviour) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let seen = Arc::default();
        let backend = Backend {
            root,
            behaviour,
            seen: Arc::clone(&seen),
        };
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = axum::Router::new().fallback(serve).with_state(backend);
        runtime.spawn(async move { axum::serve(listener, app).await });
        Server {
            port,
            seen,
            _runtime: runtime,
        }
    }

    /// The same behind TLS, with a certificate for `localhost` that nobody signed; returns its PEM.
    pub fn start_tls(root: PathBuf, behaviour: Behaviour) -> (Self, String) {
        use tokio_rustls::rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let plain = Server::start(root, behaviour);
        let inner = plain.port;
        let listener = plain
            ._runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
        let port = listener.local_addr().unwrap().port();
        plain._runtime.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut outer) = acceptor.accept(stream).await else {
                        return;
                    };
                    let mut inner = tokio::net::TcpStream::connect(("127.0.0.1", inner)).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
        (Server { port, ..plain }, made.cert.pem())
    }

    pub fn url(&self, path: &str) -> RemoteUrl {
        RemoteUrl::parse(&format!("http://127.0.0.1:{}/{path}", self.port)).unwrap()
    }

    pub fn prefix(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }
}

fn plain(status: u16, text: &str) -> Response {
    Response::builder()
        .status(status)
        .header("content-type", "text/html")
        .body(Body::from(text.to_owned()))
        .unwrap()
}

async fn serve(State(backend): State<Backend>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| {
        parts
            .headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or("")
            .to_owned()
    };
    let proofs: Vec<&str> = parts
        .headers
        .get_all("authorization")
        .iter()
        .map(|v| v.to_str().unwrap())
        .collect();
    // More than one shows, and opens nothing.
    let auth = (!proofs.is_empty()).then(|| proofs.join(", "));
    let asked = format!("{} {}", parts.method, parts.uri);
    backend.seen.lock().unwrap().push((asked, auth.clone()));
    let behaviour = &backend.behaviour;
    if behaviour.hangs {
        std::future::pending::<()>().await;
    }
    if let Some(status) = behaviour.status {
        return plain(status, "<html>a page for people</html>");
    }
    if behaviour.drips {
        let stream = futures_drip();
        let service = parts.uri.query().unwrap().trim_start_matches("service=");
        return Response::builder()
            .header("content-type", format!("application/x-{service}-advertisement"))
            .body(Body::new(stream))
            .unwrap();
    }
    if let Some((from, to)) = &behaviour.redirect
        && let Some(rest) = parts.uri.to_string().strip_prefix(from)
    {
        return Response::builder()
            .status(StatusCode::FOUND)
            .header("location", format!("{to}{rest}"))
            .body(Body::empty())
            .unwrap();
    }
    if let Some((user, password)) = behaviour.auth {
        use base64::Engine;
        let wanted = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        if auth != Some(format!("Basic {wanted}")) {
            return Response::builder()
                .status(401)
                .header("www-authenticate", "Basic realm=\"git\"")
                .body(Body::from("no"))
                .unwrap();
        }
    }
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let push = parts.method == "POST" && parts.uri.path().ends_with("git-receive-pack");
    let mut child = tokio::process::Command::new("git")
        .args(["-c", "safe.directory=*", "http-backend"])
        .env("GIT_PROJECT_ROOT", &backend.root)
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
    let out = child.wait_with_output().await.unwrap();
    sending.await.unwrap();
    if push && behaviour.cuts_push {
        return plain(502, "bad gateway");
    }
    answer(out.stdout)
}

/// Turns what a CGI program prints into an answer.
fn answer(out: Vec<u8>) -> Response {
    let end = out.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let mut status = StatusCode::OK;
    let mut headers = HeaderMap::new();
    for line in std::str::from_utf8(&out[..end]).unwrap().lines() {
        let (name, value) = line.split_once(':').unwrap();
        if name.eq_ignore_ascii_case("status") {
            status = value.trim().split(' ').next().unwrap().parse().unwrap();
        } else {
            headers.insert(
                axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                value.trim().parse().unwrap(),
            );
        }
    }
    let mut response = Response::new(Body::from(out[end + 4..].to_vec()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A body that announces a long line and sends it for ever, slowly.
fn futures_drip() -> impl axum::body::HttpBody<Data = Bytes, Error = std::convert::Infallible> + Send + 'static {
    struct Drip(std::pin::Pin<Box<tokio::time::Sleep>>);
    impl axum::body::HttpBody for Drip {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            std::task::ready!(std::future::Future::poll(self.0.as_mut(), cx));
            self.0 = Box::pin(tokio::time::sleep(Duration::from_millis(100)));
            std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(Bytes::from_static(b"1")))))
        }
    }
    Drip(Box::pin(tokio::time::sleep(Duration::ZERO)))
}
