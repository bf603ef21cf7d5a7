//! The one writer: takes what waits, checks preconditions, commits it as one group.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, oneshot, watch};

use super::database::Database;
use super::memory::Memory;
use super::{Change, CommitError, Entry, Expect, Request, Version, Write};

/// The most requests that share one transaction.
const GROUP: usize = 512;
/// The log on disk is trimmed once this many changes have left the log in memory.
const TRIM: Version = 512;

type Reply = oneshot::Sender<Result<Vec<Arc<Change>>, CommitError>>;

pub(super) struct Writer {
    database: Database,
    memory: Arc<RwLock<Memory>>,
    latest: watch::Sender<Version>,
    trimmed: Version,
}

/// The changes of one group before they are committed.
#[derive(Default)]
struct Group {
    changes: Vec<Arc<Change>>,
    pending: HashMap<Arc<str>, Option<Arc<Entry>>>,
}

impl Writer {
    pub(super) fn new(database: Database, memory: Arc<RwLock<Memory>>, latest: watch::Sender<Version>) -> Writer {
        Writer {
            database,
            memory,
            latest,
            trimmed: 0,
        }
    }

    /// Serves requests until every sender is gone.
    pub(super) fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(GROUP);
        while requests.blocking_recv_many(&mut waiting, GROUP) > 0 {
            self.commit(waiting.drain(..));
        }
        self.database.checkpoint();
    }

    fn commit(&mut self, requests: impl Iterator<Item = Request>) {
        let mut group = Group::default();
        let mut replies: Vec<(Reply, std::ops::Range<usize>)> = Vec::new();
        let floor = {
            let memory = self.memory.read().unwrap_or_else(PoisonError::into_inner);
            for request in requests {
                let start = group.changes.len();
                match group.admit(&memory, &request.writes) {
                    Ok(()) => replies.push((request.reply, start..group.changes.len())),
                    Err(error) => answer(request.reply, Err(error)),
                }
            }
            memory.floor()
        };
        let trim = (floor >= self.trimmed + TRIM).then_some(floor);
        if group.changes.is_empty() {
            for (reply, _) in replies {
                answer(reply, Ok(Vec::new()));
            }
            return;
        }
        if let Err(error) = self.database.write(&group.changes, trim) {
            tracing::error!(%error, "a group of writes was refused");
            for (reply, _) in replies {
                answer(reply, Err(error.clone()));
            }
            return;
        }
        self.trimmed = trim.unwrap_or(self.trimmed);
        let version = {
            let mut memory = self.memory.write().unwrap_or_else(PoisonError::into_inner);
            memory.apply(&group.changes);
            memory.version()
        };
        self.latest.send_replace(version);
        for (reply, range) in replies {
            answer(reply, Ok(group.changes[range].to_vec()));
        }
    }
}

fn answer(reply: Reply, result: Result<Vec<Arc<Change>>, CommitError>) {
    // Whoever asked may have gone away; the write stands all the same.
    let _ = reply.send(result);
}

impl Group {
    /// Adds the changes of one request, or none of them if a precondition fails; preconditions are about what there was
    /// before the request.
    fn admit(&mut self, memory: &Memory, writes: &[Write]) -> Result<(), CommitError> {
        let start = self.changes.len();
        for write in writes {
            let key = write.key();
            let stands = match self.pending.get(key) {
                Some(entry) => entry.clone(),
                None => memory.get(key),
            };
            let own = self.changes[start..].iter().find(|change| change.key == *key);
            let found = own.map_or_else(|| stands.clone(), |first| first.before.clone());
            let holds = match (write, &found) {
                (
                    Write::Put {
                        expect: Expect::Absent, ..
                    },
                    found,
                ) => found.is_none(),
                (
                    Write::Put {
                        expect: Expect::Version(version),
                        ..
                    }
                    | Write::Delete { expect: version, .. }
                    | Write::Require { expect: version, .. },
                    Some(entry),
                ) => entry.version == *version,
                (_, None) => false,
            };
            if !holds {
                self.undo(start);
                return Err(CommitError::Precondition {
                    key: Arc::clone(key),
                    found,
                });
            }
            let version = memory.version() + self.changes.len() as Version + 1;
            let after = match write {
                Write::Put { document, .. } => Some(Arc::new(Entry {
                    key: Arc::clone(key),
                    version,
                    version_at: u32::try_from(document.version_at).unwrap_or(0),
                    bytes: document.stamp(version),
                })),
                Write::Delete { .. } => None,
                Write::Require { .. } => continue,
            };
            self.pending.insert(Arc::clone(key), after.clone());
            self.changes.push(Arc::new(Change {
                version,
                key: Arc::clone(key),
                before: stands,
                after,
            }));
        }
        Ok(())
    }

    /// Takes back the changes from `start` on.
    fn undo(&mut self, start: usize) {
        while self.changes.len() > start {
            if let Some(change) = self.changes.pop() {
                self.pending.insert(Arc::clone(&change.key), change.before.clone());
            }
        }
    }
}
