//! The folder in which one set of servers lives: credentials, data, logs and who runs.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::cache;
use super::program::Release;

/// How much of a cluster is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// etcd, kube-apiserver and kube-controller-manager; needs Go, no root.
    Api,
    /// Tier api, and a node: kube-scheduler, containerd, kubelet, kube-proxy; needs root and Debian packages.
    Node,
    /// Tier api, and Argo CD: its repo-server and application controller, and redis; needs redis-server, no root.
    Argocd,
}

impl Tier {
    /// Returns whether what needs the other tier can be done on this one.
    pub fn includes(self, other: Tier) -> bool {
        self == other || other == Self::Api
    }
}

impl std::fmt::Display for Tier {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Api => "api",
            Self::Node => "node",
            Self::Argocd => "argocd",
        })
    }
}

/// The folder of one set of servers.
#[derive(Debug)]
pub struct State {
    folder: PathBuf,
}

/// What was started, written before the first process is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub tier: Tier,
    pub durable: bool,
    #[serde(default)]
    pub kubernetes: Release,
    /// Where the API is reached.
    pub api: String,
    /// The names of the processes that are to run, in the order of their start.
    pub processes: Vec<String>,
}

impl State {
    /// Names the folder: the one asked for, else one of this checkout's own in the cache.
    pub fn open(root: &Path, asked: Option<&Path>) -> Result<State> {
        let folder = match asked {
            Some(folder) => std::path::absolute(folder).context("failed to find the current folder")?,
            None => {
                let root = root.canonicalize().context("failed to find the repository's root")?;
                let digest = Sha256::digest(root.as_os_str().as_encoded_bytes());
                cache()?.join("state").join(hex::encode(&digest[..6]))
            }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("failed to make {}", folder.display()))?;
        // Arguments with commas and paths of sockets are made of it.
        match folder.to_str() {
            Some(text) if !text.contains([',', ' ', '"']) => Ok(State { folder }),
            _ => bail!(
                "{} cannot be a state folder: its path has a space, a comma, a quote, or is not UTF-8",
                folder.display()
            ),
        }
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the path of something in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the log of a process.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{name}.log"))
    }

    /// Returns the administrator's kubeconfig, where servers were started.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let path = self.file("admin.kubeconfig");
        if !path.exists() {
            bail!("nothing is up in {}; run `cargo xtask real up`", self.folder.display());
        }
        Ok(path)
    }

    /// Waits until no other command changes this set of servers; the lock goes with the file, also in a crash.
    pub fn lock(&self) -> Result<File> {
        let path = self.file("lock");
        let file = File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
        if file.try_lock().is_err() {
            eprintln!("waiting for another command on {}", self.folder.display());
            file.lock()
                .with_context(|| format!("failed to lock {}", path.display()))?;
        }
        Ok(file)
    }

    /// Reads what was started.
    pub fn cluster(&self) -> Result<Option<Cluster>> {
        let path = self.file("cluster.json");
        match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .with_context(|| format!("failed to read {}; run `cargo xtask real down`", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
        }
    }

    /// Writes what is about to be started.
    pub fn write_cluster(&self, cluster: &Cluster) -> Result<()> {
        self.write("cluster.json", &serde_json::to_vec_pretty(cluster)?)
    }

    /// Writes a file that only its owner can read, whole or not at all.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.file(name);
        let failed = || format!("failed to write {}", path.display());
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(failed)?;
        }
        let fresh = path.with_extension("part");
        let mut file = fs::OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .with_context(failed)?;
        file.write_all(bytes).with_context(failed)?;
        fs::rename(&fresh, &path).with_context(failed)
    }

    /// Deletes everything but logs and the lock.
    pub fn clear(&self) -> Result<()> {
        for entry in fs::read_dir(&self.folder).with_context(|| format!("failed to list {}", self.folder.display()))? {
            let path = entry?.path();
            if path.ends_with("logs") || path.ends_with("lock") {
                continue;
            }
            let deleted = if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)
            } else {
                fs::remove_file(&path)
            };
            deleted.with_context(|| format!("failed to delete {}", path.display()))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_was_started_is_read_back_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        assert_eq!(state.cluster().unwrap(), None);
        let error = state.kubeconfig().unwrap_err().to_string();
        assert!(error.contains("cargo xtask real up"), "{error}");
        let cluster = Cluster {
            tier: Tier::Api,
            durable: true,
            kubernetes: Release::Oldest,
            api: String::new(),
            processes: vec!["etcd".to_owned()],
        };
        state.write_cluster(&cluster).unwrap();
        assert_eq!(state.cluster().unwrap(), Some(cluster));
        let mode = state.file("cluster.json").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn clearing_leaves_the_logs() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        state.write("etcd/data", b"x").unwrap();
        state.write("logs/etcd.log", b"x").unwrap();
        state.clear().unwrap();
        assert!(!state.file("etcd").exists());
        assert!(state.log("etcd").exists());
    }

    #[test]
    fn two_checkouts_have_two_folders_and_a_folder_that_arguments_cannot_name_is_refused() {
        let folders = tempfile::tempdir().unwrap();
        let refused = State::open(Path::new("/"), Some(&folders.path().join("a,b")));
        assert!(refused.unwrap_err().to_string().contains("a comma"));
    }
}
