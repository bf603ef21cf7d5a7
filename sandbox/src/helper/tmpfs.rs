//! How much of the sandbox's own memory file systems is in use.
//!
//! What lies in a file there is memory that no process need have mapped, so counting processes alone misses it. A
//! control group counts it by itself; this is for where there is none.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

use crate::backend::Backend;
use crate::mount::Mount;
use crate::wire::Request;

/// `TMPFS_MAGIC` of `linux/magic.h`.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// About what a file takes beside its bytes.
const ENTRY: u64 = 1024;

/// The private memory file systems of one sandbox.
pub(super) struct Tmpfs {
    targets: Vec<PathBuf>,
    open: Vec<OwnedFd>,
}

impl Tmpfs {
    /// Names those of a request; they are there once the command is.
    pub(super) fn of(request: &Request) -> Tmpfs {
        let targets = request.mounts.iter().filter_map(|mount| match mount {
            Mount::Tmpfs { target, .. } if request.backend == Backend::Namespaces => Some(target.clone()),
            _ => None,
        });
        Tmpfs {
            targets: targets.collect(),
            open: Vec::new(),
        }
    }

    /// Returns the bytes in use, 0 until they can be seen through a process of the sandbox.
    pub(super) fn used(&mut self, family: &[i32]) -> u64 {
        // The first is init, which nobody may look into; what it started is inside already.
        if self.open.is_empty()
            && let Some(command) = family.get(1)
        {
            self.open = self
                .targets
                .iter()
                .filter_map(|target| open(*command, target))
                .collect();
        }
        self.open
            .iter()
            .filter_map(|folder| rustix::fs::fstatvfs(folder).ok())
            .map(|system| {
                let pages = system.f_blocks.saturating_sub(system.f_bfree);
                let entries = system.f_files.saturating_sub(system.f_ffree);
                pages
                    .saturating_mul(system.f_frsize)
                    .saturating_add(entries.saturating_mul(ENTRY))
            })
            .sum()
    }
}

fn open(pid: i32, target: &std::path::Path) -> Option<OwnedFd> {
    let path = PathBuf::from(format!("/proc/{pid}/root")).join(target.strip_prefix("/").ok()?);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    #[allow(clippy::unnecessary_cast)]
    let kind = rustix::fs::fstatfs(&folder).ok()?.f_type as i64;
    (kind == TMPFS_MAGIC).then_some(folder)
}
