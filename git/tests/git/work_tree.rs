use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use git::{Category, CommitLimits, EntryKind, Expected, FileEdit, Mirror, Mirrors, Oid, PushOutcome, Unfit, WorkTree};

use crate::support::{Bare, git, who};

struct Fixture {
    bare: Bare,
    head: Oid,
    dir: tempfile::TempDir,
    mirror: std::sync::Arc<Mirror>,
}

impl Fixture {
    fn new(edits: &[FileEdit]) -> Self {
        let bare = Bare::empty();
        let head = bare.commit(None, edits);
        bare.set("main", head);
        let dir = tempfile::tempdir().unwrap();
        let mirror = Mirrors::new(dir.path().join("mirrors"), bare.remotes())
            .mirror(&bare.url())
            .unwrap();
        mirror.fetch_branch("main", false).unwrap();
        Fixture {
            bare,
            head,
            dir,
            mirror,
        }
    }

    fn work_tree(&self) -> WorkTree {
        let (tree, admin) = (self.dir.path().join("w/tree"), self.dir.path().join("w/admin"));
        WorkTree::materialise(&self.mirror.repository(), self.head, &tree, &admin).unwrap()
    }
}

fn commit(tree: &WorkTree, parent: Oid) -> Option<Oid> {
    tree.commit_all(parent, "work", &who(), &who(), &CommitLimits::default())
        .unwrap()
}

fn paths(tree: &WorkTree, commit: Oid) -> Vec<String> {
    let entries = tree.repository().tree_entries(commit, "", true).unwrap().unwrap();
    entries.into_iter().map(|e| e.path.to_string()).collect()
}

fn sample() -> Vec<FileEdit> {
    vec![
        FileEdit::write("README.md", "# Sample\n"),
        FileEdit::write("run.sh", "#!/bin/sh\n").executable(),
        FileEdit::symlink("out", "../../../etc/passwd"),
        FileEdit::write("deep/er/file.txt", "text\n"),
        FileEdit::write(".gitignore", "*.log\n/target\n!kept.log\n"),
        FileEdit::write("tracked.log", "ignored, but tracked\n"),
    ]
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn the_git_program_works_inside_a_fresh_work_tree_also_when_its_admin_folder_cannot_be_written() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    assert_eq!(git(tree.path(), &["status", "--porcelain"]), "");
    assert_eq!(
        git(tree.path(), &["rev-parse", "HEAD"]).trim(),
        fixture.head.to_string()
    );
    assert_eq!(git(tree.path(), &["log", "--format=%s"]).trim(), "a commit");
    assert!(fs::metadata(tree.path().join("run.sh")).unwrap().permissions().mode() & 0o111 != 0);
    assert_eq!(
        fs::read_link(tree.path().join("out")).unwrap(),
        Path::new("../../../etc/passwd")
    );
    fs::write(tree.path().join("README.md"), "# Changed\n").unwrap();
    chmod(tree.admin(), 0o555);
    let diff = git(tree.path(), &["diff"]);
    assert!(diff.contains("-# Sample") && diff.contains("+# Changed"), "{diff}");
    chmod(tree.admin(), 0o755);
    assert_eq!(tree.read_only_paths().len(), 2);
}

#[test]
fn names_that_git_servers_refuse_are_left_out_and_said() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    let at = |path: &str| tree.path().join(path);
    fs::write(at("new.txt"), "kept").unwrap();
    fs::write(at("deep/git~1"), "x").unwrap();
    fs::create_dir(at(".g\u{200c}it")).unwrap();
    fs::write(at(".g\u{200c}it/config"), "x").unwrap();
    symlink("new.txt", at(".gitmodules")).unwrap();
    let limits = CommitLimits::default();
    let made = tree.commit_fitting(fixture.head, "work", &who(), &who(), &limits, &|| false);
    let made = made.unwrap();
    let left_out: Vec<String> = made.left_out.iter().map(|left_out| left_out.path.to_string()).collect();
    assert_eq!(left_out, [".gitmodules", ".g\u{200c}it", "deep/git~1"]);
    assert!(made.left_out.iter().all(|left_out| left_out.why == Unfit::Name));
    // What was a file may become a link, but for one that no server takes as such.
    let mut files = sample();
    files.push(FileEdit::write(".gitmodules", "[submodule]\n"));
    let fixture = Fixture::new(&files);
    let linked = fixture.work_tree();
    fs::remove_file(linked.path().join(".gitmodules")).unwrap();
    symlink("README.md", linked.path().join(".gitmodules")).unwrap();
    let other = linked.commit_fitting(fixture.head, "work", &who(), &who(), &limits, &|| false);
    let other = other.unwrap();
    assert_eq!(other.left_out[0].path, ".gitmodules");
    assert_eq!(other.left_out[0].why, Unfit::Name);

    let committed = paths(&tree, made.commit.unwrap());
    assert!(
        committed.contains(&"new.txt".to_owned()) && committed.len() == sample().len() + 1,
        "{committed:?}"
    );
}

