//! Watches that a command leaves room on the host's disks.
//!
//! A file's own limit bounds no number of files, and quotas are nothing that an ordinary user can set. So the supervisor
//! asks the file systems while the command runs, and ends it before it takes the last of them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags, StatVfs};

use crate::command::{Access, KeepFree, Mount};
use crate::wire::Request;

/// How often file systems are asked.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// What a command may take where less is free than shall stay free: a nearly full machine still works.
const SLACK: u64 = 64 << 20;

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
    floor: u64,
    at_start: u64,
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
            let now = free(&rustix::fs::fstatvfs(&disk.folder).ok()?);
            takes_too_much(disk.floor, disk.at_start, now).then(|| {
                format!(
                    "killed because the disk is nearly full: {} MiB are left on the file system of {}, and {} MiB are to \
                     stay free; remove what is not needed, and write less",
                    now >> 20,
                    disk.name.display(),
                    disk.floor >> 20
                )
            })
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
            floor: floor(keep, size),
            at_start: free(&system),
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
    let part = u128::from(size) * u128::from(keep.percent.min(100)) / 100;
    keep.bytes.min(u64::try_from(part).unwrap_or(u64::MAX))
}

/// Says whether a command that found `at_start` bytes free is to end when `now` bytes are.
fn takes_too_much(floor: u64, at_start: u64, now: u64) -> bool {
    now < floor && at_start.saturating_sub(now) > SLACK.min(at_start / 8)
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
            assert_eq!(takes_too_much(floor, at_start, now), ends, "{at_start} {now}");
        }
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
