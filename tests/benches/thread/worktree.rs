//! A work tree of 10,000 files from a warm mirror, beside `git worktree add` and `git clone`.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use git::{FileEdit, Identity, Mirrors, RemoteUrl, Remotes, Repository, Settings, WorkTree};

use crate::{milliseconds, quantile, say};

const FILES: usize = 10_000;
const ROUNDS: usize = 7;

fn run(folder: &Path, arguments: &[&str]) -> Duration {
    let begin = Instant::now();
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    begin.elapsed()
}

/// Prints the median time of each way to a work tree, and the ratios.
pub fn measure(_: &tokio::runtime::Runtime) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let bare = Repository::init_bare(&root.join("bare.git"), "main").unwrap();
    let files: Vec<FileEdit> = (0..FILES)
        .map(|n| FileEdit::write(format!("d{:02}/f{n}.txt", n / 200), format!("line {n}\n").repeat(40)))
        .collect();
    let who = Identity::new("Bench", "bench@localhost", 1_700_000_000);
    let head = bare.commit_files(None, &files, "begin", &who).unwrap();
    bare.set_ref("refs/heads/main", Some(head)).unwrap();
    run(root, &["-C", "bare.git", "repack", "-a", "-d", "-q"]);

    let settings = Settings {
        file_roots: vec![root.to_owned()],
        ..Settings::default()
    };
    let url = RemoteUrl::parse(&format!("file://{}", bare.path().display())).unwrap();
    let mirror = Mirrors::new(root.join("mirrors"), Remotes::new(settings))
        .mirror(&url)
        .unwrap();
    mirror.fetch_branch("main", false).unwrap();

    // One after the other in each round, so that a noisy machine is noisy to all; nothing is deleted in between, which
    // costs seconds by itself.
    let (mut ours, mut theirs, mut clones) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let begin = Instant::now();
        let (tree, admin) = (
            root.join(format!("ours-{round}/tree")),
            root.join(format!("ours-{round}/admin")),
        );
        let made = WorkTree::materialise(&mirror.repository(), head, &tree, &admin).unwrap();
        ours.push(begin.elapsed());
        assert!(made.path().join("d49/f9999.txt").exists());
        let tree = root.join(format!("theirs-{round}"));
        theirs.push(run(
            &root.join("bare.git"),
            &["worktree", "add", "--quiet", "--detach", tree.to_str().unwrap(), "main"],
        ));
        clones.push(run(root, &["clone", "--quiet", "bare.git", &format!("clone-{round}")]));
    }
    let (ours, theirs, clone) = (
        quantile(&mut ours, 0.5),
        quantile(&mut theirs, 0.5),
        quantile(&mut clones, 0.5),
    );
    let ratio = |other: Duration| format!("{:.2} of it", ours.as_secs_f64() / other.as_secs_f64());
    say(
        &format!("work tree of {FILES} files from a warm mirror, median"),
        &milliseconds(ours),
    );
    say(
        "git worktree add",
        &format!("{}; ours takes {}", milliseconds(theirs), ratio(theirs)),
    );
    say(
        "git clone",
        &format!("{}; ours takes {}", milliseconds(clone), ratio(clone)),
    );
}