#[test]
fn what_was_checked_out_is_remembered_whatever_becomes_of_it() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    fs::remove_file(tree.path().join("tracked.log")).unwrap();
    fs::write(tree.path().join("new.log"), "").unwrap();
    let opened = WorkTree::open(tree.path(), tree.admin()).unwrap();
    for tree in [tree, opened] {
        let tracked = tree.tracked().unwrap();
        assert!(tracked.has_file("tracked.log".into()) && tracked.has_file("deep/er/file.txt".into()));
        assert!(tracked.has_folder("deep".into()) && !tracked.has_file("new.log".into()));
    }
}

#[test]
fn an_unchanged_tree_makes_no_commit_and_a_touched_one_neither() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    assert_eq!(commit(&tree, fixture.head), None);
    fs::write(tree.path().join("README.md"), "# Sample\n").unwrap();
    assert_eq!(commit(&tree, fixture.head), None);
}

#[test]
fn a_commit_is_the_tree_that_git_would_write() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    let at = |path: &str| tree.path().join(path);
    fs::write(at("README.md"), "# Other\n").unwrap();
    fs::remove_dir_all(at("deep")).unwrap();
    fs::create_dir_all(at("new/folder")).unwrap();
    fs::write(at("new/folder/a"), "a").unwrap();
    fs::write(at("new.txt"), "b").unwrap();
    fs::write(at("noise.log"), "ignored").unwrap();
    fs::write(at("kept.log"), "kept").unwrap();
    fs::write(at("tracked.log"), "changed\n").unwrap();
    fs::create_dir(at("target")).unwrap();
    fs::write(at("target/big"), "ignored").unwrap();
    fs::write(at("new/.gitignore"), "*.tmp\n").unwrap();
    fs::write(at("new/x.tmp"), "ignored").unwrap();
    fs::create_dir(at("empty")).unwrap();
    chmod(at("run.sh"), 0o644);
    chmod(at("new.txt"), 0o755);
    symlink("new.txt", at("link")).unwrap();
    symlink("/etc", at("new/etc")).unwrap();
    fs::remove_file(at("out")).unwrap();
    fs::create_dir(at("out")).unwrap();
    fs::write(at("out/now-a-folder"), "").unwrap();

    let made = commit(&tree, fixture.head).unwrap();
    let index = fixture.dir.path().join("other-index");
    let by_git = {
        let run = |args: &[&str]| {
            let out = std::process::Command::new("git")
                .args(args)
                .current_dir(tree.path())
                .env("GIT_INDEX_FILE", &index)
                .output()
                .unwrap();
            assert!(
                out.status.success(),
                "{args:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            String::from_utf8(out.stdout).unwrap().trim().to_owned()
        };
        run(&["-c", "safe.directory=*", "read-tree", "HEAD"]);
        run(&["-c", "safe.directory=*", "add", "-A"]);
        run(&["-c", "safe.directory=*", "write-tree"])
    };
    assert_eq!(tree.repository().tree_of(made).unwrap().to_string(), by_git);
    let info = tree.repository().commit_info(made).unwrap();
    assert_eq!((info.parents, info.message.as_str()), (vec![fixture.head], "work\n"));
    let link = tree.repository().entry_at(made, "new/etc").unwrap().unwrap();
    assert_eq!(link.kind, EntryKind::Symlink, "a link is committed as a link");
    assert!(
        !fixture.mirror.repository().has(made),
        "the mirror does not hold what a task made"
    );

    let pushed = fixture.bare.remotes().push(
        tree.repository(),
        &fixture.bare.url(),
        "refs/heads/work",
        Expected::Absent,
        made,
    );
    assert_eq!(pushed.unwrap(), PushOutcome::Won);
    git(&fixture.bare.path, &["fsck", "--strict"]);
}

