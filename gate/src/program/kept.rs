//! Protected files as they were checked out: what later steps judge with, no earlier step may have changed.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::manifest;
use crate::protected::Protected;

/// The protected files of a work tree.
pub(super) struct Kept {
    files: Vec<(PathBuf, Option<[u8; 32]>)>,
}

impl Kept {
    /// Remembers what stands below `root`, which is as it was checked out.
    pub(super) fn of(root: &Path, protected: &Protected) -> io::Result<Self> {
        let mut files = Vec::new();
        collect(root, Path::new(""), protected, &mut files)?;
        let files = files.into_iter().map(|path| {
            let state = state(root, &path);
            (path, state)
        });
        Ok(Self { files: files.collect() })
    }

    /// Returns the first file that is not as it was.
    pub(super) fn changed(&self, root: &Path) -> Option<&Path> {
        let changed = self.files.iter().find(|(path, before)| state(root, path) != *before);
        changed.map(|(path, _)| path.as_path())
    }
}

fn collect(root: &Path, folder: &Path, protected: &Protected, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            collect(root, &path, protected, files)?;
        } else if protected.covers(&path.to_string_lossy()).is_some() {
            files.push(path);
        }
    }
    Ok(())
}

/// Computes a digest of what stands at `path`; `None` where nothing does, or not below folders that are none but links.
fn state(root: &Path, path: &Path) -> Option<[u8; 32]> {
    for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        if !root.join(folder).symlink_metadata().ok()?.is_dir() {
            return None;
        }
    }
    let full = root.join(path);
    let metadata = full.symlink_metadata().ok()?;
    let mut hash = Sha256::new();
    if metadata.is_symlink() {
        hash.update(b"l");
        hash.update(std::fs::read_link(&full).ok()?.as_os_str().as_encoded_bytes());
    } else if metadata.is_file() {
        hash.update(if metadata.permissions().mode() & 0o100 != 0 {
            b"x"
        } else {
            b"f"
        });
        manifest::add_content(&full, &mut hash).ok()?;
    } else {
        return None;
    }
    Some(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is done to a work tree, and the file that must be named then.
    type Change<'a> = (&'a dyn Fn(&Path), Option<&'a str>);

    #[test]
    fn every_change_of_a_protected_file_is_seen_and_no_other() {
        let changes: [Change; 6] = [
            (
                &|root| std::fs::write(root.join("ci/check.sh"), "exit 0").unwrap(),
                Some("ci/check.sh"),
            ),
            (
                &|root| std::fs::remove_file(root.join("ci/check.sh")).unwrap(),
                Some("ci/check.sh"),
            ),
            (
                &|root| {
                    let open = std::fs::Permissions::from_mode(0o755);
                    std::fs::set_permissions(root.join("ci/check.sh"), open).unwrap();
                },
                Some("ci/check.sh"),
            ),
            (
                &|root| {
                    std::fs::rename(root.join("ci"), root.join("other")).unwrap();
                    std::os::unix::fs::symlink("other", root.join("ci")).unwrap();
                },
                Some("ci/check.sh"),
            ),
            (&|root| std::fs::write(root.join("src.rs"), "other").unwrap(), None),
            (
                &|root| std::fs::write(root.join("ci/check.sh"), "exit 1").unwrap(),
                None,
            ),
        ];
        for (number, (change, wanted)) in changes.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            std::fs::create_dir(root.join("ci")).unwrap();
            std::fs::write(root.join("ci/check.sh"), "exit 1").unwrap();
            std::fs::write(root.join("src.rs"), "one").unwrap();
            let kept = Kept::of(root, &Protected::new(["ci/**"]).unwrap()).unwrap();
            assert_eq!(kept.changed(root), None);
            change(root);
            assert_eq!(kept.changed(root), wanted.map(Path::new), "{number}");
        }
    }
}
