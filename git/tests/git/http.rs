use std::{
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use git::{
    Category, Credential, CredentialKind, Expected, FileEdit, Mirrors, PushOutcome, RemoteUrl,
    Remotes, Settings,
};
use tokio::io::AsyncWriteExt;

use crate::support::{Bare, round_trip, short};

/// What the server does besides serving.
#[derive(Clone, Default)]
struct Behaviour {
    /// Basic authentication that every request must carry.
    auth: Option<(&'static str, &'static str)>,
    /// Paths that begin so are redirected to this base.
    redirect: Option<(&'static str, String)>,
    /// Answers with this status and an HTML page.
    status: Option<u16>,
    /// Never answers.
    hangs: bool,
    /// Answers one byte a second, for ever.
    drips: bool,
    /// Runs the push and then answers nothing useful.
    cuts_push: bool,
}

/// Requests as they came: method and address, and what proved who sent them.
type Seen = Vec<(String, Option<String>)>;

#[derive(Clone)]
struct Backend {
    root: PathBuf,
    behaviour: Behaviour,
    seen: Arc<Mutex<Seen>>,
}

struct Server {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(root: PathBuf, behaviour: Behaviour) -> Self {
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
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .unwrap();
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
    fn start_tls(root: PathBuf, behaviour: Behaviour) -> (Self, String) {
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
                    let mut inner = tokio::net::TcpStream::connect(("127.0.0.1", inner))
                        .await
                        .unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                });
            }
        });
        (Server { port, ..plain }, made.cert.pem())
    }

    fn url(&self, path: &str) -> RemoteUrl {
        RemoteUrl::parse(&format!("http://127.0.0.1:{}/{path}", self.port)).unwrap()
    }

    fn prefix(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    fn seen(&self) -> Seen {
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
    let auth = parts
        .headers
        .get("authorization")
        .map(|v| v.to_str().unwrap().to_owned());
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
            .header(
                "content-type",
                format!("application/x-{service}-advertisement"),
            )
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
fn futures_drip()
-> impl axum::body::HttpBody<Data = Bytes, Error = std::convert::Infallible> + Send + 'static {
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

fn basic(prefix: &str, username: &str, password: &str) -> Credential {
    let kind = CredentialKind::Basic {
        username: username.into(),
        password: password.into(),
    };
    Credential::new(prefix, kind).unwrap()
}

fn with(credentials: Vec<Credential>) -> Remotes {
    Remotes::new(Settings {
        credentials,
        timeouts: short(),
        ..Settings::default()
    })
}

#[test]
fn http_with_basic_authentication_keeps_the_contract() {
    let (bare, head) = Bare::with_commit();
    let server = Server::start(
        bare.root(),
        Behaviour {
            auth: Some(("me", "pass word")),
            ..Default::default()
        },
    );
    let remotes = with(vec![basic(&server.prefix(), "me", "pass word")]);
    round_trip(&remotes, &server.url("repo.git"), &bare, head);
}

#[test]
fn a_listing_is_one_pair_of_requests_and_asks_only_for_the_prefix() {
    let (bare, _) = Bare::with_commit();
    let server = Server::start(bare.root(), Behaviour::default());
    let remotes = with(vec![]);
    remotes
        .list_refs(&server.url("repo.git"), &["refs/heads/main"])
        .unwrap();
    let seen: Vec<String> = server.seen().into_iter().map(|(asked, _)| asked).collect();
    assert_eq!(
        seen,
        [
            "GET /repo.git/info/refs?service=git-upload-pack",
            "POST /repo.git/git-upload-pack"
        ]
    );
}

#[test]
fn a_token_is_sent_as_the_password() {
    let (bare, head) = Bare::with_commit();
    let server = Server::start(
        bare.root(),
        Behaviour {
            auth: Some(("x-access-token", "t0ken")),
            ..Default::default()
        },
    );
    let token = Credential::new(&server.prefix(), CredentialKind::Token("t0ken".into())).unwrap();
    assert_eq!(
        with(vec![token])
            .find_ref(&server.url("repo.git"), "refs/heads/main")
            .unwrap(),
        Some(head)
    );
}

#[test]
fn wrong_missing_and_foreign_credentials_are_refused_without_being_named() {
    let (bare, head) = Bare::with_commit();
    let server = Server::start(
        bare.root(),
        Behaviour {
            auth: Some(("me", "right")),
            ..Default::default()
        },
    );
    let url = server.url("repo.git");
    let wrong = with(vec![basic(&server.prefix(), "me", "wr0ng")]);
    let none = with(vec![]);
    let elsewhere = with(vec![basic(
        &format!("{}other", server.prefix()),
        "me",
        "right",
    )]);
    for (remotes, says) in [
        (&wrong, "was sent"),
        (&none, "no credential's prefix"),
        (&elsewhere, "no credential's prefix"),
    ] {
        let error = remotes.list_refs(&url, &[]).unwrap_err();
        assert_eq!(error.category(), Category::Auth, "{error}");
        assert!(!error.is_transient());
        let text = format!("{error} {error:?}");
        assert!(text.contains(says) && !text.contains("wr0ng"), "{text}");
    }
    assert_eq!(
        server.seen()[1].1,
        None,
        "nothing is sent where no prefix matches"
    );
    assert_eq!(
        server.seen()[2].1,
        None,
        "nothing is sent where another prefix matches"
    );
    let error = wrong
        .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
        .unwrap_err();
    assert_eq!(error.category(), Category::Auth, "{error}");
}

#[test]
fn a_redirect_to_another_host_carries_no_credential_even_if_one_matches_there() {
    let (bare, _) = Bare::with_commit();
    let target = Server::start(bare.root(), Behaviour::default());
    let behaviour = Behaviour {
        redirect: Some(("/old", target.prefix().trim_end_matches('/').to_owned())),
        ..Default::default()
    };
    let first = Server::start(bare.root(), behaviour);
    let remotes = with(vec![
        basic(&first.prefix(), "me", "s3cret"),
        basic(&target.prefix(), "me", "0ther"),
    ]);
    let refs = remotes
        .list_refs(&first.url("old/repo.git"), &["refs/heads/"])
        .unwrap();
    assert_eq!(refs.len(), 1);
    assert!(
        first.seen()[0].1.is_some(),
        "the first host gets its credential"
    );
    assert_eq!(target.seen().len(), 2);
    assert!(
        target.seen().iter().all(|(_, auth)| auth.is_none()),
        "{:?}",
        target.seen()
    );
}

#[test]
fn a_redirect_on_the_same_host_is_followed_for_fetch_and_push() {
    let (bare, head) = Bare::with_commit();
    let behaviour = Behaviour {
        auth: Some(("me", "pw")),
        redirect: Some(("/old", String::new())),
        ..Default::default()
    };
    let server = Server::start(bare.root(), behaviour);
    let remotes = with(vec![basic(&server.prefix(), "me", "pw")]);
    round_trip(&remotes, &server.url("old/repo.git"), &bare, head);
}

#[test]
fn a_loop_of_redirects_ends() {
    let bare = Bare::empty();
    let server = Server::start(
        bare.root(),
        Behaviour {
            redirect: Some(("", String::new())),
            ..Default::default()
        },
    );
    let error = with(vec![])
        .list_refs(&server.url("repo.git"), &[])
        .unwrap_err();
    assert_eq!(error.category(), Category::Refused, "{error}");
    assert!(server.seen().len() < 10);
}

#[test]
fn a_server_that_hangs_or_drips_ends_in_a_timeout() {
    let (bare, head) = Bare::with_commit();
    for behaviour in [
        Behaviour {
            hangs: true,
            ..Default::default()
        },
        Behaviour {
            drips: true,
            ..Default::default()
        },
    ] {
        let server = Server::start(bare.root(), behaviour);
        let mut timeouts = short();
        timeouts.list = Duration::from_millis(700);
        timeouts.fetch = Duration::from_millis(700);
        timeouts.push = Duration::from_millis(700);
        let remotes = Remotes::new(Settings {
            timeouts,
            ..Settings::default()
        });
        let url = server.url("repo.git");
        let started = Instant::now();
        let error = remotes.list_refs(&url, &[]).unwrap_err();
        assert_eq!(error.category(), Category::Timeout, "{error}");
        let dir = tempfile::tempdir().unwrap();
        let error = Mirrors::new(dir.path(), remotes.clone())
            .mirror(&url)
            .unwrap()
            .fetch_branch("main", true)
            .unwrap_err();
        assert_eq!(error.category(), Category::Timeout, "{error}");
        let error = remotes
            .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
            .unwrap_err();
        assert_eq!(error.category(), Category::Timeout, "{error}");
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{:?}",
            started.elapsed()
        );
    }
}

#[test]
fn pages_for_people_and_failing_servers_are_told_apart() {
    let bare = Bare::empty();
    for (status, category, transient) in [
        (200, Category::Refused, false),
        (403, Category::Auth, false),
        (404, Category::NotFound, false),
        (429, Category::Network, true),
        (500, Category::Network, true),
        (503, Category::Network, true),
        (418, Category::Refused, false),
    ] {
        let server = Server::start(
            bare.root(),
            Behaviour {
                status: Some(status),
                ..Default::default()
            },
        );
        let error = with(vec![])
            .list_refs(&server.url("repo.git"), &[])
            .unwrap_err();
        assert_eq!(
            (error.category(), error.is_transient()),
            (category, transient),
            "{status}: {error}"
        );
    }
    let gone = RemoteUrl::parse(&format!(
        "http://127.0.0.1:{}/x",
        crate::support::free_port()
    ))
    .unwrap();
    assert_eq!(
        with(vec![]).list_refs(&gone, &[]).unwrap_err().category(),
        Category::Network
    );
}

#[test]
fn a_push_whose_answer_is_lost_is_decided_by_the_ref() {
    let (bare, head) = Bare::with_commit();
    let ours = bare.commit(Some(head), &[FileEdit::write("ours", "1")]);
    let server = Server::start(
        bare.root(),
        Behaviour {
            cuts_push: true,
            ..Default::default()
        },
    );
    let outcome = with(vec![]).push(
        &bare.repo,
        &server.url("repo.git"),
        "refs/heads/main",
        Expected::At(head),
        ours,
    );
    assert_eq!(outcome.unwrap(), PushOutcome::Won);

    // Where the update did not happen either, the error stays.
    bare.set("main", head);
    bare.hook("update", "exit 1");
    let error = with(vec![])
        .push(
            &bare.repo,
            &server.url("repo.git"),
            "refs/heads/main",
            Expected::At(head),
            ours,
        )
        .unwrap_err();
    assert_eq!(error.category(), Category::Network, "{error}");
}

#[test]
fn a_ca_bundle_that_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("ca.pem");
    std::fs::write(&bundle, "no certificate").unwrap();
    let remotes = Remotes::new(Settings {
        ca_bundle: Some(bundle),
        timeouts: short(),
        ..Settings::default()
    });
    let error = remotes
        .list_refs(&RemoteUrl::parse("https://127.0.0.1:1/x").unwrap(), &[])
        .unwrap_err();
    assert!(error.to_string().contains("ca.pem"), "{error}");
}

