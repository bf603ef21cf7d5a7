//! A repository on this machine: a mirror, the admin folder of a work tree, or a fixture.

mod changes;
mod diff;
mod read;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub use changes::{Change, ChangeKind};
pub use diff::{Diff, FileStat};
pub use read::{CommitInfo, EntryKind, TreeEntry};
pub(crate) use write::clean;
pub use write::{FileEdit, Identity};

use crate::{
    Oid,
    error::{Error, Result},
};

/// A local repository. Clones are cheap and share caches; every call blocks.
///
/// It is opened without the user's, the system's and the environment's Git configuration, so nothing outside the
/// repository changes what a call does.
#[derive(Clone)]
pub struct Repository {
    path: PathBuf,
    inner: Arc<gix::ThreadSafeRepository>,
    damaged: Arc<AtomicBool>,
}

impl std::fmt::Debug for Repository {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Repository {
    /// Makes an empty bare repository whose HEAD names `branch`.
    pub fn init_bare(path: &Path, branch: &str) -> Result<Self> {
        check_refname(&format!("refs/heads/{branch}"))?;
        let write = |file: &str, text: String| {
            let file = path.join(file);
            std::fs::write(&file, text).map_err(|e| Error::io("write", file, e))
        };
        for folder in ["objects/info", "objects/pack", "refs/heads", "refs/tags", "info"] {
            let folder = path.join(folder);
            std::fs::create_dir_all(&folder).map_err(|e| Error::io("make", folder, e))?;
        }
        write(
            "config",
            "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n".into(),
        )?;
        write("HEAD", format!("ref: refs/heads/{branch}\n"))?;
        Self::open(path)
    }

    /// Opens the repository whose Git folder is exactly `path`.
    pub fn open(path: &Path) -> Result<Self> {
        // The store has room for so many packs as long as it is open, and every fetch adds one.
        let slots = gix::odb::store::init::Slots::AsNeededByDiskState {
            multiplier: 1.5,
            minimum: 1024,
        };
        let options = gix::open::Options::isolated()
            .open_path_as_is(true)
            .object_store_slots(slots)
            .with(gix::sec::Trust::Full);
        let inner = options
            .open(path)
            .map_err(|e| match std::fs::symlink_metadata(path.join("HEAD")) {
                Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => Error::Missing {
                    action: "open a repository",
                    what: "a Git repository".into(),
                    path: path.into(),
                },
                _ => Error::gix("open", path, &e),
            })?;
        Ok(Repository {
            path: path.to_owned(),
            inner: Arc::new(inner),
            damaged: Arc::default(),
        })
    }

    /// Returns the Git folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a handle for this thread.
    pub(crate) fn gix(&self) -> gix::Repository {
        let mut repo = self.inner.to_thread_local();
        repo.object_cache_size_if_unset(4 * 1024 * 1024);
        repo
    }

    pub(crate) fn git2(&self) -> Result<git2::Repository> {
        let flags = git2::RepositoryOpenFlags::NO_SEARCH | git2::RepositoryOpenFlags::NO_DOTGIT;
        git2::Repository::open_ext(&self.path, flags, std::iter::empty::<&std::ffi::OsStr>())
            .map_err(|e| Error::git2("open", &self.path, &e))
    }

    /// Wraps an error of gix, remembering that this repository is damaged when that is what it says.
    pub(crate) fn fail(&self, action: &'static str, source: &(dyn std::error::Error + 'static)) -> Error {
        self.note(Error::gix(action, &self.path, source))
    }

    pub(crate) fn fail_git2(&self, action: &'static str, source: &git2::Error) -> Error {
        self.note(Error::git2(action, &self.path, source))
    }

    pub(crate) fn damaged_by(&self, action: &'static str, reason: String) -> Error {
        self.note(Error::Corrupt {
            action,
            path: self.path.clone(),
            reason,
        })
    }

    fn note(&self, error: Error) -> Error {
        if matches!(error, Error::Corrupt { .. }) {
            self.damaged.store(true, Ordering::Release);
        }
        error
    }

    /// Says whether a read found this repository damaged.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Says whether the object is here.
    pub fn has(&self, oid: Oid) -> bool {
        self.gix().has_object(oid)
    }

    /// Finds what a full ref name (`refs/heads/main`, `HEAD`) points at, tags peeled; `None` if there is no such ref.
    pub fn resolve(&self, refname: &str) -> Result<Option<Oid>> {
        let repo = self.gix();
        let Some(mut reference) = repo
            .try_find_reference(refname)
            .map_err(|e| self.fail("read a ref of", &e))?
        else {
            return Ok(None);
        };
        if let gix::refs::TargetRef::Symbolic(target) = reference.inner.target.to_ref() {
            // An unborn branch is an empty repository, not a broken one.
            let found = repo
                .try_find_reference(target.as_bstr())
                .map_err(|e| self.fail("read a ref of", &e))?;
            if found.is_none() {
                return Ok(None);
            }
        }
        let oid = reference.peel_to_id().map_err(|e| self.fail("read a ref of", &e))?;
        Ok(Some(oid.detach()))
    }

    /// Points a ref at an object, whatever it was before; `None` removes it.
    pub fn set_ref(&self, refname: &str, target: Option<Oid>) -> Result<()> {
        check_refname(refname)?;
        use gix::refs::transaction::{Change, LogChange, PreviousValue, RefEdit, RefLog};
        let name = gix::refs::FullName::try_from(refname).map_err(|e| Error::Invalid {
            action: "name a ref",
            reason: e.to_string(),
        })?;
        let change = match target {
            Some(oid) => Change::Update {
                log: LogChange::default(),
                expected: PreviousValue::Any,
                new: gix::refs::Target::Object(oid),
            },
            None => Change::Delete {
                expected: PreviousValue::Any,
                log: RefLog::AndReference,
            },
        };
        let mut repo = self.gix();
        repo.committer_or_set_generic_fallback()
            .map_err(|e| self.fail("write a ref of", &e))?;
        repo.edit_reference(RefEdit::new(name, change))
            .map_err(|e| self.fail("write a ref of", &e))?;
        Ok(())
    }
}

/// Refuses ref names that Git would refuse, and those outside `refs/`.
pub(crate) fn check_refname(refname: &str) -> Result<()> {
    let valid = refname.starts_with("refs/") && git2::Reference::is_valid_name(refname);
    if valid {
        Ok(())
    } else {
        Err(Error::Invalid {
            action: "name a ref",
            reason: format!("{refname:?} is not a full ref name such as refs/heads/main"),
        })
    }
}
