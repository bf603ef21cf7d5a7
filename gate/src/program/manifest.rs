//! The work tree as it was checked out: what `run` compares before anything of it runs.

use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sha2::{Digest, Sha256};

/// Name of the file, beside the program, that holds the manifest and the head.
pub(super) const MANIFEST: &str = "manifest";

/// Computes a digest over names, kinds, executable bits and contents of everything below `root`.
pub(super) fn digest(root: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    add_folder(root, &mut hash)?;
    Ok(hex::encode(hash.finalize()))
}

fn add_folder(folder: &Path, hash: &mut Sha256) -> io::Result<()> {
    let mut entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        let metadata = path.symlink_metadata()?;
        let name = entry.file_name();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name.as_bytes());
        if metadata.is_symlink() {
            let target = std::fs::read_link(&path)?;
            hash.update(b"l");
            hash.update((target.as_os_str().len() as u64).to_be_bytes());
            hash.update(target.as_os_str().as_bytes());
        } else if metadata.is_dir() {
            hash.update(b"(");
            add_folder(&path, hash)?;
            hash.update(b")");
        } else if metadata.is_file() {
            let executable = metadata.permissions().mode() & 0o100 != 0;
            hash.update(if executable { b"x" } else { b"f" });
            hash.update(metadata.len().to_be_bytes());
            add_content(&path, hash)?;
        } else {
            hash.update(b"?");
        }
    }
    hash.update(b".");
    Ok(())
}

/// Adds what a file holds.
pub(super) fn add_content(path: &Path, hash: &mut Sha256) -> io::Result<()> {
    let mut file = std::fs::File::open(path)?;
    let mut buffer = [0; 64 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => hash.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_change_of_a_tree_changes_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir(root.join("a")).unwrap();
        std::fs::write(root.join("a/one"), "1").unwrap();
        let mut seen = vec![digest(root).unwrap()];
        let changes: [&dyn Fn(); 5] = [
            &|| std::fs::write(root.join("a/one"), "2").unwrap(),
            &|| std::fs::set_permissions(root.join("a/one"), std::fs::Permissions::from_mode(0o755)).unwrap(),
            &|| std::fs::rename(root.join("a/one"), root.join("one")).unwrap(),
            &|| std::os::unix::fs::symlink("one", root.join("two")).unwrap(),
            &|| std::fs::create_dir(root.join("b")).unwrap(),
        ];
        for change in changes {
            change();
            let now = digest(root).unwrap();
            assert!(!seen.contains(&now));
            seen.push(now);
        }
    }
}
