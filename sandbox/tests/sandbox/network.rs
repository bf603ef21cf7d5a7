//! The filtering proxy is the only way out, and says who asked for what.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sandbox::{AllowList, Command, Network, Output, Proxy};

use crate::{backends, shell};

/// A server on loopback that counts requests and answers each with 404.
fn counting_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let _ = client.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    (port, count)
}

/// Git speaks HTTP through the usual proxy variables, and is on every machine that runs these tests.
fn ask(url: &str) -> Command {
    shell(&format!("git ls-remote {url}"))
}

#[test]
fn allowed_hosts_answer_and_others_are_refused_and_logged() {
    let (port, count) = counting_server();
    let (other_port, other_count) = counting_server();
    for sandbox in backends() {
        count.store(0, Ordering::SeqCst);
        let proxy = Proxy::new(AllowList::parse([format!("127.0.0.1:{port}"), "localhost".into()]).unwrap());
        let run = |command: Command| {
            sandbox.run_blocking(command.network(Network::AllowList(proxy.clone())), Output::captured())
        };
        let allowed = run(ask(&format!("http://127.0.0.1:{port}/repository")));
        assert!(allowed.stderr.text().contains("not found"), "{}", allowed.stderr.text());
        assert_eq!(count.load(Ordering::SeqCst), 1);
        for url in [
            format!("http://127.0.0.1:{other_port}/repository"),
            "https://forbidden.example/repository".into(),
            // Allowed by its name, and at a private address that the entry does not name with a port.
            "http://localhost/repository".into(),
        ] {
            let refused = run(ask(&url));
            assert!(
                refused.stderr.text().contains("403"),
                "{url}: {}",
                refused.stderr.text()
            );
        }
        let around = format!(
            "unset http_proxy https_proxy all_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY; git ls-remote http://127.0.0.1:{port}/x"
        );
        assert!(!run(shell(&around)).success());
        assert_eq!(
            count.load(Ordering::SeqCst),
            1,
            "{}: went around the proxy",
            sandbox.backend()
        );
        assert_eq!(other_count.load(Ordering::SeqCst), 0);

        let records = proxy.records();
        let asked: Vec<(String, u16, bool)> = records
            .iter()
            .map(|record| (record.host.clone(), record.port, record.allowed))
            .collect();
        assert_eq!(
            asked,
            [
                ("127.0.0.1".into(), port, true),
                ("127.0.0.1".into(), other_port, false),
                ("forbidden.example".into(), 443, false),
                ("localhost".into(), 80, false),
            ]
        );
        assert!(records[0].bytes_received > 0 && records[0].bytes_sent > 0);
        assert!(records[2].why.as_deref().unwrap().contains("allow-list"));
        assert!(records[3].why.as_deref().unwrap().contains("private"));
    }
}

#[test]
fn without_a_proxy_there_is_no_network() {
    let (port, count) = counting_server();
    for sandbox in backends() {
        let outcome = sandbox.run_blocking(ask(&format!("http://127.0.0.1:{port}/x")), Output::captured());
        assert!(!outcome.success());
        assert_eq!(count.load(Ordering::SeqCst), 0);
        assert!(["namespace", "seccomp"].contains(&outcome.enforced.network.as_str()));
    }
}
