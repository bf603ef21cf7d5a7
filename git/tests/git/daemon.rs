use std::{
    io::Read,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use git::{Category, Expected, Mirrors, RemoteUrl, Remotes, Settings};

use crate::support::{Bare, free_port, round_trip, short};

/// The daemon's own binary, so that killing it kills the daemon and not a wrapper.
struct Daemon {
    child: Child,
    port: u16,
}

impl Daemon {
    fn start(bare: &Bare) -> Self {
        let exec_path = crate::support::git(&bare.root(), &["--exec-path"]);
        let port = free_port();
        let child = Command::new(format!("{}/git-daemon", exec_path.trim()))
            .args([
                "--reuseaddr",
                "--export-all",
                "--enable=receive-pack",
                "--listen=127.0.0.1",
            ])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", bare.root().display()))
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "the daemon does not listen"
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Daemon { child, port }
    }

    fn url(&self, path: &str) -> RemoteUrl {
        RemoteUrl::parse(&format!("git://127.0.0.1:{}/{path}", self.port)).unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn remotes() -> Remotes {
    Remotes::new(Settings {
        timeouts: short(),
        ..Settings::default()
    })
}

#[test]
fn the_git_daemon_keeps_the_contract() {
    let (bare, head) = Bare::with_commit();
    let daemon = Daemon::start(&bare);
    round_trip(&remotes(), &daemon.url("repo.git"), &bare, head);
}

#[test]
fn a_repository_that_the_daemon_does_not_have_is_not_found_and_a_dead_daemon_is_a_network_error() {
    let (bare, head) = Bare::with_commit();
    let daemon = Daemon::start(&bare);
    let absent = daemon.url("absent.git");
    let error = remotes().list_refs(&absent, &[]).unwrap_err();
    assert!(
        matches!(error.category(), Category::NotFound | Category::Network),
        "{error}"
    );
    let url = daemon.url("repo.git");
    drop(daemon);
    let error = remotes().list_refs(&url, &[]).unwrap_err();
    assert_eq!(error.category(), Category::Network, "{error}");
    let error = remotes()
        .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
        .unwrap_err();
    assert_eq!(error.category(), Category::Network, "{error}");
}

#[test]
fn a_daemon_that_accepts_and_says_nothing_ends_in_a_timeout() {
    let (bare, head) = Bare::with_commit();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = RemoteUrl::parse(&format!(
        "git://127.0.0.1:{}/repo.git",
        listener.local_addr().unwrap().port()
    ))
    .unwrap();
    let serving = std::thread::spawn(move || {
        // Each connection is read to its end, which comes when the caller gives up.
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
    });
    let mut timeouts = short();
    (timeouts.list, timeouts.fetch, timeouts.push) = (
        Duration::from_millis(300),
        Duration::from_millis(300),
        Duration::from_millis(300),
    );
    let remotes = Remotes::new(Settings {
        timeouts,
        ..Settings::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), remotes.clone()).mirror(&url).unwrap();
    assert_eq!(remotes.list_refs(&url, &[]).unwrap_err().category(), Category::Timeout);
    assert_eq!(
        mirror.fetch_branch("main", false).unwrap_err().category(),
        Category::Timeout
    );
    let error = remotes
        .push(&bare.repo, &url, "refs/heads/x", Expected::Absent, head)
        .unwrap_err();
    assert_eq!(error.category(), Category::Timeout, "{error}");
    serving.join().unwrap();
}
