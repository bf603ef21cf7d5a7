//! The file of the termination message.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file of the termination message, opened before anything else runs.
pub(super) struct MessageFile {
    path: PathBuf,
    file: File,
}

impl MessageFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(path)?;
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    /// Replaces whatever stands there. Fails where the path no longer leads to the file that was
    /// opened: what would be read then is not what is written here.
    pub(super) fn write(&mut self, message: &[u8]) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(message)?;
        self.file.set_len(message.len() as u64)?;
        let own = self.file.metadata()?;
        let there = std::fs::symlink_metadata(&self.path)?;
        if (own.dev(), own.ino()) != (there.dev(), there.ino()) {
            return Err(io::Error::other("another file was put in its place"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_put_in_its_place_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("message");
        let mut message = MessageFile::open(&path).unwrap();
        std::fs::write(&path, "forged and long").unwrap();
        message.write(b"true").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"true");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "forged").unwrap();
        assert!(message.write(b"true").is_err());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert!(MessageFile::open(&path).is_err(), "a link is not followed");
    }
}
