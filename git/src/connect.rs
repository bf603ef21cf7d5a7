//! Connections to remotes, for both libraries: time limits, credentials, and what a failure means.

mod daemon;
mod duplex;
mod http;
mod process;
mod session;

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

pub(crate) use duplex::{Reader, Writer};
pub(crate) use http::{AnswerBody, HttpExchange, Requested, spool};
pub(crate) use session::{Failure, Session};

use gix::protocol::transport::{
    Protocol,
    client::{
        blocking_io::{Transport, http as gix_http},
        git::{ConnectMode, blocking_io::Connection},
    },
};

use crate::{
    error::{Error, Result},
    settings::Settings,
    url::{RemoteUrl, Scheme},
};

/// Which side of the protocol the server plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// It sends objects.
    UploadPack,
    /// It takes objects.
    ReceivePack,
}

impl Service {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Service::UploadPack => "git-upload-pack",
            Service::ReceivePack => "git-receive-pack",
        }
    }
}

/// Access to remotes under one [`Settings`]. Clones share connections; every call blocks.
#[derive(Clone)]
pub struct Remotes {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    http: OnceLock<std::result::Result<reqwest::blocking::Client, String>>,
}

impl std::fmt::Debug for Remotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remotes")
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}

impl Remotes {
    /// Makes access under `settings`. Nothing is reached or read yet.
    pub fn new(settings: Settings) -> Self {
        Remotes {
            inner: Arc::new(Inner {
                settings,
                http: OnceLock::new(),
            }),
        }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn http(&self, session: &Session) -> Result<&reqwest::blocking::Client> {
        let client = self.inner.http.get_or_init(|| http::build_client(&self.inner.settings));
        client
            .as_ref()
            .map_err(|reason| session.fail(Failure::Refused(reason.clone())))
    }

    /// Refuses local paths outside the allowed roots and returns the real path of the others.
    pub(crate) fn allowed_path(&self, url: &RemoteUrl, session: &Session) -> Result<std::path::PathBuf> {
        let asked = Path::new(url.path());
        let real = asked.canonicalize().map_err(|e| match e.kind() {
            // Outside the roots nothing is said about what exists.
            _ if !self.below_root(asked) => self.not_allowed(asked),
            std::io::ErrorKind::NotFound => session.fail(Failure::NotFound {
                what: "repository".into(),
                reason: String::new(),
            }),
            _ => Error::io("open", asked, e),
        })?;
        if self.below_root(&real) {
            Ok(real)
        } else {
            Err(self.not_allowed(asked))
        }
    }

    fn below_root(&self, path: &Path) -> bool {
        self.settings()
            .file_roots
            .iter()
            .any(|root| path.starts_with(root) || root.canonicalize().is_ok_and(|root| path.starts_with(root)))
    }

    fn not_allowed(&self, path: &Path) -> Error {
        let roots: Vec<_> = self
            .settings()
            .file_roots
            .iter()
            .map(|root| root.display().to_string())
            .collect();
        Error::PathNotAllowed {
            path: path.to_owned(),
            allowed: if roots.is_empty() {
                "no folder at all".into()
            } else {
                roots.join(", ")
            },
        }
    }

    /// Opens a two-way stream for the schemes that have one. `greet` sends the daemon's request line.
    pub(crate) fn duplex(&self, session: &Arc<Session>, service: Service, greet: bool) -> Result<(Reader, Writer)> {
        match session.url.scheme() {
            Scheme::File => {
                let path = self.allowed_path(&session.url, session)?;
                process::serve_local(self, session, service, &path)
            }
            Scheme::Ssh => process::ssh(self, session, service),
            Scheme::Git => daemon::connect(self, session, service, greet),
            Scheme::Http | Scheme::Https => Err(Error::Invalid {
                action: "connect",
                reason: "http has no two-way stream".into(),
            }),
        }
    }

    /// Opens a connection that gix fetches through.
    pub(crate) fn gix_transport(&self, session: &Arc<Session>) -> Result<Box<dyn Transport + Send>> {
        let url = &session.url;
        if matches!(url.scheme(), Scheme::Http | Scheme::Https) {
            let backend = http::GixHttp::new(self, session)?;
            let gix_url = gix::url::parse(url.to_string()).map_err(|e| Error::Url {
                url: url.to_string(),
                reason: e.to_string(),
            })?;
            return Ok(Box::new(gix_http::Transport::new_http(
                backend,
                gix_url,
                Protocol::V2,
                false,
            )));
        }
        let (reader, writer) = self.duplex(session, Service::UploadPack, false)?;
        let daemon = url.scheme() == Scheme::Git;
        let mode = if daemon {
            ConnectMode::Daemon
        } else {
            ConnectMode::Process
        };
        let host = daemon.then(|| (url.host().to_owned(), url.port));
        let connection = Connection::new(reader, writer, Protocol::V2, url.path(), host, mode, false);
        Ok(Box::new(connection.custom_url(Some(url.to_string().into()))))
    }
}
