//! Folders of the host that stand for private ones, where there is no private root.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::remove::remove_tree;

/// A folder that only this user can enter. Removed when dropped, unless it was [left](Scratch::leave) to somebody.
#[derive(Debug)]
pub(crate) struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Makes one in the temporary folder.
    pub(crate) fn make() -> std::io::Result<Scratch> {
        use std::os::unix::fs::DirBuilderExt;
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let base = std::env::temp_dir().canonicalize()?;
        loop {
            let moment = std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |time| time.as_nanos());
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let folder = base.join(format!("foreman-sandbox-{}-{number}-{moment:x}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&folder) {
                Ok(()) => return Ok(Scratch { folder }),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.folder
    }

    /// Leaves its removal to the supervisor, which has done it.
    pub(crate) fn leave(mut self) {
        self.folder = PathBuf::new();
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty() {
            // What cannot be removed lies in the temporary folder, private and named for us.
            let _ = remove_tree(&self.folder);
        }
    }
}
