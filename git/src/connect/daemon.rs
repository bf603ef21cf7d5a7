//! The anonymous daemon: `git://`.

use std::{
    io::Write,
    net::{Shutdown, TcpStream, ToSocketAddrs},
    sync::Arc,
};

use super::{
    Remotes, Service,
    duplex::{Reader, Writer, watched},
    session::{Failure, Session},
};
use crate::error::Result;

pub(super) fn connect(
    remotes: &Remotes,
    session: &Arc<Session>,
    service: Service,
    greet: bool,
) -> Result<(Reader, Writer)> {
    let network = |text: String| session.fail(Failure::Network(text));
    let url = &session.url;
    let port = url.port_or_default().unwrap_or(9418);
    let host = url.host().trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|e| network(format!("{host}: {e}")))?;
    let limit = remotes.settings().timeouts.connect.min(session.remaining());
    let mut refused = format!("{host} has no address");
    let mut stream = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, limit.max(std::time::Duration::from_millis(1))) {
            Ok(connected) => {
                stream = Some(connected);
                break;
            }
            Err(e) => refused = format!("{address}: {e}"),
        }
    }
    let mut stream = stream.ok_or_else(|| network(refused))?;
    let io = |e: std::io::Error| network(e.to_string());
    stream.set_nodelay(true).map_err(io)?;
    if greet {
        let host = match url.port {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let line = format!("{} {}\0host={host}\0", service.as_str(), url.path());
        stream
            .write_all(format!("{:04x}{line}", line.len() + 4).as_bytes())
            .map_err(io)?;
    }
    let reader = stream.try_clone().map_err(io)?;
    let aborting = stream.try_clone().map_err(io)?;
    let closing = stream.try_clone().map_err(io)?;
    let halves = watched(
        session,
        Box::new(reader),
        Box::new(stream),
        // Errors mean that the connection is gone already.
        Box::new(move || drop(aborting.shutdown(Shutdown::Both))),
        Box::new(move || drop(closing.shutdown(Shutdown::Both))),
    );
    halves.map_err(io)
}