#[test]
fn nothing_in_the_work_tree_decides_what_is_committed_or_runs_a_program() {
    let mut edits = sample();
    edits.push(FileEdit::write(".gitattributes", "*.txt filter=evil\n"));
    let fixture = Fixture::new(&edits);
    let tree = fixture.work_tree();
    let at = |path: &str| tree.path().join(path);
    let ran = fixture.dir.path().join("ran");
    // A repository of its own in the place of our link, with a filter and another history.
    fs::remove_file(at(".git")).unwrap();
    git(tree.path(), &["init", "-q"]);
    let evil = format!("touch {}; cat", ran.display());
    git(tree.path(), &["config", "filter.evil.clean", &evil]);
    git(tree.path(), &["config", "core.fsmonitor", &evil]);
    git(
        tree.path(),
        &["config", "core.excludesFile", &at("all").display().to_string()],
    );
    fs::write(at("all"), "*\n").unwrap();
    fs::write(at(".git/info/exclude"), "*\n").unwrap();
    fs::write(at("deep/er/file.txt"), "new text\n").unwrap();
    // Repositories inside, one of them under a name that some file systems take for the other.
    fs::create_dir_all(at("nested/.git/hooks")).unwrap();
    fs::write(at("nested/.git/config"), "[core]").unwrap();
    fs::write(at("nested/code"), "1").unwrap();
    fs::create_dir_all(at("nested/.GIT")).unwrap();
    fs::write(at("nested/.GIT/config"), "[core]").unwrap();

    let made = commit(&tree, fixture.head).unwrap();
    assert!(!ran.exists(), "a filter ran");
    let (_, text) = tree
        .repository()
        .read_file(made, "deep/er/file.txt", 100)
        .unwrap()
        .unwrap();
    assert_eq!(text, b"new text\n");
    let found = paths(&tree, made);
    assert!(
        found.contains(&"nested/code".to_owned()) && found.contains(&"all".to_owned()),
        "{found:?}"
    );
    assert!(
        !found.iter().any(|p| p.to_ascii_lowercase().contains(".git/")),
        "{found:?}"
    );
    assert_eq!(tree.repository().commit_info(made).unwrap().parents, [fixture.head]);
}

#[test]
fn a_change_that_hides_behind_size_and_time_is_found() {
    let fixture = Fixture::new(&[FileEdit::write("a", "one"), FileEdit::write("b", "two")]);
    let tree = fixture.work_tree();
    let path = tree.path().join("a");
    let before = fs::metadata(&path).unwrap().modified().unwrap();
    fs::write(&path, "eno").unwrap();
    fs::File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_modified(before)
        .unwrap();
    let made = commit(&tree, fixture.head).unwrap();
    assert_eq!(tree.repository().read_file(made, "a", 10).unwrap().unwrap().1, b"eno");
}

#[test]
fn pipes_are_left_out_and_never_waited_for_and_links_are_not_followed() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    let secret = fixture.dir.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key"), "s3cret").unwrap();
    let made = std::process::Command::new("mkfifo")
        .arg(tree.path().join("pipe"))
        .status()
        .unwrap();
    assert!(made.success());
    fs::remove_file(tree.path().join(".gitignore")).unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(tree.path().join(".gitignore"))
            .status()
            .unwrap()
            .success()
    );
    fs::remove_dir_all(tree.path().join("deep")).unwrap();
    symlink(&secret, tree.path().join("deep")).unwrap();
    fs::remove_file(tree.path().join("README.md")).unwrap();
    symlink(secret.join("key"), tree.path().join("README.md")).unwrap();
    let made = commit(&tree, fixture.head).unwrap();
    assert_eq!(
        paths(&tree, made),
        ["README.md", "deep", "out", "run.sh", "tracked.log"]
    );
    let (kind, target) = tree.repository().read_file(made, "README.md", 1000).unwrap().unwrap();
    assert_eq!(kind, EntryKind::Symlink);
    assert!(!String::from_utf8_lossy(&target).contains("s3cret"));
}

#[test]
fn a_file_over_the_limit_is_named() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    fs::write(tree.path().join("big.bin"), vec![0; 2000]).unwrap();
    let limits = CommitLimits {
        file_bytes: 1000,
        ..CommitLimits::default()
    };
    let error = tree.commit_all(fixture.head, "m", &who(), &who(), &limits).unwrap_err();
    assert_eq!(error.category(), Category::LocalLimit);
    assert!(error.to_string().contains("big.bin"), "{error}");
    let limits = CommitLimits {
        files: 3,
        ..CommitLimits::default()
    };
    assert!(tree.commit_all(fixture.head, "m", &who(), &who(), &limits).is_err());
}

