//! Durable storage of versioned values under string keys; it knows no kinds.
//!
//! One writer thread commits groups of waiting requests in one SQLite transaction
//! each (group commit, `synchronous=FULL`): when [`Store::commit`] answers, the write
//! is on disk. Every change takes the next number of one global counter inside that
//! transaction, and is written into the value at a place that the caller names, so
//! that stored bytes can be handed out without being parsed again. Reads and watches
//! are served from memory: the current values, and a bounded log of changes.

mod database;
mod memory;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use memory::Memory;

/// The number of a change: one global counter that only grows.
pub type Version = u64;

/// A value as it stands in the store.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The key under which the value is stored.
    pub key: Arc<str>,
    /// The change that wrote this value.
    pub version: Version,
    /// The value with its version written into it.
    pub bytes: Bytes,
    version_at: u32,
}

impl Entry {
    /// Makes a value that is not stored: what a write that is only tried would leave behind.
    pub fn tried(key: Arc<str>, bytes: Bytes) -> Entry {
        Entry {
            key,
            version: Version::MAX,
            bytes,
            version_at: 0,
        }
    }

    /// Returns the value's bytes with another version written into it.
    pub fn bytes_at(&self, version: Version) -> Bytes {
        let at = self.version_at as usize;
        let after = at + decimal_len(self.version);
        match (self.bytes.get(..at), self.bytes.get(after..)) {
            (Some(head), Some(tail)) => {
                let mut out = Vec::with_capacity(self.bytes.len() + 4);
                out.extend_from_slice(head);
                out.extend_from_slice(version.to_string().as_bytes());
                out.extend_from_slice(tail);
                Bytes::from(out)
            }
            _ => self.bytes.clone(),
        }
    }
}

fn decimal_len(version: Version) -> usize {
    version.checked_ilog10().unwrap_or(0) as usize + 1
}

/// A value that is not stored yet: bytes and the place where its version is to be written.
#[derive(Debug, Clone)]
pub struct Document {
    /// The value without a version.
    pub bytes: Vec<u8>,
    /// The offset in `bytes` at which the version's decimal digits are inserted.
    pub version_at: usize,
}

impl Document {
    fn stamp(&self, version: Version) -> Bytes {
        let at = self.version_at.min(self.bytes.len());
        let (head, tail) = self.bytes.split_at(at);
        let mut out = Vec::with_capacity(self.bytes.len() + 20);
        out.extend_from_slice(head);
        out.extend_from_slice(version.to_string().as_bytes());
        out.extend_from_slice(tail);
        out.shrink_to_fit();
        Bytes::from(out)
    }
}

/// What a write requires of the key before it is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key must hold the value written by this change.
    Version(Version),
}

/// One change that is asked for. Of several changes of one key in one commit, each expects what there was before all.
#[derive(Debug, Clone)]
pub enum Write {
    /// Stores a value.
    Put {
        /// The key to write.
        key: Arc<str>,
        /// The new value.
        document: Document,
        /// The precondition.
        expect: Expect,
    },
    /// Removes a value.
    Delete {
        /// The key to remove.
        key: Arc<str>,
        /// The change that wrote the value which may be removed.
        expect: Version,
    },
    /// Changes nothing, but holds the commit to the state of another key.
    Require {
        /// The key that is looked at.
        key: Arc<str>,
        /// The change that wrote its value.
        expect: Version,
    },
}

impl Write {
    fn key(&self) -> &Arc<str> {
        match self {
            Write::Put { key, .. } | Write::Delete { key, .. } | Write::Require { key, .. } => key,
        }
    }
}

/// One committed change.
#[derive(Debug, Clone)]
pub struct Change {
    /// The number of this change.
    pub version: Version,
    /// The key that changed.
    pub key: Arc<str>,
    /// The value before, if there was one.
    pub before: Option<Arc<Entry>>,
    /// The value after, unless the key was removed.
    pub after: Option<Arc<Entry>>,
}

/// The values below a prefix at one version.
#[derive(Debug)]
pub struct Listing {
    /// The version at which the list was taken.
    pub version: Version,
    /// The values in the order of their keys.
    pub entries: Vec<Arc<Entry>>,
}

/// A version that the log no longer reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("failed to read at version {asked}: the log starts after version {oldest}")]
pub struct Expired {
    /// The version that was asked for.
    pub asked: Version,
    /// The oldest version that can still be served.
    pub oldest: Version,
}

