//! Fixtures: bare repositories, commits, hooks, and the servers that serve them.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use git::{FileEdit, Identity, Oid, RemoteUrl, Remotes, Repository, Settings, Timeouts};

pub struct Bare {
    _dir: tempfile::TempDir,
    pub path: PathBuf,
    pub repo: Repository,
}

pub fn who() -> Identity {
    Identity::new("Tester", "tester@example.invalid", 1_700_000_000)
}

pub fn short() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(5),
        idle: Duration::from_secs(10),
        list: Duration::from_secs(20),
        fetch: Duration::from_secs(30),
        push: Duration::from_secs(30),
        lock: Duration::from_secs(20),
    }
}

impl Bare {
    /// An empty bare repository `repo.git` in a folder of its own.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("repo.git");
        let repo = Repository::init_bare(&path, "main").unwrap();
        Bare { _dir: dir, path, repo }
    }

    /// With one commit on main.
    pub fn with_commit() -> (Self, Oid) {
        let bare = Bare::empty();
        let head = bare.commit(
            None,
            &[
                FileEdit::write("README.md", "# Sample\n"),
                FileEdit::write("src/lib.rs", "fn one() {}\n"),
            ],
        );
        bare.set("main", head);
        (bare, head)
    }

    pub fn commit(&self, parent: Option<Oid>, edits: &[FileEdit]) -> Oid {
        self.repo.commit_files(parent, edits, "a commit", &who()).unwrap()
    }

    pub fn set(&self, branch: &str, oid: Oid) {
        self.repo.set_ref(&format!("refs/heads/{branch}"), Some(oid)).unwrap();
    }

    pub fn at(&self, branch: &str) -> Option<Oid> {
        self.repo.resolve(&format!("refs/heads/{branch}")).unwrap()
    }

    pub fn root(&self) -> PathBuf {
        self.path.parent().unwrap().to_owned()
    }

    pub fn url(&self) -> RemoteUrl {
        RemoteUrl::local(&self.path).unwrap()
    }

    pub fn settings(&self) -> Settings {
        Settings {
            file_roots: vec![self.root()],
            timeouts: short(),
            ..Settings::default()
        }
    }

    pub fn remotes(&self) -> Remotes {
        Remotes::new(self.settings())
    }

    pub fn hook(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(self.path.join("hooks")).unwrap();
        let hook = self.path.join("hooks").join(name);
        std::fs::write(&hook, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// Runs the git program and returns what it prints.
pub fn git(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("git")
        .args([
            "-c",
            "user.name=T",
            "-c",
            "user.email=t@e",
            "-c",
            "init.defaultBranch=main",
            "-c",
            "safe.directory=*",
        ])
        .args(args)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "git {args:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8(out.stdout).unwrap()
}

/// Finds a port nobody listens on at the moment.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// The contract that every transport keeps: list, fetch, push with each outcome, delete.
pub fn round_trip(remotes: &Remotes, url: &RemoteUrl, bare: &Bare, head: Oid) {
    use git::{Expected, Mirrors, PushOutcome};
    let refs = remotes.list_refs(url, &["refs/heads/"]).unwrap();
    assert_eq!(
        refs.iter().map(|r| (r.name.as_str(), r.commit())).collect::<Vec<_>>(),
        [("refs/heads/main", head)]
    );
    assert_eq!(remotes.find_ref(url, "refs/heads/none").unwrap(), None);

    let dir = tempfile::tempdir().unwrap();
    let mirror = Mirrors::new(dir.path(), remotes.clone()).mirror(url).unwrap();
    assert_eq!(mirror.fetch_branch("main", false).unwrap(), head);
    let local = mirror.repository();
    assert_eq!(
        local.read_file(head, "README.md", 100).unwrap().unwrap().1,
        b"# Sample\n"
    );

    let one = local
        .commit_files(Some(head), &[FileEdit::write("new", "1")], "one", &who())
        .unwrap();
    let two = local
        .commit_files(Some(head), &[FileEdit::write("new", "2")], "two", &who())
        .unwrap();
    let name = "refs/heads/work";
    assert_eq!(
        remotes.push(&local, url, name, Expected::Absent, one).unwrap(),
        PushOutcome::Won
    );
    assert_eq!(bare.at("work"), Some(one));
    assert_eq!(
        remotes.push(&local, url, name, Expected::Absent, two).unwrap(),
        PushOutcome::Lost { found: Some(one) }
    );
    assert_eq!(
        remotes.push(&local, url, name, Expected::At(head), two).unwrap(),
        PushOutcome::Lost { found: Some(one) }
    );
    assert_eq!(bare.at("work"), Some(one));
    // It does not descend from what it replaces.
    assert_eq!(
        remotes.push(&local, url, name, Expected::At(one), two).unwrap(),
        PushOutcome::Won
    );
    assert_eq!(bare.at("work"), Some(two));
    assert_eq!(
        remotes.push(&local, url, name, Expected::At(one), two).unwrap(),
        PushOutcome::Won,
        "it is there already"
    );

    bare.hook("update", "echo no entry to $1 for you >&2; exit 1");
    let refused = remotes.push(&local, url, name, Expected::At(two), one).unwrap();
    let PushOutcome::Refused(message) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        message.contains("hook declined") && message.contains("no entry to refs/heads/work"),
        "{message}"
    );
    assert_eq!(bare.at("work"), Some(two));
    std::fs::remove_file(bare.path.join("hooks/update")).unwrap();

    assert_eq!(
        remotes.delete_ref(&local, url, name, one).unwrap(),
        PushOutcome::Lost { found: Some(two) }
    );
    assert_eq!(remotes.delete_ref(&local, url, name, two).unwrap(), PushOutcome::Won);
    assert_eq!(bare.at("work"), None);
    git(&bare.path, &["fsck", "--strict"]);
    git(mirror.path(), &["fsck", "--strict"]);
}
