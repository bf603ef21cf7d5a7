//! The filtering proxy is the only way out, and says who asked for what.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sandbox::{AllowList, Backend, Command, Network, Output, Proxy, Sandbox, Toolchain};

use crate::part::part;
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

/// From inside: connects in some way to the port of the proxy, and says what came of it.
pub fn connect(way: &str) {
    let url = std::env::var("http_proxy").unwrap();
    let port: u16 = url.trim_end_matches('/').rsplit(':').next().unwrap().parse().unwrap();
    let to = move |ip: &str| SocketAddr::new(ip.parse().unwrap(), port);
    let answer = match way {
        "blocking" => TcpStream::connect(to("127.0.0.1")).and_then(ask_proxy),
        "by-a-thread" => std::thread::spawn(move || TcpStream::connect(to("127.0.0.1")).and_then(ask_proxy))
            .join()
            .unwrap(),
        "nonblocking" => {
            TcpStream::connect_timeout(&to("127.0.0.1"), std::time::Duration::from_secs(5)).and_then(ask_proxy)
        }
        "mapped" => TcpStream::connect(to("::ffff:127.0.0.1")).and_then(ask_proxy),
        "another-address" => TcpStream::connect(to("127.0.0.2")).and_then(ask_proxy),
        "another-address-mapped" => TcpStream::connect(to("::ffff:127.0.0.2")).and_then(ask_proxy),
        "no-socket" => connect_file(&to("127.0.0.1")),
        other => panic!("unknown way {other}"),
    };
    match answer {
        Ok(answer) => println!("\nCAME answer {answer}"),
        Err(error) => println!("\nCAME error {}", error.raw_os_error().unwrap()),
    }
}

/// Asks the proxy for a host without its secret, and returns the first words of its answer.
fn ask_proxy(mut proxy: TcpStream) -> std::io::Result<String> {
    proxy.write_all(b"CONNECT forbidden.example:443 HTTP/1.1\r\n\r\n")?;
    let mut answer = [0; 8];
    proxy.read_exact(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn connect_file(to: &SocketAddr) -> std::io::Result<String> {
    let file = std::fs::File::open("/dev/null")?;
    rustix::net::connect(&file, to)?;
    Ok("a file was connected".into())
}

/// What a way to connect comes to.
fn came(sandbox: &Sandbox, way: &str) -> String {
    let (args, (key, value)) = part(&format!("connect {way}"));
    let command = Command::new("/opt/connect")
        .args(args)
        .env(key, value)
        .toolchain(&Toolchain::host())
        .ro(std::fs::read_link("/proc/self/exe").unwrap(), "/opt/connect")
        .network(Network::AllowList(Proxy::new(AllowList::parse(["a.example"]).unwrap())));
    let outcome = sandbox.run_blocking(command, Output::captured());
    let said = outcome.stdout.text();
    let came = said.lines().find_map(|line| line.strip_prefix("CAME "));
    came.unwrap_or_else(|| panic!("{way}: {outcome:?}")).to_owned()
}

#[test]
fn the_proxy_is_all_that_can_be_connected_to() {
    let mut sandboxes = backends();
    if let Some(landlock) = sandboxes.iter().find(|sandbox| sandbox.backend() == Backend::Landlock) {
        // Landlock did not know of networks before ABI 4, nor of signals before ABI 6.
        let older = [1, 5].map(|abi| landlock.clone().with_landlock_at_most(abi));
        sandboxes.extend(older);
    }
    for sandbox in sandboxes {
        for way in ["blocking", "by-a-thread", "nonblocking", "mapped"] {
            assert_eq!(came(&sandbox, way), "answer HTTP/1.1", "{}: {way}", sandbox.backend());
        }
        let refused = match sandbox.backend() {
            // A network of its own, in which there is nothing else.
            Backend::Namespaces => libc::ECONNREFUSED,
            _ => libc::EPERM,
        };
        for (way, errno) in [
            ("another-address", refused),
            ("another-address-mapped", refused),
            ("no-socket", libc::ENOTSOCK),
        ] {
            assert_eq!(
                came(&sandbox, way),
                format!("error {errno}"),
                "{}: {way}",
                sandbox.backend()
            );
        }
    }
}
