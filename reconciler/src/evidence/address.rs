//! Where evidence lies, as requests name it.

use object_store::path::Path;

use super::Error;

/// Segments of one name.
pub const MAX_SEGMENTS: u64 = 100_000;

/// Where a segment lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    pub(super) task: String,
    pub(super) epoch: i64,
    pub(super) name: String,
    pub(super) segment: u64,
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

    pub(super) fn path(&self) -> Path {
        // Padded, so that the order of names is the order of segments.
        Path::from(format!(
            "{}/{}/{}/{:06}",
            self.task, self.epoch, self.name, self.segment
        ))
    }
}

pub(super) fn check_uid(uid: &str) -> Result<(), Error> {
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
