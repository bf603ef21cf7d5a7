use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

use git::{Category, Expected, Fetch, FileEdit, Mirror, Mirrors, Oid, PushOutcome, Remotes};

use crate::support::{Bare, git, who};

fn packs(mirror: &Mirror) -> Vec<PathBuf> {
    let entries = fs::read_dir(mirror.path().join("objects/pack")).unwrap();
    entries
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "pack"))
        .collect()
}

/// Packs are written read-only.
fn spoil(path: &PathBuf, with: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    with(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    // A new file in its place: the old one may be mapped into memory.
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_force_pushed_branch_is_followed_and_the_old_commit_stays_readable() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let mirrors = Mirrors::new(dir.path(), bare.remotes());
    let mirror = mirrors.mirror(&bare.url()).unwrap();
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), head);
    let other = bare.commit(None, &[FileEdit::write("else", "1")]);
    bare.set("main", other);
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), other);
    let repo = mirror.repository();
    assert!(repo.tree_entries(head, "", true).unwrap().is_some());
    assert_eq!(
        repo.resolve(&Mirror::local_name("refs/heads/main")).unwrap(),
        Some(other)
    );
    assert!(
        std::sync::Arc::ptr_eq(&mirror, &mirrors.mirror(&bare.url()).unwrap()),
        "one mirror per process"
    );
}

#[test]
fn a_shallow_fetch_brings_tips_only_and_can_be_pushed_from() {
    let (bare, first) = Bare::with_commit();
    let second = bare.commit(Some(first), &[FileEdit::write("tasks/a.md", "1")]);
    bare.set("main", second);
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    assert_eq!(mirror.fetch_branch("main", true).unwrap(), second);
    let repo = mirror.repository();
    assert!(!repo.has(first), "history is not fetched");
    let third = bare.commit(Some(second), &[FileEdit::write("tasks/b.md", "2")]);
    bare.set("main", third);
    assert_eq!(mirror.fetch_branch("main", true).unwrap(), third);
    let changed = repo.changed_paths(Some(second), Some(third), "tasks").unwrap();
    assert_eq!(
        changed.iter().map(|c| c.path.to_string()).collect::<Vec<_>>(),
        ["tasks/b.md"]
    );
    let before = packs(&mirror).len();
    mirror.fetch_branch("main", true).unwrap();
    assert_eq!(packs(&mirror).len(), before, "what is here is not fetched again");
    let fourth = repo
        .commit_files(Some(third), &[FileEdit::write("c", "3")], "four", &who())
        .unwrap();
    let pushed = bare
        .remotes()
        .push(&repo, &bare.url(), "refs/heads/main", Expected::At(third), fourth)
        .unwrap();
    assert_eq!(pushed, PushOutcome::Won);
    git(&bare.path, &["fsck", "--strict"]);
    assert_eq!(git(&bare.path, &["rev-list", "--count", "main"]).trim(), "4");
}

#[test]
fn several_refs_and_a_commit_are_fetched_at_once() {
    let (bare, head) = Bare::with_commit();
    let side = bare.commit(Some(head), &[FileEdit::write("side", "1")]);
    let loose = bare.commit(Some(head), &[FileEdit::write("loose", "1")]);
    bare.set("side", side);
    bare.repo.set_ref("refs/pull/1/head", Some(loose)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    let wanted = Fetch::refname("refs/heads/*").and_oid(loose);
    let fetched = mirror.fetch(&wanted).unwrap();
    let found: Vec<_> = fetched.refs.iter().map(|(name, oid)| (name.as_str(), *oid)).collect();
    assert_eq!(found, [("refs/heads/main", head), ("refs/heads/side", side)]);
    assert!(mirror.repository().has(loose));
    assert!(
        mirror.fetch(&Fetch::refname("main")).is_err(),
        "a short name is no ref name"
    );
}

#[test]
fn a_commit_that_the_server_does_not_have_is_not_found() {
    let (bare, _) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    let absent = Oid::from_hex(b"0123456789012345678901234567890123456789").unwrap();
    let error = mirror.fetch_oid(absent, true).unwrap_err();
    assert_eq!(error.category(), Category::NotFound, "{error}");
}

#[test]
fn a_cut_pack_and_a_half_made_mirror_are_rebuilt_when_they_are_opened() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let open = || Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    let mirror = open();
    mirror.fetch_branch("main", false).unwrap();
    assert_eq!(packs(&mirror).len(), 1);
    spoil(&packs(&mirror)[0], |bytes| bytes.truncate(bytes.len() - 5));
    let again = open();
    assert!(!again.repository().has(head), "the damaged one was set aside");
    assert_eq!(again.fetch_branch("main", false).unwrap(), head);
    git(again.path(), &["fsck", "--strict"]);

    fs::remove_file(again.path().join("foreman-mirror")).unwrap();
    let again = open();
    assert!(!again.repository().has(head));
    assert_eq!(again.fetch_branch("main", false).unwrap(), head);
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "a mirror and its lock are all that is left"
    );
}