#[test]
fn what_no_commit_may_hold_is_left_out_and_the_rest_is_kept() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    let write = |name: &str, size: usize| fs::write(tree.path().join(name), vec![b'x'; size]).unwrap();
    write("README.md", 2000);
    write("big.bin", 2000);
    for name in ["a", "b", "c"] {
        write(name, 900);
    }
    fs::create_dir_all(tree.path().join("d1/d2/d3")).unwrap();
    write("d1/near", 1);
    write("d1/d2/d3/far", 1);
    let limits = CommitLimits {
        file_bytes: 1000,
        total_bytes: 2000,
        depth: 2,
        ..CommitLimits::default()
    };
    let commit = |limits: &CommitLimits, stop: &dyn Fn() -> bool| {
        tree.commit_fitting(fixture.head, "m", &who(), &who(), limits, stop)
    };
    let made = commit(&limits, &|| false).unwrap();
    let said: Vec<String> = made.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "README.md: it has 2000 bytes, at most 1000 are committed",
            "big.bin: it has 2000 bytes, at most 1000 are committed",
            "c: with its 900 bytes the change would have more than 2000",
            "d1/d2/d3: it is nested deeper than 2 folders",
        ]
    );
    assert_eq!(made.left_out_count, 4);
    let oid = made.commit.unwrap();
    let read = |oid, path: &str| tree.repository().read_file(oid, path, 5000).unwrap();
    assert!(read(oid, "a").is_some() && read(oid, "d1/near").is_some());
    assert!(read(oid, "big.bin").is_none() && read(oid, "d1/d2/d3/far").is_none());
    assert_eq!(read(oid, "README.md"), read(fixture.head, "README.md"), "as it was");

    // What the base has below a folder that may not be entered stays, too.
    let shallow = CommitLimits { depth: 0, ..limits };
    let made = commit(&shallow, &|| false).unwrap().commit.unwrap();
    assert_eq!(read(made, "deep/er/file.txt"), read(fixture.head, "deep/er/file.txt"));

    let stopped = commit(&limits, &|| true).unwrap_err();
    assert!(matches!(stopped, git::Error::Stopped(_)), "{stopped}");
}

#[test]
fn line_endings_that_attributes_ask_for_survive_a_round_trip() {
    let fixture = Fixture::new(&[
        FileEdit::write(".gitattributes", "*.bat text eol=crlf\n*.txt text\n"),
        FileEdit::write("run.bat", "one\ntwo\n"),
        FileEdit::write("a.txt", "one\n"),
    ]);
    let tree = fixture.work_tree();
    assert_eq!(fs::read(tree.path().join("run.bat")).unwrap(), b"one\r\ntwo\r\n");
    fs::write(tree.path().join("run.bat"), "one\r\ntwo\r\n").unwrap();
    assert_eq!(commit(&tree, fixture.head), None);
    fs::write(tree.path().join("a.txt"), "one\r\ntwo\r\n").unwrap();
    let made = commit(&tree, fixture.head).unwrap();
    assert_eq!(
        tree.repository().read_file(made, "a.txt", 100).unwrap().unwrap().1,
        b"one\ntwo\n"
    );
}

#[test]
fn line_endings_that_the_base_has_against_its_attributes_are_no_change_until_the_file_is_changed() {
    let fixture = Fixture::new(&[
        FileEdit::write(".gitattributes", "*.txt text\n*.bat text eol=crlf\n"),
        FileEdit::write("a.txt", "one\r\ntwo\r\n"),
        FileEdit::write("run.bat", "one\r\ntwo\n"),
    ]);
    let tree = fixture.work_tree();
    for name in ["a.txt", "run.bat"] {
        // Written anew, so that times prove nothing.
        let content = fs::read(tree.path().join(name)).unwrap();
        fs::write(tree.path().join(name), content).unwrap();
    }
    assert_eq!(commit(&tree, fixture.head), None);
    fs::write(tree.path().join("a.txt"), "one\r\n2\r\n").unwrap();
    let made = commit(&tree, fixture.head).unwrap();
    let read = |commit, path| tree.repository().read_file(commit, path, 100).unwrap().unwrap().1;
    assert_eq!(read(made, "a.txt"), b"one\n2\n", "as Git does");
    assert_eq!(read(made, "run.bat"), read(fixture.head, "run.bat"));
}

