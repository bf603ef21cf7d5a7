//! The agent's folder on disk.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// Folders in it.
const FOLDERS: [&str; 4] = ["mirrors", "work", "evidence", "gate-cache"];

/// A workspace folder in use; an agent holds it for its whole life.
#[derive(Debug)]
pub(super) struct Workspace {
    /// Held by the first agent that uses the folder.
    _lock: Option<File>,
}

/// Makes the folders and removes the work trees that an agent left there which was killed, unless they are to be kept.
///
/// Where evidence is `sent`, what waits for that is removed as well: it would be taken with the secret of its claim alone,
/// which was the killed agent's. Nothing is removed beside another agent that works in the same folder.
pub(super) fn open(folder: &Path, keep: bool, sent: bool) -> Result<Workspace, (PathBuf, std::io::Error)> {
    for name in FOLDERS {
        let path = folder.join(name);
        std::fs::create_dir_all(&path).map_err(|error| (path, error))?;
    }
    let path = folder.join("agent.lock");
    let lock = File::create(&path).map_err(|error| (path.clone(), error))?;
    let lock = match lock.try_lock() {
        Ok(()) => Some(lock),
        Err(TryLockError::WouldBlock) => None,
        Err(TryLockError::Error(error)) => return Err((path, error)),
    };
    if lock.is_some() && !keep {
        clear(&folder.join("work"));
        if sent {
            clear(&folder.join("evidence"));
        }
    }
    Ok(Workspace { _lock: lock })
}

fn clear(folder: &Path) {
    let left = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in left {
        let path = entry.path();
        match git::remove_tree(&path) {
            Ok(()) => tracing::info!(path = %path.display(), "removed what an agent left"),
            Err(error) => tracing::warn!(%error, path = %path.display(), "failed to remove what an agent left"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn leave(folder: &Path) -> PathBuf {
        let tree = folder.join("work/uid-1/tree");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(tree.join("file"), "x").unwrap();
        tree
    }

    #[test]
    fn what_a_killed_agent_left_is_removed_at_the_next_start_only() {
        let folder = tempfile::tempdir().unwrap();
        let tree = leave(folder.path());
        let first = open(folder.path(), true, true).unwrap();
        assert!(tree.exists(), "kept when asked to");
        drop(open(folder.path(), false, false).unwrap());
        assert!(tree.exists(), "kept while another agent works there");
        drop(first);
        open(folder.path(), false, false).unwrap();
        assert!(!tree.exists());
        assert!(folder.path().join("work").exists());
    }

    #[test]
    fn evidence_that_waits_for_a_store_is_removed_at_the_next_start_and_other_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let spool = folder.path().join("evidence/uid-1/2");
        std::fs::create_dir_all(&spool).unwrap();
        std::fs::write(spool.join("transcript"), "x").unwrap();
        drop(open(folder.path(), false, false).unwrap());
        assert!(spool.exists(), "it is where the task says that it is");
        drop(open(folder.path(), true, true).unwrap());
        assert!(spool.exists(), "kept when asked to");
        drop(open(folder.path(), false, true).unwrap());
        assert!(!folder.path().join("evidence/uid-1").exists());
    }

    #[test]
    fn a_folder_that_cannot_be_used_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("mirrors"), "a file").unwrap();
        let (path, _) = open(folder.path(), false, false).unwrap_err();
        assert_eq!(path, folder.path().join("mirrors"));
    }
}
