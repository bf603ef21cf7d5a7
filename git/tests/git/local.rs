use std::time::Duration;

use git::{
    Category, Claim, CommitLimits, Expected, FileEdit, Git, Identity, Local, Mirrors, NOTES_REF, NoteMode, PushOutcome,
    RemoteUrl, Remotes, Settings, compose_message,
};

use crate::support::{Bare, git, round_trip, short, who};

#[test]
fn a_local_repository_keeps_the_contract() {
    let (bare, head) = Bare::with_commit();
    round_trip(&bare.remotes(), &bare.url(), &bare, head);
}

#[test]
fn a_local_repository_outside_the_allowed_roots_is_refused_also_through_a_link() {
    let (bare, _) = Bare::with_commit();
    let other = tempfile::tempdir().unwrap();
    let remotes = Remotes::new(Settings {
        file_roots: vec![other.path().to_owned()],
        ..Settings::default()
    });
    let error = remotes.list_refs(&bare.url(), &[]).unwrap_err();
    assert_eq!(error.category(), Category::Refused);
    assert!(error.to_string().contains("allowed only below"), "{error}");
    let link = other.path().join("link.git");
    std::os::unix::fs::symlink(&bare.path, &link).unwrap();
    let error = remotes.list_refs(&RemoteUrl::local(&link).unwrap(), &[]).unwrap_err();
    assert_eq!(error.category(), Category::Refused);
    assert!(
        Remotes::new(Settings::default()).list_refs(&bare.url(), &[]).is_err(),
        "no roots, no local repositories"
    );
}

#[test]
fn a_missing_an_empty_and_a_half_repository_are_told_apart() {
    let bare = Bare::empty();
    let remotes = bare.remotes();
    assert_eq!(remotes.list_refs(&bare.url(), &[]).unwrap(), []);
    let absent = RemoteUrl::local(&bare.root().join("absent.git")).unwrap();
    let error = remotes.list_refs(&absent, &[]).unwrap_err();
    assert_eq!(error.category(), Category::NotFound, "{error}");
    assert!(error.to_string().contains("absent.git"), "{error}");
    std::fs::create_dir(bare.root().join("folder")).unwrap();
    let folder = RemoteUrl::local(&bare.root().join("folder")).unwrap();
    assert_eq!(
        remotes.list_refs(&folder, &[]).unwrap_err().category(),
        Category::NotFound
    );

    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), remotes).mirror(&bare.url()).unwrap();
    let error = mirror.fetch_branch("main", true).unwrap_err();
    assert_eq!(error.category(), Category::NotFound);
    assert!(error.to_string().contains("branch main not found"), "{error}");
}

#[test]
fn annotated_tags_are_listed_with_what_they_lead_to() {
    let (bare, head) = Bare::with_commit();
    git(&bare.path, &["tag", "-a", "v1", "-m", "one", "main"]);
    let refs = bare.remotes().list_refs(&bare.url(), &["refs/tags/"]).unwrap();
    assert_eq!(refs.len(), 1);
    assert_ne!(refs[0].target, head);
    assert_eq!(refs[0].commit(), head);
    let all = bare.remotes().list_refs(&bare.url(), &[]).unwrap();
    let found = all.iter().find(|r| r.name == "HEAD").unwrap();
    assert_eq!(found.symbolic.as_deref(), Some("refs/heads/main"));
}

#[test]
fn a_race_that_another_wins_between_listing_and_update_is_lost() {
    let (bare, head) = Bare::with_commit();
    let other = bare.commit(Some(head), &[FileEdit::write("other", "1")]);
    let ours = bare.commit(Some(head), &[FileEdit::write("ours", "1")]);
    // The server's own hook moves the ref after it told us the old value and before it takes the update.
    bare.hook(
        "pre-receive",
        &format!("unset GIT_QUARANTINE_PATH; git update-ref refs/heads/main {other}"),
    );
    let outcome = bare
        .remotes()
        .push(&bare.repo, &bare.url(), "refs/heads/main", Expected::At(head), ours)
        .unwrap();
    assert_eq!(outcome, PushOutcome::Lost { found: Some(other) });
}

