//! Where package caches lie and what they are keyed by.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::definition::{BaseTree, ResolvedGate};

/// Files whose content keys a cache where the gate names none.
pub const LOCK_FILES: &[&str] = &[
    "Cargo.lock",
    "Cargo.toml",
    "go.mod",
    "go.sum",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "package.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "requirements.txt",
    "requirements-dev.txt",
    "requirements-test.txt",
    "pyproject.toml",
    "poetry.lock",
    "uv.lock",
];

/// Largest file that is read for a cache's key.
const KEYED_FILE_MAX: usize = 32 << 20;

/// Who else may use a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheScope {
    /// Every gate of the repository with the same base digest.
    Shared,
    /// Only this task and epoch: for work that untrusted people started.
    Private {
        /// UID of the task.
        task_uid: String,
        /// Epoch of the claim.
        epoch: i64,
    },
}

/// The folder of one cache below the cache volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheKey {
    /// Folder of the repository: 16 hex digits.
    pub repository: String,
    /// Folder of the cache within it: 32 hex digits.
    pub key: String,
}

impl CacheKey {
    /// Returns the folder below the cache volume.
    pub fn folder(&self) -> String {
        format!("{}/{}", self.repository, self.key)
    }
}

/// Computes the key of the cache that `gate` needs, or `None` where it prepares nothing.
///
/// The key covers repository, image, command, and the lock files as they are in the base tree, so
/// that no branch under test writes into a cache that others read.
pub fn cache_key(gate: &ResolvedGate, repository: &str, tree: &dyn BaseTree, scope: &CacheScope) -> Option<CacheKey> {
    let prepare = gate.prepare.as_ref()?;
    let mut repository_hash = Sha256::new();
    field(&mut repository_hash, repository.trim_end_matches('/').as_bytes());
    if let CacheScope::Private { task_uid, epoch } = scope {
        field(&mut repository_hash, b"private");
        field(&mut repository_hash, task_uid.as_bytes());
        field(&mut repository_hash, epoch.to_string().as_bytes());
    }
    let mut key = Sha256::new();
    field(&mut key, crate::FORMAT.as_bytes());
    field(&mut key, gate.image.as_bytes());
    field(&mut key, prepare.command.as_bytes());
    for path in &prepare.cache_key {
        field(&mut key, path.as_bytes());
        match tree.read(path, KEYED_FILE_MAX) {
            Some(content) => field(&mut key, &content),
            None => key.update(b"\0absent"),
        }
    }
    Some(CacheKey {
        repository: hex::encode(&repository_hash.finalize()[..8]),
        key: hex::encode(&key.finalize()[..16]),
    })
}

fn field(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}
