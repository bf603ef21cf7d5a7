//! What a run changed, found by looking at the files and not at what was said.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};

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
    let walk = ignore::WalkBuilder::new(root)
        .hidden(false)
        .parents(false)
        .git_global(false)
        .git_exclude(false)
        .require_git(false)
        .follow_links(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    let mut files = BTreeMap::new();
    for entry in walk {
        let entry = entry.map_err(std::io::Error::other)?;
        let Some(kind) = entry.file_type() else {
            continue;
        };
        let mut hasher = Sha256::new();
        if kind.is_symlink() {
            hasher.update(std::fs::read_link(entry.path())?.as_os_str().as_encoded_bytes());
        } else if kind.is_file() {
            digest_file(entry.path(), &mut hasher)?;
        } else if kind.is_dir() {
            continue;
        }
        let metadata = entry.metadata().map_err(std::io::Error::other)?;
        // Git knows of a file's mode only whether it can be run.
        let mode = std::os::unix::fs::MetadataExt::mode(&metadata) & 0o170_100;
        if let Ok(path) = entry.path().strip_prefix(root) {
            files.insert(path.to_string_lossy().into_owned(), (mode, hasher.finalize().into()));
        }
    }
    Ok(files)
}

fn digest_file(path: &Path, hasher: &mut Sha256) -> std::io::Result<()> {
    let mut file = std::fs::File::open(path)?;
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
}
