//! One exchange with a remote: its time limit, and what its failure means.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    error::{Error, one_line},
    lock,
    url::RemoteUrl,
};

/// Why an exchange failed, as far as the connection itself knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    Timeout,
    Auth(String),
    NotFound { what: String, reason: String },
    Network(String),
    Refused(String),
}

/// What the other side wrote on its error stream, bounded.
pub(crate) type Tail = Arc<Mutex<Vec<u8>>>;

/// One exchange. Streams record here why they failed, because the libraries above lose it.
pub(crate) struct Session {
    pub(crate) url: RemoteUrl,
    pub(crate) action: &'static str,
    limit: Duration,
    pub(crate) idle: Duration,
    pub(crate) deadline: Instant,
    failure: Mutex<Option<Failure>>,
    tail: Tail,
    drained: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Session {
    pub(crate) fn new(url: &RemoteUrl, action: &'static str, limit: Duration, idle: Duration) -> Arc<Self> {
        Arc::new(Session {
            url: url.clone(),
            action,
            limit,
            idle,
            deadline: Instant::now() + limit,
            failure: Mutex::new(None),
            tail: Tail::default(),
            drained: Mutex::new(None),
        })
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Remembers the first failure.
    pub(crate) fn record(&self, failure: Failure) {
        lock(&self.failure).get_or_insert(failure);
    }

    pub(crate) fn timed_out(&self) -> bool {
        matches!(*lock(&self.failure), Some(Failure::Timeout))
    }

    pub(crate) fn failed(&self) -> bool {
        lock(&self.failure).is_some()
    }

    /// Collects an error stream in the background.
    pub(crate) fn collect(&self, stream: impl std::io::Read + Send + 'static) {
        let tail = self.tail.clone();
        let spawned = std::thread::Builder::new()
            .name("git-stderr".into())
            .spawn(move || drain(stream, &tail));
        if let Ok(handle) = spawned {
            lock(&self.drained).replace(handle);
        }
    }

    fn tail_text(&self) -> String {
        // The stream ends when its process does; a process that lives on is not waited for.
        if let Some(handle) = lock(&self.drained).take() {
            let until = Instant::now() + Duration::from_secs(1);
            while !handle.is_finished() && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        String::from_utf8_lossy(&lock(&self.tail)).into_owned()
    }

    /// Makes an error from a failure that is known here.
    pub(crate) fn fail(&self, failure: Failure) -> Error {
        let (action, url) = (self.action, self.url.to_string());
        match failure {
            Failure::Timeout => Error::Timeout {
                action,
                url,
                after: self.limit,
            },
            Failure::Auth(reason) => Error::Auth {
                action,
                url,
                reason: one_line(&reason),
            },
            Failure::NotFound { what, reason } => Error::NotFound {
                action,
                url,
                what,
                reason: one_line(&reason),
            },
            Failure::Network(reason) => Error::Network {
                action,
                url,
                reason: one_line(&reason),
            },
            Failure::Refused(reason) => Error::Refused {
                action,
                url,
                reason: one_line(&reason),
            },
        }
    }

    /// Makes an error from a library's: what the connection recorded counts first, then what the server wrote on
    /// its error stream, then the library's text.
    pub(crate) fn error(&self, text: &str) -> Error {
        let recorded = lock(&self.failure).clone();
        if let Some(failure) = recorded {
            return self.fail(failure);
        }
        if self.remaining().is_zero() {
            return self.fail(Failure::Timeout);
        }
        let tail = self.tail_text();
        let failure = classify(&tail).or_else(|| classify(text)).unwrap_or_else(|| {
            let said = if tail.trim().is_empty() {
                text.to_owned()
            } else {
                format!("{text} ({})", tail.trim())
            };
            Failure::Network(said)
        });
        self.fail(failure)
    }
}

fn drain(mut stream: impl std::io::Read, tail: &Tail) {
    const KEEP: usize = 8 * 1024;
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        let mut tail = lock(tail);
        tail.extend_from_slice(&buffer[..read]);
        let excess = tail.len().saturating_sub(KEEP);
        tail.drain(..excess);
    }
}

/// Reads what Git, ssh and forges write when they refuse.
pub(crate) fn classify(text: &str) -> Option<Failure> {
    let lower = text.to_ascii_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
    // The line that says it, rather than the advice around it.
    let said = || {
        let line = text
            .lines()
            .find(|line| line.contains("fatal:") || line.contains("ERROR:") || line.contains("denied"));
        one_line(
            line.or_else(|| text.lines().find(|line| !line.trim().is_empty()))
                .unwrap_or(text),
        )
    };
    if has(&[
        "permission denied (",
        "host key verification failed",
        "authentication failed",
        "could not read username",
        "too many authentication failures",
        "remote host identification has changed",
    ]) {
        return Some(Failure::Auth(said()));
    }
    if has(&[
        "does not appear to be a git repository",
        "not a git repository",
        "repository not exported",
        "repository not found",
        "no such repository",
        "project you were looking for could not be found",
        "cannot find repository",
    ]) {
        return Some(Failure::NotFound {
            what: "repository".into(),
            reason: said(),
        });
    }
    if has(&["not our ref"]) {
        return Some(Failure::NotFound {
            what: "commit".into(),
            reason: said(),
        });
    }
    if has(&["dubious ownership", "service not enabled"]) {
        return Some(Failure::Refused(said()));
    }
    if has(&["timed out", "timeout"]) && !has(&["connection timed out", "operation timed out"]) {
        return Some(Failure::Timeout);
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::error::Category;

    #[test]
    fn what_servers_write_is_told_apart() {
        let session = || {
            Session::new(
                &RemoteUrl::parse("ssh://git@h/a").unwrap(),
                "list refs of",
                Duration::from_secs(9),
                Duration::from_secs(9),
            )
        };
        for (text, category) in [
            ("git@h: Permission denied (publickey).", Category::Auth),
            ("Host key verification failed.\r\n", Category::Auth),
            ("fatal: '/x' does not appear to be a git repository", Category::NotFound),
            ("ERROR: Repository not found.", Category::NotFound),
            ("ssh: connect to host h port 22: Connection refused", Category::Network),
            ("unexpected end of file", Category::Network),
            (
                "fatal: detected dubious ownership in repository at '/x'",
                Category::Refused,
            ),
        ] {
            assert_eq!(session().error(text).category(), category, "{text}");
        }
    }

    #[test]
    fn a_recorded_failure_counts_more_than_the_text() {
        let session = Session::new(
            &RemoteUrl::parse("git://h/a").unwrap(),
            "fetch from",
            Duration::from_secs(9),
            Duration::from_secs(9),
        );
        session.record(Failure::Timeout);
        session.record(Failure::Network("later".into()));
        assert_eq!(
            session.error("Permission denied (publickey)").category(),
            Category::Timeout
        );
    }
}