#[test]
fn submodules_become_empty_folders_and_stay_in_the_tree() {
    let fixture = Fixture::new(&sample());
    let other = git(&fixture.bare.path, &["rev-parse", "main"]);
    let listing = git(&fixture.bare.path, &["ls-tree", "main"]);
    let with_module = format!("{listing}160000 commit {}\tvendor\n", other.trim());
    let mktree = {
        use std::io::Write;
        let mut child = std::process::Command::new("git")
            .arg("-C")
            .arg(&fixture.bare.path)
            .arg("mktree")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(with_module.as_bytes()).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout)
            .unwrap()
            .trim()
            .parse::<Oid>()
            .unwrap()
    };
    let head = fixture
        .bare
        .repo
        .write_commit(mktree, &[fixture.head], "module", &who(), &who())
        .unwrap();
    fixture.bare.set("main", head);
    fixture.mirror.fetch_branch("main", false).unwrap();
    let (dir, admin) = (fixture.dir.path().join("m"), fixture.dir.path().join("n"));
    let tree = WorkTree::materialise(&fixture.mirror.repository(), head, &dir, &admin).unwrap();
    assert_eq!(fs::read_dir(dir.join("vendor")).unwrap().count(), 0);
    assert_eq!(commit(&tree, head), None);
    fs::write(dir.join("new"), "1").unwrap();
    let made = commit(&tree, head).unwrap();
    assert_eq!(
        tree.repository().entry_at(made, "vendor").unwrap().unwrap().kind,
        EntryKind::Submodule
    );
    // What is put into its folder belongs to another repository: the rest is committed, and it is said.
    fs::write(dir.join("vendor/file"), "1").unwrap();
    let limits = CommitLimits::default();
    let fitting = tree
        .commit_fitting(head, "change", &who(), &who(), &limits, &|| false)
        .unwrap();
    assert_eq!(fitting.left_out_count, 1);
    let left_out = &fitting.left_out[0];
    assert_eq!(
        (left_out.path.to_string().as_str(), &left_out.why),
        ("vendor", &Unfit::Submodule)
    );
    assert_eq!(
        tree.repository().tree_of(fitting.commit.unwrap()).unwrap(),
        tree.repository().tree_of(made).unwrap()
    );
    fs::remove_dir_all(dir.join("vendor")).unwrap();
    let made = commit(&tree, head).unwrap();
    assert_eq!(tree.repository().entry_at(made, "vendor").unwrap(), None);
}

#[test]
fn a_work_tree_is_opened_again_and_one_that_was_cut_off_is_not() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    fs::write(tree.path().join("new"), "1").unwrap();
    let again = WorkTree::open(tree.path(), tree.admin()).unwrap();
    assert_eq!(again.base(), fixture.head);
    let made = commit(&again, fixture.head).unwrap();
    let second = commit(&again, made);
    assert_eq!(second, None, "the parent may be a commit of its own");
    let refused = WorkTree::materialise(&fixture.mirror.repository(), fixture.head, tree.path(), tree.admin());
    assert!(refused.unwrap_err().to_string().contains("not empty"));
    fs::remove_file(tree.admin().join("foreman-base")).unwrap();
    assert_eq!(
        WorkTree::open(tree.path(), tree.admin()).unwrap_err().category(),
        Category::NotFound
    );
    let (path, admin) = (tree.path().to_owned(), tree.admin().to_owned());
    fs::create_dir(path.join("locked")).unwrap();
    fs::write(path.join("locked/file"), "").unwrap();
    chmod(path.join("locked"), 0o000);
    tree.remove().unwrap();
    assert!(!path.exists() && !admin.exists());
}

#[test]
fn work_trees_of_one_mirror_do_not_see_each_other() {
    let fixture = Fixture::new(&sample());
    let tree = fixture.work_tree();
    fs::write(tree.path().join("new"), "1").unwrap();
    let made = commit(&tree, fixture.head).unwrap();
    let other = WorkTree::materialise(
        &fixture.mirror.repository(),
        fixture.head,
        &fixture.dir.path().join("other/tree"),
        &fixture.dir.path().join("other/admin"),
    )
    .unwrap();
    assert!(tree.repository().has(made) && !other.repository().has(made));
}

/// What a branch may say of files that it does not change, and what Git would make of it at checkout.
const REWRITING: &str = "/kept.txt text eol=crlf\n/deep/kept.txt working-tree-encoding=UTF-16LE\n/id.txt ident\n";

