//! Accepts the connections of one command until it ends.

use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::connections::Connections;
use super::exchange::{self, Shared};

/// How long to leave a listener alone that gives no connection although it has one: no descriptor is free.
const NOTHING_FREE: Duration = Duration::from_millis(100);

/// Where a proxy listens, and what it asks for.
#[derive(Debug, Clone)]
pub(crate) struct ProxyAddress {
    pub(crate) port: u16,
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

/// A proxy that serves until it is dropped. Then all its connections are ended, and their requests logged, but for those
/// that still wait for a host.
pub(crate) struct ProxyServer {
    address: ProxyAddress,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
    connections: Arc<Connections>,
}

impl std::fmt::Debug for ProxyServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyServer")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl ProxyServer {
    /// Serves those who connect to a listener, and know the secret if there is one.
    pub(super) fn start(
        listener: TcpListener,
        secret: Option<String>,
        shared: Arc<Shared>,
    ) -> std::io::Result<ProxyServer> {
        let address = ProxyAddress {
            port: listener.local_addr()?.port(),
            secret: secret.clone(),
        };
        let (stop, stopped) = UnixStream::pair()?;
        listener.set_nonblocking(true)?;
        let connections = Arc::new(Connections::default());
        let all = connections.clone();
        let thread = std::thread::Builder::new()
            .name("sandbox-proxy".into())
            .spawn(move || accept_all(&listener, &stopped, &all, &shared, secret.map(Arc::from).as_ref()))?;
        Ok(ProxyServer {
            address,
            stop: Some(stop),
            thread: Some(thread),
            connections,
        })
    }

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
        self.connections.close();
    }
}

fn accept_all(
    listener: &TcpListener,
    stopped: &UnixStream,
    connections: &Arc<Connections>,
    shared: &Arc<Shared>,
    secret: Option<&Arc<str>>,
) {
    loop {
        let fds = [Some(listener.as_fd()), Some(stopped.as_fd())];
        match crate::sys::poll(&fds, None) {
            Ok(ready) if ready[1] => return,
            Ok(_) => {}
            Err(_) => return,
        }
        match listener.accept() {
            Ok((client, _)) => take(client, connections, shared.clone(), secret.cloned()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => match crate::sys::poll(&[Some(stopped.as_fd())], Some(NOTHING_FREE)) {
                Ok(ready) if !ready[0] => {}
                _ => return,
            },
        }
    }
}

/// Serves one client on a thread of its own. One that cannot be served is let go.
fn take(client: TcpStream, connections: &Arc<Connections>, shared: Arc<Shared>, secret: Option<Arc<str>>) {
    if client.set_nonblocking(false).is_err() {
        return;
    }
    let client = Arc::new(client);
    let Some(connection) = connections.enter(&client) else {
        return;
    };
    // Without a thread the connection ends here.
    let _ = std::thread::Builder::new()
        .name("sandbox-proxy-conn".into())
        .spawn(move || exchange::serve(&client, &connection, &shared, secret.as_deref()));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::io::{Read, Write};

    use super::super::dial::Dialler;
    use super::super::log::Log;
    use super::*;

    fn serve(allow: &str) -> (ProxyServer, Arc<Shared>) {
        let allow = super::super::allow::AllowList::parse([allow]).unwrap();
        let shared = Arc::new(Shared {
            dialler: Dialler { allow, upstream: None },
            log: Log::new(|_| {}),
        });
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = ProxyServer::start(listener, None, shared.clone()).unwrap();
        (server, shared)
    }

    fn client(server: &ProxyServer) -> TcpStream {
        TcpStream::connect(("127.0.0.1", server.address.port)).unwrap()
    }

    #[test]
    fn connections_end_and_are_logged_when_the_proxy_does() {
        let host = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = host.local_addr().unwrap();
        let (server, shared) = serve(&target.to_string());
        let mut silent = client(&server);
        let mut client = client(&server);
        write!(client, "CONNECT {target} HTTP/1.1\r\n\r\nfirst").unwrap();
        let mut far = host.accept().unwrap().0;
        let mut first = [0; 5];
        far.read_exact(&mut first).unwrap();
        let mut begun = [0; 12];
        client.read_exact(&mut begun).unwrap();
        assert_eq!(&begun, b"HTTP/1.1 200");
        drop(server);
        // Neither side has closed, and one has asked for nothing yet.
        let records = shared.log.records();
        assert_eq!(records.len(), 1, "{records:?}");
        assert_eq!(far.read(&mut first).unwrap_or(0), 0);
        client.read_to_end(&mut Vec::new()).unwrap();
        assert_eq!(silent.read(&mut first).unwrap_or(0), 0);
    }

    #[test]
    fn what_is_not_allowed_is_refused_and_logged() {
        let (server, shared) = serve("a.example");
        let mut client = client(&server);
        write!(client, "CONNECT b.example:443 HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
        drop(server);
        let records = shared.log.records();
        assert_eq!((records.len(), records[0].allowed), (1, false));
    }
}