#[test]
fn a_pre_receive_hook_that_refuses_gives_its_message() {
    let (bare, head) = Bare::with_commit();
    let ours = bare.commit(Some(head), &[FileEdit::write("ours", "1")]);
    bare.hook("pre-receive", "echo 'branches are frozen until Monday' >&2; exit 1");
    let outcome = bare
        .remotes()
        .push(&bare.repo, &bare.url(), "refs/heads/main", Expected::At(head), ours)
        .unwrap();
    let PushOutcome::Refused(message) = outcome else {
        panic!("{outcome:?}")
    };
    assert!(message.contains("frozen until Monday"), "{message}");
}

#[test]
fn a_server_that_dies_after_the_update_still_counts_as_won() {
    let (bare, head) = Bare::with_commit();
    let ours = bare.commit(Some(head), &[FileEdit::write("ours", "1")]);
    // The update happened; the report never arrives.
    bare.hook("post-update", "kill -9 $PPID");
    bare.hook(
        "reference-transaction",
        "[ \"$1\" = committed ] && kill -9 $PPID; exit 0",
    );
    let outcome = bare
        .remotes()
        .push(&bare.repo, &bare.url(), "refs/heads/main", Expected::At(head), ours)
        .unwrap();
    assert_eq!(outcome, PushOutcome::Won);
    assert_eq!(bare.at("main"), Some(ours));
}

#[test]
fn a_hook_that_hangs_ends_in_a_timeout_and_leaves_no_process() {
    let (bare, head) = Bare::with_commit();
    let ours = bare.commit(Some(head), &[FileEdit::write("ours", "1")]);
    let pid_file = bare.root().join("pid");
    bare.hook(
        "pre-receive",
        &format!("echo $$ > {}; exec sleep 1000", pid_file.display()),
    );
    let mut settings = bare.settings();
    settings.timeouts.push = Duration::from_millis(1500);
    let started = std::time::Instant::now();
    let error = Remotes::new(settings)
        .push(&bare.repo, &bare.url(), "refs/heads/main", Expected::At(head), ours)
        .unwrap_err();
    assert_eq!(error.category(), Category::Timeout, "{error}");
    assert!(error.is_transient());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "the hook still runs: {stat}");
    assert_eq!(bare.at("main"), Some(head));
}

#[test]
fn notes_are_appended_replaced_and_readable_by_git() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    mirror.fetch_branch("main", true).unwrap();
    assert_eq!(mirror.read_note(NOTES_REF, head).unwrap(), None);
    let write = |text: &str, mode| mirror.write_note(NOTES_REF, head, text, mode, &who()).unwrap();
    assert_eq!(write("pass", NoteMode::Append), PushOutcome::Won);
    assert_eq!(write("again", NoteMode::Append), PushOutcome::Won);
    assert_eq!(write("again", NoteMode::Append), PushOutcome::Won, "said before");
    assert_eq!(
        git(&bare.path, &["notes", "--ref=foreman", "show", &head.to_string()]),
        "pass\n\nagain\n"
    );
    // Git's own flat layout is found and kept.
    let other = bare.commit(Some(head), &[FileEdit::write("x", "1")]);
    git(
        &bare.path,
        &["notes", "--ref=foreman", "add", "-m", "by hand", &other.to_string()],
    );
    assert_eq!(mirror.read_note(NOTES_REF, other).unwrap().unwrap(), "by hand\n");
    assert_eq!(
        mirror
            .write_note(NOTES_REF, other, "new", NoteMode::Replace, &who())
            .unwrap(),
        PushOutcome::Won
    );
    assert_eq!(
        git(&bare.path, &["notes", "--ref=foreman", "show", &other.to_string()]),
        "new\n"
    );
    assert_eq!(
        git(&bare.path, &["notes", "--ref=foreman", "show", &head.to_string()]),
        "pass\n\nagain\n"
    );
}

