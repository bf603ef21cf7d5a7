//! Evidence on its way out: spooled to disk, sent in immutable segments to the operator's store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemas::shared::EvidenceRef;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::daemon::claim::Held;

const SEGMENT_BYTES: usize = 1 << 20;
const TRIES: u32 = 5;
/// How long the evidence of a run may take to be sent, all in all.
pub const SEND_TIME: Duration = Duration::from_secs(45);

/// What can go wrong with evidence.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The spool could not be used.
    #[error("failed to spool evidence at {path}: {source}")]
    Spool {
        /// File or folder.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// The store could not be reached.
    #[error("failed to send evidence to {url}: {source}")]
    Send {
        /// Address of the segment.
        url: String,
        /// Cause.
        source: reqwest::Error,
    },
    /// The store took too long.
    #[error("failed to send evidence to {url}: the store did not take all of it within {seconds} s")]
    Slow {
        /// Address of the first file that is missing.
        url: String,
        /// The limit for all files.
        seconds: u64,
    },
    /// The store refused a segment.
    #[error("failed to send evidence to {url}: the store answered {status}: {body}")]
    Refused {
        /// Address of the segment.
        url: String,
        /// HTTP status.
        status: u16,
        /// What the store said.
        body: String,
    },
}

/// The evidence of one claim.
#[derive(Clone, Debug)]
pub struct Spool {
    dir: PathBuf,
    target: Option<String>,
    uid: String,
    epoch: i64,
    secret: crate::daemon::claim::ClaimSecret,
    http: reqwest::Client,
}

impl Spool {
    /// Opens the spool of a claim below `root`.
    pub fn open(root: &Path, store: Option<&str>, held: &Held, http: reqwest::Client) -> Result<Self, Error> {
        let dir = root.join(&held.uid).join(held.claim.epoch.to_string());
        std::fs::create_dir_all(&dir).map_err(|source| Error::Spool {
            path: dir.clone(),
            source,
        })?;
        Ok(Self {
            dir,
            target: store.map(str::to_owned),
            uid: held.uid.clone(),
            epoch: held.claim.epoch,
            secret: held.secret.clone(),
            http,
        })
    }

    /// Returns where the file called `name` is spooled.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes `bytes` as the file called `name`.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let path = self.path(name);
        std::fs::write(&path, bytes).map_err(|source| Error::Spool { path, source })
    }

    /// Sends every spooled file, for no longer than `limit`; returns what is stored and the first error, if any.
    pub async fn send_all(&self, limit: Duration) -> (Vec<EvidenceRef>, Option<Error>) {
        let until = Instant::now() + limit;
        let mut stored = Vec::new();
        let mut failed = None;
        for name in self.names() {
            match tokio::time::timeout_at(until, self.send(&name)).await {
                Ok(Ok(evidence)) => stored.push(evidence),
                Ok(Err(error)) => failed = failed.or(Some(error)),
                Err(_) => {
                    let slow = || Error::Slow {
                        url: self.url(&name),
                        seconds: limit.as_secs(),
                    };
                    failed = failed.or_else(|| Some(slow()));
                    break;
                }
            }
        }
        (stored, failed)
    }

    fn url(&self, name: &str) -> String {
        let store = self.target.as_deref().unwrap_or_default();
        address(store, &self.uid, self.epoch, name)
    }

    /// Removes the spooled files.
    pub fn remove(&self) {
        if self.target.is_some() {
            let _ = std::fs::remove_dir_all(&self.dir);
            if let Some(parent) = self.dir.parent() {
                let _ = std::fs::remove_dir(parent);
            }
        }
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(&self.dir)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    async fn send(&self, name: &str) -> Result<EvidenceRef, Error> {
        let path = self.path(name);
        let spool = |source| Error::Spool {
            path: path.clone(),
            source,
        };
        let bytes = tokio::fs::metadata(&path).await.map_err(spool)?.len() as i64;
        if self.target.is_none() {
            return Ok(EvidenceRef {
                name: name.into(),
                url: format!("file://{}", path.display()),
                bytes,
            });
        }
        let base = self.url(name);
        let mut file = tokio::fs::File::open(&path).await.map_err(spool)?;
        let mut segment = 0_u32;
        let mut chunk = Vec::new();
        loop {
            let room = SEGMENT_BYTES - chunk.len();
            (&mut file)
                .take(room as u64)
                .read_to_end(&mut chunk)
                .await
                .map_err(spool)?;
            if chunk.is_empty() && segment > 0 {
                break;
            }
            let last = chunk.len() < SEGMENT_BYTES;
            let rest = if last { Vec::new() } else { chunk.split_off(cut(&chunk)) };
            self.put(&format!("{base}/{segment}"), chunk).await?;
            chunk = rest;
            segment += 1;
            if last {
                break;
            }
        }
        Ok(EvidenceRef {
            name: name.into(),
            url: base,
            bytes,
        })
    }

    async fn put(&self, url: &str, chunk: Vec<u8>) -> Result<(), Error> {
        let chunk = bytes::Bytes::from(chunk);
        for attempt in 1.. {
            let sent = self
                .http
                .put(url)
                .bearer_auth(self.secret.expose())
                .body(chunk.clone())
                .send()
                .await;
            let error = match sent {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => {
                    let status = answer.status();
                    let body = crate::outcome::shorten(&answer.text().await.unwrap_or_default(), 200);
                    let error = Error::Refused {
                        url: url.into(),
                        status: status.as_u16(),
                        body,
                    };
                    if !status.is_server_error() && !matches!(status.as_u16(), 408 | 429) {
                        return Err(error);
                    }
                    error
                }
                Err(source) => Error::Send {
                    url: url.into(),
                    source,
                },
            };
            if attempt >= TRIES {
                return Err(error);
            }
            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
        }
        Ok(())
    }
}

