//! One client's connection: read a request head, decide, move bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use super::{ProxyRecord, Shared, address, connect};

/// How long a connection may take to open.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a connection may be silent.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// The longest request head.
const MAX_HEAD: usize = 64 * 1024;

/// Why a request went nowhere.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Not allowed.
    Forbidden(String),
    /// Allowed, and the host does not answer.
    Unreachable(String),
}

/// A request head, taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    host: String,
    port: u16,
    tunnel: bool,
    /// What is sent on to the host: an origin-form head; empty for a tunnel.
    forwarded: Vec<u8>,
    authorization: Option<String>,
}

/// Serves one connection to its end. A plain request ends its connection, so that the next one is
/// looked at again.
pub(crate) fn serve(mut client: TcpStream, shared: &Shared, secret: Option<&str>) {
    let timeouts = client
        .set_read_timeout(Some(IDLE_TIMEOUT))
        .and_then(|()| client.set_write_timeout(Some(IDLE_TIMEOUT)));
    let Some((head, body)) = timeouts.ok().and_then(|()| read_head(&mut client)) else {
        answer(&mut client, "400 Bad Request", "no HTTP request was found");
        return;
    };
    let head = match parse_head(&head) {
        Ok(head) => head,
        Err(why) => return answer(&mut client, "400 Bad Request", why),
    };
    if let Some(secret) = secret {
        let expected = format!("Basic {}", address::base64(format!("foreman:{secret}").as_bytes()));
        if head.authorization.as_deref() != Some(expected.as_str()) {
            let text = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"foreman\"\r\n\
                        Content-Length: 0\r\nConnection: close\r\n\r\n";
            // The client is another process of this host; it learns no more.
            let _ = client.write_all(text.as_bytes());
            return;
        }
    }
    let mut record = ProxyRecord {
        host: head.host.clone(),
        port: head.port,
        allowed: true,
        why: None,
        bytes_sent: 0,
        bytes_received: 0,
    };
    match connect(shared, &head.host, head.port) {
        Ok(host) => exchange(client, host, &head, &body, &mut record),
        Err(Refusal::Forbidden(why)) => {
            answer(
                &mut client,
                "403 Forbidden",
                &format!("refused by Foreman's proxy: {why}"),
            );
            record.allowed = false;
            record.why = Some(why);
        }
        Err(Refusal::Unreachable(why)) => {
            answer(&mut client, "502 Bad Gateway", &why);
            record.why = Some(why);
        }
    }
    shared.record(record);
}

fn exchange(mut client: TcpStream, mut host: TcpStream, head: &Head, body: &[u8], record: &mut ProxyRecord) {
    let prepared = host
        .set_read_timeout(Some(IDLE_TIMEOUT))
        .and_then(|()| host.set_write_timeout(Some(IDLE_TIMEOUT)))
        .and_then(|()| host.write_all(&head.forwarded))
        .and_then(|()| host.write_all(body))
        .and_then(|()| {
            if head.tunnel {
                client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            } else {
                Ok(())
            }
        })
        .and_then(|()| Ok((client.try_clone()?, host.try_clone()?)));
    let (mut client_reader, mut host_writer) = match prepared {
        Ok(pair) => pair,
        Err(error) => {
            record.why = Some(error.to_string());
            return;
        }
    };
    record.bytes_sent = (head.forwarded.len() + body.len()) as u64;
    let sender = std::thread::Builder::new()
        .name("sandbox-proxy-send".into())
        .spawn(move || {
            let sent = copy(&mut client_reader, &mut host_writer);
            // The host may have closed first.
            let _ = host_writer.shutdown(Shutdown::Write);
            sent
        });
    record.bytes_received = copy(&mut host, &mut client);
    for stream in [&client, &host] {
        let _ = stream.shutdown(Shutdown::Both);
    }
    if let Ok(Ok(sent)) = sender.map(std::thread::JoinHandle::join) {
        record.bytes_sent += sent;
    }
}

