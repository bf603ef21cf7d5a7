//! The evidence store: logs, transcripts, diffs and reports, in immutable segments.

mod address;
mod claim;
pub mod http;
mod reading;
pub mod redact;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, spawn_blocking};

pub use address::Address;
use address::check_uid;
use reading::Part;
pub use reading::Text;
use redact::{Redaction, Redactor};

/// Bytes of one segment.
pub const MAX_SEGMENT: usize = 8 * 1024 * 1024;
/// Bytes of one task, over all its claims.
pub const MAX_TASK: u64 = 256 * 1024 * 1024;
/// Bytes on either side of a segment in which a secret that crosses its edge is looked for.
const EDGE: u64 = 64 * 1024;
/// Segments that are held at once, each some three times, while they are stored.
const UPLOADS: usize = 8;
/// Why evidence could not be stored or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error("failed to open the evidence folder {dir}: {source}")]
    Open {
        /// Folder.
        dir: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error("failed to {action} evidence: {source}")]
    Store {
        /// What was being done.
        action: &'static str,
        /// What the store said.
        source: object_store::Error,
    },
    /// The work on it broke off.
    #[error("failed to finish the work on evidence: {source}")]
    Broken {
        /// What ended it.
        source: JoinError,
    },
    /// Another segment of this number is there, with other content.
    #[error("failed to store evidence: {0} is there already with other content; segments never change")]
    Differs(String),
    /// A limit was reached.
    #[error("failed to store evidence: {what} is over the limit of {limit} bytes")]
    TooLarge {
        /// What is too large.
        what: String,
        /// Limit.
        limit: u64,
    },
    /// A part of the address is not usable.
    #[error("failed to read the evidence address: {0}")]
    Address(String),
}

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Epoch.
    pub epoch: i64,
    /// Name.
    pub name: String,
    /// Segments.
    pub segments: u64,
    /// Bytes in all segments.
    pub bytes: u64,
}

/// What storing a segment came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    New,
    /// It was there already, the same.
    Same,
}

/// The evidence store.
#[derive(Clone)]
pub struct Evidence {
    store: Arc<dyn ObjectStore>,
    redactor: Arc<Redactor>,
    uploads: Arc<Semaphore>,
}

