//! Reports as Git notes, where a plain Git server is all there is.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use git::{Git, Identity, NoteMode, Oid, PushOutcome, RemoteUrl};
use schemas::inert::{DESCRIPTION_CHARS, one_line};
use schemas::labels::NOTES_REF;

use super::plan::CommitStatus;
use super::{Error, Forge};
use crate::clock::Clock;
use crate::metrics::{GIT_REQUESTS, Metrics};

/// Writes notes under `refs/notes/foreman`.
pub struct Notes {
    git: Git,
    remote_url: Option<String>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

impl Notes {
    /// Writes through `git`; `owner/name` is looked up below `remote_url`.
    pub fn new(git: Git, remote_url: Option<String>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            git,
            remote_url,
            clock,
            metrics,
        }
    }

    fn url(&self, repo: &str) -> Result<RemoteUrl, Error> {
        git::of_repository(self.remote_url.as_deref(), repo)?.ok_or_else(|| Error::NoRemote(repo.to_owned()))
    }

    async fn write(&self, repo: &str, commit: &str, text: &str, mode: NoteMode) -> Result<String, Error> {
        let url = self.url(repo)?;
        let object = Oid::from_hex(commit.as_bytes()).map_err(|_| Error::Commit(commit.to_owned()))?;
        let who = Identity::new("Foreman", "foreman@localhost", self.clock.now().as_second());
        self.metrics.count(GIT_REQUESTS, &[("operation", "push")]);
        match self
            .git
            .write_note(&url, NOTES_REF, object, text.to_owned(), mode, who)
            .await?
        {
            PushOutcome::Won => Ok(format!("{NOTES_REF} of {commit}")),
            other => Err(Error::Push(other.to_string())),
        }
    }
}

/// Renders the note: a line for people, then the verdict for programs.
pub fn render(status: &CommitStatus) -> String {
    let line = one_line(
        &format!("{}: {} {}", status.context, status.state.as_str(), status.description),
        DESCRIPTION_CHARS,
    );
    let mut details = status.details.clone();
    if let Some(map) = details.as_object_mut() {
        map.remove("wanted");
    }
    format!(
        "{line}\n\n{}\n",
        serde_json::to_string_pretty(&details).unwrap_or_default()
    )
}

impl Forge for Notes {
    fn commit_status<'a>(
        &'a self,
        repo: &'a str,
        commit: &'a str,
        status: &'a CommitStatus,
    ) -> BoxFuture<'a, Result<String, Error>> {
        async move { self.write(repo, commit, &render(status), NoteMode::Replace).await }.boxed()
    }

    fn note<'a>(&'a self, repo: &'a str, commit: &'a str, text: &'a str) -> BoxFuture<'a, Result<String, Error>> {
        self.write(repo, commit, text, NoteMode::Replace).boxed()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn a_note_goes_to_the_address_that_agents_clone_from() {
        let folder = tempfile::tempdir().unwrap();
        let notes = |base: Option<&str>| {
            Notes::new(
                Git::new(folder.path().join("mirrors"), git::Settings::default()),
                base.map(str::to_owned),
                Arc::new(SystemClock::default()),
                Arc::new(Metrics::default()),
            )
        };
        let below = notes(Some("https://forge.example/base/"));
        for (repo, url) in [
            ("acme/tool", "https://forge.example/base/acme/tool.git"),
            ("https://other.example/a/b", "https://other.example/a/b"),
            ("host:a/b", "host:a/b"),
        ] {
            assert_eq!(below.url(repo).unwrap().to_string(), url, "{repo}");
        }
        let error = notes(None).url("acme/tool").unwrap_err();
        assert!(
            matches!(error, Error::NoRemote(ref repo) if repo == "acme/tool"),
            "{error}"
        );
    }
}
