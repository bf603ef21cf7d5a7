//! Evidence on its way out: spooled to disk, sent in immutable segments to the operator's store.

use std::path::{Path, PathBuf};
use std::time::Duration;

use schemas::shared::EvidenceRef;
use tokio::io::AsyncReadExt;

use crate::daemon::claim::Held;

const SEGMENT_BYTES: usize = 1 << 20;
const TRIES: u32 = 5;

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

    /// Sends every spooled file; returns what is stored and the first error, if any.
    pub async fn send_all(&self) -> (Vec<EvidenceRef>, Option<Error>) {
        let mut stored = Vec::new();
        let mut failed = None;
        for name in self.names() {
            match self.send(&name).await {
                Ok(evidence) => stored.push(evidence),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        (stored, failed)
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
        let Some(target) = &self.target else {
            return Ok(EvidenceRef {
                name: name.into(),
                url: format!("file://{}", path.display()),
                bytes,
            });
        };
        let base = format!("{target}/evidence/{}/{}/{name}", self.uid, self.epoch);
        let mut file = tokio::fs::File::open(&path).await.map_err(spool)?;
        let mut segment = 0_u32;
        loop {
            let mut chunk = Vec::with_capacity(SEGMENT_BYTES.min(bytes as usize + 1));
            (&mut file)
                .take(SEGMENT_BYTES as u64)
                .read_to_end(&mut chunk)
                .await
                .map_err(spool)?;
            if chunk.is_empty() && segment > 0 {
                break;
            }
            let last = chunk.len() < SEGMENT_BYTES;
            self.put(&format!("{base}/{segment}"), chunk).await?;
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
                    if !status.is_server_error() && status.as_u16() != 429 {
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