impl Evidence {
    /// Opens a folder; it is made if it is not there, for its owner only.
    pub fn open(dir: impl Into<PathBuf>, redactor: Redactor) -> Result<Self, Error> {
        let dir = dir.into();
        let fail = |source| Error::Open {
            dir: dir.clone(),
            source,
        };
        std::fs::create_dir_all(&dir).map_err(fail)?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).map_err(fail)?;
        }
        let store = LocalFileSystem::new_with_prefix(&dir).map_err(|source| Error::Store {
            action: "open the folder of",
            source,
        })?;
        Ok(Self {
            store: Arc::new(store),
            redactor: Arc::new(redactor),
            uploads: Arc::new(Semaphore::new(UPLOADS)),
        })
    }

    /// Stores a segment, with secrets taken out.
    pub async fn put(&self, address: &Address, body: Bytes) -> Result<Stored, Error> {
        if body.len() > MAX_SEGMENT {
            return Err(Error::TooLarge {
                what: "the segment".into(),
                limit: MAX_SEGMENT as u64,
            });
        }
        let redactor = self.redactor.clone();
        let body = spawn_blocking(move || redactor.redact_segment(&body)).await;
        let body = body.map_err(|source| Error::Broken { source })?;
        let path = address.path();
        let create = PutOptions {
            mode: PutMode::Create,
            ..PutOptions::default()
        };
        let fail = |action: &'static str| move |source| Error::Store { action, source };
        let held: u64 = self
            .store
            .list(Some(&Path::from(address.task.as_str())))
            .map_ok(|found| found.size)
            .try_fold(0, |sum, size| async move { Ok(sum + size) })
            .await
            .map_err(fail("measure"))?;
        if held.saturating_add(body.len() as u64) > MAX_TASK {
            // What is there already may be sent again.
            let stored = self.stored(address).await?;
            if stored.is_some_and(|stored| stored == body) {
                return Ok(Stored::Same);
            }
            return Err(Error::TooLarge {
                what: "the task's evidence".into(),
                limit: MAX_TASK,
            });
        }
        match self.store.put_opts(&path, body.clone().into(), create).await {
            Ok(_) => Ok(Stored::New),
            Err(object_store::Error::AlreadyExists { .. }) => {
                let found = self.store.get(&path).await.map_err(fail("read"))?;
                let found = found.bytes().await.map_err(fail("read"))?;
                if found == body {
                    Ok(Stored::Same)
                } else {
                    Err(Error::Differs(path.to_string()))
                }
            }
            Err(source) => Err(Error::Store {
                action: "store",
                source,
            }),
        }
    }

    /// Waits until there is memory for one more segment, which is there for as long as what is returned.
    async fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.uploads.clone().acquire_owned().await.ok()
    }

    /// Writes a few bytes where no evidence lies, to see whether the store takes any.
    pub async fn check_writable(&self) -> Result<(), Error> {
        let path = Path::from("writable/probe");
        let sent = self
            .store
            .put(&path, Bytes::from_static(b"written by the readiness probe\n").into());
        sent.await.map(drop).map_err(|source| Error::Store {
            action: "store",
            source,
        })
    }

    /// Reads all segments of a name, in order; `None` if there are none.
    ///
    /// Secrets are taken out again: one that was cut by the edge of a segment shows only here.
    pub async fn read(&self, task: &str, epoch: &str, name: &str) -> Result<Option<Text>, Error> {
        let first = Address::new(task, epoch, name, "0")?;
        let prefix = Path::from(format!("{task}/{}/{name}", first.epoch));
        let mut found = self.store.list(Some(&prefix));
        let mut parts = Vec::new();
        while let Some(object) = found.next().await {
            let object = object.map_err(|source| Error::Store { action: "read", source })?;
            let number = object.location.filename().and_then(|number| number.parse().ok());
            parts.extend(number.map(|segment| Part {
                segment,
                range: 0..object.size,
            }));
        }
        parts.sort_unstable_by_key(|part| part.segment);
        let all = 0..u64::MAX;
        Ok((!parts.is_empty()).then(|| self.redacted(first, parts, all)))
    }

    /// Reads one segment, without the parts of secrets that go on in its neighbours; `None` if it is not there.
    pub async fn read_segment(&self, address: &Address) -> Result<Option<Text>, Error> {
        let segment = address.segment;
        let Some(size) = self.size(address, Some(segment)).await? else {
            return Ok(None);
        };
        let before = self.size(address, segment.checked_sub(1)).await?.unwrap_or_default();
        let after = self.size(address, segment.checked_add(1)).await?.unwrap_or_default();
        let start = before.min(EDGE);
        let parts = vec![
            Part {
                segment: segment.saturating_sub(1),
                range: before - start..before,
            },
            Part {
                segment,
                range: 0..size,
            },
            Part {
                segment: segment.saturating_add(1),
                range: 0..after.min(EDGE),
            },
        ];
        Ok(Some(self.redacted(address.clone(), parts, start..start + size)))
    }

    /// Reads `window` of what `parts` are together, piece by piece: it may be more than there is memory.
    fn redacted(&self, address: Address, parts: Vec<Part>, window: Range<u64>) -> Text {
        let redaction = Redaction::new(self.redactor.clone(), window);
        reading::text(self.store.clone(), address, parts, redaction)
    }

    /// Returns the size of a segment of the same name; `None` if it is not there.
    async fn size(&self, address: &Address, segment: Option<u64>) -> Result<Option<u64>, Error> {
        let Some(segment) = segment else { return Ok(None) };
        let address = Address {
            segment,
            ..address.clone()
        };
        match self.store.head(&address.path()).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(Error::Store { action: "read", source }),
        }
    }

    /// Reads one segment as it is stored.
    async fn stored(&self, address: &Address) -> Result<Option<Bytes>, Error> {
        let fail = |source| Error::Store { action: "read", source };
        match self.store.get(&address.path()).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(fail)?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(fail(source)),
        }
    }

    /// Lists what there is of a task.
    pub async fn list(&self, task: &str) -> Result<Vec<Entry>, Error> {
        check_uid(task)?;
        let mut found = self.store.list(Some(&Path::from(task)));
        let mut entries: std::collections::BTreeMap<(i64, String), Entry> = Default::default();
        while let Some(object) = found.next().await {
            let object = object.map_err(|source| Error::Store { action: "list", source })?;
            let parts: Vec<String> = object.location.parts().map(|part| part.as_ref().to_owned()).collect();
            let [_, epoch, name, _] = parts.as_slice() else {
                continue;
            };
            let Ok(epoch) = epoch.parse::<i64>() else { continue };
            let entry = entries.entry((epoch, name.clone())).or_insert_with(|| Entry {
                epoch,
                name: name.clone(),
                segments: 0,
                bytes: 0,
            });
            entry.segments += 1;
            entry.bytes += object.size;
        }
        Ok(entries.into_values().collect())
    }

    /// Deletes what is older than `keep` and belongs to no task that `is_live` knows. Returns how many objects went.
    pub async fn sweep(&self, now: Timestamp, keep: Duration, is_live: impl Fn(&str) -> bool) -> Result<usize, Error> {
        let oldest = now
            .as_second()
            .saturating_sub(i64::try_from(keep.as_secs()).unwrap_or(i64::MAX));
        let mut found = self.store.list(None);
        let mut doomed = Vec::new();
        while let Some(object) = found.next().await {
            let object = object.map_err(|source| Error::Store { action: "list", source })?;
            let task = object
                .location
                .parts()
                .next()
                .map(|part| part.as_ref().to_owned())
                .unwrap_or_default();
            if object.last_modified.timestamp() < oldest && !is_live(&task) {
                doomed.push(object.location);
            }
        }
        for path in &doomed {
            match self.store.delete(path).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => {
                    return Err(Error::Store {
                        action: "delete",
                        source,
                    });
                }
            }
        }
        Ok(doomed.len())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// Reads all of what there is.
    async fn whole(text: Result<Option<Text>, Error>) -> Vec<u8> {
        let pieces: Vec<Bytes> = text.unwrap().unwrap().try_collect().await.unwrap();
        pieces.concat()
    }

    #[tokio::test]
    async fn a_segment_never_changes_and_may_be_sent_again() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(dir.path().join("e"), Redactor::default()).unwrap();
        let address = |segment: &str| Address::new("uid-1", "1", "gate-log", segment).unwrap();
        assert_eq!(evidence.put(&address("0"), "one\n".into()).await.unwrap(), Stored::New);
        assert_eq!(evidence.put(&address("0"), "one\n".into()).await.unwrap(), Stored::Same);
        assert!(matches!(
            evidence.put(&address("0"), "two\n".into()).await,
            Err(Error::Differs(_))
        ));
        for segment in 1..12 {
            evidence
                .put(&address(&segment.to_string()), format!("{segment}\n").into())
                .await
                .unwrap();
        }
        let text = whole(evidence.read("uid-1", "1", "gate-log").await).await;
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "one\n1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n"
        );
        let listed = evidence.list("uid-1").await.unwrap();
        assert_eq!(
            (listed.len(), listed[0].segments, listed[0].name.as_str()),
            (1, 12, "gate-log")
        );
        assert!(evidence.read("uid-1", "2", "gate-log").await.unwrap().is_none());
        let large = Bytes::from(vec![b'x'; MAX_SEGMENT + 1]);
        assert!(matches!(
            evidence.put(&address("99"), large).await,
            Err(Error::TooLarge { .. })
        ));
    }

    #[tokio::test]
    async fn a_secret_that_is_cut_by_the_edge_of_a_segment_is_never_read() {
        let dir = tempfile::tempdir().unwrap();
        let secret = "hunter2hunter2";
        let evidence = Evidence::open(dir.path(), Redactor::new([secret.to_owned()])).unwrap();
        for cut in 1..secret.len() {
            let address = |segment: &str| Address::new("u", "1", &format!("log-{cut}"), segment).unwrap();
            let (one, two) = (format!("a {}", &secret[..cut]), format!("{} b", &secret[cut..]));
            // The second segment may come first, and either may come again.
            for (segment, text) in [("1", &two), ("0", &one), ("1", &two), ("0", &one)] {
                evidence.put(&address(segment), text.clone().into()).await.unwrap();
            }
            let read = whole(evidence.read("u", "1", &format!("log-{cut}")).await).await;
            assert_eq!(String::from_utf8(read).unwrap(), "a [REDACTED] b");
            for (segment, shown) in [("0", "a [REDACTED]"), ("1", " b")] {
                let read = whole(evidence.read_segment(&address(segment)).await).await;
                assert_eq!(String::from_utf8(read).unwrap(), shown);
            }
        }
    }

    #[tokio::test]
    async fn what_is_read_is_never_held_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let secret = "hunter2hunter2";
        let evidence = Evidence::open(dir.path(), Redactor::new([secret.to_owned()])).unwrap();
        let address = |segment: usize| Address::new("u", "1", "log", &segment.to_string()).unwrap();
        let line = "what a gate said of a change\n".repeat(40_000);
        let (one, two, three) = (&secret[..4], &secret[4..7], &secret[7..]);
        // The secret goes over three segments; the fourth is empty.
        let texts = [
            format!("{line}{one}"),
            two.to_owned(),
            format!("{three}{line}"),
            String::new(),
        ];
        for (segment, text) in texts.iter().enumerate() {
            evidence.put(&address(segment), text.clone().into()).await.unwrap();
        }
        let pieces = |text: Text| text.try_collect::<Vec<Bytes>>();
        let read = pieces(evidence.read("u", "1", "log").await.unwrap().unwrap())
            .await
            .unwrap();
        assert!(read.iter().all(|piece| piece.len() <= 2 * reading::PIECE as usize));
        assert!(read.concat() == format!("{line}[REDACTED]{line}").as_bytes());
        let segment = pieces(evidence.read_segment(&address(2)).await.unwrap().unwrap())
            .await
            .unwrap();
        assert!(segment.iter().all(|piece| piece.len() <= 2 * reading::PIECE as usize));
        assert!(segment.concat().ends_with(line.as_bytes()));
        assert!(whole(evidence.read_segment(&address(3)).await).await.is_empty());
        assert!(evidence.read_segment(&address(4)).await.unwrap().is_none());
    }

    #[test]
    fn no_address_leaves_the_folder() {
        for (task, epoch, name, segment) in [
            ("..", "1", "n", "0"),
            ("u/../..", "1", "n", "0"),
            ("u", "0", "n", "0"),
            ("u", "-1", "n", "0"),
            ("u", "1", "..", "0"),
            ("u", "1", "a/b", "0"),
            ("u", "1", "n", "../0"),
            ("", "1", "n", "0"),
            ("u", "1", "a%2f..", "0"),
        ] {
            assert!(
                Address::new(task, epoch, name, segment).is_err(),
                "{task:?} {epoch:?} {name:?} {segment:?}"
            );
        }
    }

    #[tokio::test]
    async fn the_sweep_takes_only_what_is_old_and_belongs_to_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let evidence = Evidence::open(dir.path(), Redactor::default()).unwrap();
        for task in ["live", "gone"] {
            evidence
                .put(&Address::new(task, "1", "n", "0").unwrap(), "x".into())
                .await
                .unwrap();
        }
        let hour = Duration::from_secs(3600);
        assert_eq!(
            evidence
                .sweep(Timestamp::now(), hour, |task| task == "live")
                .await
                .unwrap(),
            0
        );
        let later = Timestamp::now() + jiff::SignedDuration::from_hours(2);
        assert_eq!(evidence.sweep(later, hour, |task| task == "live").await.unwrap(), 1);
        assert!(evidence.list("gone").await.unwrap().is_empty());
        assert_eq!(evidence.list("live").await.unwrap().len(), 1);
    }
}
