//! A filtering HTTP proxy: the only network that a command can be given.
//!
//! It forwards `CONNECT` and plain absolute-form requests to hosts of an allow-list and refuses all
//! others. Every request is logged. It resolves names itself, and refuses targets on private, link-local
//! or loopback addresses unless the list names that exact host and port.
//!
//! `server` accepts, `exchange` serves one connection: it has its request's `head` taken apart, and `dial` open the way
//! to the host or refuse it.

mod address;
mod allow;
mod authority;
mod connections;
mod credentials;
mod dial;
mod exchange;
mod head;
mod log;
mod patience;
mod server;
mod upstream;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;

pub use allow::{AllowList, ParseAllowError};
pub use log::ProxyRecord;
pub(crate) use server::{ProxyAddress, ProxyServer};

use dial::Dialler;
use exchange::Shared;
use log::Log;
use upstream::Upstream;

/// A filtering proxy with its allow-list and its log. Clones share the log.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("allow", &self.shared.dialler.allow)
            .finish_non_exhaustive()
    }
}

impl Proxy {
    /// Makes a proxy that lets through what the list names.
    ///
    /// Where this process's environment names an HTTP proxy (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`),
    /// outgoing connections go through it.
    pub fn new(allow: AllowList) -> Proxy {
        Proxy::with_log(allow, |_| {})
    }

    /// Makes a proxy that also calls a function with each request when it ends. The end of a command waits for it.
    pub fn with_log(allow: AllowList, log: impl Fn(&ProxyRecord) + Send + Sync + 'static) -> Proxy {
        let dialler = Dialler {
            allow,
            upstream: Upstream::from_environment(),
        };
        let log = Log::new(log);
        Proxy {
            shared: Arc::new(Shared { dialler, log }),
        }
    }

    /// Returns the requests so far, oldest first: those of a command that has ended are all there, but for those that
    /// still wait for a host.
    pub fn records(&self) -> Vec<ProxyRecord> {
        self.shared.log.records()
    }

    /// Serves on a new port of the host's loopback device, to those who know a secret.
    pub(crate) fn serve_on_loopback(&self) -> std::io::Result<ProxyServer> {
        use std::io::Read;
        let mut secret = [0u8; 24];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        self.serve(listener, Some(secret))
    }

    /// Serves on a listener until the returned handle is dropped.
    pub(crate) fn serve(&self, listener: TcpListener, secret: Option<String>) -> std::io::Result<ProxyServer> {
        ProxyServer::start(listener, secret, self.shared.clone())
    }
}
