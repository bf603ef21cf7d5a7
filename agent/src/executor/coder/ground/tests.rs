#![allow(clippy::unwrap_used, clippy::panic)]
use axum::http::StatusCode;
use git::{FileEdit, Identity, Repository, compose_message};
use schemas::AgenticTaskStatus;

use super::*;
use crate::daemon::claim::Held;
use crate::executor::sample::{self, answering, failure};

/// A remote with a base and a commit that the first claim of the sample's task pushed.
struct Site {
    _folder: tempfile::TempDir,
    run: Run,
    remote: Repository,
    made: Oid,
}

impl Site {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let remote = Repository::init_bare(&root.join("remote.git"), "main").unwrap();
        let who = Identity::new("T", "t@example.org", 1);
        let commit = |parent, text: &str| {
            let edits = [FileEdit::write("a", text)];
            remote.commit_files(parent, &edits, "x", &who).unwrap()
        };
        let base = commit(None, "1");
        remote.set_ref("refs/heads/main", Some(base)).unwrap();
        let tree = remote.tree_of(commit(Some(base), "2")).unwrap();
        let mut run = sample::run(&root, answering(|| failure(StatusCode::NOT_FOUND)), Held::sample(2));
        run.task.spec.payload.repo = Some(root.join("remote.git").to_str().unwrap().into());
        run.task.spec.payload.branch = Some("work".into());
        let claim = Claim {
            task: run.held.uid.clone(),
            epoch: 1,
        };
        let message = compose_message("Mend it", Some(&claim), None);
        let made = remote.write_claimed(tree, &[base], &message, &who, &who).unwrap();
        Self {
            _folder: folder,
            run,
            remote,
            made,
        }
    }

    /// Does what `git commit --amend` does on another machine: all but the committer stays.
    fn amended(&self) -> Oid {
        let made = self.remote.commit_info(self.made).unwrap();
        let reader = Identity::new("Reader", "reader@example.org", 2);
        self.remote
            .write_commit(made.tree, &made.parents, &made.message, &made.author, &reader)
            .unwrap()
    }

    async fn lay_at(&self, tip: Oid) -> Result<Ground, Outcome> {
        self.remote.set_ref("refs/heads/work", Some(tip)).unwrap();
        lay(&self.run).await
    }
}

#[tokio::test]
async fn what_a_claim_pushed_before_its_agent_died_is_ours_though_no_status_says_so() {
    let site = Site::new();
    let ground = site.lay_at(site.made).await.map_err(|outcome| outcome.summary).unwrap();
    assert_eq!(ground.expected, Expected::At(site.made));
    let claim = Claim {
        task: site.run.held.uid.clone(),
        epoch: 1,
    };
    let who = Identity::new("T", "t@example.org", 1);
    let marker = site.remote.build_marker(site.made, &claim, &who).unwrap();
    let ground = site.lay_at(marker).await.map_err(|outcome| outcome.summary).unwrap();
    assert_eq!(ground.expected, Expected::At(marker));
}

#[tokio::test]
async fn a_commit_that_a_person_amended_is_not_built_over_though_its_trailers_are_ours() {
    let mut site = Site::new();
    let amended = site.amended();
    let Err(refused) = site.lay_at(amended).await else {
        panic!("the amended commit would be replaced");
    };
    assert_eq!(refused.failure, Some(FailureReason::PushRejected));
    let said = &refused.summary;
    assert!(
        said.contains("\"work\"") && said.contains(&amended.to_string()[..10]) && said.contains("amended"),
        "{said}"
    );
    site.run.task.status = Some(AgenticTaskStatus {
        commit_sha: Some(site.made.to_string()),
        ..AgenticTaskStatus::default()
    });
    assert!(site.lay_at(amended).await.is_err(), "the status names another commit");
    site.run.task.spec.payload.allow_overwrite = Some(true);
    assert!(site.lay_at(amended).await.is_ok(), "the task allows it");
}

#[tokio::test]
async fn what_a_status_names_is_ours_whatever_the_commit_says() {
    let mut site = Site::new();
    let other = site.amended();
    site.run.task.status = Some(AgenticTaskStatus {
        commit_sha: Some(other.to_string()),
        ..AgenticTaskStatus::default()
    });
    assert!(site.lay_at(other).await.is_ok());
}
