//! Bare mirrors: one per remote repository, shared in the process, locked across processes.

mod check;
mod fetch;
mod lock;
mod tidy;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Instant,
};

use sha2::{Digest, Sha256};

pub use fetch::{Fetch, Fetched};

use crate::{
    connect::Remotes,
    error::{Error, Result},
    repository::Repository,
    url::RemoteUrl,
};

/// Where refs of the remote are kept: `refs/heads/main` there is `refs/foreman/remote/heads/main` here.
const REMOTE_REFS: &str = "refs/foreman/remote/";
/// Where objects that were fetched by id are kept.
const OBJECT_REFS: &str = "refs/foreman/object/";

/// The mirrors of a folder.
#[derive(Clone)]
pub struct Mirrors {
    inner: Arc<Inner>,
}

/// Where a mirror goes once it is open. Opening one may wait for another process, and must not hold up others.
type Place = Arc<Mutex<Option<Arc<Mirror>>>>;

struct Inner {
    dir: PathBuf,
    remotes: Remotes,
    open: Mutex<HashMap<String, Place>>,
}

impl std::fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirrors")
            .field("dir", &self.inner.dir)
            .finish_non_exhaustive()
    }
}

impl Mirrors {
    /// Keeps mirrors in `dir`, which is made when the first is needed.
    pub fn new(dir: impl Into<PathBuf>, remotes: Remotes) -> Self {
        Mirrors {
            inner: Arc::new(Inner {
                dir: dir.into(),
                remotes,
                open: Mutex::default(),
            }),
        }
    }

    /// Returns the access that the mirrors are fetched through.
    pub fn remotes(&self) -> &Remotes {
        &self.inner.remotes
    }

    /// Opens the mirror of `url`, made empty if there is none. A damaged one is set aside and made anew. One process
    /// has one [`Mirror`] per URL.
    pub fn mirror(&self, url: &RemoteUrl) -> Result<Arc<Mirror>> {
        let name = folder_name(url);
        let place = crate::lock(&self.inner.open).entry(name.clone()).or_default().clone();
        let mut place = crate::lock(&place);
        if let Some(mirror) = place.as_ref() {
            return Ok(mirror.clone());
        }
        let dir = &self.inner.dir;
        std::fs::create_dir_all(dir).map_err(|e| Error::io("make", dir, e))?;
        let mirror = Arc::new(Mirror::open(dir, &name, url, self.inner.remotes.clone())?);
        *place = Some(mirror.clone());
        Ok(mirror)
    }
}

/// A readable part, so that people find a mirror, and a hash, so that no two URLs share one.
fn folder_name(url: &RemoteUrl) -> String {
    let last = url.path().rsplit('/').find(|s| !s.is_empty()).unwrap_or("repository");
    let kept: String = last
        .trim_end_matches(".git")
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || "-_".contains(*c))
        .take(40)
        .collect();
    let hash = hex::encode(Sha256::digest(url.to_string().as_bytes()));
    format!("{kept}-{}", &hash[..16])
}

/// A bare mirror of one remote repository. Every call blocks.
///
/// Nothing is ever collected from it: what was fetched once can be read as long as the mirror is.
pub struct Mirror {
    url: RemoteUrl,
    remotes: Remotes,
    path: PathBuf,
    lock_path: PathBuf,
    repository: Mutex<Repository>,
    /// One fetch at a time in this process; the lock file keeps other processes out.
    fetching: Mutex<()>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror")
            .field("url", &self.url)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Mirror {
    fn open(dir: &Path, name: &str, url: &RemoteUrl, remotes: Remotes) -> Result<Self> {
        let path = dir.join(format!("{name}.git"));
        let lock_path = dir.join(format!("{name}.lock"));
        let held = lock::acquire(&lock_path, Instant::now() + remotes.settings().timeouts.lock)?;
        let repository = match check::sound(&path) {
            Ok(repository) => repository,
            Err(reason) => {
                if path.exists() {
                    tracing::warn!(mirror = %path.display(), url = %url, reason, "rebuilding a damaged mirror");
                }
                rebuild(&path)?
            }
        };
        check::sweep(&path);
        drop(held);
        Ok(Mirror {
            url: url.clone(),
            remotes,
            path,
            lock_path,
            repository: Mutex::new(repository),
            fetching: Mutex::new(()),
        })
    }

    /// Returns the address that is mirrored.
    pub fn url(&self) -> &RemoteUrl {
        &self.url
    }

    /// Returns the repository, for reading and for writing objects.
    pub fn repository(&self) -> Repository {
        crate::lock(&self.repository).clone()
    }

    /// Returns the access that the mirror is fetched through.
    pub fn remotes(&self) -> &Remotes {
        &self.remotes
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the folder with the objects, which work trees read.
    pub fn objects(&self) -> PathBuf {
        self.path.join("objects")
    }

    /// Returns the name under which a ref of the remote is kept here.
    pub fn local_name(refname: &str) -> String {
        format!("{REMOTE_REFS}{}", refname.strip_prefix("refs/").unwrap_or(refname))
    }

    /// Throws away what is here and starts empty.
    fn rebuild(&self) -> Result<()> {
        let repository = rebuild(&self.path)?;
        *crate::lock(&self.repository) = repository;
        Ok(())
    }
}

/// Moves a damaged mirror aside in one step, makes an empty one, then removes the old.
fn rebuild(path: &Path) -> Result<Repository> {
    let aside = path.with_extension("damaged");
    let remove = |folder: &Path| match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", folder, e)),
        _ => Ok(()),
    };
    remove(&aside)?;
    match std::fs::rename(path, &aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("move", path, e));
        }
        _ => {}
    }
    let repository = Repository::init_bare(path, "main")?;
    check::seal(path)?;
    remove(&aside)?;
    Ok(repository)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn two_urls_never_share_a_folder_and_names_are_readable() {
        let name = |url: &str| folder_name(&RemoteUrl::parse(url).unwrap());
        assert!(name("https://h/org/repo.git").starts_with("repo-"));
        assert_ne!(name("https://h/org/repo"), name("https://h/other/repo"));
        assert_ne!(name("https://h/a"), name("http://h/a"));
        assert!(
            name("https://h/..%41;rm")
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        );
    }
}
