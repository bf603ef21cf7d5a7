//! What a step may write beside the work tree: made anew for each.
//!
//! Programs read settings from their home, and some from wherever temporary files lie. A step that could leave any
//! there would decide how the next one judges.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::caches;

/// Folder for memory that processes share.
pub(super) const SHARED_MEMORY: &str = "/dev/shm";
/// Home of a step, below the folder of homes.
const USER: &str = "user";
/// Folder in which compilers keep their work, beside the home.
const BUILDS: &str = "builds";

/// The folders that are emptied before every step.
pub(super) struct Scratch {
    home: PathBuf,
    builds: PathBuf,
    cache: Option<PathBuf>,
    own_cargo_home: Option<PathBuf>,
    folders: Vec<Emptied>,
}

impl Scratch {
    /// Looks at the folders; nothing of the branch has run.
    pub(super) fn new(homes: &Path, tmp: Option<&Path>, cache: Option<&Path>) -> io::Result<Self> {
        let mut folders = vec![Emptied::of(homes, &[USER, BUILDS])?];
        if let Some(tmp) = tmp {
            folders.push(Emptied::of(tmp, &[])?);
        }
        let shared = Path::new(SHARED_MEMORY);
        if has_machine_to_itself() && shared.is_dir() {
            folders.push(Emptied::of(shared, &[])?);
        }
        Ok(Self {
            home: homes.join(USER),
            builds: homes.join(BUILDS),
            cache: cache.map(Path::to_owned),
            own_cargo_home: std::env::var_os("CARGO_HOME").map(PathBuf::from),
            folders,
        })
    }

    /// Returns the home of every step.
    pub(super) fn home(&self) -> &Path {
        &self.home
    }

    /// Returns the folder in which compilers keep their work.
    pub(super) fn builds(&self) -> &Path {
        &self.builds
    }

    /// Removes what steps left, and lays out the home over the cache again. What compilers kept stays where
    /// `keep_builds` says that nobody else can have written it since it was empty.
    pub(super) fn renew(&self, keep_builds: bool) -> io::Result<()> {
        for folder in &self.folders {
            folder.empty(keep_builds.then_some(self.builds.as_path()))?;
        }
        std::fs::create_dir_all(&self.home)?;
        match &self.cache {
            Some(cache) => caches::lay_out(cache, &self.home, self.own_cargo_home.as_deref()),
            None => {
                let cargo = self.home.join("cargo");
                std::fs::create_dir_all(&cargo)?;
                caches::copy_config(self.own_cargo_home.as_deref(), &cargo);
                Ok(())
            }
        }
    }
}

/// Tells whether this is the first process of its container, or the one that the first started: then nobody else uses
/// its shared memory.
pub(super) fn has_machine_to_itself() -> bool {
    let first = |pid: rustix::process::Pid| pid.as_raw_nonzero().get() == 1;
    first(rustix::process::getpid()) || rustix::process::getppid().is_some_and(first)
}

/// A folder that is emptied of all that was not there at first.
struct Emptied {
    folder: PathBuf,
    kept: HashSet<OsString>,
}

impl Emptied {
    fn of(folder: &Path, not_kept: &[&str]) -> io::Result<Self> {
        let mut kept = HashSet::new();
        for entry in std::fs::read_dir(folder)? {
            kept.insert(entry?.file_name());
        }
        for name in not_kept {
            kept.remove(&OsString::from(name));
        }
        Ok(Self {
            folder: folder.to_owned(),
            kept,
        })
    }

    fn empty(&self, spared: Option<&Path>) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(&self.folder)?.permissions().mode();
        if mode & 0o700 != 0o700 {
            // A step took them away. Where the folder is another user's, what fails now says so.
            let _ = std::fs::set_permissions(&self.folder, std::fs::Permissions::from_mode(mode | 0o700));
        }
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if self.kept.contains(&entry.file_name()) {
                continue;
            }
            let path = entry.path();
            if spared == Some(path.as_path()) {
                continue;
            }
            if entry.file_type()?.is_dir() {
                git::remove_tree(&path).map_err(|error| io::Error::other(error.to_string()))?;
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_step_left_is_gone_and_what_was_there_stays() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (homes, tmp, cache) = (
            folder.path().join("homes"),
            folder.path().join("tmp"),
            folder.path().join("cache"),
        );
        for made in [&homes, &tmp, &cache.join("npm"), &cache.join("cargo/registry")] {
            std::fs::create_dir_all(made).unwrap();
        }
        std::fs::write(tmp.join("before"), "").unwrap();
        std::fs::write(cache.join("npm/index"), "good").unwrap();
        let scratch = Scratch::new(&homes, Some(&tmp), Some(&cache)).unwrap();
        scratch.renew(false).unwrap();
        let home = scratch.home();
        std::fs::write(home.join(".npmrc"), "script-shell=/bin/true").unwrap();
        std::fs::write(home.join("npm/index"), "bad").unwrap();
        std::fs::write(home.join("cargo/config.toml"), "bad").unwrap();
        std::fs::create_dir_all(tmp.join("a/b")).unwrap();
        std::fs::set_permissions(tmp.join("a/b"), std::fs::Permissions::from_mode(0o000)).unwrap();
        symlink(&cache, tmp.join("link")).unwrap();
        std::fs::write(homes.join("beside"), "").unwrap();
        std::fs::set_permissions(&homes, std::fs::Permissions::from_mode(0o555)).unwrap();

        scratch.renew(false).unwrap();
        let names = |folder: &Path| -> Vec<_> {
            let mut names: Vec<_> = std::fs::read_dir(folder)
                .unwrap()
                .map(|one| one.unwrap().file_name())
                .collect();
            names.sort();
            names
        };
        assert_eq!(names(&tmp), ["before"]);
        assert_eq!(names(&homes), ["user"]);
        assert_eq!(names(home), ["cargo", "npm"]);
        assert_eq!(names(&home.join("cargo")), ["registry"]);
        assert_eq!(std::fs::read_to_string(home.join("npm/index")).unwrap(), "good");
        assert_eq!(std::fs::read_to_string(cache.join("npm/index")).unwrap(), "good");
    }

    #[test]
    fn what_compilers_kept_stays_only_where_nobody_else_can_have_written_it() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path(), None, None).unwrap();
        scratch.renew(false).unwrap();
        std::fs::create_dir(scratch.builds()).unwrap();
        for name in [scratch.builds(), scratch.home()] {
            std::fs::write(name.join("object"), "").unwrap();
        }
        scratch.renew(true).unwrap();
        assert!(scratch.builds().join("object").exists() && !scratch.home().join("object").exists());
        scratch.renew(false).unwrap();
        assert!(!scratch.builds().exists());
    }
}
