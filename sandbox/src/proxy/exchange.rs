//! One client's connection: read a request head, decide, move bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use super::connections::Connection;
use super::credentials::basic;
use super::dial::{Dialler, Refusal};
use super::head::{self, Head};
use super::log::{Log, ProxyRecord};
use super::patience;

/// What all connections of a proxy share.
pub(super) struct Shared {
    pub(super) dialler: Dialler,
    pub(super) log: Log,
}

/// Serves one connection to its end. A plain request ends its connection, so that the next one is
/// looked at again.
pub(super) fn serve(client: &Arc<TcpStream>, connection: &Connection, shared: &Shared, secret: Option<&str>) {
    let timeouts = client
        .set_write_timeout(Some(patience::IDLE))
        .ok()
        .and_then(|()| read_head(client, Instant::now() + patience::HEAD));
    let Some((head, body)) = timeouts else {
        answer(client, "400 Bad Request", "no HTTP request was found");
        return;
    };
    let head = match head::parse(&head) {
        Ok(head) => head,
        Err(why) => return answer(client, "400 Bad Request", why),
    };
    if let Some(secret) = secret
        && head.authorization != Some(basic(format!("foreman:{secret}").as_bytes()))
    {
        let text = "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"foreman\"\r\n\
                    Content-Length: 0\r\nConnection: close\r\n\r\n";
        // The client is another process of this host; it learns no more.
        let _ = client.as_ref().write_all(text.as_bytes());
        return;
    }
    let mut record = ProxyRecord {
        host: head.host.clone(),
        port: head.port,
        allowed: true,
        why: None,
        bytes_sent: 0,
        bytes_received: 0,
    };
    connection.dials();
    let host = shared.dialler.connect(&head.host, head.port).map(Arc::new);
    let wanted = connection.dialled(host.as_ref().ok());
    match host {
        Ok(_) if !wanted => record.why = Some("the command has ended".into()),
        Ok(host) => exchange(client, &host, &head, &body, &mut record),
        Err(Refusal::Forbidden(why)) => {
            answer(client, "403 Forbidden", &format!("refused by Foreman's proxy: {why}"));
            record.allowed = false;
            record.why = Some(why);
        }
        Err(Refusal::Unreachable(why)) => {
            answer(client, "502 Bad Gateway", &why);
            record.why = Some(why);
        }
    }
    shared.log.add(record);
}

fn exchange(client: &Arc<TcpStream>, host: &Arc<TcpStream>, head: &Head, body: &[u8], record: &mut ProxyRecord) {
    let prepared = [client, host]
        .into_iter()
        .try_for_each(|stream| stream.set_read_timeout(Some(patience::IDLE)))
        .and_then(|()| host.set_write_timeout(Some(patience::IDLE)))
        .and_then(|()| host.as_ref().write_all(&head.forwarded))
        .and_then(|()| host.as_ref().write_all(body))
        .and_then(|()| {
            if head.tunnel {
                client
                    .as_ref()
                    .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            } else {
                Ok(())
            }
        });
    if let Err(error) = prepared {
        record.why = Some(error.to_string());
        return;
    }
    record.bytes_sent = (head.forwarded.len() + body.len()) as u64;
    let (from, to) = (client.clone(), host.clone());
    let sender = std::thread::Builder::new()
        .name("sandbox-proxy-send".into())
        .spawn(move || {
            let sent = copy(&from, &to);
            // The host may have closed first.
            let _ = to.shutdown(Shutdown::Write);
            sent
        });
    record.bytes_received = copy(host, client);
    for stream in [client, host] {
        let _ = stream.shutdown(Shutdown::Both);
    }
    if let Ok(Ok(sent)) = sender.map(std::thread::JoinHandle::join) {
        record.bytes_sent += sent;
    }
}

/// Moves bytes until either side ends; returns how many.
fn copy(mut from: &TcpStream, mut to: &TcpStream) -> u64 {
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

fn answer(mut client: &TcpStream, status: &str, text: &str) {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}\n",
        text.len() + 1
    );
    // A client that is gone needs no answer.
    let _ = client.write_all(answer.as_bytes());
}

/// Reads up to the empty line, which comes before the deadline however slowly the rest does; returns the head and what
/// came after it.
fn read_head(mut client: &TcpStream, deadline: Instant) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Fails where no time is left.
        client.set_read_timeout(Some(left)).ok()?;
        let count = client.read(&mut buffer).ok().filter(|count| *count > 0)?;
        let seen = bytes.len();
        bytes.extend_from_slice(&buffer[..count]);
        if let Some(end) = head::end(&bytes, seen) {
            let body = bytes.split_off(end);
            return Some((bytes, body));
        }
        if bytes.len() > head::MAX_BYTES {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::net::TcpListener;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn a_head_that_comes_in_pieces_is_read_up_to_its_deadline_and_length() {
        let later = || Instant::now() + std::time::Duration::from_secs(60);
        let (near, far) = pair();
        near.set_nodelay(true).unwrap();
        for byte in b"GET x\r\n\r\nbody" {
            (&near).write_all(&[*byte]).unwrap();
        }
        drop(near);
        let (head, mut body) = read_head(&far, later()).unwrap();
        (&far).read_to_end(&mut body).unwrap();
        assert_eq!(
            (head.as_slice(), body.as_slice()),
            (&b"GET x\r\n\r\n"[..], &b"body"[..])
        );

        let (near, far) = pair();
        (&near).write_all(b"GET x").unwrap();
        assert!(read_head(&far, Instant::now()).is_none(), "its time was over");

        let (near, far) = pair();
        let sender = std::thread::spawn(move || (&near).write_all(&vec![b'x'; head::MAX_BYTES * 2]));
        assert!(read_head(&far, later()).is_none(), "it has no end");
        drop(far);
        let _ = sender.join();
    }
}
