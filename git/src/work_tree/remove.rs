//! Removing a folder that somebody may have filled to hurt who removes it.

use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How often a folder is listed until it is empty: what is removed while it is listed may hide something else.
const LISTINGS: usize = 16;

/// Removes a folder with everything in it, also what was made unreadable. Links are removed, not followed. A folder
/// that is not there is fine.
///
/// However deep folders lie in it, this takes one open folder and no call for each: every folder is moved to the top
/// before it is emptied.
pub fn remove_tree(folder: &Path) -> Result<()> {
    let removed = match folder.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => remove(folder),
        Ok(_) => gone(std::fs::remove_file(folder)),
        Err(e) => gone(Err(e)),
    };
    removed.map_err(|e| Error::io("remove", folder, e))
}

fn remove(top: &Path) -> io::Result<()> {
    let mut names = 0..u64::MAX;
    let mut pending = Vec::new();
    open_up(top);
    for _ in 0..LISTINGS {
        empty(top, top, &mut names, &mut pending)?;
        while let Some(folder) = pending.pop() {
            empty(&folder, top, &mut names, &mut pending)?;
            match gone(std::fs::remove_dir(&folder)) {
                // The next listing finds it again.
                Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => {}
                removed => removed?,
            }
        }
        match gone(std::fs::remove_dir(top)) {
            Err(e) if e.kind() == ErrorKind::DirectoryNotEmpty => {}
            removed => return removed,
        }
    }
    Err(ErrorKind::DirectoryNotEmpty.into())
}

/// Removes the files of a folder, and puts the folders that are in it below `top` and among the `pending`.
fn empty(
    folder: &Path,
    top: &Path,
    names: &mut impl Iterator<Item = u64>,
    pending: &mut Vec<PathBuf>,
) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            gone(std::fs::remove_file(&path))?;
            continue;
        }
        open_up(&path);
        if folder == top {
            pending.push(path);
            continue;
        }
        let free = names
            .by_ref()
            .map(|name| top.join(format!(".removed-{name}")))
            .find(|path| path.symlink_metadata().is_err());
        match free {
            Some(moved) if std::fs::rename(&path, &moved).is_ok() => pending.push(moved),
            // Not every file system moves every folder.
            _ => gone(std::fs::remove_dir_all(&path))?,
        }
    }
    Ok(())
}

/// Takes it for done where there is nothing to remove any more.
fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Gives its owner back what a command may have taken from a folder; where that fails, the removal says so.
fn open_up(folder: &Path) {
    let closed = |mode: u32| mode & 0o700 != 0o700;
    if folder
        .symlink_metadata()
        .is_ok_and(|found| closed(found.permissions().mode()))
    {
        let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags};

    #[test]
    fn folders_nested_thousands_deep_are_removed_on_a_small_stack() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir_all(top.join("beside/.removed-0")).unwrap();
        std::fs::create_dir(top.join(".removed-1")).unwrap();
        std::os::unix::fs::symlink(dir.path(), top.join("beside/link")).unwrap();
        std::fs::write(dir.path().join("kept"), "").unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = rustix::fs::openat(CWD, &top, flags, Mode::empty()).unwrap();
        for _ in 0..4000 {
            rustix::fs::mkdirat(&here, "d", Mode::from_raw_mode(0o700)).unwrap();
            here = rustix::fs::openat(&here, "d", flags, Mode::empty()).unwrap();
        }
        rustix::fs::mkdirat(&here, "closed", Mode::empty()).unwrap();
        let path = top.clone();
        let thread = std::thread::Builder::new().stack_size(128 << 10);
        let removed = thread.spawn(move || remove_tree(&path)).unwrap().join().unwrap();
        removed.unwrap();
        assert!(!top.exists() && dir.path().join("kept").exists());
        remove_tree(&top).unwrap();
    }
}
