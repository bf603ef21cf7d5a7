#![allow(clippy::unwrap_used, clippy::panic)]
use axum::http::StatusCode;
use axum::response::IntoResponse;
use git::{Claim, Expected, FileEdit, Oid, RemoteUrl, Repository};
use kube::Client;

use super::super::push::fence;
use super::*;
use crate::coder::Ending;
use crate::daemon::claim::Held;
use crate::executor::sample::{self, answering, failure};
use crate::executor::source;

/// A manifest whose script the preset's steps run.
const MANIFEST: &str = r#"{"scripts":{"test":"node t"},"dependencies":{"a":"1"}}"#;

/// A run on a repository with one commit, and where its work lies.
struct Site {
    folder: tempfile::TempDir,
    run: Run,
    ground: Ground,
    work_tree: WorkTree,
}

impl Site {
    async fn new(epoch: i64, client: Client) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let remote = Repository::init_bare(&root.join("remote.git"), "main").unwrap();
        let who = Identity::new("T", "t@example.org", 1);
        let base = remote
            .commit_files(
                None,
                &[FileEdit::write("a", "1\n"), FileEdit::write("package.json", MANIFEST)],
                "one",
                &who,
            )
            .unwrap();
        remote.set_ref("refs/heads/main", Some(base)).unwrap();
        let held = Held::sample(epoch);
        let run = sample::run(&root, client, held);
        let url = RemoteUrl::parse(root.join("remote.git").to_str().unwrap()).unwrap();
        let git = run.services.git.clone();
        git.fetch_branch(&url, "main", false).await.unwrap();
        let work_tree = git
            .work_tree(&url, base, root.join("tree"), root.join("admin"))
            .await
            .unwrap();
        let ground = Ground {
            git,
            url,
            branch: "work".into(),
            base,
            start: base,
            expected: Expected::Absent,
            marker: None,
            claim: Claim {
                task: run.held.uid.clone(),
                epoch: epoch as u64,
            },
            gate: None,
            workload: None,
            round: 1,
            stem: "t".into(),
        };
        Self {
            folder,
            run,
            ground,
            work_tree,
        }
    }

    fn change(&self) {
        std::fs::write(self.work_tree.path().join("a"), "2\n").unwrap();
    }

    async fn hand_in(&self, ending: Ending) -> Outcome {
        let (verdict, failure_reason) =
            machine::machine::judge_ending(ending, Some(crate::tools::submit_result::Claim::Go));
        let end = End {
            verdict,
            failure_reason,
            ending,
            summary: "x".into(),
            commit_message: String::new(),
            usage: crate::model::Usage::default(),
            turns: 1,
            tool_calls: 1,
            replay: false,
            changed: Vec::new(),
            extra: serde_json::Map::new(),
        };
        hand_in(&self.run, &self.ground, &self.work_tree, end).await.unwrap()
    }

    /// Returns where the work branch is.
    async fn tip(&self) -> Option<Oid> {
        let (git, ground) = (&self.run.services.git, &self.ground);
        git.find_ref(&ground.url, &ground.refname()).await.unwrap()
    }
}

/// An API in which the task stands as `Held::sample(epoch)` claims it.
fn holding(epoch: i64) -> Client {
    answering(move || axum::Json(sample::task(&Held::sample(epoch))).into_response())
}

