//! Serving the API over TLS on loopback, for `kubectl` and other processes.
//!
//! A certificate authority and a bearer token are made once and kept in the state
//! folder, so that a kubeconfig stays good over restarts. Every file is private.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rand::Rng;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::status::ApiError;

/// Why the API could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The plane was opened without an address, or with one that others can reach.
    #[error("failed to serve the API: {0}")]
    Address(String),
    /// The address could not be listened on.
    #[error("failed to listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: std::io::Error,
    },
    /// A file could not be read or written.
    #[error("failed to keep {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A certificate could not be made.
    #[error("failed to make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS library refused the configuration.
    #[error("failed to set up TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The kubeconfig could not be written as YAML.
    #[error("failed to write the kubeconfig: {0}")]
    Kubeconfig(String),
}

/// Where the API is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The address.
    pub address: SocketAddr,
    /// The kubeconfig that connects to it.
    pub kubeconfig: PathBuf,
}

/// What proves the server to clients and clients to the server.
struct Credentials {
    ca_pem: String,
    ca_key: KeyPair,
    token: String,
}

impl Credentials {
    /// Reads the credentials from the folder, or makes them.
    fn load_or_make(folder: &Path) -> Result<Credentials, ServeError> {
        let paths = ["ca.crt", "ca.key", "token"].map(|name| folder.join(name));
        let read = |path: &PathBuf| fs::read_to_string(path).ok();
        if let (Some(ca_pem), Some(key), Some(token)) = (read(&paths[0]), read(&paths[1]), read(&paths[2]))
            && let Ok(ca_key) = KeyPair::from_pem(&key)
            && token.len() >= 32
        {
            return Ok(Credentials { ca_pem, ca_key, token });
        }
        let ca_key = KeyPair::generate()?;
        let made = Credentials {
            ca_pem: ca_params()?.self_signed(&ca_key)?.pem(),
            token: hex::encode(rand::rng().random::<[u8; 32]>()),
            ca_key,
        };
        for (path, text) in paths
            .iter()
            .zip([&made.ca_pem, &made.ca_key.serialize_pem(), &made.token])
        {
            write_private(path, text.as_bytes())?;
        }
        Ok(made)
    }

    /// Makes the server's certificate, new at each start.
    fn tls(&self) -> Result<rustls::ServerConfig, ServeError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "::1".into(), "localhost".into()])?;
        params.distinguished_name.push(DnType::CommonName, "foreman plane");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::new(ca_params()?, &self.ca_key);
        let certificate = params.signed_by(&key, &issuer)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Writes the kubeconfig for the address.
    fn kubeconfig(&self, address: SocketAddr) -> Result<String, ServeError> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "foreman", "cluster": {
                "server": format!("https://{address}"),
                "certificate-authority-data": STANDARD.encode(&self.ca_pem),
            }}],
            "users": [{"name": "foreman", "user": {"token": self.token}}],
            "contexts": [{"name": "foreman", "context": {
                "cluster": "foreman", "user": "foreman", "namespace": "default",
            }}],
            "current-context": "foreman",
        });
        schemas::yaml::to_string(&config).map_err(|error| ServeError::Kubeconfig(error.to_string()))
    }
}

fn ca_params() -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "foreman plane CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

/// Replaces a file by one that only its owner can read.
fn write_private(path: &Path, bytes: &[u8]) -> Result<(), ServeError> {
    let fail = |source| ServeError::File {
        path: path.to_path_buf(),
        source,
    };
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(fail)?;
    file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(fail)?;
    file.write_all(bytes).map_err(fail)?;
    file.sync_all().map_err(fail)?;
    fs::rename(&new, path).map_err(fail)
}

/// Serves `router` on `address` until `stopping`; the connections' tasks join `tasks`.
pub(crate) async fn serve(
    router: Router,
    folder: &Path,
    address: SocketAddr,
    stopping: CancellationToken,
    tasks: &TaskTracker,
) -> Result<Served, ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::Address(format!(
            "{address} can be reached by others; listen on 127.0.0.1"
        )));
    }
    let credentials = Credentials::load_or_make(folder)?;
    let acceptor = TlsAcceptor::from(Arc::new(credentials.tls()?));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen { address, source })?;
    let bound = listener
        .local_addr()
        .map_err(|source| ServeError::Listen { address, source })?;
    let kubeconfig = folder.join("kubeconfig");
    write_private(&kubeconfig, credentials.kubeconfig(bound)?.as_bytes())?;
    let token: Digested = Arc::new(Sha256::digest(credentials.token.as_bytes()).into());
    let router = router.layer(middleware::from_fn_with_state(token, authenticate));
    tasks.spawn(accept(listener, acceptor, router, stopping, tasks.clone()));
    Ok(Served {
        address: bound,
        kubeconfig,
    })
}

type Digested = Arc<[u8; 32]>;

/// Lets only requests with the token through; health is told to anybody.
async fn authenticate(State(token): State<Digested>, request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/healthz" | "/livez" | "/readyz");
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or("");
    // Digests are compared, so that the time it takes tells nothing about the token.
    let digest: [u8; 32] = Sha256::digest(given.trim().as_bytes()).into();
    if open || digest == *token {
        next.run(request).await
    } else {
        ApiError::unauthorized().into_response()
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    router: Router,
    stopping: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let stream = tokio::select! {
            () = stopping.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let (acceptor, router, stopping) = (acceptor.clone(), router.clone(), stopping.clone());
        tasks.spawn(async move {
            connection(stream, acceptor, router, stopping).await;
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router, stopping: CancellationToken) {
    // Small events must not wait for more.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "failed to set TCP_NODELAY");
    }
    let handshake = tokio::time::timeout(std::time::Duration::from_secs(10), acceptor.accept(stream));
    let stream = match handshake.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let service = TowerToHyperService::new(router);
    let builder = Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopping.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended");
    }
}
