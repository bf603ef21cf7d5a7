//! A filtering HTTP proxy: the only network that a command can be given.
//!
//! It forwards `CONNECT` and plain absolute-form requests to hosts of an allow-list and refuses all
//! others. Every request is logged. It resolves names itself, and refuses targets on private, link-local
//! or loopback addresses unless the list names that exact host and port.

mod address;
mod allow;
mod exchange;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

pub use allow::{AllowList, ParseAllowError};

/// The most connections that one command has open at one time.
const MAX_CONNECTIONS: usize = 256;

/// One request to the proxy, as it is logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyRecord {
    /// The host that was asked for.
    pub host: String,
    /// The port that was asked for.
    pub port: u16,
    /// Whether it was allowed.
    pub allowed: bool,
    /// Why it was refused, or failed.
    pub why: Option<String>,
    /// Bytes from the command to the host.
    pub bytes_sent: u64,
    /// Bytes from the host to the command.
    pub bytes_received: u64,
}

/// A filtering proxy with its allow-list and its log. Clones share the log.
#[derive(Clone)]
pub struct Proxy {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    allow: AllowList,
    upstream: Option<address::Upstream>,
    log: Mutex<Vec<ProxyRecord>>,
    on_record: Box<dyn Fn(&ProxyRecord) + Send + Sync>,
}

/// The most records that [`Proxy::records`] keeps.
const MAX_RECORDS: usize = 10_000;

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy")
            .field("allow", &self.shared.allow)
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

    /// Makes a proxy that also calls a function with each request when it ends.
    pub fn with_log(allow: AllowList, log: impl Fn(&ProxyRecord) + Send + Sync + 'static) -> Proxy {
        let shared = Shared {
            allow,
            upstream: address::Upstream::from_environment(),
            log: Mutex::default(),
            on_record: Box::new(log),
        };
        Proxy {
            shared: Arc::new(shared),
        }
    }

    /// Returns the requests so far, oldest first.
    pub fn records(&self) -> Vec<ProxyRecord> {
        self.shared.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let address = ProxyAddress {
            port: listener.local_addr()?.port(),
            secret,
        };
        let (stop, stopped) = UnixStream::pair()?;
        listener.set_nonblocking(true)?;
        let shared = self.shared.clone();
        let secret = address.secret.clone();
        let thread = std::thread::Builder::new()
            .name("sandbox-proxy".into())
            .spawn(move || accept_all(&listener, &stopped, &shared, secret.as_deref()))?;
        Ok(ProxyServer {
            address,
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Shared {
    pub(crate) fn record(&self, record: ProxyRecord) {
        if record.allowed {
            tracing::info!(host = %record.host, port = record.port, sent = record.bytes_sent,
                received = record.bytes_received, "proxy request allowed");
        } else {
            tracing::warn!(host = %record.host, port = record.port,
                why = record.why.as_deref().unwrap_or_default(), "proxy request refused");
        }
        (self.on_record)(&record);
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.len() < MAX_RECORDS {
            log.push(record);
        }
    }
}

/// Where a proxy listens, and what it asks for.
#[derive(Debug, Clone)]
pub(crate) struct ProxyAddress {
    pub port: u16,
    secret: Option<String>,
}

impl ProxyAddress {
    /// Returns the URL for a client's environment.
    pub(crate) fn url(&self) -> String {
        match &self.secret {
            Some(secret) => format!("http://foreman:{secret}@127.0.0.1:{}", self.port),
            None => format!("http://127.0.0.1:{}", self.port),
        }
    }
}

/// A proxy that accepts connections until it is dropped.
#[derive(Debug)]
pub(crate) struct ProxyServer {
    address: ProxyAddress,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl ProxyServer {
    pub(crate) fn address(&self) -> ProxyAddress {
        self.address.clone()
    }
}

impl Drop for ProxyServer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the proxy, which is what is wanted here.
            let _ = thread.join();
        }
    }
}

fn accept_all(listener: &TcpListener, stopped: &UnixStream, shared: &Arc<Shared>, secret: Option<&str>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let fds = [Some(listener.as_fd()), Some(stopped.as_fd())];
        match crate::sys::poll(&fds, None) {
            Ok(ready) if ready[1] => return,
            Ok(_) => {}
            Err(_) => return,
        }
        let Ok((client, _)) = listener.accept() else {
            continue;
        };
        if open.load(Ordering::Relaxed) >= MAX_CONNECTIONS || client.set_nonblocking(false).is_err() {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (shared, secret) = (shared.clone(), secret.map(str::to_owned));
        let counter = open.clone();
        let started = std::thread::Builder::new()
            .name("sandbox-proxy-conn".into())
            .spawn(move || {
                exchange::serve(client, &shared, secret.as_deref());
                counter.fetch_sub(1, Ordering::Relaxed);
            });
        if started.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Opens a connection to a host of the allow-list; the error says why not.
pub(crate) fn connect(shared: &Shared, host: &str, port: u16) -> Result<std::net::TcpStream, exchange::Refusal> {
    use exchange::Refusal;
    let Some(exact) = shared.allow.permits(host, port) else {
        return Err(Refusal::Forbidden(format!("{host}:{port} is not in the allow-list")));
    };
    if let Some(upstream) = &shared.upstream
        && upstream.serves(host)
        && !address::literal(host).is_some_and(|ip| address::is_private(&ip))
    {
        return upstream.tunnel(host, port).map_err(Refusal::Unreachable);
    }
    let addresses: Vec<SocketAddr> =
        address::resolve(host, port).map_err(|error| Refusal::Unreachable(error.to_string()))?;
    let mut last = format!("{host} has no address");
    for target in addresses {
        if !exact && address::is_private(&target.ip()) {
            return Err(Refusal::Forbidden(format!(
                "{host} is at the private address {}; name {host}:{port} itself to allow it",
                target.ip()
            )));
        }
        match std::net::TcpStream::connect_timeout(&target, exchange::CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("failed to connect to {target}: {error}"),
        }
    }
    Err(Refusal::Unreachable(last))
}
