//! Opening a connection to a host that may be reached.

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};

use super::address::is_private;
use super::allow::AllowList;
use super::authority::{literal, with_port};
use super::patience;
use super::upstream::Upstream;

/// Why a request went nowhere.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Not allowed.
    Forbidden(String),
    /// Allowed, and the host does not answer.
    Unreachable(String),
}

/// Knows who may be reached, and by which way.
pub(super) struct Dialler {
    pub(super) allow: AllowList,
    pub(super) upstream: Option<Upstream>,
}

impl Dialler {
    /// Opens a connection to a host of the allow-list; the error says why not.
    ///
    /// A name is looked up once, and what was looked up is judged and connected to: it cannot mean something else
    /// between the two.
    pub(super) fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Refusal> {
        let Some(exact) = self.allow.permits(host, port) else {
            let target = with_port(host, port);
            return Err(Refusal::Forbidden(format!("{target} is not in the allow-list")));
        };
        let literal = literal(host);
        if let Some(upstream) = &self.upstream
            && upstream.serves(host)
            && !literal.is_some_and(|ip| is_private(&ip))
        {
            return upstream.tunnel(host, port).map_err(Refusal::Unreachable);
        }
        let addresses = match literal {
            Some(ip) => vec![SocketAddr::new(ip, port)],
            None => look_up(host, port)?,
        };
        let mut last = format!("{host} has no address");
        for target in addresses {
            if !exact && is_private(&target.ip()) {
                return Err(Refusal::Forbidden(format!(
                    "{host} is at the private address {}; name {} itself to allow it",
                    target.ip(),
                    with_port(host, port)
                )));
            }
            match TcpStream::connect_timeout(&target, patience::CONNECT) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = format!("failed to connect to {target}: {error}"),
            }
        }
        Err(Refusal::Unreachable(last))
    }
}

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;

fn look_up(host: &str, port: u16) -> Result<Vec<SocketAddr>, Refusal> {
    let found = (host, port).to_socket_addrs();
    let found = found.map_err(|error| Refusal::Unreachable(format!("failed to look up {host}: {error}")))?;
    Ok(found.take(MAX_ADDRESSES).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// Every spelling of an address of the host's own that a resolver knows.
    const SPELLINGS: [&str; 8] = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "::ffff:127.0.0.1",
        "localhost",
    ];

    #[test]
    fn no_spelling_of_a_private_address_is_reached_unless_named_with_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        for host in SPELLINGS {
            let allow = AllowList::parse(["other.example", "*.0.0.1"]).unwrap();
            let refused = Dialler { allow, upstream: None }.connect(host, port);
            assert!(matches!(refused, Err(Refusal::Forbidden(_))), "{host}: {refused:?}");
        }
        // Allowed by a name without a port, and at a private address.
        for host in SPELLINGS {
            let allow = AllowList::parse([host]).unwrap();
            let dialler = Dialler { allow, upstream: None };
            let refused = dialler.connect(host, 80);
            // Not every resolver knows every spelling; none may be connected to.
            assert!(refused.is_err(), "{host}: {refused:?}");
            if let Err(Refusal::Forbidden(why)) = refused {
                assert!(why.contains("private"), "{why}");
            }
        }
        assert!(listener.accept().is_err(), "somebody got through");
        let exact = AllowList::parse([format!("127.0.0.1:{port}")]).unwrap();
        let dialler = Dialler {
            allow: exact,
            upstream: None,
        };
        assert!(dialler.connect("127.0.0.1", port).is_ok());
    }
}
