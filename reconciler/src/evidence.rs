//! The evidence store: logs, transcripts, diffs and reports, in immutable segments.

pub mod http;
pub mod redact;

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

use redact::Redactor;

/// Bytes of one segment.
pub const MAX_SEGMENT: usize = 8 * 1024 * 1024;
/// Bytes of one task, over all its claims.
pub const MAX_TASK: u64 = 256 * 1024 * 1024;
/// Bytes on either side of a segment in which a secret that crosses its edge is looked for.
const EDGE: usize = 64 * 1024;
/// Segments of one name.
pub const MAX_SEGMENTS: u64 = 100_000;

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

/// Where a segment lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    task: String,
    epoch: i64,
    name: String,
    segment: u64,
}

impl Address {
    /// Checks the parts of an address; none of them can leave the store's folder.
    pub fn new(task: &str, epoch: &str, name: &str, segment: &str) -> Result<Self, Error> {
        check_uid(task)?;
        check_name(name)?;
        let epoch = epoch
            .parse::<i64>()
            .ok()
            .filter(|epoch| (1..=1_000_000).contains(epoch));
        let epoch = epoch.ok_or_else(|| Error::Address("the epoch is a number from 1".into()))?;
        let segment = segment.parse::<u64>().ok().filter(|segment| *segment < MAX_SEGMENTS);
        let segment = segment.ok_or_else(|| Error::Address(format!("the segment is a number below {MAX_SEGMENTS}")))?;
        Ok(Self {
            task: task.to_owned(),
            epoch,
            name: name.to_owned(),
            segment,
        })
    }

    /// Returns the task's UID.
    pub fn task(&self) -> &str {
        &self.task
    }

    /// Returns the epoch.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    fn path(&self) -> Path {
        // Padded, so that the order of names is the order of segments.
        Path::from(format!(
            "{}/{}/{}/{:06}",
            self.task, self.epoch, self.name, self.segment
        ))
    }
}

fn check_uid(uid: &str) -> Result<(), Error> {
    let usable = !uid.is_empty() && uid.len() <= 64 && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if usable {
        Ok(())
    } else {
        Err(Error::Address("a task's UID is letters, digits and hyphens".into()))
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let usable = !name.is_empty() && name.len() <= 64 && name.bytes().all(plain) && !name.starts_with('.');
    if usable {
        Ok(())
    } else {
        Err(Error::Address(
            "a name is letters, digits, hyphens, underscores and dots, at most 64, no dot first".into(),
        ))
    }
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
        let body = self.redactor.redact(&body);
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
    pub async fn read(&self, task: &str, epoch: &str, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let first = Address::new(task, epoch, name, "0")?;
        let prefix = Path::from(format!("{task}/{}/{name}", first.epoch));
        let fail = |source| Error::Store { action: "read", source };
        let mut paths: Vec<Path> = self
            .store
            .list(Some(&prefix))
            .map_ok(|found| found.location)
            .try_collect()
            .await
            .map_err(fail)?;
        paths.sort();
        if paths.is_empty() {
            return Ok(None);
        }
        let mut text = Vec::new();
        for path in paths {
            text.extend_from_slice(&self.store.get(&path).await.map_err(fail)?.bytes().await.map_err(fail)?);
        }
        Ok(Some(self.redactor.redact(&text.into()).to_vec()))
    }

    /// Reads one segment, without the parts of secrets that go on in its neighbours; `None` if it is not there.
    pub async fn read_segment(&self, address: &Address) -> Result<Option<Bytes>, Error> {
        let Some(text) = self.stored(address).await? else {
            return Ok(None);
        };
        let neighbour = |segment: Option<u64>| {
            segment.map(|segment| Address {
                segment,
                ..address.clone()
            })
        };
        let before = match neighbour(address.segment.checked_sub(1)) {
            Some(before) => self.stored(&before).await?.unwrap_or_default(),
            None => Bytes::new(),
        };
        let after = match neighbour(address.segment.checked_add(1)) {
            Some(after) => self.stored(&after).await?.unwrap_or_default(),
            None => Bytes::new(),
        };
        let before = &before[before.len().saturating_sub(EDGE)..];
        let after = &after[..after.len().min(EDGE)];
        Ok(Some(self.redactor.redact_part(before, &text, after)))
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
        let fail = |source| Error::Store { action: "list", source };
        let found: Vec<_> = self
            .store
            .list(Some(&Path::from(task)))
            .try_collect()
            .await
            .map_err(fail)?;
        let mut entries: std::collections::BTreeMap<(i64, String), Entry> = Default::default();
        for object in found {
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
        let text = evidence.read("uid-1", "1", "gate-log").await.unwrap().unwrap();
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
            let whole = evidence.read("u", "1", &format!("log-{cut}")).await.unwrap().unwrap();
            assert_eq!(String::from_utf8(whole).unwrap(), "a [REDACTED] b");
            assert_eq!(
                evidence.read_segment(&address("0")).await.unwrap().unwrap(),
                "a [REDACTED]"
            );
            assert_eq!(evidence.read_segment(&address("1")).await.unwrap().unwrap(), " b");
        }
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