/// Moves bytes until either side ends; returns how many.
fn copy(from: &mut TcpStream, to: &mut TcpStream) -> u64 {
    let mut buffer = [0; 32 * 1024];
    let mut total = 0;
    loop {
        let count = match from.read(&mut buffer) {
            Ok(0) | Err(_) => return total,
            Ok(count) => count,
        };
        if to.write_all(&buffer[..count]).is_err() {
            return total;
        }
        total += count as u64;
    }
}

fn answer(client: &mut TcpStream, status: &str, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    );
    // A client that is gone needs no answer.
    let _ = client.write_all(answer.as_bytes());
}

/// Reads up to the empty line; returns the head and what came after it.
fn read_head(client: &mut TcpStream) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8 * 1024];
    loop {
        let count = client.read(&mut buffer).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return Some((bytes, body));
        }
        if bytes.len() > MAX_HEAD {
            return None;
        }
    }
}

fn parse_head(bytes: &[u8]) -> Result<Head, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "the request head is not UTF-8")?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("the request line has not three words");
    };
    if !version.starts_with("HTTP/1.") {
        return Err("the request is not HTTP/1");
    }
    let headers: Vec<&str> = lines.take_while(|line| !line.is_empty()).collect();
    // A bare CR or LF could make the host see another head than this one.
    if headers
        .iter()
        .chain([&target])
        .any(|text| text.contains(['\r', '\n', '\0']))
    {
        return Err("the request head holds control characters");
    }
    let authorization = headers
        .iter()
        .find_map(|line| header(line, "proxy-authorization"))
        .map(str::to_owned);
    if method == "CONNECT" {
        let (host, port) = address::split_port(target).ok_or("the port is no number")?;
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
    let (host, port) = address::split_port(authority).ok_or("the port is no number")?;
    let slash = if path.starts_with('/') { "" } else { "/" };
    // The Host header is written anew: it is what the allow-list was asked about.
    let mut forwarded = format!("{method} {slash}{path} {version}\r\nHost: {authority}\r\nConnection: close\r\n");
    for line in headers {
        let hop = [
            "proxy-authorization",
            "proxy-connection",
            "connection",
            "keep-alive",
            "host",
            "upgrade",
        ];
        if !hop.iter().any(|name| header(line, name).is_some()) {
            forwarded.push_str(line);
            forwarded.push_str("\r\n");
        }
    }
    forwarded.push_str("\r\n");
    let (host, port) = (clean(host)?, port.unwrap_or(80));
    Ok(Head {
        host,
        port,
        tunnel: false,
        forwarded: forwarded.into_bytes(),
        authorization,
    })
}

fn header<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let (own, value) = line.split_once(':')?;
    own.trim().eq_ignore_ascii_case(name).then(|| value.trim())
}

fn clean(host: &str) -> Result<String, &'static str> {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-._:".contains(character);
    if host.is_empty() || host.len() > 253 || !host.chars().all(plain) {
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
        let head = parse_head(b"CONNECT Crates.io:443 HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\n\r\n").unwrap();
        assert_eq!((head.host.as_str(), head.port, head.tunnel), ("crates.io", 443, true));
        assert_eq!(head.authorization.as_deref(), Some("Basic eA=="));
        let head = parse_head(b"GET http://a.example:81/x?y HTTP/1.1\r\nHost: b.example\r\nAccept: */*\r\nProxy-Connection: keep-alive\r\n\r\n").unwrap();
        assert_eq!((head.host.as_str(), head.port, head.tunnel), ("a.example", 81, false));
        let sent = String::from_utf8(head.forwarded).unwrap();
        assert_eq!(
            sent,
            "GET /x?y HTTP/1.1\r\nHost: a.example:81\r\nConnection: close\r\nAccept: */*\r\n\r\n"
        );
    }

    #[test]
    fn what_is_no_proxy_request_is_refused() {
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET ftp://a.example/ HTTP/1.1\r\n\r\n",
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            "CONNECT a.example:x HTTP/1.1\r\n\r\n",
            "CONNECT a b:1 HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET http://a.example/ HTTP/2\r\n\r\n",
            "GET http://a.example/ HTTP/1.1\r\nX: a\nHost: b\r\n\r\n",
            "\r\n\r\n",
        ] {
            assert!(parse_head(head.as_bytes()).is_err(), "{head:?}");
        }
    }
}
