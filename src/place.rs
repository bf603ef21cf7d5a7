//! Where local mode keeps its state, and who holds it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

/// The state folder of one repository.
#[derive(Clone, Debug)]
pub struct Place {
    /// Root of the repository, or the folder where there is none.
    pub root: PathBuf,
    /// State folder.
    pub state: PathBuf,
}

/// A held lock; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

/// What holds a state folder.
#[derive(Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
}

impl Place {
    /// Finds the state folder for the repository at `root`.
    pub fn new(root: &Path, wanted: Option<&Path>) -> Result<Self> {
        let root = std::fs::canonicalize(root)
            .with_context(|| format!("failed to find the folder {}; name another with -C", root.display()))?;
        let state = match wanted {
            Some(state) => std::path::absolute(state)?,
            None => base()?
                .join("foreman")
                .join(&hex::encode(Sha256::digest(root.as_os_str().as_encoded_bytes()))[..16]),
        };
        Ok(Self { root, state })
    }

    /// Makes the folder, readable by its owner only.
    pub fn create(&self) -> Result<()> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.state)
            .with_context(|| {
                format!(
                    "failed to make the state folder {}; name another with --state",
                    self.state.display()
                )
            })
    }

    /// Returns the path of the kubeconfig that a running server writes.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Removes the kubeconfig of a server that has ended.
    pub fn forget_kubeconfig(&self) {
        // One that stays behind is not read while nobody holds the lock.
        let _ = std::fs::remove_file(self.kubeconfig());
    }

    fn lock_path(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// Takes the folder for this process, or says which process has it.
    pub fn lock(&self) -> Result<std::result::Result<Lock, Holder>> {
        self.create()?;
        let path = self.lock_path();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("failed to open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0)?;
                file.rewind()?;
                writeln!(file, "{}", std::process::id())?;
                // One that a killed server left names a port that nobody serves.
                self.forget_kubeconfig();
                Ok(Ok(Lock { file }))
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                file.read_to_string(&mut text)?;
                Ok(Err(Holder {
                    pid: text.trim().parse().unwrap_or(0),
                }))
            }
            Err(std::fs::TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("failed to lock {}", path.display()))
            }
        }
    }

    /// Takes the folder for a server, or refuses with the other's process id.
    pub fn lock_for_server(&self) -> Result<Lock> {
        match self.lock()? {
            Ok(lock) => Ok(lock),
            Err(Holder { pid }) => bail!(
                "another foreman (process {pid}) serves the state folder {}; stop it with `kill {pid}`, or name another folder with --state",
                self.state.display()
            ),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

fn base() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
    {
        return Ok(path);
    }
    match std::env::var_os("HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
    {
        Some(home) => Ok(home.join(".local/state")),
        None => bail!("failed to find a state folder: neither XDG_STATE_HOME nor HOME is set; name one with --state"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn the_second_server_is_refused_and_told_the_first_ones_process_id() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), Some(&folder.path().join("state"))).unwrap();
        let held = place.lock_for_server().unwrap();
        let refused = place.lock_for_server().unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        drop(held);
        place.lock_for_server().unwrap();
    }

    #[test]
    fn a_kubeconfig_that_a_killed_server_left_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let place = Place::new(folder.path(), Some(&folder.path().join("state"))).unwrap();
        place.create().unwrap();
        std::fs::write(place.kubeconfig(), "stale").unwrap();
        let _held = place.lock().unwrap().unwrap();
        assert!(!place.kubeconfig().exists());
    }

    #[test]
    fn two_repositories_have_two_state_folders() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = |root: &Path| Place::new(root, None).unwrap().state;
        assert_ne!(place(a.path()), place(b.path()));
        assert_eq!(place(a.path()), place(&a.path().join(".")));
    }
}