#[test]
fn one_ca_bundle_serves_fetch_and_push_and_without_it_the_server_is_not_trusted() {
    let (bare, head) = Bare::with_commit();
    let (server, pem) = Server::start_tls(
        bare.root(),
        Behaviour {
            auth: Some(("me", "pw")),
            ..Default::default()
        },
    );
    let url = RemoteUrl::parse(&format!("https://localhost:{}/repo.git", server.port)).unwrap();
    let credentials = vec![basic(
        &format!("https://localhost:{}/", server.port),
        "me",
        "pw",
    )];
    let bundle = bare.root().join("ca.pem");
    std::fs::write(&bundle, pem).unwrap();
    let settings = Settings {
        credentials,
        timeouts: short(),
        ca_bundle: Some(bundle),
        ..Settings::default()
    };
    round_trip(&Remotes::new(settings.clone()), &url, &bare, head);

    let before = server.seen().len();
    let distrusting = Remotes::new(Settings {
        ca_bundle: None,
        ..settings
    });
    let error = distrusting.list_refs(&url, &[]).unwrap_err();
    assert!(
        error
            .to_string()
            .to_ascii_lowercase()
            .contains("certificate"),
        "{error}"
    );
    assert_eq!(error.category(), Category::Refused, "{error}");
    assert!(
        distrusting
            .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
            .is_err()
    );
    assert_eq!(server.seen().len(), before, "nothing was sent");
}
