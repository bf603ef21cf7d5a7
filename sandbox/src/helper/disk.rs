//! Watches that a command leaves room on the host's disks.
//!
//! A file's own limit bounds no number of files, and quotas are nothing that an ordinary user can set. So the supervisor
//! asks the file systems while the command runs, and ends it before it takes the last of them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfs};

use crate::limits::KeepFree;
use crate::mount::{Access, Mount};
use crate::wire::Request;

/// How often file systems are asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// What a command may take where less is free than shall stay free: a nearly full machine still works.
const SLACK: u64 = 64 << 20;
/// The same, of entries: files take one each, however small they are.
const SLACK_ENTRIES: u64 = 50_000;
/// The most entries that are kept. Where they are made of what is free, they are many as long as bytes are.
const KEEP_ENTRIES: u64 = 100_000;

/// The file systems of the host that a command may write to.
#[derive(Default)]
pub(super) struct Disks {
    disks: Vec<Disk>,
    asked: Option<Instant>,
}

/// One file system.
struct Disk {
    /// A folder of it, held open so that no name can come to mean another.
    folder: OwnedFd,
    /// The folder's name for the command.
    name: PathBuf,
    device: u64,
    bytes: Room,
    /// Where a file system has no fixed number of entries, there is nothing of it to keep.
    entries: Room,
}

/// What there is of one kind on a file system.
struct Room {
    /// What is to stay free,
    floor: u64,
    /// what was free before the command ran,
    at_start: u64,
    /// and what may be taken all the same.
    slack: u64,
}

impl Disks {
    /// Looks at what the command of a request may write to, before it runs.
    pub(super) fn of(request: &Request) -> Disks {
        let Some(keep) = request.limits.keep_free else {
            return Disks::default();
        };
        let mut disks: Vec<Disk> = Vec::new();
        for (path, name) in writable(request) {
            // What cannot be asked cannot be watched; the other limits hold all the same.
            if let Some(disk) = Disk::open(path, name, keep)
                && disks.iter().all(|other| other.device != disk.device)
            {
                disks.push(disk);
            }
        }
        Disks { disks, asked: None }
    }

    /// Tells whether there is anything to watch.
    pub(super) fn is_empty(&self) -> bool {
        self.disks.is_empty()
    }

    /// Asks the file systems, unless that was just done; returns why the command is to end.
    pub(super) fn exhausted(&mut self) -> Option<String> {
        if self.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
            return None;
        }
        self.asked = Some(Instant::now());
        self.disks.iter().find_map(|disk| {
            let now = rustix::fs::fstatvfs(&disk.folder).ok()?;
            let (bytes, entries) = (free(&now), now.f_favail);
            let what = if disk.bytes.is_spent(bytes) {
                let (left, floor) = (bytes >> 20, disk.bytes.floor >> 20);
                format!("{left} MiB are left on the file system of {}, and {floor} MiB", disk.name.display())
            } else if disk.entries.is_spent(entries) {
                let floor = disk.entries.floor;
                format!("{entries} more files fit on the file system of {}, and {floor}", disk.name.display())
            } else {
                return None;
            };
            Some(format!(
                "killed because the disk is nearly full: {what} are to stay free; remove what is not needed, and write less"
            ))
        })
    }
}

impl Disk {
    fn open(path: &Path, name: &Path, keep: KeepFree) -> Option<Disk> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let system = rustix::fs::fstatvfs(&folder).ok()?;
        let size = system.f_blocks.saturating_mul(system.f_frsize);
        if size == 0 {
            return None;
        }
        Some(Disk {
            name: name.to_owned(),
            device: rustix::fs::fstat(&folder).ok()?.st_dev,
            bytes: Room {
                floor: floor(keep, size),
                at_start: free(&system),
                slack: SLACK,
            },
            entries: Room {
                floor: part(system.f_files, keep.percent).min(KEEP_ENTRIES),
                at_start: system.f_favail,
                slack: SLACK_ENTRIES,
            },
            folder,
        })
    }
}

