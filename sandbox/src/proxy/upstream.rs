//! The proxy that this host itself must use.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};

use super::authority::{literal, split_port, with_port};
use super::credentials::{basic, percent_decode};
use super::patience;

/// The proxy that this host itself must use.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`, if the URL holds a user.
    authorization: Option<String>,
    except: Vec<String>,
}

impl Upstream {
    /// Reads this process's environment.
    pub(super) fn from_environment() -> Option<Upstream> {
        let own = |names: &[&str]| {
            names
                .iter()
                .filter_map(|name| std::env::var(name).ok())
                .find(|value| !value.is_empty())
        };
        let url = own(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy"])?;
        Upstream::parse(&url, &own(&["no_proxy", "NO_PROXY"]).unwrap_or_default())
    }

    /// Reads a proxy's URL; `None` for kinds other than plain HTTP.
    fn parse(url: &str, except: &str) -> Option<Upstream> {
        let rest = match url.split_once("://") {
            Some(("http", rest)) => rest,
            Some(_) => return None,
            None => url,
        };
        let rest = rest.split('/').next()?;
        let (user, address) = match rest.rsplit_once('@') {
            Some((user, address)) => (Some(user), address),
            None => (None, rest),
        };
        let (host, port) = split_port(address)?;
        let except = except
            .split(',')
            .map(|name| name.trim().trim_start_matches('*').to_ascii_lowercase());
        Some(Upstream {
            host: host.to_owned(),
            port: port.unwrap_or(80),
            authorization: user.map(|user| basic(&percent_decode(user))),
            except: except.filter(|name| !name.is_empty()).collect(),
        })
    }

    /// Tells whether connections to a host go through this proxy.
    pub(super) fn serves(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let excepted = self.except.iter().any(|name| {
            let name = name.trim_start_matches('.');
            name.is_empty() || host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
        });
        !excepted && host != "localhost" && !literal(&host).is_some_and(|ip| ip.is_loopback())
    }

    /// Asks the proxy for a tunnel.
    pub(super) fn tunnel(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let failed = |what: String| format!("failed to reach {host}:{port} through the proxy {}: {what}", self.host);
        let mut addresses = (self.host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(|error| failed(error.to_string()))?;
        let address = addresses.next().ok_or_else(|| failed("it has no address".into()))?;
        let mut stream =
            TcpStream::connect_timeout(&address, patience::CONNECT).map_err(|error| failed(error.to_string()))?;
        self.ask(&mut stream, host, port).map_err(failed)?;
        Ok(stream)
    }

    fn ask(&self, stream: &mut TcpStream, host: &str, port: u16) -> Result<(), String> {
        let said = |error: std::io::Error| error.to_string();
        stream.set_read_timeout(Some(patience::IDLE)).map_err(said)?;
        let target = with_port(host, port);
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
        if let Some(authorization) = &self.authorization {
            request.push_str(&format!("Proxy-Authorization: {authorization}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).map_err(said)?;
        // Byte by byte: what follows the head belongs to the tunnel.
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() > 16 * 1024 || stream.read(&mut byte).map_err(said)? == 0 {
                return Err("it gave no answer".into());
            }
            head.push(byte[0]);
        }
        let line = String::from_utf8_lossy(&head);
        let line = line.lines().next().unwrap_or_default();
        match line.split_whitespace().nth(1) {
            Some(code) if code.starts_with('2') => Ok(()),
            _ => Err(format!("it answered {line:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_hosts_own_proxy_is_read_with_its_exceptions() {
        let upstream = Upstream::parse(
            "http://us%40er:pw@proxy.example:8080/",
            "localhost,.corp.example, 10.0.0.1",
        )
        .unwrap();
        assert_eq!((upstream.host.as_str(), upstream.port), ("proxy.example", 8080));
        assert_eq!(upstream.authorization.as_deref(), Some("Basic dXNAZXI6cHc="));
        assert!(upstream.serves("crates.io"));
        for host in ["git.corp.example", "corp.example", "10.0.0.1", "127.0.0.1", "localhost"] {
            assert!(!upstream.serves(host), "{host}");
        }
        assert!(Upstream::parse("socks5://proxy.example:1080", "").is_none());
    }
}