#[tokio::test]
async fn what_is_held_no_more_is_not_pushed_and_an_api_that_is_away_keeps_nothing_back() {
    type Case = (&'static str, Client, bool);
    let table: [Case; 4] = [
        ("held", holding(1), true),
        ("claimed by another", holding(2), false),
        ("deleted", answering(|| failure(StatusCode::NOT_FOUND)), false),
        ("away", answering(|| failure(StatusCode::SERVICE_UNAVAILABLE)), true),
    ];
    for (case, client, pushed) in table {
        let site = Site::new(1, client).await;
        site.change();
        let outcome = site.hand_in(Ending::Submitted).await;
        let tip = site.tip().await;
        assert_eq!(tip.is_some(), pushed, "{case}");
        assert_eq!(outcome.head_sha, tip.map(|tip| tip.to_string()), "{case}");
        let lost = outcome.failure == Some(FailureReason::LostClaims);
        assert_eq!(lost, !pushed, "{case}");
    }
}

#[tokio::test]
async fn the_head_of_a_claim_that_changes_nothing_is_where_its_branch_is() {
    for epoch in [1, 2] {
        let mut site = Site::new(epoch, holding(epoch)).await;
        // What an earlier round pushed, from where this one goes on.
        site.change();
        let earlier = site.hand_in(Ending::Submitted).await.head_sha.unwrap();
        let earlier = Oid::from_hex(earlier.as_bytes()).unwrap();
        (site.ground.start, site.ground.expected) = (earlier, Expected::At(earlier));
        let folder = site.folder.path().join("again");
        let (git, url) = (site.ground.git.clone(), site.ground.url.clone());
        git.fetch_oid(&url, earlier, false).await.unwrap();
        let made = git.work_tree(&url, earlier, folder.join("tree"), folder.join("admin"));
        site.work_tree = made.await.unwrap();
        fence(&site.run, &mut site.ground).await.unwrap();
        let outcome = site.hand_in(Ending::EmptyDiff).await;
        let tip = site.tip().await.unwrap();
        assert_eq!(outcome.head_sha, Some(tip.to_string()), "epoch {epoch}");
        assert_eq!(tip == earlier, epoch == 1);
    }
}

#[tokio::test]
async fn a_run_that_is_cancelled_while_it_commits_pushes_nothing() {
    let site = Site::new(1, holding(1)).await;
    site.change();
    site.run.cancel.cancel();
    let outcome = site.hand_in(Ending::Submitted).await;
    assert_eq!((outcome.verdict, outcome.head_sha), (Some(Verdict::Incomplete), None));
    assert_eq!(site.tip().await, None);
}

#[tokio::test]
async fn work_whose_time_is_spent_is_kept_on_the_branch_and_called_unfinished() {
    let site = Site::new(1, holding(1)).await;
    site.change();
    let outcome = site.hand_in(Ending::WallTimeExhausted).await;
    assert_eq!(
        (outcome.verdict, outcome.failure),
        (Some(Verdict::Incomplete), Some(FailureReason::Timeout))
    );
    let tip = site.tip().await.unwrap();
    assert_eq!(outcome.head_sha, Some(tip.to_string()));
    let commit = site.work_tree.repository().commit_info(tip).unwrap();
    assert!(commit.message.starts_with("Unfinished: t\n"), "{}", commit.message);
}

#[tokio::test]
async fn a_file_too_large_to_commit_costs_only_itself() {
    let site = Site::new(1, holding(1)).await;
    site.change();
    // Sparse: it takes no room.
    let big = std::fs::File::create(site.work_tree.path().join("core.dump")).unwrap();
    big.set_len(1 << 40).unwrap();
    let outcome = site.hand_in(Ending::Submitted).await;
    assert_eq!((outcome.verdict, outcome.failure), (Some(Verdict::Go), None));
    let tip = site.tip().await.unwrap();
    assert_eq!(outcome.head_sha, Some(tip.to_string()));
    let read = |path: &str| site.work_tree.repository().read_file(tip, path, 10).unwrap();
    assert!(read("a").is_some() && read("core.dump").is_none());
    assert!(
        outcome
            .summary
            .starts_with("x Left out of the commit: core.dump: it has"),
        "{}",
        outcome.summary
    );
    assert_eq!(outcome.result["extra"]["leftOut"]["count"], json!(1));
}

#[tokio::test]
async fn a_pinned_part_of_a_manifest_that_changed_is_refused_before_the_push_and_its_rest_is_free() {
    for (manifest, refused) in [
        (MANIFEST.replace("node t", "exit 0"), true),
        (MANIFEST.replace("\"1\"", "\"2\""), false),
    ] {
        let mut site = Site::new(1, holding(1)).await;
        let task = sample::task(&Held::sample(1));
        let tree = source::CommitTree::new(site.work_tree.repository().clone(), site.ground.base);
        site.ground.gate = Some(source::resolve_gate(&task, tree).unwrap().unwrap());
        site.change();
        std::fs::write(site.work_tree.path().join("package.json"), manifest).unwrap();
        let outcome = site.hand_in(Ending::Submitted).await;
        assert_eq!(site.tip().await.is_none(), refused);
        assert_eq!(outcome.failure == Some(FailureReason::ConstraintViolated), refused);
        let summary = "refused before the push: the change touches protected paths: package.json (scripts.test)";
        assert_eq!(outcome.summary == summary, refused, "{}", outcome.summary);
    }
}
