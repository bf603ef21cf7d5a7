//! The running executable as a file, also after an upgrade put another in its place.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::sync::Mutex;

/// The running executable, whatever became of its file.
const OWN: &str = "/proc/self/exe";

/// Finds a file that holds the running executable.
#[derive(Debug)]
pub(super) struct Program {
    /// Where a copy goes once the executable's own file is gone.
    copy: PathBuf,
    copied: Mutex<bool>,
}

impl Program {
    /// Puts the copy, where one is ever needed, into `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        let copy = folder.join("program");
        // One of an earlier process, if any; what cannot be removed is written over.
        let _ = std::fs::remove_file(&copy);
        let copied = Mutex::new(false);
        Self { copy, copied }
    }

    /// Returns a file that holds the running executable.
    pub(super) async fn path(&self) -> io::Result<PathBuf> {
        self.path_where(std::fs::read_link(OWN)?).await
    }

    /// Returns `file` if it is the running executable, and else a copy of that.
    async fn path_where(&self, file: PathBuf) -> io::Result<PathBuf> {
        if is_own(&file) {
            return Ok(file);
        }
        let mut copied = self.copied.lock().await;
        if !*copied {
            tracing::info!(file = %file.display(), "the program was replaced or removed; this process goes on as what it is");
            let copy = self.copy.clone();
            tokio::task::spawn_blocking(move || {
                std::fs::create_dir_all(copy.parent().unwrap_or(&copy))?;
                std::fs::copy(OWN, copy)
            })
            .await
            .map_err(io::Error::other)??;
            *copied = true;
        }
        Ok(self.copy.clone())
    }
}

fn is_own(file: &Path) -> bool {
    let identity = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
    identity(file).is_some_and(|found| identity(Path::new(OWN)) == Some(found))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_executable_stands_for_itself_while_it_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::new(folder.path());
        assert_eq!(program.path().await.unwrap(), std::env::current_exe().unwrap());
        assert!(!folder.path().join("program").exists());
    }

    #[tokio::test]
    async fn where_another_lies_there_or_none_it_is_copied_once() {
        let folder = tempfile::tempdir().unwrap();
        let below = folder.path().join("runner");
        let other = folder.path().join("other");
        std::fs::write(&other, "another version").unwrap();
        for file in [other, folder.path().join("none")] {
            let program = Program::new(&below);
            assert!(!below.join("program").exists(), "an earlier process's copy is gone");
            let copy = program.path_where(file.clone()).await.unwrap();
            assert!(std::fs::read(&copy).unwrap() == std::fs::read(OWN).unwrap());
            let made = copy.metadata().unwrap().modified().unwrap();
            assert_eq!(program.path_where(file).await.unwrap(), copy);
            assert_eq!(copy.metadata().unwrap().modified().unwrap(), made);
        }
    }
}
