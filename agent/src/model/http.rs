//! Addresses of model servers, and the HTTP client that asks them.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use futures::StreamExt;
use url::Url;

use super::ModelError;
use crate::tools::output::one_line;

/// Reads a base URL and adds `/v1` where it names only a host.
pub fn parse_base_url(text: &str) -> Result<Url, ModelError> {
    let setup = |reason: &str| ModelError::Setup {
        url: one_line(text, 200),
        reason: reason.into(),
    };
    let mut url = Url::parse(text.trim())
        .map_err(|error| setup(&format!("{error}; expected something like http://127.0.0.1:8080/v1")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(setup("expected an http or https URL with a host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ModelError::Setup {
            url: url.host_str().unwrap_or_default().to_owned(),
            reason: "the URL carries a user name or password; give the API key by its own setting".into(),
        });
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    let path = path.strip_suffix("/chat/completions").unwrap_or(&path).to_owned();
    url.set_path(if path.is_empty() { "/v1" } else { &path });
    Ok(url)
}

/// Returns the address of `path` below the base URL.
pub fn below(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!(
        "{}/{}",
        base.path().trim_end_matches('/'),
        path.trim_start_matches('/')
    ));
    url
}

/// Builds an HTTP client that follows no redirect and trusts what it is told to trust.
pub fn build_client(
    url: &Url,
    ca_bundle: Option<&PathBuf>,
    connect_timeout: Duration,
) -> Result<reqwest::Client, ModelError> {
    let setup = |reason: String| ModelError::Setup {
        url: url.to_string(),
        reason,
    };
    let plain = || {
        let builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(connect_timeout);
        // A proxy of the environment never stands between us and this machine.
        if is_loopback(url) { builder.no_proxy() } else { builder }
    };
    if url.scheme() == "http" {
        // Machines without a certificate store can still talk plain HTTP.
        return plain()
            .tls_certs_only(Vec::new())
            .build()
            .map_err(|error| setup(chain(&error)));
    }
    let Some(path) = ca_bundle else {
        return plain().build().map_err(|error| setup(chain(&error)));
    };
    let pem = std::fs::read(path)
        .map_err(|error| setup(format!("failed to read the CA bundle {}: {error}", path.display())))?;
    let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| {
        setup(format!(
            "the CA bundle {} is not PEM: {}",
            path.display(),
            chain(&error)
        ))
    })?;
    if certificates.is_empty() {
        return Err(setup(format!("the CA bundle {} holds no certificate", path.display())));
    }
    // Where the system has no certificate store, the bundle alone is what is trusted.
    let merged = plain().tls_certs_merge(certificates.clone()).build();
    merged
        .or_else(|_| plain().tls_certs_only(certificates).build())
        .map_err(|error| setup(chain(&error)))
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Builds the error of a request to `url` that was not answered.
pub(super) fn unreachable(url: String, error: reqwest::Error) -> ModelError {
    let error = error.without_url();
    ModelError::Unreachable {
        url,
        may_come: may_come(&error),
        reason: chain(&error),
    }
}

/// Tells whether the same request may be answered later: names and certificates do not mend themselves.
fn may_come(error: &reqwest::Error) -> bool {
    use std::io::ErrorKind;
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<std::io::Error>() {
            return matches!(
                cause.kind(),
                ErrorKind::ConnectionRefused
                    | ErrorKind::ConnectionReset
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::BrokenPipe
                    | ErrorKind::UnexpectedEof
                    | ErrorKind::TimedOut
                    | ErrorKind::HostUnreachable
                    | ErrorKind::NetworkUnreachable
            );
        }
        source = cause.source();
    }
    // What broke off without a word of the system, such as an answer that ended early.
    error.is_timeout() || !error.is_connect()
}

/// Writes an error and what caused it on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    one_line(&text, 400)
}

/// Reads at most `limit` bytes of a body, within `patience`.
pub(super) async fn read_capped(response: reqwest::Response, limit: usize, patience: Duration) -> String {
    let mut bytes = Vec::new();
    let mut stream = response.bytes_stream();
    let until = Instant::now() + patience;
    while bytes.len() < limit {
        let left = until.saturating_duration_since(Instant::now());
        match tokio::time::timeout(left, stream.next()).await {
            Ok(Some(Ok(piece))) => bytes.extend_from_slice(&piece),
            _ => break,
        }
    }
    bytes.truncate(limit);
    String::from_utf8_lossy(&bytes).into_owned()
}
