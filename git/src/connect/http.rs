//! HTTP: one client for both libraries, redirects that never carry credentials to another host.

mod adapter;

use std::{
    io::{self, Read, Seek, SeekFrom},
    sync::{Arc, Mutex},
    time::Duration,
};

use reqwest::{
    StatusCode,
    blocking::{Body, Client, RequestBuilder, Response},
    header::{self, HeaderMap, HeaderName, HeaderValue},
};

use super::{
    Remotes, Service,
    session::{Failure, Session},
};
use crate::{
    error::{Result, chain},
    lock,
    settings::{Credential, CredentialKind, Settings},
    url::{RemoteUrl, Scheme},
};

pub(super) use adapter::GixHttp;

const AGENT: &str = concat!("git/2.40 (foreman ", env!("CARGO_PKG_VERSION"), ")");
const MAX_REDIRECTS: usize = 5;
/// More than this of a request's body goes to a temporary file.
const SPOOL: usize = 8 * 1024 * 1024;

/// Builds the client that all exchanges of a process share.
pub(super) fn build_client(settings: &Settings) -> std::result::Result<Client, String> {
    let builder = || {
        Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(settings.timeouts.connect)
            .timeout(None)
            .user_agent(AGENT)
            .referer(false)
    };
    let mut certificates = Vec::new();
    if let Some(path) = &settings.ca_bundle {
        let refuse = |what: String| format!("the CA bundle {} cannot be used: {what}", path.display());
        let pem = std::fs::read(path).map_err(|e| refuse(e.to_string()))?;
        certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| refuse(chain(&e)))?;
        if certificates.is_empty() {
            return Err(refuse("it holds no certificate".into()));
        }
    }
    // A root without a store of certificates trusts those of the bundle alone, and no https server without one.
    builder()
        .tls_certs_merge(certificates.clone())
        .build()
        .or_else(|_| builder().tls_certs_only(certificates).build())
        .map_err(|e| format!("the HTTP client cannot be built: {}", chain(&e)))
}

/// One exchange over HTTP: a first request that may be redirected, then requests to where it led.
pub(crate) struct HttpExchange {
    client: Client,
    session: Arc<Session>,
    base: Mutex<Base>,
    settings: Settings,
}

/// Where requests go now, and what they prove themselves with.
#[derive(Clone)]
struct Base {
    url: RemoteUrl,
    credential: Option<Credential>,
    /// The server moved us to another origin: no credential is sent from then on.
    left_origin: bool,
}

/// What is asked for.
pub(crate) enum Requested {
    /// The advertisement of refs.
    Refs { version: u8 },
    /// An exchange with a body.
    Exchange {
        body: tempfile::SpooledTempFile,
        version: u8,
    },
}

impl HttpExchange {
    pub(crate) fn new(remotes: &Remotes, session: &Arc<Session>) -> Result<Self> {
        let credential = remotes.settings().credential_for(&session.url).cloned();
        Ok(HttpExchange {
            client: remotes.http(session)?.clone(),
            session: session.clone(),
            base: Mutex::new(Base {
                url: session.url.clone(),
                credential,
                left_origin: false,
            }),
            settings: remotes.settings().clone(),
        })
    }

    /// Sends a request; the answer's status is 200.
    pub(crate) fn send(&self, service: Service, requested: Requested) -> io::Result<Response> {
        let name = service.as_str();
        let mut headers = HeaderMap::new();
        let version = match requested {
            Requested::Refs { version } | Requested::Exchange { version, .. } => version,
        };
        if version > 0 {
            headers.insert(
                HeaderName::from_static("git-protocol"),
                value(&format!("version={version}")),
            );
        }
        match requested {
            Requested::Refs { .. } => self.get_refs(name, headers),
            Requested::Exchange { mut body, .. } => {
                headers.insert(header::CONTENT_TYPE, value(&format!("application/x-{name}-request")));
                headers.insert(header::ACCEPT, value(&format!("application/x-{name}-result")));
                let length = body.stream_position()?;
                body.seek(SeekFrom::Start(0))?;
                let base = lock(&self.base).clone();
                let request = self
                    .client
                    .post(format!("{}/{name}", base.url))
                    .headers(headers)
                    .body(Body::sized(body, length));
                let response = self.execute(self.authorise(request, &base))?;
                if response.status().is_redirection() {
                    return Err(self.refuse(Failure::Refused(
                        "the server redirects a request that carries data".into(),
                    )));
                }
                self.check(response, &base, &format!("application/x-{name}-result"))
            }
        }
    }