/// Returns the address of the file called `name` of a claim in a store.
pub fn address(store: &str, uid: &str, epoch: i64, name: &str) -> String {
    format!("{store}/evidence/{uid}/{epoch}/{name}")
}

/// Returns where a full segment ends: after its last line, so that no secret in a line is cut in two and stored so.
fn cut(chunk: &[u8]) -> usize {
    chunk
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(chunk.len(), |end| end + 1)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use schemas::agentic_task::Claim;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::daemon::claim::ClaimSecret;

    fn spool(root: &Path, store: &str) -> Spool {
        let secret = ClaimSecret::new([1; 32]);
        let held = Held {
            namespace: "n".into(),
            name: "t".into(),
            uid: "u".into(),
            claim: Claim {
                node: "n".into(),
                agent: "a".into(),
                epoch: 1,
                secret_sha256: secret.sha256(),
            },
            secret,
        };
        Spool::open(root, Some(store), &held, reqwest::Client::new()).unwrap()
    }

    /// Reads one request: its first line and its body.
    async fn request(socket: &mut TcpStream) -> (String, Vec<u8>) {
        let mut read = Vec::new();
        loop {
            socket.read_buf(&mut read).await.unwrap();
            let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length: ")?
                        .parse::<usize>()
                        .ok()
                })
                .unwrap_or(0);
            if read.len() >= end + 4 + length {
                return (head.lines().next().unwrap().to_owned(), read[end + 4..].to_vec());
            }
        }
    }

    #[tokio::test]
    async fn an_upload_that_breaks_off_is_sent_again_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spool = spool(folder.path(), &format!("http://{}", listener.local_addr().unwrap()));
        let text = "line\n".repeat(100_000);
        spool.write("log", text.as_bytes()).unwrap();
        let server = tokio::spawn(async move {
            // The first breaks off in the middle; of the second only the answer is lost.
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.read_exact(&mut [0_u8; 1000]).await.unwrap();
            drop(socket);
            let (mut socket, _) = listener.accept().await.unwrap();
            let stored = request(&mut socket).await;
            drop(socket);
            let (mut socket, _) = listener.accept().await.unwrap();
            let again = request(&mut socket).await;
            socket
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                .await
                .unwrap();
            (stored, again)
        });
        let (sent, error) = spool.send_all(SEND_TIME).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(sent[0].bytes, text.len() as i64);
        let (stored, again) = server.await.unwrap();
        assert_eq!(stored.0, "PUT /evidence/u/1/log/0 HTTP/1.1");
        assert_eq!(stored, again);
        assert_eq!(stored.1, text.as_bytes());
    }

    #[tokio::test]
    async fn a_store_that_does_not_answer_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let store = format!("http://{}", listener.local_addr().unwrap());
        let spool = spool(folder.path(), &store);
        for name in ["gate-log", "transcript"] {
            spool.write(name, b"x").unwrap();
        }
        let (sent, error) = spool.send_all(Duration::from_millis(50)).await;
        assert!(sent.is_empty());
        let error = error.unwrap().to_string();
        assert!(error.contains(&format!("{store}/evidence/u/1/gate-log")), "{error}");
        assert!(error.contains("within 0 s"), "{error}");
    }

    #[test]
    fn a_segment_ends_with_a_line_where_it_can() {
        assert_eq!(cut(b"one\ntoken=abc"), 4);
        assert_eq!(cut(b"one\n"), 4);
        assert_eq!(cut(b"a line without end"), 18);
    }

    #[tokio::test]
    async fn segments_put_together_are_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spool = spool(folder.path(), &format!("http://{}", listener.local_addr().unwrap()));
        let line = format!("{}\n", "x".repeat(999));
        let text = line.repeat(SEGMENT_BYTES / 1000 + 2) + "the end";
        spool.write("log", text.as_bytes()).unwrap();
        let server = tokio::spawn(async move {
            let mut bodies = Vec::new();
            for _ in 0..2 {
                let (mut socket, _) = listener.accept().await.unwrap();
                bodies.push(request(&mut socket).await.1);
                socket
                    .write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await
                    .unwrap();
            }
            bodies
        });
        assert!(spool.send_all(SEND_TIME).await.1.is_none());
        let bodies = server.await.unwrap();
        assert!(bodies[0].ends_with(b"x\n"));
        assert_eq!(bodies.concat(), text.as_bytes());
    }
}
