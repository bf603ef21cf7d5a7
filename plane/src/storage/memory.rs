//! The current values and the bounded log of changes, in memory.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::{Change, Entry, Expired, Listing, Retention, Version};

/// What reads and watches are served from. Only the writer changes it, after a commit.
pub(super) struct Memory {
    objects: BTreeMap<Arc<str>, Arc<Entry>>,
    log: VecDeque<Arc<Change>>,
    log_bytes: usize,
    version: Version,
    retention: Retention,
}

impl Memory {
    pub(super) fn new(
        objects: BTreeMap<Arc<str>, Arc<Entry>>,
        log: VecDeque<Arc<Change>>,
        version: Version,
        retention: Retention,
    ) -> Memory {
        let log_bytes = log.iter().map(|change| weight(change)).sum();
        let mut memory = Memory {
            objects,
            log,
            log_bytes,
            version,
            retention,
        };
        memory.trim();
        memory
    }

    pub(super) fn version(&self) -> Version {
        self.version
    }

    /// The oldest version from which every later change is still in the log.
    pub(super) fn floor(&self) -> Version {
        self.log.front().map_or(self.version, |change| change.version - 1)
    }

    pub(super) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.objects.get(key).cloned()
    }

    /// Takes over committed changes, which follow the newest known one without a gap.
    pub(super) fn apply(&mut self, changes: &[Arc<Change>]) {
        for change in changes {
            match &change.after {
                Some(entry) => {
                    self.objects.insert(Arc::clone(&change.key), Arc::clone(entry));
                }
                None => {
                    self.objects.remove(&change.key);
                }
            }
            self.version = change.version;
            self.log_bytes += weight(change);
            self.log.push_back(Arc::clone(change));
        }
        self.trim();
    }

    fn trim(&mut self) {
        while self.log.len() > self.retention.changes || self.log_bytes > self.retention.bytes {
            let Some(oldest) = self.log.pop_front() else {
                break;
            };
            self.log_bytes -= weight(&oldest);
        }
        if self.log.len() < self.log.capacity() / 4 {
            self.log.shrink_to(self.log.len() * 2);
        }
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>, at: Option<Version>) -> Result<Listing, Expired> {
        let version = at.unwrap_or(self.version);
        let start = match after {
            Some(key) if key >= prefix => Bound::Excluded(key),
            _ => Bound::Included(prefix),
        };
        let current = self
            .objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        if version >= self.version {
            return Ok(Listing {
                version: self.version,
                entries: current.map(|(_, entry)| Arc::clone(entry)).collect(),
            });
        }
        // The past: what the newer changes replaced wins over what stands now.
        let mut replaced: HashMap<&str, Option<&Arc<Entry>>> = HashMap::new();
        for change in self.log_after(version)? {
            if change.key.starts_with(prefix) {
                replaced.entry(&change.key).or_insert(change.before.as_ref());
            }
        }
        let mut entries: Vec<Arc<Entry>> = current
            .filter(|(key, _)| !replaced.contains_key(&***key))
            .map(|(_, entry)| Arc::clone(entry))
            .collect();
        entries.extend(
            replaced
                .iter()
                .filter(|(key, _)| after.is_none_or(|after| **key > after))
                .filter_map(|(_, before)| before.map(Arc::clone)),
        );
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Listing { version, entries })
    }

    pub(super) fn changes_since(&self, prefix: &str, since: Version) -> Result<(Vec<Arc<Change>>, Version), Expired> {
        let changes = self
            .log_after(since)?
            .filter(|change| change.key.starts_with(prefix))
            .map(Arc::clone)
            .collect();
        Ok((changes, self.version.max(since)))
    }

    /// The log's changes after `since`: every version is one change, so its place is known.
    fn log_after(&self, since: Version) -> Result<impl Iterator<Item = &Arc<Change>>, Expired> {
        let floor = self.floor();
        if since < floor {
            return Err(Expired {
                asked: since,
                oldest: floor,
            });
        }
        let skip = usize::try_from(since - floor).unwrap_or(usize::MAX);
        Ok(self.log.range(skip.min(self.log.len())..))
    }
}

/// What a change costs the log: the value that it wrote, or the one that only the log holds still. A value before is
/// mostly also the one after an earlier change, so both are not counted.
fn weight(change: &Change) -> usize {
    let bytes = |entry: &Option<Arc<Entry>>| entry.as_ref().map_or(0, |entry| entry.bytes.len());
    bytes(&change.before).max(bytes(&change.after)) + 128
}
