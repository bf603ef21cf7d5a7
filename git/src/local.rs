//! The repository that a person stands in.

use std::path::{Path, PathBuf};

use crate::{
    Oid,
    error::{Error, Result},
    url::RemoteUrl,
};

/// What `foreman run` and `foreman init` need to know of the repository around a folder. It is the user's own, read
/// with the user's own configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The folder with the files; the Git folder of a bare repository.
    pub root: PathBuf,
    /// The Git folder that branches are kept in.
    pub git_dir: PathBuf,
    /// There are no files, only history.
    pub bare: bool,
    /// The commit that HEAD leads to; `None` before the first commit.
    pub head: Option<Oid>,
    /// The branch that HEAD names; `None` when it is detached.
    pub branch: Option<String>,
    /// Files differ from HEAD or are new; ignored files do not count.
    pub dirty: bool,
    /// The URL of the branch's remote, else of `origin`, if it is one that can be used.
    pub remote: Option<RemoteUrl>,
    /// Name and mail address that the user's configuration gives.
    pub user: Option<(String, String)>,
}

impl Local {
    /// Finds the repository that `path` lies in; `None` if there is none.
    pub fn discover(path: &Path) -> Result<Option<Local>> {
        let repo = match git2::Repository::discover(path) {
            Ok(repo) => repo,
            Err(e) if e.code() == git2::ErrorCode::NotFound => return Ok(None),
            Err(e) => return Err(Error::git2("open", path, &e)),
        };
        let fail = |e: git2::Error| Error::git2("read", repo.path(), &e);
        let git_dir = repo.commondir().to_owned();
        // Without the slash that libgit2 puts at the end.
        let root: PathBuf = repo.workdir().unwrap_or(&git_dir).components().collect();
        let head_ref = repo.find_reference("HEAD").map_err(fail)?;
        let branch = head_ref
            .symbolic_target()
            .ok()
            .flatten()
            .and_then(|t| t.strip_prefix("refs/heads/"))
            .map(str::to_owned);
        let head = match repo.head() {
            Ok(head) => Some(head.peel_to_commit().map_err(fail)?.id()),
            Err(e) if matches!(e.code(), git2::ErrorCode::UnbornBranch | git2::ErrorCode::NotFound) => None,
            Err(e) => return Err(fail(e)),
        };
        let dirty = !repo.is_bare() && {
            let mut options = git2::StatusOptions::new();
            options
                .include_untracked(true)
                .recurse_untracked_dirs(false)
                .exclude_submodules(true);
            !repo.statuses(Some(&mut options)).map_err(fail)?.is_empty()
        };
        let config = repo.config().map_err(fail)?;
        let named = branch
            .as_ref()
            .and_then(|branch| config.get_string(&format!("branch.{branch}.remote")).ok());
        let remote = config
            .get_string(&format!("remote.{}.url", named.as_deref().unwrap_or("origin")))
            .ok();
        let user = config
            .get_string("user.name")
            .ok()
            .zip(config.get_string("user.email").ok());
        Ok(Some(Local {
            head: head.and_then(|oid| Oid::try_from(oid.as_bytes()).ok()),
            bare: repo.is_bare(),
            remote: remote.and_then(|url| RemoteUrl::parse(&url).ok()),
            root,
            git_dir,
            branch,
            dirty,
            user,
        }))
    }

    /// Returns the address under which the reconciler and the agent reach this repository on this machine.
    pub fn url(&self) -> Result<RemoteUrl> {
        RemoteUrl::local(&self.root)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn git(dir: &Path, args: &[&str]) {
        let out = std::process::Command::new("git")
            .args([
                "-c",
                "user.name=T",
                "-c",
                "user.email=t@e",
                "-c",
                "init.defaultBranch=main",
            ])
            .args(args)
            .current_dir(dir)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
    }

    #[test]
    fn the_repository_around_a_folder_is_described() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        assert_eq!(Local::discover(&root).unwrap(), None);
        git(&root, &["init", "-q"]);
        let fresh = Local::discover(&root).unwrap().unwrap();
        assert_eq!(
            (fresh.head, fresh.branch.as_deref(), fresh.dirty),
            (None, Some("main"), false)
        );
        std::fs::create_dir(root.join("sub")).unwrap();
        std::fs::write(root.join("sub/a"), "1").unwrap();
        assert!(Local::discover(&root.join("sub")).unwrap().unwrap().dirty);
        git(&root, &["add", "."]);
        git(&root, &["commit", "-qm", "one"]);
        git(&root, &["remote", "add", "origin", "https://forge.example/a/b.git"]);
        let local = Local::discover(&root.join("sub")).unwrap().unwrap();
        assert!(!local.dirty && local.head.is_some());
        assert_eq!(local.root, root);
        assert_eq!(local.remote.unwrap().to_string(), "https://forge.example/a/b.git");
        git(&root, &["checkout", "-q", "--detach"]);
        assert_eq!(Local::discover(&root).unwrap().unwrap().branch, None);
    }
}
