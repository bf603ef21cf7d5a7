//! Hosts, addresses and the host's own proxy.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};

use super::exchange::{CONNECT_TIMEOUT, IDLE_TIMEOUT};

/// Splits `host`, `host:port` or `[v6]:port`; `None` when the port is no number.
pub(crate) fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        return match after.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None if after.is_empty() => Some((host, None)),
            None => None,
        };
    }
    match text.rsplit_once(':') {
        // More than one colon: an IPv6 address without brackets, hence without a port.
        Some((host, _)) if host.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

/// Returns the address that a host name spells out, if it is one.
pub(crate) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Looks a name up.
pub(crate) fn resolve(host: &str, port: u16) -> std::io::Result<Vec<SocketAddr>> {
    if let Some(ip) = literal(host) {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    Ok((host, port).to_socket_addrs()?.collect())
}

/// Tells whether an address is not one of the public internet.
pub(crate) fn is_private(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && (b & 0xfe) == 18)
        }
        IpAddr::V6(ip) => {
            let parts = ip.segments();
            let embedded = match parts {
                // NAT64 and 6to4 carry an IPv4 address.
                [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
                _ => None,
            };
            if let Some(v4) = ip.to_ipv4() {
                return is_private(&IpAddr::V4(v4));
            }
            if let Some((high, low)) = embedded {
                return is_private(&IpAddr::V4((u32::from(high) << 16 | u32::from(low)).into()));
            }
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || (parts[0] & 0xfe00) == 0xfc00
                || (parts[0] & 0xffc0) == 0xfe80
        }
    }
}

/// The proxy that this host itself must use.
#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    host: String,
    port: u16,
    /// The value of `Proxy-Authorization`, if the URL holds a user.
    authorization: Option<String>,
    except: Vec<String>,
}

impl Upstream {
    /// Reads this process's environment.
    pub(crate) fn from_environment() -> Option<Upstream> {
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
    pub(crate) fn parse(url: &str, except: &str) -> Option<Upstream> {
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
            authorization: user.map(|user| format!("Basic {}", base64(&percent_decode(user)))),
            except: except.filter(|name| !name.is_empty()).collect(),
        })
    }

    /// Tells whether connections to a host go through this proxy.
    pub(crate) fn serves(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let excepted = self.except.iter().any(|name| {
            let name = name.trim_start_matches('.');
            name.is_empty() || host == name || host.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'))
        });
        !excepted && host != "localhost" && !literal(&host).is_some_and(|ip| ip.is_loopback())
    }

    /// Asks the proxy for a tunnel.
    pub(crate) fn tunnel(&self, host: &str, port: u16) -> Result<TcpStream, String> {
        let failed = |what: String| format!("failed to reach {host}:{port} through the proxy {}: {what}", self.host);
        let addresses = resolve(&self.host, self.port).map_err(|error| failed(error.to_string()))?;
        let address = addresses.first().ok_or_else(|| failed("it has no address".into()))?;
        let mut stream =
            TcpStream::connect_timeout(address, CONNECT_TIMEOUT).map_err(|error| failed(error.to_string()))?;
        self.ask(&mut stream, host, port).map_err(failed)?;
        Ok(stream)
    }

    fn ask(&self, stream: &mut TcpStream, host: &str, port: u16) -> Result<(), String> {
        let said = |error: std::io::Error| error.to_string();
        stream.set_read_timeout(Some(IDLE_TIMEOUT)).map_err(said)?;
        let target = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
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

fn percent_decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = text
            .get(index + 1..index + 3)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (bytes[index], code) {
            (b'%', Some(code)) => {
                result.push(code);
                index += 3;
            }
            (byte, _) => {
                result.push(byte);
                index += 1;
            }
        }
    }
    result
}

/// Encodes as RFC 4648 says, with padding.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut result = String::new();
    for chunk in bytes.chunks(3) {
        let value = chunk.iter().fold(0u32, |value, byte| value << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for index in 0..4 {
            let letter = ALPHABET[(value >> (18 - 6 * index)) as usize & 63];
            result.push(if index <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    result
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "0.0.0.0",
            "100.64.0.1",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "::127.0.0.1",
            "224.0.0.1",
            "255.255.255.255",
        ];
        for ip in private {
            assert!(is_private(&ip.parse().unwrap()), "{ip}");
        }
        for ip in [
            "1.1.1.1",
            "93.184.216.34",
            "2606:4700::1111",
            "64:ff9b::101:101",
            "100.128.0.1",
        ] {
            assert!(!is_private(&ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn base64_agrees_with_the_standard() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

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