#[test]
fn notes_of_two_writers_are_both_kept() {
    let (bare, head) = Bare::with_commit();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    std::thread::scope(|scope| {
        for (at, dir) in dirs.iter().enumerate() {
            let (bare, url) = (&bare, bare.url());
            scope.spawn(move || {
                let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&url).unwrap();
                for turn in 0..3 {
                    let text = format!("writer {at} turn {turn}");
                    let outcome = mirror
                        .write_note(NOTES_REF, head, &text, NoteMode::Append, &who())
                        .unwrap();
                    assert_eq!(outcome, PushOutcome::Won);
                }
            });
        }
    });
    let note = git(&bare.path, &["notes", "--ref=foreman", "show", &head.to_string()]);
    for at in 0..2 {
        for turn in 0..3 {
            assert_eq!(note.matches(&format!("writer {at} turn {turn}")).count(), 1, "{note}");
        }
    }
}

#[tokio::test]
async fn asynchronous_code_has_the_same_calls() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let client = Git::new(
        dir.path().join("mirrors"),
        Settings {
            timeouts: short(),
            ..bare.settings()
        },
    );
    let url = bare.url();
    assert_eq!(client.find_ref(&url, "refs/heads/main").await.unwrap(), Some(head));
    assert_eq!(client.fetch_branch(&url, "main", false).await.unwrap(), head);
    let tree = client
        .work_tree(&url, head, dir.path().join("w"), dir.path().join("a"))
        .await
        .unwrap();
    std::fs::write(tree.path().join("new"), "1").unwrap();
    let made = tree
        .commit_all(head, "m", &who(), &who(), &CommitLimits::default())
        .unwrap()
        .unwrap();
    let diff = client.diff(tree.repository(), Some(head), made, 1000).await.unwrap();
    assert_eq!(diff.insertions, 1);
    let won = client
        .push(tree.repository(), &url, "refs/heads/work", Expected::Absent, made)
        .await
        .unwrap();
    assert_eq!(won, PushOutcome::Won);
    assert_eq!(
        client
            .read(&url, move |repo| repo.tree_entries(head, "", true))
            .await
            .unwrap()
            .unwrap()
            .len(),
        2
    );
}

#[test]
fn of_many_pushes_at_once_exactly_one_wins_and_the_others_lose() {
    let (bare, head) = Bare::with_commit();
    let rivals: Vec<_> = (0..8)
        .map(|at| bare.commit(Some(head), &[FileEdit::write("rival", at.to_string())]))
        .collect();
    let start = std::sync::Barrier::new(rivals.len());
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let pushing: Vec<_> = rivals
            .iter()
            .map(|rival| {
                let (bare, start) = (&bare, &start);
                scope.spawn(move || {
                    start.wait();
                    let at = Expected::At(head);
                    bare.remotes()
                        .push(&bare.repo, &bare.url(), "refs/heads/main", at, *rival)
                        .unwrap()
                })
            })
            .collect();
        pushing.into_iter().map(|p| p.join().unwrap()).collect()
    });
    let winner = bare.at("main").unwrap();
    for (rival, outcome) in rivals.iter().zip(&outcomes) {
        if *rival == winner {
            assert_eq!(*outcome, PushOutcome::Won);
        } else {
            assert_eq!(*outcome, PushOutcome::Lost { found: Some(winner) });
        }
    }
}

