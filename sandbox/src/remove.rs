//! Removing a folder that somebody may have filled to hurt who removes it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

/// How often a folder is listed until it is empty: what is removed while it is listed may hide something else.
const LISTINGS: usize = 16;

/// Removes a folder with everything in it, also what was made unreadable. Links are removed, not followed. A folder that
/// is not there is fine.
///
/// However deep folders lie in it, this takes two open folders and no call for each: every folder is moved to the top
/// before it is emptied. And whoever still changes the folder meanwhile cannot make it reach out of it.
pub fn remove_tree(folder: &Path) -> io::Result<()> {
    let top = match open_up(CWD, &c_name(folder)?) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return gone(rustix::fs::unlink(folder)),
        Err(error) => return Err(error.into()),
    };
    let mut numbers = 0..u64::MAX;
    for _ in 0..LISTINGS {
        let mut pending = empty(&top, &top, &mut numbers)?;
        while let Some(name) = pending.pop() {
            match open_up(top.as_fd(), &name) {
                Ok(folder) => pending.append(&mut empty(&folder, &top, &mut numbers)?),
                // Somebody else was quicker, or put something in its place, which the next listing finds.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                Err(error) => return Err(error.into()),
            }
            match rustix::fs::unlinkat(&top, &name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
                removed => gone(removed)?,
            }
        }
        match rustix::fs::rmdir(folder) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            removed => return gone(removed),
        }
    }
    Err(io::ErrorKind::DirectoryNotEmpty.into())
}

fn c_name(path: &Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Takes it for done where there is nothing to remove any more.
fn gone(removed: rustix::io::Result<()>) -> io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => Ok(removed?),
    }
}

/// Opens a folder, and gives its owner back what somebody may have taken from it.
fn open_up(parent: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(parent, name, flags | OFlags::PATH, Mode::empty())?;
    if rustix::fs::fstat(&found)?.st_mode & 0o700 != 0o700 {
        // By its descriptor, since the name may mean another folder by now. Where it fails, the removal says so.
        let own = format!("/proc/self/fd/{}", found.as_raw_fd());
        let _ = rustix::fs::chmod(own, Mode::RWXU);
    }
    rustix::fs::openat(&found, c".", flags, Mode::empty())
}

/// Removes the files of a folder; returns its folders' names in `top`, where those that lie elsewhere are put.
fn empty(folder: &OwnedFd, top: &OwnedFd, numbers: &mut impl Iterator<Item = u64>) -> io::Result<Vec<CString>> {
    let mut folders = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        if is_folder(folder, name, entry.file_type())? {
            if folder.as_raw_fd() == top.as_raw_fd() {
                folders.push(name.to_owned());
            } else {
                folders.extend(lift(folder, name, top, numbers)?);
            }
        } else {
            match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
                // A folder was put in its place.
                Err(Errno::ISDIR) => {}
                removed => gone(removed)?,
            }
        }
    }
    Ok(folders)
}

fn is_folder(parent: &OwnedFd, name: &CStr, kind: FileType) -> io::Result<bool> {
    if kind != FileType::Unknown {
        return Ok(kind == FileType::Directory);
    }
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Moves a folder below `top`; returns its new name, or nothing where it is gone.
fn lift(
    parent: &OwnedFd,
    name: &CStr,
    top: &OwnedFd,
    numbers: &mut impl Iterator<Item = u64>,
) -> io::Result<Option<CString>> {
    // A folder is written to when it moves: its own `..` is.
    match open_up(parent.as_fd(), name) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
        opened => opened?,
    };
    for number in numbers {
        let moved = CString::new(format!(".removed-{number}"))?;
        match rustix::fs::renameat(parent, name, top, &moved) {
            Ok(()) => return Ok(Some(moved)),
            Err(Errno::NOENT) => return Ok(None),
            // Something of that name is there already.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
            // Not every file system moves every folder, and not every process may.
            Err(Errno::XDEV) => {
                use std::os::unix::ffi::OsStrExt;
                let name = std::ffi::OsStr::from_bytes(name.to_bytes());
                let path = Path::new("/proc/self/fd")
                    .join(parent.as_raw_fd().to_string())
                    .join(name);
                std::fs::remove_dir_all(path)?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// Makes folders in each other, as deep as nobody can name.
    fn dig(top: &Path, depth: usize) {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut folder = rustix::fs::open(top, flags, Mode::empty()).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&folder, c"deeper", Mode::RWXU).unwrap();
            folder = rustix::fs::openat(&folder, c"deeper", flags, Mode::empty()).unwrap();
        }
        rustix::fs::openat(&folder, c"file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }

    #[test]
    fn a_tree_that_is_deeper_than_any_stack_goes() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        std::fs::create_dir_all(top.join("beside/.removed-0/x")).unwrap();
        std::fs::create_dir(top.join(".removed-1")).unwrap();
        std::fs::write(top.join(".removed-2"), "").unwrap();
        dig(&top.join("beside"), 3_000);
        // In a thread with little room, as callers have it.
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        thread
            .spawn(move || remove_tree(&top).unwrap())
            .unwrap()
            .join()
            .unwrap();
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }

    #[test]
    fn closed_folders_odd_names_and_links_go_and_what_links_point_to_stays() {
        let place = tempfile::tempdir().unwrap();
        let top = place.path().join("top");
        let aim = place.path().join("aim");
        for folder in [&aim, &top.join("closed/inner"), &top.join("two\nlines")] {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("\u{1b}[2J \n"), "").unwrap();
        }
        symlink(&aim, top.join("link")).unwrap();
        symlink(&aim, top.join("closed/inner/link")).unwrap();
        for (folder, mode) in [("closed/inner", 0o000), ("closed", 0o100), ("", 0o500)] {
            std::fs::set_permissions(top.join(folder), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        remove_tree(&top).unwrap();
        assert!(!top.exists());
        assert_eq!(std::fs::read_dir(&aim).unwrap().count(), 1);
        assert_eq!(aim.metadata().unwrap().permissions().mode() & 0o700, 0o700);
        // A link is removed as such, and what is not there is fine.
        symlink(&aim, &top).unwrap();
        remove_tree(&top).unwrap();
        assert!(aim.exists() && top.symlink_metadata().is_err());
        remove_tree(&top).unwrap();
    }
}