/// Why a list of writes was not committed. None of its writes took effect.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CommitError {
    /// A precondition did not hold.
    #[error("failed to commit: a precondition on {key} did not hold")]
    Precondition {
        /// The key whose precondition failed.
        key: Arc<str>,
        /// What the key holds now.
        found: Option<Arc<Entry>>,
    },
    /// The disk is full.
    #[error(
        "failed to write the state at {path}: no space is left on the disk; nothing that was acknowledged is lost, free some space and try again"
    )]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// The database refused the transaction.
    #[error("failed to write the state at {path}: {reason}")]
    Database {
        /// The database file.
        path: PathBuf,
        /// What the database said.
        reason: String,
    },
    /// The store has been closed.
    #[error("failed to commit: the store is closed")]
    Closed,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A folder or file could not be made.
    #[error("failed to prepare {path}: {source}")]
    Io {
        /// The path that was to be made.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// Another process has the state open.
    #[error("failed to open the state at {path}: another process is using it")]
    InUse {
        /// The database file.
        path: PathBuf,
    },
    /// The state was written by a newer program.
    #[error(
        "failed to open the state at {path}: it was written by Foreman {writer} (state format {found}), and this is Foreman {ours}, which knows formats up to {known}; run Foreman {writer} or newer, or choose another state folder"
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// The program version that wrote it.
        writer: String,
        /// Its format.
        found: i64,
        /// This program's version.
        ours: String,
        /// The newest format that this program knows.
        known: i64,
    },
    /// The database is damaged or cannot be read.
    #[error("failed to open the state at {path}: {source}")]
    Database {
        /// The database file.
        path: PathBuf,
        /// The cause.
        source: rusqlite::Error,
    },
}

/// How much of the past the store keeps.
#[derive(Debug, Clone, Copy)]
pub struct Retention {
    /// The most changes that the log holds.
    pub changes: usize,
    /// The most bytes of values that the log holds.
    pub bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Retention {
            changes: 16_384,
            bytes: 16 << 20,
        }
    }
}

struct Request {
    writes: Vec<Write>,
    reply: oneshot::Sender<Result<Vec<Arc<Change>>, CommitError>>,
}

/// A handle on the store; clones share one store.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

struct Shared {
    memory: Arc<RwLock<Memory>>,
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    latest: watch::Receiver<Version>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    path: PathBuf,
}

impl Store {
    /// Opens the database `file`, making it if there is none, and starts the writer.
    ///
    /// `program` is this program's version: it is noted in the state and named by an
    /// older program that refuses to open it.
    pub fn open(file: &Path, program: &str, retention: Retention) -> Result<Store, OpenError> {
        Store::start(database::Database::open(file, program)?, file, retention)
    }

    fn start(database: database::Database, file: &Path, retention: Retention) -> Result<Store, OpenError> {
        let memory = database
            .load(retention)
            .map_err(|source| database::open_error(file, source))?;
        let (latest_tx, latest) = watch::channel(memory.version());
        let memory = Arc::new(RwLock::new(memory));
        let (tx, rx) = mpsc::channel(1024);
        let writer = writer::Writer::new(database, Arc::clone(&memory), latest_tx);
        let thread = std::thread::Builder::new()
            .name("plane-writer".into())
            .spawn(move || writer.run(rx))
            .map_err(|source| OpenError::Io {
                path: file.to_path_buf(),
                source,
            })?;
        Ok(Store {
            shared: Arc::new(Shared {
                memory,
                requests: Mutex::new(Some(tx)),
                latest,
                thread: Mutex::new(Some(thread)),
                path: file.to_path_buf(),
            }),
        })
    }

    /// Commits all of `writes` or none, and answers once they are on disk.
    pub async fn commit(&self, writes: Vec<Write>) -> Result<Vec<Arc<Change>>, CommitError> {
        let sender = lock(&self.shared.requests).clone().ok_or(CommitError::Closed)?;
        let (reply, answer) = oneshot::channel();
        sender
            .send(Request { writes, reply })
            .await
            .map_err(|_| CommitError::Closed)?;
        answer.await.map_err(|_| CommitError::Closed)?
    }

    /// Returns the value under `key`.
    pub fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read(|memory| memory.get(key))
    }

    /// Lists the values whose keys start with `prefix` and come after `after`, as they
    /// stand now or stood at version `at`.
    pub fn list(&self, prefix: &str, after: Option<&str>, at: Option<Version>) -> Result<Listing, Expired> {
        self.read(|memory| memory.list(prefix, after, at))
    }

    /// Returns the changes after `since` whose keys start with `prefix`, with the
    /// version up to which they are complete.
    pub fn changes_since(&self, prefix: &str, since: Version) -> Result<(Vec<Arc<Change>>, Version), Expired> {
        self.read(|memory| memory.changes_since(prefix, since))
    }

    /// Returns the number of the last change.
    pub fn version(&self) -> Version {
        self.read(Memory::version)
    }

    /// Returns a receiver that is told of every new version after it is committed.
    pub fn subscribe(&self) -> watch::Receiver<Version> {
        self.shared.latest.clone()
    }

    /// Returns the database file.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Stops the writer once it has answered what it was sent, and closes the database.
    pub async fn close(&self) {
        drop(lock(&self.shared.requests).take());
        let thread = lock(&self.shared.thread).take();
        if let Some(thread) = thread {
            let joined = tokio::task::spawn_blocking(move || thread.join()).await;
            if !matches!(joined, Ok(Ok(()))) {
                tracing::error!("the state's writer ended abnormally");
            }
        }
    }

    fn read<T>(&self, f: impl FnOnce(&Memory) -> T) -> T {
        f(&self.shared.memory.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
