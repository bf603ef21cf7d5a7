//! The same calls for asynchronous code.

use std::{path::PathBuf, sync::Arc};

use crate::{
    Oid,
    connect::Remotes,
    error::{Error, Result},
    list::Ref,
    marker::Claim,
    mirror::{Fetch, Fetched, Mirror, Mirrors},
    notes::NoteMode,
    push::{Expected, PushOutcome},
    repository::{Diff, Identity, Repository},
    settings::Settings,
    url::RemoteUrl,
    work_tree::WorkTree,
};

/// Git for asynchronous code: every call runs on a thread for blocking work. Clones are cheap and share everything.
#[derive(Clone, Debug)]
pub struct Git {
    mirrors: Mirrors,
}

impl Git {
    /// Keeps mirrors in `mirror_dir` and reaches remotes under `settings`. Nothing is read or reached yet.
    pub fn new(mirror_dir: impl Into<PathBuf>, settings: Settings) -> Self {
        Git {
            mirrors: Mirrors::new(mirror_dir, Remotes::new(settings)),
        }
    }

    /// Returns the mirrors, for blocking code.
    pub fn mirrors(&self) -> &Mirrors {
        &self.mirrors
    }

    /// Returns the access to remotes, for blocking code.
    pub fn remotes(&self) -> &Remotes {
        self.mirrors.remotes()
    }

    /// Runs blocking Git work on a thread for it.
    pub async fn run<T, F>(&self, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Git) -> Result<T> + Send + 'static,
    {
        let git = self.clone();
        let joined = tokio::task::spawn_blocking(move || work(&git)).await;
        joined.unwrap_or_else(|e| Err(Error::Stopped(e.to_string())))
    }

    /// Lists refs; see [`Remotes::list_refs`].
    pub async fn list_refs(&self, url: &RemoteUrl, prefixes: &[&str]) -> Result<Vec<Ref>> {
        let url = url.clone();
        let prefixes: Vec<String> = prefixes.iter().map(|p| (*p).to_owned()).collect();
        self.run(move |git| {
            let prefixes: Vec<&str> = prefixes.iter().map(String::as_str).collect();
            git.remotes().list_refs(&url, &prefixes)
        })
        .await
    }

    /// Finds where one ref of a remote points; see [`Remotes::find_ref`].
    pub async fn find_ref(&self, url: &RemoteUrl, refname: &str) -> Result<Option<Oid>> {
        let (url, refname) = (url.clone(), refname.to_owned());
        self.run(move |git| git.remotes().find_ref(&url, &refname)).await
    }

    /// Opens a mirror; see [`Mirrors::mirror`].
    pub async fn mirror(&self, url: &RemoteUrl) -> Result<Arc<Mirror>> {
        let url = url.clone();
        self.run(move |git| git.mirrors.mirror(&url)).await
    }

    /// Fetches into the mirror of `url`; see [`Mirror::fetch`].
    pub async fn fetch(&self, url: &RemoteUrl, wanted: Fetch) -> Result<Fetched> {
        let url = url.clone();
        self.run(move |git| git.mirrors.mirror(&url)?.fetch(&wanted)).await
    }

    /// Fetches a branch into the mirror of `url` and says where it points; see [`Mirror::fetch_branch`].
    pub async fn fetch_branch(&self, url: &RemoteUrl, branch: &str, shallow: bool) -> Result<Oid> {
        let (url, branch) = (url.clone(), branch.to_owned());
        self.run(move |git| git.mirrors.mirror(&url)?.fetch_branch(&branch, shallow))
            .await
    }

    /// Fetches a commit into the mirror of `url` unless it is there; see [`Mirror::fetch_oid`].
    pub async fn fetch_oid(&self, url: &RemoteUrl, oid: Oid, shallow: bool) -> Result<()> {
        let url = url.clone();
        self.run(move |git| git.mirrors.mirror(&url)?.fetch_oid(oid, shallow))
            .await
    }

    /// Reads from the mirror of `url`, or writes objects to it.
    pub async fn read<T, F>(&self, url: &RemoteUrl, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Repository) -> Result<T> + Send + 'static,
    {
        let url = url.clone();
        self.run(move |git| work(&git.mirrors.mirror(&url)?.repository())).await
    }

    /// Compares two commits of a repository; see [`Repository::diff`].
    pub async fn diff(&self, repository: &Repository, base: Option<Oid>, head: Oid, max_text: usize) -> Result<Diff> {
        let repository = repository.clone();
        self.run(move |_| repository.diff(base, head, max_text)).await
    }

    /// Checks a commit of the mirror of `url` out; see [`WorkTree::materialise`].
    pub async fn work_tree(&self, url: &RemoteUrl, commit: Oid, tree: PathBuf, admin: PathBuf) -> Result<WorkTree> {
        let url = url.clone();
        self.run(move |git| WorkTree::materialise(&git.mirrors.mirror(&url)?.repository(), commit, &tree, &admin))
            .await
    }

    /// Moves a ref of a remote; see [`Remotes::push`].
    pub async fn push(
        &self,
        repository: &Repository,
        url: &RemoteUrl,
        refname: &str,
        expected: Expected,
        new: Oid,
    ) -> Result<PushOutcome> {
        let (repository, url, refname) = (repository.clone(), url.clone(), refname.to_owned());
        self.run(move |git| git.remotes().push(&repository, &url, &refname, expected, new))
            .await
    }

    /// Moves a ref of a remote under a claim; see [`Mirror::push_fenced`].
    pub async fn push_fenced(
        &self,
        repository: &Repository,
        url: &RemoteUrl,
        refname: &str,
        expected: Expected,
        new: Oid,
        claim: &Claim,
    ) -> Result<PushOutcome> {
        let (repository, url) = (repository.clone(), url.clone());
        let (refname, claim) = (refname.to_owned(), claim.clone());
        self.run(move |git| {
            let mirror = git.mirrors.mirror(&url)?;
            mirror.push_fenced(&repository, &refname, expected, new, &claim)
        })
        .await
    }

    /// Writes a note; see [`Mirror::write_note`].
    pub async fn write_note(
        &self,
        url: &RemoteUrl,
        notes_ref: &str,
        object: Oid,
        text: String,
        mode: NoteMode,
        who: Identity,
    ) -> Result<PushOutcome> {
        let (url, notes_ref) = (url.clone(), notes_ref.to_owned());
        self.run(move |git| {
            git.mirrors
                .mirror(&url)?
                .write_note(&notes_ref, object, &text, mode, &who)
        })
        .await
    }
}