#[test]
fn a_later_claim_fences_off_an_earlier_one_of_its_task_and_nobody_else() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    mirror.fetch_branch("main", false).unwrap();
    let repo = mirror.repository();
    let claim = |task: &str, epoch| Claim {
        task: task.into(),
        epoch,
    };
    let work = |claim: &Claim, text: &str| {
        let tree = repo
            .commit_files(Some(head), &[FileEdit::write("work", text)], "x", &who())
            .unwrap();
        let tree = repo.tree_of(tree).unwrap();
        repo.write_claimed(
            tree,
            &[head],
            &compose_message("work", Some(claim), None),
            &who(),
            &who(),
        )
        .unwrap()
    };
    let push = |expected, new, claim: &Claim| {
        mirror
            .push_fenced(&repo, "refs/heads/work", expected, new, claim)
            .unwrap()
    };
    let (first, second) = (claim("uid-1", 1), claim("uid-1", 2));

    // The first claim is slow: it pushed since the second started from an absent branch.
    let early = work(&first, "first");
    assert_eq!(push(Expected::Absent, early, &first), PushOutcome::Won);
    let marker = repo.build_marker(head, &second, &who()).unwrap();
    assert_eq!(push(Expected::Absent, marker, &second), PushOutcome::Won);
    assert_eq!(bare.at("work"), Some(marker));
    // Back from the dead, it can only lose.
    let late = work(&first, "late");
    assert_eq!(
        push(Expected::At(early), late, &first),
        PushOutcome::Lost { found: Some(marker) }
    );
    // The final push of the second replaces its own marker.
    let done = work(&second, "second");
    assert_eq!(push(Expected::At(marker), done, &second), PushOutcome::Won);
    // Another task, and a person, are left alone, also a person who changed our commit and left its trailers.
    let other = claim("uid-2", 9);
    assert_eq!(
        push(Expected::Absent, work(&other, "other"), &other),
        PushOutcome::Lost { found: Some(done) }
    );
    let person = bare.commit(Some(done), &[FileEdit::write("by", "hand")]);
    bare.set("work", person);
    let third = claim("uid-1", 3);
    assert_eq!(
        push(Expected::At(done), work(&third, "third"), &third),
        PushOutcome::Lost { found: Some(person) }
    );
    assert_eq!(bare.at("work"), Some(person));
    let reader = Identity::new("Reader", "reader@example.org", 9);
    let made = repo.commit_info(done).unwrap();
    let amended = repo
        .write_commit(made.tree, &made.parents, &made.message, &made.author, &reader)
        .unwrap();
    assert_eq!(
        mirror
            .remotes()
            .push(&repo, mirror.url(), "refs/heads/work", Expected::At(person), amended)
            .unwrap(),
        PushOutcome::Won
    );
    assert_eq!(
        push(Expected::At(done), work(&third, "third"), &third),
        PushOutcome::Lost { found: Some(amended) }
    );
    assert_eq!(bare.at("work"), Some(amended));
}

#[test]
fn a_repository_with_a_work_tree_of_its_own_is_served_by_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    git(&root, &["init", "-q"]);
    std::fs::write(root.join("a"), "1").unwrap();
    git(&root, &["add", "."]);
    git(&root, &["commit", "-qm", "one"]);
    let local = Local::discover(&root).unwrap().unwrap();
    let remotes = Remotes::new(Settings {
        file_roots: vec![root.clone()],
        timeouts: short(),
        ..Settings::default()
    });
    let url = local.url().unwrap();
    assert_eq!(remotes.find_ref(&url, "refs/heads/main").unwrap(), local.head);
    let mirror = Mirrors::new(root.join("state"), remotes.clone()).mirror(&url).unwrap();
    let head = mirror.fetch_branch("main", false).unwrap();
    let repo = mirror.repository();
    let made = repo
        .commit_files(Some(head), &[FileEdit::write("b", "2")], "two", &who())
        .unwrap();
    assert_eq!(
        remotes
            .push(&repo, &url, "refs/heads/work", Expected::Absent, made)
            .unwrap(),
        PushOutcome::Won
    );
    let refused = remotes
        .push(&repo, &url, "refs/heads/main", Expected::At(head), made)
        .unwrap();
    let PushOutcome::Refused(message) = refused else {
        panic!("{refused:?}")
    };
    assert!(message.contains("checked out"), "{message}");
}
