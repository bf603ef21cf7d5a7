//! What a change costs a queue: one file of 100,000 beside one file of 1,000, without Git's own fetch.

use std::path::Path;
use std::time::{Duration, Instant};

use git::{FileEdit, Git, Identity, Oid, RemoteUrl, Repository, Settings};
use reconciler::task_queue::load::{Loaded, load};
use reconciler::task_queue::validate::{Valid, validate};
use serde_json::json;

use crate::{milliseconds, quantile, say};

const FEW: usize = 1_000;
const MANY: usize = 100_000;
const FOLDER: usize = 1_000;
const ROUNDS: usize = 15;
const UID: &str = "0e0f3c6e-5f2c-4b3a-9d51-3f1b8f1c2a77";

/// A tasks repository and what a queue knows of it.
struct Tasks {
    bare: Repository,
    git: Git,
    url: RemoteUrl,
    valid: Valid,
    head: Oid,
    known: Option<Loaded>,
}

fn who() -> Identity {
    Identity::new("Bench", "bench@localhost", 1_700_000_000)
}

impl Tasks {
    /// Commits `files` task files, at most 1,000 in a folder.
    fn new(root: &Path, files: usize) -> Self {
        let bare = Repository::init_bare(&root.join(format!("{files}.git")), "main").unwrap();
        let edits: Vec<FileEdit> = (0..files).map(|n| task(n, "Write the note.")).collect();
        let head = bare.commit_files(None, &edits, "begin", &who()).unwrap();
        bare.set_ref("refs/heads/main", Some(head)).unwrap();
        let url = RemoteUrl::parse(&format!("file://{}", bare.path().display())).unwrap();
        let settings = Settings {
            file_roots: vec![root.to_owned()],
            ..Settings::default()
        };
        let queue = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue",
            "metadata": { "name": "tasks" },
            "spec": { "git": { "url": url.to_string(), "path": "tasks" } },
        }));
        Self {
            git: Git::new(root.join(format!("mirrors-{files}")), settings),
            valid: validate(&queue.unwrap()).unwrap(),
            bare,
            url,
            head,
            known: None,
        }
    }

    /// Commits a change of one file.
    fn change(&mut self, n: usize, text: &str) {
        let commit = self
            .bare
            .commit_files(Some(self.head), &[task(n, text)], "change", &who());
        self.head = commit.unwrap();
        self.bare.set_ref("refs/heads/main", Some(self.head)).unwrap();
    }

    /// Fetches as a tick does; returns the time of Git's fetch and of what follows it, and how many files were read.
    async fn tick(&mut self) -> (Duration, Duration, u64) {
        let begin = Instant::now();
        self.git.fetch_branch(&self.url, "main", false).await.unwrap();
        let fetched = begin.elapsed();
        let old = self.known.take().map(|known| (known.files, Some(known.revision)));
        let begin = Instant::now();
        let loaded = load(&self.git, &self.url, &self.valid, self.head, old, UID).await;
        let loaded = loaded.unwrap_or_else(|failed| panic!("{}", failed.error));
        let took = begin.elapsed();
        assert_eq!(loaded.revision, self.head);
        let parsed = loaded.parsed;
        self.known = Some(loaded);
        (fetched, took, parsed)
    }
}

fn task(n: usize, text: &str) -> FileEdit {
    FileEdit::write(
        format!("tasks/d{:03}/t{n}.md", n / FOLDER),
        format!("---\ntitle: Task {n}\n---\n{text}\n"),
    )
}

/// Prints the first read of each size and the median cost of one change, with their ratio.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    runtime.block_on(async {
        let mut both = [Tasks::new(&root, FEW), Tasks::new(&root, MANY)];
        for (tasks, files) in both.iter_mut().zip([FEW, MANY]) {
            let (fetch, read, parsed) = tasks.tick().await;
            assert_eq!(parsed, files as u64);
            let found = format!("{} after a fetch of {}", milliseconds(read), milliseconds(fetch));
            say(&format!("{files} task files read the first time"), &found);
        }
        let mut times: [Vec<Duration>; 2] = Default::default();
        for round in 0..ROUNDS {
            for (tasks, times) in both.iter_mut().zip(&mut times) {
                tasks.change(round * 7, &format!("Write it {round} times."));
                let (_, read, parsed) = tasks.tick().await;
                assert_eq!(parsed, 1, "a change costs what changed");
                times.push(read);
            }
        }
        let [few, many] = times.map(|mut times| quantile(&mut times, 0.5));
        say(&format!("one file of {FEW} changed, median"), &milliseconds(few));
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        let found = format!("{}; {ratio:.2} of that", milliseconds(many));
        say(&format!("one file of {MANY} changed, median"), &found);
    });
}
