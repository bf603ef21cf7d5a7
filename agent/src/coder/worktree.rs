//! What a run changed, found by looking at the files and not at what was said.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

use crate::tools::walk::{Entry, walk};

/// Tells which files differ from the start of the run.
pub trait WorkTree: Send + Sync {
    /// Returns the paths that differ, sorted, relative to the top of the work tree.
    fn changed(&self) -> BoxFuture<'_, Result<Vec<String>, String>>;
}

/// Remembers every file of a folder by its content. Files that .gitignore names do not count.
#[derive(Clone, Debug)]
pub struct Snapshot {
    root: PathBuf,
    files: BTreeMap<String, Mark>,
}

type Mark = (u32, [u8; 32]);

impl Snapshot {
    /// Looks at a folder now.
    pub fn take(root: &Path) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        let files = scan(&root)?;
        Ok(Self { root, files })
    }

    fn compare(&self) -> std::io::Result<Vec<String>> {
        let now = scan(&self.root)?;
        let gone = self.files.keys().filter(|path| !now.contains_key(*path));
        let new = now
            .iter()
            .filter(|(path, mark)| self.files.get(*path) != Some(mark))
            .map(|(path, _)| path);
        let mut changed: Vec<String> = gone.chain(new).cloned().collect();
        changed.sort();
        Ok(changed)
    }
}

impl WorkTree for Snapshot {
    fn changed(&self) -> BoxFuture<'_, Result<Vec<String>, String>> {
        let snapshot = self.clone();
        Box::pin(async move {
            let compared = tokio::task::spawn_blocking(move || snapshot.compare())
                .await
                .map_err(|error| error.to_string())?;
            compared.map_err(|error| format!("failed to read the work tree: {error}"))
        })
    }
}

fn scan(root: &Path) -> std::io::Result<BTreeMap<String, Mark>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty())?;
    let mut files = BTreeMap::new();
    let walked = walk(folder, &|| false, |entry| match entry.and_then(|entry| mark(&entry)) {
        Ok(Some((path, mark))) => {
            files.insert(path, mark);
            ControlFlow::Continue(())
        }
        Ok(None) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match walked {
        ControlFlow::Continue(()) => Ok(files),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Returns the path and the content of one file; `None` where it went away since it was listed.
fn mark(entry: &Entry<'_>) -> std::io::Result<Option<(String, Mark)>> {
    let mut hasher = Sha256::new();
    let read = match entry.kind() {
        FileType::Symlink => entry.target().map(|target| hasher.update(target.as_bytes())),
        FileType::RegularFile => entry.open().and_then(|file| digest_file(file, &mut hasher)),
        _ => Ok(()),
    };
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read?,
    }
    // Git knows of a file's mode only whether it can be run.
    let mode = entry.stat.st_mode & 0o170_100;
    let path = String::from_utf8_lossy(entry.path).into_owned();
    Ok(Some((path, (mode, hasher.finalize().into()))))
}

fn digest_file(mut file: File, hasher: &mut Sha256) -> std::io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(());
        }
        hasher.update(&piece[..read]);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn changes_are_found_by_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["same", "changed", "gone", "touched"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::write(at(".gitignore"), "target\n").unwrap();
        let snapshot = Snapshot::take(folder.path()).unwrap();
        assert_eq!(snapshot.changed().await.unwrap(), Vec::<String>::new());
        std::fs::write(at("changed"), "CHANGED").unwrap();
        std::fs::write(at("touched"), "touched").unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        std::fs::create_dir_all(at("target")).unwrap();
        std::fs::write(at("target/out"), "x").unwrap();
        std::fs::create_dir_all(at("src")).unwrap();
        std::fs::write(at("src/new"), "x").unwrap();
        assert_eq!(snapshot.changed().await.unwrap(), ["changed", "gone", "src/new"]);
    }

    #[tokio::test]
    async fn an_ignore_file_made_a_pipe_or_a_link_is_a_change_and_not_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        let snapshot = Snapshot::take(folder.path()).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at(".gitignore")).unwrap();
        std::fs::create_dir(at("src")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at("src/.gitignore"), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(snapshot.changed().await.unwrap(), [".gitignore", "src/.gitignore"]);
    }
}