fn writable(request: &Request) -> Vec<(&Path, &Path)> {
    let mounts = request.mounts.iter().filter_map(|mount| match mount {
        Mount::Bind {
            source,
            target,
            access: Access::ReadWrite,
        } => Some((source.as_path(), target.as_path())),
        _ => None,
    });
    let granted = request.grants.iter().filter(|(_, access)| *access == Access::ReadWrite);
    let granted = granted.map(|(path, _)| (path.as_path(), path.as_path()));
    let scratch = request.scratch.iter().map(|path| (path.as_path(), path.as_path()));
    mounts.chain(granted).chain(scratch).collect()
}

fn free(system: &StatVfs) -> u64 {
    system.f_bavail.saturating_mul(system.f_frsize)
}

fn floor(keep: KeepFree, size: u64) -> u64 {
    keep.bytes.min(part(size, keep.percent))
}

fn part(size: u64, percent: u8) -> u64 {
    let part = u128::from(size) * u128::from(percent.min(100)) / 100;
    u64::try_from(part).unwrap_or(u64::MAX)
}

impl Room {
    /// Says whether a command is to end when so much is free.
    fn is_spent(&self, now: u64) -> bool {
        now < self.floor && self.at_start.saturating_sub(now) > self.slack.min(self.at_start / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_command_ends_when_it_takes_from_what_is_to_stay_free() {
        for (floor, at_start, now, ends) in [
            (2048 * MIB, 9000 * MIB, 2049 * MIB, false),
            (2048 * MIB, 9000 * MIB, 2047 * MIB, true),
            // It is not to blame for a disk that was full before, but it may not take the rest.
            (2048 * MIB, 1000 * MIB, 1000 * MIB, false),
            (2048 * MIB, 1000 * MIB, 940 * MIB, false),
            (2048 * MIB, 1000 * MIB, 930 * MIB, true),
            (2048 * MIB, 80 * MIB, 69 * MIB, true),
            // Somebody else made room meanwhile.
            (2048 * MIB, 1000 * MIB, 1900 * MIB, false),
        ] {
            let slack = SLACK;
            let room = Room { floor, at_start, slack };
            assert_eq!(room.is_spent(now), ends, "{at_start} {now}");
        }
    }

    #[test]
    fn a_disk_without_bytes_or_entries_to_spare_is_told_by_name() {
        let here = std::path::Path::new("/");
        let keep = KeepFree {
            bytes: u64::MAX,
            percent: 100,
        };
        let disk = || Disk::open(here, Path::new("/workspace"), keep);
        let said = |disk: Option<Disk>| {
            let disks = disk.into_iter().collect();
            Disks { disks, asked: None }.exhausted()
        };
        assert_eq!(said(disk()), None, "nothing was taken yet");
        // As though there had been more before the command came.
        let full = disk().map(|disk| Disk {
            bytes: Room {
                at_start: u64::MAX,
                ..disk.bytes
            },
            ..disk
        });
        assert!(said(full).is_some_and(|said| said.contains("MiB are left on the file system of /workspace")));
        let crowded = disk().map(|disk| Disk {
            entries: Room {
                at_start: u64::MAX,
                floor: u64::MAX,
                ..disk.entries
            },
            ..disk
        });
        assert!(said(crowded).is_some_and(|said| said.contains("more files fit on the file system of /workspace")));
    }

    #[test]
    fn a_small_disk_keeps_a_part_and_a_large_one_so_many_bytes() {
        let keep = KeepFree {
            bytes: 2048 * MIB,
            percent: 5,
        };
        assert_eq!(floor(keep, 1000 * MIB), 50 * MIB);
        assert_eq!(floor(keep, 1 << 50), 2048 * MIB);
        assert_eq!(floor(KeepFree { percent: 200, ..keep }, u64::MAX), 2048 * MIB);
    }
}