    fn get_refs(&self, name: &str, headers: HeaderMap) -> io::Result<Response> {
        let suffix = format!("/info/refs?service={name}");
        for _ in 0..=MAX_REDIRECTS {
            let base = lock(&self.base).clone();
            let asked = format!("{}{suffix}", base.url);
            let request = self
                .client
                .get(format!("{}{suffix}", base.url))
                .headers(headers.clone());
            let response = self.execute(self.authorise(request, &base))?;
            if !response.status().is_redirection() {
                return self.check(response, &base, &format!("application/x-{name}-advertisement"));
            }
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            let target = location.and_then(|l| reqwest::Url::parse(&asked).ok()?.join(l).ok());
            let next = target.and_then(|target| follow(&base, target.as_str(), &suffix, &self.settings));
            match next {
                Some(next) => *lock(&self.base) = next,
                None => {
                    return Err(self.refuse(Failure::Refused(
                        "the server redirects to where a repository cannot be".into(),
                    )));
                }
            }
        }
        Err(self.refuse(Failure::Refused(format!(
            "the server redirects more than {MAX_REDIRECTS} times"
        ))))
    }

    /// Adds what proves who asks. The request's address names no user: the client would send one of its own accord.
    fn authorise(&self, request: RequestBuilder, base: &Base) -> RequestBuilder {
        let remaining = self.session.remaining().max(Duration::from_millis(1));
        let request = request.timeout(remaining);
        match base.credential.as_ref().map(Credential::kind) {
            Some(CredentialKind::Basic { username, password }) => request.basic_auth(username, Some(password.expose())),
            Some(CredentialKind::Token(token)) => request.basic_auth("x-access-token", Some(token.expose())),
            Some(CredentialKind::SshKey { .. }) | None => request,
        }
    }

    fn execute(&self, request: RequestBuilder) -> io::Result<Response> {
        if self.session.remaining().is_zero() {
            return Err(self.refuse(Failure::Timeout));
        }
        request.send().map_err(|e| self.refuse(failure_of(&e)))
    }

    /// Lets through what a Git server answers; everything else is a failure with a meaning.
    fn check(&self, response: Response, base: &Base, content_type: &str) -> io::Result<Response> {
        let status = response.status();
        if status == StatusCode::OK {
            let found = response
                .headers()
                .get(header::CONTENT_TYPE)
                .and_then(|t| t.to_str().ok())
                .unwrap_or("nothing");
            if found
                .split(';')
                .next()
                .is_some_and(|found| found.trim() == content_type)
            {
                return Ok(response);
            }
            return Err(self.refuse(Failure::Refused(format!(
                "it answers with {found} instead of {content_type}; no Git server that speaks the smart protocol is there"
            ))));
        }
        let said = self.settings_said(base);
        let failure = match status {
            StatusCode::UNAUTHORIZED => Failure::Auth(format!("the server answers 401, {said}")),
            StatusCode::FORBIDDEN => Failure::Auth(format!("the server answers 403, {said}")),
            StatusCode::NOT_FOUND | StatusCode::GONE => Failure::NotFound {
                what: "repository".into(),
                reason: format!("the server answers {}, {said}", status.as_u16()),
            },
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Failure::Network(format!("the server answers {status}"))
            }
            _ if status.is_server_error() => Failure::Network(format!("the server answers {status}")),
            _ => Failure::Refused(format!("the server answers {status}")),
        };
        Err(self.refuse(failure))
    }

    fn settings_said(&self, base: &Base) -> String {
        match &base.credential {
            Some(credential) => format!("the credential of {} was sent", credential.prefix()),
            None if base.left_origin => "no credential was sent because the server redirected to another host".into(),
            None => "no credential's prefix matches".into(),
        }
    }

    fn refuse(&self, failure: Failure) -> io::Error {
        let kind = match failure {
            Failure::Timeout => io::ErrorKind::TimedOut,
            _ => io::ErrorKind::Other,
        };
        let text = format!("{failure:?}");
        self.session.record(failure);
        io::Error::new(kind, text)
    }

    /// Turns an error in the middle of an answer into the failure it means.
    fn reading(&self, error: io::Error) -> io::Error {
        if self.session.remaining().is_zero() || error.kind() == io::ErrorKind::TimedOut {
            return self.refuse(Failure::Timeout);
        }
        let text = chain(&error);
        if text.contains("timed out") {
            return self.refuse(Failure::Timeout);
        }
        self.refuse(Failure::Network(format!("the connection broke: {text}")))
    }

    fn base_url(&self) -> String {
        lock(&self.base).url.to_string()
    }
}

fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

fn failure_of(error: &reqwest::Error) -> Failure {
    if error.is_timeout() && !error.is_connect() {
        return Failure::Timeout;
    }
    // The causes without the outermost text, which repeats the URL.
    let text = std::error::Error::source(error).map_or_else(|| "the request failed".into(), chain);
    if text.to_ascii_lowercase().contains("certificate") {
        return Failure::Refused(format!(
            "{text}; if the server's certificate is signed by an authority of your own, name its CA bundle"
        ));
    }
    Failure::Network(text)
}

/// Where a redirect leads, and with which credential: none once the origin changed, else the one whose prefix covers
/// the new address.
fn follow(base: &Base, target: &str, suffix: &str, settings: &Settings) -> Option<Base> {
    let url = RemoteUrl::parse(target.strip_suffix(suffix)?).ok()?;
    // A step down to clear text would show to the network what was meant for the server.
    if base.url.scheme() == Scheme::Https && url.scheme() != Scheme::Https {
        return None;
    }
    if !matches!(url.scheme(), Scheme::Http | Scheme::Https) {
        return None;
    }
    let left_origin = base.left_origin || !base.url.same_origin(&url);
    let credential = if left_origin {
        None
    } else {
        settings.credential_for(&url).cloned()
    };
    Some(Base {
        url,
        credential,
        left_origin,
    })
}

/// The body of an answer, whose errors are recorded.
pub(crate) struct AnswerBody {
    exchange: Arc<HttpExchange>,
    response: Response,
}

impl Read for AnswerBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.exchange.session.remaining().is_zero() {
            return Err(self.exchange.refuse(Failure::Timeout));
        }
        self.response.read(buffer).map_err(|e| self.exchange.reading(e))
    }
}

impl AnswerBody {
    pub(crate) fn new(exchange: Arc<HttpExchange>, response: Response) -> Self {
        AnswerBody { exchange, response }
    }
}

pub(crate) fn spool() -> tempfile::SpooledTempFile {
    tempfile::SpooledTempFile::new(SPOOL)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn step(from: &str, to: &str) -> Option<(String, bool)> {
        let token = |prefix: &str| Credential::new(prefix, CredentialKind::Token("t".into())).unwrap();
        let settings = Settings {
            credentials: vec![token("https://h/org"), token("https://other/")],
            ..Settings::default()
        };
        let url = RemoteUrl::parse(from).unwrap();
        let credential = settings.credential_for(&url).cloned();
        let base = Base {
            url,
            credential,
            left_origin: false,
        };
        follow(
            &base,
            &format!("{to}/info/refs?service=x"),
            "/info/refs?service=x",
            &settings,
        )
        .map(|next| (next.url.to_string(), next.credential.is_some()))
    }

    #[test]
    fn a_redirect_keeps_the_credential_only_on_the_same_host_below_its_prefix() {
        assert_eq!(
            step("https://h/org/a", "https://h/org/b"),
            Some(("https://h/org/b".into(), true))
        );
        assert_eq!(
            step("https://h/org/a", "https://h/else/b"),
            Some(("https://h/else/b".into(), false))
        );
        assert_eq!(
            step("https://h/org/a", "https://h:8443/org/a"),
            Some(("https://h:8443/org/a".into(), false))
        );
        assert_eq!(
            step("https://h/org/a", "https://other/org/a"),
            Some(("https://other/org/a".into(), false))
        );
    }

    #[test]
    fn a_redirect_to_clear_text_or_to_no_repository_is_not_followed() {
        assert_eq!(step("https://h/org/a", "http://h/org/a"), None);
        assert_eq!(step("https://h/org/a", "file:///etc"), None);
        assert_eq!(step("http://h/org/a", "https://h/org/a/../b"), None);
    }
}