#[test]
fn damage_that_a_read_meets_is_reported_and_mended_by_the_next_fetch() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    Mirrors::new(dir.path(), bare.remotes())
        .mirror(&bare.url())
        .unwrap()
        .fetch_branch("main", false)
        .unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    // The ends still agree, so that only reading finds it.
    spoil(&packs(&mirror)[0], |bytes| {
        let end = bytes.len() - 20;
        bytes[12..end].fill(0xff);
    });
    let error = mirror.repository().tree_entries(head, "", true).unwrap_err();
    assert_eq!(error.category(), Category::Corrupt, "{error}");
    assert!(error.is_transient() && error.to_string().contains("rebuilt"), "{error}");
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), head);
    assert_eq!(
        mirror.repository().tree_entries(head, "", true).unwrap().unwrap().len(),
        2
    );
}

#[test]
fn a_ref_that_points_at_nothing_is_mended_by_the_fetch_that_meets_it() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    Mirrors::new(dir.path(), bare.remotes())
        .mirror(&bare.url())
        .unwrap()
        .fetch_branch("main", false)
        .unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    for pack in packs(&mirror) {
        fs::remove_file(pack.with_extension("idx")).unwrap();
        fs::remove_file(pack).unwrap();
    }
    let next = bare.commit(Some(head), &[FileEdit::write("next", "1")]);
    bare.set("main", next);
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), next);
    assert!(
        mirror.repository().tree_entries(head, "", true).unwrap().is_some(),
        "history is whole again"
    );
    git(mirror.path(), &["fsck", "--strict"]);
}

#[test]
fn what_a_killed_process_left_does_not_stop_the_next() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let open = || Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    let mirror = open();
    mirror.fetch_branch("main", false).unwrap();
    let left = [
        "packed-refs.lock",
        "shallow.lock",
        "refs/foreman/remote/heads/main.lock",
        "objects/pack/tmp_pack_x",
        "objects/ab/tmp_obj_x",
    ];
    for file in left {
        fs::create_dir_all(mirror.path().join(file).parent().unwrap()).unwrap();
        fs::write(mirror.path().join(file), "").unwrap();
    }
    let next = bare.commit(Some(head), &[FileEdit::write("next", "1")]);
    bare.set("main", next);
    let mirror = open();
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), next);
    for file in left {
        assert!(!mirror.path().join(file).exists(), "{file}");
    }
}

#[test]
fn a_mirror_that_another_process_holds_is_waited_for_and_its_holder_named() {
    let (bare, head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let mut settings = bare.settings();
    settings.timeouts.lock = Duration::from_millis(200);
    let mirror = Mirrors::new(dir.path(), Remotes::new(settings))
        .mirror(&bare.url())
        .unwrap();
    let lock_path = mirror.path().with_extension("lock");
    let holder = fs::File::options().read(true).write(true).open(&lock_path).unwrap();
    holder.lock().unwrap();
    fs::write(&lock_path, "4242").unwrap();
    let error = mirror.fetch_branch("main", false).unwrap_err();
    assert_eq!(error.category(), Category::LocalLimit);
    assert!(
        error.to_string().contains("process 4242 holds it") && error.is_transient(),
        "{error}"
    );
    drop(holder);
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), head);
}

