//! The head of a request to the proxy.

use super::authority::{is_plain, split_port, with_port};

/// The longest head.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// The longest name of a host (RFC 1035).
const MAX_NAME: usize = 253;

/// Headers that are for the next hop alone, or written anew.
const HOP: [&str; 6] = [
    "proxy-authorization",
    "proxy-connection",
    "connection",
    "keep-alive",
    "host",
    "upgrade",
];

/// A request head, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tunnel: bool,
    /// What is sent on to the host: an origin-form head; empty for a tunnel.
    pub(super) forwarded: Vec<u8>,
    pub(super) authorization: Option<String>,
}

/// Finds the end of a head in bytes of which those before `seen` were looked at already.
pub(super) fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let found = bytes.get(from..)?.windows(4).position(|window| window == b"\r\n\r\n")?;
    Some(from + found + 4)
}

/// Takes a head apart; the error says what is wrong with it.
///
/// What is sent on is written anew from what was understood, so that the host cannot see another request in it: no
/// control characters, no folded lines, no line that is no header.
pub(super) fn parse(bytes: &[u8]) -> Result<Head, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the request head is not UTF-8")?;
    let lines: Vec<&str> = text.trim_end_matches("\r\n").split("\r\n").collect();
    if lines
        .iter()
        .any(|line| line.contains(|c: char| c.is_control() && c != '\t'))
    {
        return Err("the request head holds control characters");
    }
    let (first, headers) = lines.split_first().ok_or("the request head is empty")?;
    let mut words = first.split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("the request line has not three words");
    };
    if method.is_empty() || !method.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)) {
        return Err("the request's method is none");
    }
    if !matches!(version, "HTTP/1.0" | "HTTP/1.1") {
        return Err("the request is not HTTP/1");
    }
    if !headers.iter().all(|line| is_header(line)) {
        return Err("the request head holds a line that is no header");
    }
    let authorization = headers.iter().find_map(|line| value(line, "proxy-authorization"));
    let authorization = authorization.map(str::to_owned);
    if method == "CONNECT" {
        let (host, port) = split_port(target).ok_or("the port is no number")?;
        let port = port.ok_or("CONNECT names no port")?;
        return Ok(Head {
            host: clean(host)?,
            port,
            tunnel: true,
            forwarded: Vec::new(),
            authorization,
        });
    }
    let rest = target
        .strip_prefix("http://")
        .ok_or("only CONNECT and http:// URLs are served")?;
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let authority = authority.rsplit('@').next().unwrap_or(authority);
    let (host, port) = split_port(authority).ok_or("the port is no number")?;
    let host = clean(host)?;
    // The Host header is written anew: it is what the allow-list was asked about.
    let named = match port {
        Some(port) => with_port(&host, port),
        None if host.contains(':') => format!("[{host}]"),
        None => host.clone(),
    };
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut forwarded = format!("{method} {slash}{path} {version}\r\nHost: {named}\r\nConnection: close\r\n");
    for line in headers {
        if !HOP.iter().any(|name| value(line, name).is_some()) {
            forwarded.push_str(line);
            forwarded.push_str("\r\n");
        }
    }
    forwarded.push_str("\r\n");
    Ok(Head {
        host,
        port: port.unwrap_or(80),
        tunnel: false,
        forwarded: forwarded.into_bytes(),
        authorization,
    })
}

/// Tells whether a line is a name without spaces, a colon and anything.
fn is_header(line: &str) -> bool {
    let name = line.split_once(':').map(|(name, _)| name);
    name.is_some_and(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (own, value) = line.split_once(':')?;
    own.eq_ignore_ascii_case(name).then(|| value.trim())
}

fn clean(host: &str) -> Result<String, &'static str> {
    if host.len() > MAX_NAME || !is_plain(host) {
        return Err("the host's name is none");
    }
    Ok(host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn connect_and_absolute_form_are_taken_apart() {
        let head = parse(b"CONNECT Crates.io:443 HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\n\r\n").unwrap();
        assert_eq!((head.host.as_str(), head.port, head.tunnel), ("crates.io", 443, true));
        assert_eq!(head.authorization.as_deref(), Some("Basic eA=="));
        let head = parse(b"GET http://a.example:81/x?y HTTP/1.1\r\nHost: b.example\r\nAccept: */*\r\nProxy-Connection: keep-alive\r\n\r\n").unwrap();
        assert_eq!((head.host.as_str(), head.port, head.tunnel), ("a.example", 81, false));
        let sent = String::from_utf8(head.forwarded).unwrap();
        assert_eq!(
            sent,
            "GET /x?y HTTP/1.1\r\nHost: a.example:81\r\nConnection: close\r\nAccept: */*\r\n\r\n"
        );
        let head = parse(b"GET http://u:p@[::1]:81?q HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((head.host.as_str(), head.port), ("::1", 81));
        let sent = String::from_utf8(head.forwarded).unwrap();
        assert_eq!(sent, "GET /?q HTTP/1.0\r\nHost: [::1]:81\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn what_is_no_proxy_request_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET ftp://a.example/ HTTP/1.1\r\n\r\n",
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            "CONNECT a.example:x HTTP/1.1\r\n\r\n",
            "CONNECT a.example:+1 HTTP/1.1\r\n\r\n",
            "CONNECT a b:1 HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET http://a.example#b/ HTTP/1.1\r\n\r\n",
            "GET http://a.example/ HTTP/2\r\n\r\n",
            "\r\n\r\n",
            "",
        ] {
            assert!(parse(head.as_bytes()).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_head_in_which_a_host_could_see_another_is_refused() {
        for head in [
            "GET http://a.example/ HTTP/1.1\r\nX: a\nHost: b\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\nHost:b.example\r\n\r\n",
            "GET\nHost:b.example http://a.example/ HTTP/1.1\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\r\nX: a\rHost: b\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\r\n Host: b.example\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\r\nHost : b.example\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\r\nX\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\r\n: b\r\n\r\n",
            "GET http://a.example/\0 HTTP/1.1\r\n\r\n",
        ] {
            assert!(parse(head.as_bytes()).is_err(), "{head:?}");
        }
    }

    #[test]
    fn the_end_of_a_head_is_found_wherever_it_is_cut() {
        let bytes = b"GET x\r\n\r\nbody";
        for seen in 0..=8 {
            assert_eq!(end(bytes, seen), Some(9), "{seen}");
        }
        assert_eq!(end(&bytes[..8], 0), None);
    }
}
