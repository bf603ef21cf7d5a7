//! Opening what a path without links names.

use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Opens a path in which no part is a link; one that is tells that somebody put it there since the path was resolved,
/// and is an error (`ELOOP`). Neither for reading nor for writing.
pub(super) fn open_real(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut found = rustix::fs::openat(CWD, c"/", flags, Mode::empty())?;
    for part in path.components() {
        match part {
            Component::RootDir => {}
            Component::Normal(name) => {
                found = rustix::fs::openat(&found, name, flags, Mode::empty())?;
                let stat = rustix::fs::fstat(&found)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
                    return Err(Errno::LOOP);
                }
            }
            _ => return Err(Errno::INVAL),
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_path_that_became_a_link_since_it_was_resolved_is_not_opened() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        std::fs::create_dir_all(place.join("tree/sub")).unwrap();
        std::fs::create_dir_all(place.join("home/sub")).unwrap();
        assert!(open_real(&place.join("tree/sub")).is_ok());
        assert!(open_real(Path::new("/")).is_ok());
        for swapped in ["tree/sub", "tree"] {
            let path = place.join("tree/sub").canonicalize().unwrap();
            let away = place.join("away");
            std::fs::rename(place.join(swapped), &away).unwrap();
            std::os::unix::fs::symlink(place.join("home"), place.join(swapped)).unwrap();
            assert_eq!(open_real(&path).unwrap_err(), Errno::LOOP, "{swapped}");
            std::fs::remove_file(place.join(swapped)).unwrap();
            std::fs::rename(&away, place.join(swapped)).unwrap();
        }
        assert_eq!(open_real(&place.join("gone")).unwrap_err(), Errno::NOENT);
        assert_eq!(open_real(&place.join("tree/../home")).unwrap_err(), Errno::INVAL);
    }
}