#[test]
fn fetches_of_two_processes_do_not_disturb_each_other() {
    let (bare, head) = Bare::with_commit();
    let branches: Vec<(String, Oid)> = (0..8)
        .map(|at| {
            let oid = bare.commit(Some(head), &[FileEdit::write("n", at.to_string())]);
            bare.set(&format!("b{at}"), oid);
            (format!("b{at}"), oid)
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for half in branches.chunks(4) {
            // Mirrors of its own: what another process would have.
            let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
            for (branch, oid) in half {
                let mirror = mirror.clone();
                scope.spawn(move || assert_eq!(mirror.fetch_branch(branch, false).unwrap(), *oid));
            }
        }
    });
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    assert!(branches.iter().all(|(_, oid)| mirror.repository().has(*oid)));
    git(mirror.path(), &["fsck", "--strict"]);
}

#[test]
fn many_fetches_leave_few_packs_and_everything_readable_also_through_old_handles() {
    let (bare, mut head) = Bare::with_commit();
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    let old_handle = mirror.repository();
    let unreachable = old_handle
        .commit_files(None, &[FileEdit::write("note", "kept")], "n", &who())
        .unwrap();
    let mut heads = Vec::new();
    for turn in 0..70 {
        head = bare.commit(Some(head), &[FileEdit::write("turn", turn.to_string())]);
        bare.set("main", head);
        assert_eq!(mirror.fetch_branch("main", true).unwrap(), head);
        heads.push(head);
    }
    assert!(packs(&mirror).len() < 20, "{}", packs(&mirror).len());
    for repo in [mirror.repository(), old_handle] {
        for (turn, head) in heads.iter().enumerate() {
            let (_, text) = repo.read_file(*head, "turn", 10).unwrap().unwrap();
            assert_eq!(text, turn.to_string().as_bytes());
        }
        assert_eq!(repo.read_file(unreachable, "note", 10).unwrap().unwrap().1, b"kept");
    }
    git(mirror.path(), &["fsck", "--strict"]);
}

#[test]
fn one_mirror_serves_who_needs_tips_and_who_needs_history() {
    let (bare, first) = Bare::with_commit();
    let second = bare.commit(Some(first), &[FileEdit::write("a", "2")]);
    bare.set("main", second);
    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), bare.remotes()).mirror(&bare.url()).unwrap();
    mirror.fetch_branch("main", true).unwrap();
    assert!(!mirror.repository().has(first));
    mirror.fetch_oid(second, false).unwrap();
    let descends = |from: Oid, to: Oid| {
        git(
            mirror.path(),
            &["merge-base", "--is-ancestor", &from.to_string(), &to.to_string()],
        );
    };
    descends(first, second);
    let third = bare.commit(Some(second), &[FileEdit::write("a", "3")]);
    bare.set("main", third);
    mirror.fetch_branch("main", true).unwrap();
    descends(first, third);
    git(mirror.path(), &["fsck", "--strict"]);
}

#[test]
fn a_repository_whose_own_history_is_cut_off_is_fetched_from_and_pushed_to() {
    let (bare, first) = Bare::with_commit();
    let second = bare.commit(Some(first), &[FileEdit::write("a", "1")]);
    bare.set("main", second);
    let dir = tempfile::tempdir().unwrap();
    let cut = dir.path().canonicalize().unwrap().join("cut.git");
    let from = format!("file://{}", bare.path.display());
    git(
        dir.path(),
        &["clone", "-q", "--bare", "--depth", "1", &from, cut.to_str().unwrap()],
    );
    let settings = git::Settings {
        file_roots: vec![cut.clone()],
        ..bare.settings()
    };
    let url = git::RemoteUrl::local(&cut).unwrap();
    let mirror = Mirrors::new(dir.path().join("mirrors"), Remotes::new(settings))
        .mirror(&url)
        .unwrap();
    for _ in 0..2 {
        assert_eq!(mirror.fetch_branch("main", false).unwrap(), second);
        mirror.fetch_oid(second, false).unwrap();
    }
    let repository = mirror.repository();
    let third = repository
        .commit_files(Some(second), &[FileEdit::write("b", "1")], "x", &who())
        .unwrap();
    let pushed = mirror
        .remotes()
        .push(&repository, &url, "refs/heads/work", Expected::Absent, third)
        .unwrap();
    assert_eq!(pushed, PushOutcome::Won);
    assert_eq!(
        git(&cut, &["rev-list", "work"]).lines().collect::<Vec<_>>(),
        [third.to_string(), second.to_string()]
    );
    mirror.fetch(&Fetch::oid(third).and_oid(second).shallow()).unwrap();
}
