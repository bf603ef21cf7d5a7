//! Reading a folder that somebody may be changing at the same time, without ever leaving it.
//!
//! Every step opens one name inside a folder that is already open and follows no link, so that swapping a folder for
//! a link cannot lead out of the work tree.

use std::{
    ffi::CString,
    fs::File,
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use gix::bstr::{BString, ByteSlice};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

/// An open folder.
pub(super) struct Folder(OwnedFd);

/// One name in a folder.
pub(super) struct Item {
    pub(super) name: BString,
    pub(super) stat: Stat,
    pub(super) kind: FileType,
}

impl Folder {
    pub(super) fn open(path: &Path) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Folder(rustix::fs::open(path, flags, Mode::empty())?))
    }

    pub(super) fn open_folder(&self, name: &BString) -> std::io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Folder(rustix::fs::openat(
            self.0.as_fd(),
            c_name(name)?,
            flags,
            Mode::empty(),
        )?))
    }

    /// Lists what is in the folder, sorted by name.
    pub(super) fn items(&self) -> std::io::Result<Vec<Item>> {
        let mut items = Vec::new();
        for entry in Dir::read_from(&self.0)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = match rustix::fs::statat(self.0.as_fd(), entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // It went away since.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(e) => return Err(e.into()),
            };
            items.push(Item {
                name: name.into(),
                kind: FileType::from_raw_mode(stat.st_mode),
                stat,
            });
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(items)
    }

    /// Reads a plain file of at most `limit` bytes; `Err(size)` inside if it is larger. Pipes and devices are never
    /// opened for reading: what is no plain file when it is open is refused.
    pub(super) fn read_file(&self, name: &BString, limit: u64) -> std::io::Result<Result<(Vec<u8>, Stat), u64>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = rustix::fs::openat(self.0.as_fd(), c_name(name)?, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(std::io::Error::other("it is no plain file any more"));
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        if size > limit {
            return Ok(Err(size));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > limit {
            return Ok(Err(bytes.len() as u64));
        }
        Ok(Ok((bytes, stat)))
    }

    pub(super) fn read_link(&self, name: &BString) -> std::io::Result<Vec<u8>> {
        let target = rustix::fs::readlinkat(self.0.as_fd(), c_name(name)?, Vec::new())?;
        Ok(target.into_bytes())
    }
}

fn c_name(name: &BString) -> std::io::Result<CString> {
    CString::new(name.as_bytes().to_vec()).map_err(std::io::Error::other)
}
