//! The folder that a run works in, which goes when the run does, however that ends.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Handle;

/// How long a run that was cancelled waits for its folder to be gone: a large tree goes on being removed beside it.
const PATIENCE: Duration = Duration::from_millis(300);

/// A folder that is removed at the end: also of a run that fails while it checks out, or that is given up in the middle.
#[derive(Debug)]
pub(super) struct RunFolder {
    path: PathBuf,
    keep: bool,
}

impl RunFolder {
    /// Names the folder; makes nothing yet. One that is to be `kept` stays.
    pub(super) fn new(path: PathBuf, keep: bool) -> Self {
        Self { path, keep }
    }

    /// Returns where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it and waits until it is gone, or only a moment where the claim is to be given back first.
    pub(super) async fn remove(mut self, at_once: bool) {
        if std::mem::replace(&mut self.keep, true) {
            return;
        }
        let path = std::mem::take(&mut self.path);
        let removal = tokio::task::spawn_blocking(move || remove(&path));
        if at_once {
            let _ = tokio::time::timeout(PATIENCE, removal).await;
        } else {
            let _ = removal.await;
        }
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        let path = std::mem::take(&mut self.path);
        match Handle::try_current() {
            // Whoever drops it waits for nothing.
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&path))),
            Err(_) => remove(&path),
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = git::remove_tree(path) {
        tracing::warn!(%error, path = %path.display(), "failed to remove the folder of a run; the next start of the agent tries again");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_folder_of_a_run_that_is_given_up_goes_unless_it_is_to_be_kept() {
        // One thread for blocking work does one thing after the other.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        for keep in [false, true] {
            let parent = tempfile::tempdir().unwrap();
            let path = parent.path().join("uid-1");
            std::fs::create_dir_all(path.join("tree")).unwrap();
            let folder = RunFolder::new(path.clone(), keep);
            runtime.block_on(async move {
                drop(folder);
                tokio::task::spawn_blocking(|| ()).await.unwrap();
            });
            assert_eq!(path.exists(), keep);
        }
    }
}