#[test]
fn a_head_cannot_change_what_stands_on_disk_by_attributes_of_its_own() {
    let fixture = Fixture::new(&[
        FileEdit::write(".gitattributes", "*.bat text eol=crlf\n"),
        FileEdit::write("kept.txt", "one\ntwo\n"),
        FileEdit::write("deep/kept.txt", "one\n"),
        FileEdit::write("id.txt", "$Id$\n"),
        FileEdit::write("run.bat", "one\n"),
        FileEdit::write("gone/.gitattributes", "* -text\n"),
        FileEdit::write("gone/a.bat", "one\n"),
        FileEdit::write("run.sh", "#!/bin/sh\n").executable(),
    ]);
    let head = fixture.bare.commit(
        Some(fixture.head),
        &[
            FileEdit::write(".gitattributes", REWRITING),
            FileEdit::write("deep/.gitattributes", "* text eol=crlf\n"),
            FileEdit::remove("gone/.gitattributes"),
            FileEdit::write("new.bat", "one\n"),
            FileEdit::symlink("link", "kept.txt"),
        ],
    );
    fixture.bare.set("main", head);
    fixture.mirror.fetch_branch("main", false).unwrap();
    let source = fixture.mirror.repository();
    let (dir, admin) = (fixture.dir.path().join("m"), fixture.dir.path().join("n"));
    let own = WorkTree::materialise(&source, head, &dir, &admin).unwrap();
    assert_eq!(fs::read(dir.join("kept.txt")).unwrap(), b"one\r\ntwo\r\n");
    own.remove().unwrap();

    let tree = WorkTree::materialise_by_attributes_of(fixture.head, &source, head, &dir, &admin).unwrap();
    let read = |path: &str| String::from_utf8(fs::read(dir.join(path)).unwrap()).unwrap();
    for (path, wanted) in [
        ("kept.txt", "one\ntwo\n"),
        ("deep/kept.txt", "one\n"),
        ("id.txt", "$Id$\n"),
        ("run.bat", "one\r\n"),
        ("new.bat", "one\r\n"),
        ("gone/a.bat", "one\n"),
        (".gitattributes", REWRITING),
        ("deep/.gitattributes", "* text eol=crlf\n"),
    ] {
        assert_eq!(read(path), wanted, "{path}");
    }
    let mode = |path: &str| fs::metadata(dir.join(path)).unwrap().permissions().mode() & 0o111;
    assert_eq!(mode(".gitattributes"), 0);
    assert_ne!(mode("run.sh"), 0);

    // What is committed is what was checked out, also of files that are read anew.
    let told = git(&dir, &["config", "attr.tree"]);
    assert_eq!(
        told.trim(),
        fixture.head.to_string(),
        "the git program inside goes by the same"
    );
    for tree in [tree, WorkTree::open(&dir, &admin).unwrap()] {
        assert_eq!(commit(&tree, head), None);
        for path in ["kept.txt", "deep/kept.txt", "run.bat", ".gitattributes"] {
            fs::write(dir.join(path), read(path)).unwrap();
        }
        assert_eq!(commit(&tree, head), None);
    }
}

#[test]
fn attributes_of_another_commit_hold_where_one_side_has_none() {
    let fixture = Fixture::new(&[FileEdit::write("a.txt", "one\n")]);
    let attributes = [FileEdit::write(".gitattributes", "*.txt text eol=crlf\n")];
    let with = fixture.bare.commit(Some(fixture.head), &attributes);
    let only = fixture.bare.commit(
        Some(with),
        &[
            FileEdit::remove("a.txt"),
            FileEdit::write(".gitattributes", "*.txt -text\n"),
        ],
    );
    fixture.bare.set("main", only);
    fixture.mirror.fetch_branch("main", false).unwrap();
    let source = fixture.mirror.repository();
    let (dir, admin) = (fixture.dir.path().join("m"), fixture.dir.path().join("n"));
    for (by, of, text) in [
        (with, fixture.head, Some("one\r\n")),
        (fixture.head, with, Some("one\n")),
        (with, only, None),
    ] {
        let tree = WorkTree::materialise_by_attributes_of(by, &source, of, &dir, &admin).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a.txt")).ok().as_deref(), text);
        assert_eq!(dir.join(".gitattributes").exists(), of != fixture.head);
        assert_eq!(commit(&tree, of), None);
        tree.remove().unwrap();
    }
}
