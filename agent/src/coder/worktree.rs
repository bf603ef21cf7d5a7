//! What a run changed, found by looking at the files and not at what was said.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use git::{CommitLimits, Tracked};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::tools::pointer::{self, Pointer};
use crate::tools::walk::{Entry, Kept, walk};

/// Tells which files differ from the start of the run.
pub trait WorkTree: Send + Sync {
    /// Looks at the files. Dropping the future ends the look.
    fn changed(&self) -> BoxFuture<'_, Result<Changed, String>>;
}

/// Holds what differs from the start of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// The paths, sorted, relative to the top of the work tree.
    pub paths: Vec<String>,
    /// Those of them that no commit can hold, with their sizes in bytes.
    pub oversized: Vec<(String, u64)>,
    /// Those of them that were Git LFS pointers and hold something else now.
    pub overwritten: Vec<String>,
}

/// Remembers every file of a folder by its content. Files that .gitignore names do not count, unless they were checked
/// out: a commit holds those whatever names them.
#[derive(Clone, Debug)]
pub struct Snapshot {
    root: PathBuf,
    tracked: Arc<Tracked>,
    files: BTreeMap<String, Mark>,
    /// Largest file that can be committed, in bytes.
    limit: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    mode: u32,
    size: u64,
    digest: [u8; 32],
    /// Whether it is a Git LFS pointer.
    pointer: bool,
}

impl Snapshot {
    /// Looks at a work tree that was checked out just now.
    pub fn of(work_tree: &git::WorkTree) -> Result<Self, String> {
        let tracked = work_tree.tracked().map_err(|error| error.to_string())?;
        Self::take(work_tree.path(), Arc::new(tracked))
            .map_err(|error| format!("failed to read the work tree: {error}"))
    }

    /// Returns the files that were checked out.
    pub fn tracked(&self) -> Arc<Tracked> {
        Arc::clone(&self.tracked)
    }

    /// Looks at a folder now, in which the `tracked` files were checked out.
    pub fn take(root: &Path, tracked: Arc<Tracked>) -> std::io::Result<Self> {
        Self::with_limit(root, tracked, CommitLimits::default().file_bytes)
    }

    fn with_limit(root: &Path, tracked: Arc<Tracked>, limit: u64) -> std::io::Result<Self> {
        let root = root.canonicalize()?;
        let files = scan(&root, &tracked, limit, &|| false)?;
        Ok(Self {
            root,
            tracked,
            files,
            limit,
        })
    }

    fn compare(&self, stop: &dyn Fn() -> bool) -> std::io::Result<Changed> {
        let now = scan(&self.root, &self.tracked, self.limit, stop)?;
        let gone = self.files.keys().filter(|path| !now.contains_key(*path));
        let new = now
            .iter()
            .filter(|(path, mark)| self.files.get(*path) != Some(mark))
            .map(|(path, _)| path);
        let mut paths: Vec<String> = gone.chain(new).cloned().collect();
        paths.sort();
        let size = |path: &String| now.get(path).map_or(0, |mark| mark.size);
        let oversized = paths.iter().map(|path| (path.clone(), size(path)));
        let was_pointer = |path: &&String| self.files.get(*path).is_some_and(|mark| mark.pointer);
        let holds_content = |path: &&String| now.get(*path).is_some_and(|mark| !mark.pointer);
        let overwritten = paths.iter().filter(|path| was_pointer(path) && holds_content(path));
        Ok(Changed {
            oversized: oversized.filter(|(_, size)| *size > self.limit).collect(),
            overwritten: overwritten.cloned().collect(),
            paths,
        })
    }
}

impl WorkTree for Snapshot {
    fn changed(&self) -> BoxFuture<'_, Result<Changed, String>> {
        let snapshot = self.clone();
        Box::pin(async move {
            let given_up = CancellationToken::new();
            let _when_dropped = given_up.clone().drop_guard();
            let compared = tokio::task::spawn_blocking(move || snapshot.compare(&|| given_up.is_cancelled()))
                .await
                .map_err(|error| error.to_string())?;
            compared.map_err(|error| format!("failed to read the work tree: {error}"))
        })
    }
}

fn scan(
    root: &Path,
    tracked: &Tracked,
    limit: u64,
    stop: &dyn Fn() -> bool,
) -> std::io::Result<BTreeMap<String, Mark>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(root, flags, Mode::empty())?;
    let mut files = BTreeMap::new();
    let kept = Kept { tracked, below: "" };
    let walked = walk(folder, kept, stop, |entry| {
        match entry.and_then(|entry| mark(&entry, limit)) {
            Ok(Some((path, mark))) => {
                files.insert(path, mark);
                ControlFlow::Continue(())
            }
            Ok(None) => ControlFlow::Continue(()),
            // A folder that may not be listed hides only itself.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    });
    match walked {
        ControlFlow::Continue(()) => Ok(files),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Returns the path and the content of one file; `None` where it went away since it was listed.
fn mark(entry: &Entry<'_>, limit: u64) -> std::io::Result<Option<(String, Mark)>> {
    let mut hasher = Sha256::new();
    let mut pointer = false;
    let stat = &entry.stat;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let read = match entry.kind() {
        FileType::Symlink => entry.target().map(|target| hasher.update(target.as_bytes())),
        // It cannot be committed, and may be longer than anybody wants to read.
        FileType::RegularFile if size > limit => {
            hasher.update(format!(
                "{size} {} {} {}",
                stat.st_ino, stat.st_ctime, stat.st_ctime_nsec
            ));
            Ok(())
        }
        FileType::RegularFile => entry.open().and_then(|file| {
            let head = digest_file(file, &mut hasher)?;
            pointer = Pointer::of(&head).is_some();
            Ok(())
        }),
        _ => Ok(()),
    };
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => hasher.update("its mode forbids to read it"),
        read => read?,
    }
    // Git knows of a file's mode only whether it can be run.
    let mode = stat.st_mode & 0o170_100;
    let path = String::from_utf8_lossy(entry.path).into_owned();
    let digest = hasher.finalize().into();
    let mark = Mark {
        mode,
        size,
        digest,
        pointer,
    };
    Ok(Some((path, mark)))
}

/// Reads a file to its end; returns its beginning, longer than any pointer where the file is.
fn digest_file(mut file: File, hasher: &mut Sha256) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(head);
        }
        hasher.update(&piece[..read]);
        if head.len() as u64 <= pointer::MOST {
            head.extend_from_slice(&piece[..read]);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::tools::pointer::tests::pointer;

    #[tokio::test]
    async fn changes_are_found_by_content_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["same", "changed", "gone", "touched"] {
            std::fs::write(at(name), name).unwrap();
        }
        std::fs::write(at(".gitignore"), "target\n").unwrap();
        let snapshot = Snapshot::take(folder.path(), Arc::default()).unwrap();
        assert_eq!(snapshot.changed().await.unwrap(), Changed::default());
        std::fs::write(at("changed"), "CHANGED").unwrap();
        std::fs::write(at("touched"), "touched").unwrap();
        std::fs::remove_file(at("gone")).unwrap();
        std::fs::create_dir_all(at("target")).unwrap();
        std::fs::write(at("target/out"), "x").unwrap();
        std::fs::create_dir_all(at("src")).unwrap();
        std::fs::write(at("src/new"), "x").unwrap();
        assert_eq!(snapshot.changed().await.unwrap().paths, ["changed", "gone", "src/new"]);
    }

    #[tokio::test]
    async fn what_was_checked_out_counts_though_an_ignore_file_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("dist")).unwrap();
        std::fs::write(at(".gitignore"), "dist\n").unwrap();
        for name in ["dist/kept.js", "dist/gone.js", "dist/same.js", "a.rs"] {
            std::fs::write(at(name), name).unwrap();
        }
        let tracked = ["dist/kept.js", "dist/gone.js", "dist/same.js", "a.rs", ".gitignore"];
        let tracked = Arc::new(Tracked::new(tracked.map(git::BString::from)));
        let snapshot = Snapshot::take(folder.path(), tracked).unwrap();
        std::fs::write(at("dist/kept.js"), "other").unwrap();
        std::fs::remove_file(at("dist/gone.js")).unwrap();
        std::fs::write(at("dist/new.js"), "build output").unwrap();
        assert_eq!(
            snapshot.changed().await.unwrap().paths,
            ["dist/gone.js", "dist/kept.js"]
        );
        // Named later than it was committed: it is neither gone nor hidden.
        std::fs::write(at(".gitignore"), "dist\n*.rs\n").unwrap();
        assert_eq!(
            snapshot.changed().await.unwrap().paths,
            [".gitignore", "dist/gone.js", "dist/kept.js"]
        );
        std::fs::write(at("a.rs"), "other").unwrap();
        assert!(snapshot.changed().await.unwrap().paths.contains(&"a.rs".to_owned()));
    }

    #[tokio::test]
    async fn a_checkout_is_looked_at_with_what_its_commit_holds() {
        let folder = tempfile::tempdir().unwrap();
        let repository = git::Repository::init_bare(&folder.path().join("r.git"), "main").unwrap();
        let who = git::Identity::new("T", "t@example.org", 1);
        let files = [
            git::FileEdit::write(".gitignore", "*.log\n"),
            git::FileEdit::write("kept.log", "1\n"),
        ];
        let base = repository.commit_files(None, &files, "one", &who).unwrap();
        let (tree, admin) = (folder.path().join("tree"), folder.path().join("admin"));
        let work_tree = git::WorkTree::materialise(&repository, base, &tree, &admin).unwrap();
        let snapshot = Snapshot::of(&work_tree).unwrap();
        std::fs::write(tree.join("kept.log"), "2\n").unwrap();
        std::fs::write(tree.join("new.log"), "2\n").unwrap();
        assert_eq!(snapshot.changed().await.unwrap().paths, ["kept.log"]);
        let limits = CommitLimits::default();
        let commit = work_tree.commit_all(base, "two", &who, &who, &limits).unwrap().unwrap();
        let changes = work_tree
            .repository()
            .changed_paths(Some(base), Some(commit), "")
            .unwrap();
        let committed: Vec<String> = changes.iter().map(|change| change.path.to_string()).collect();
        assert_eq!(committed, ["kept.log"], "what is told is what is committed");
    }

    #[tokio::test]
    async fn content_in_the_place_of_a_pointer_is_told_apart_from_other_changes() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["gone.bin", "moved.bin", "over.bin", "same.bin"] {
            std::fs::write(at(name), pointer(9)).unwrap();
        }
        std::fs::write(at("text"), "x").unwrap();
        let snapshot = Snapshot::take(folder.path(), Arc::default()).unwrap();
        std::fs::remove_file(at("gone.bin")).unwrap();
        std::fs::write(at("moved.bin"), pointer(10)).unwrap();
        std::fs::write(at("over.bin"), "content").unwrap();
        std::fs::write(at("text"), pointer(9)).unwrap();
        let changed = snapshot.changed().await.unwrap();
        assert_eq!(changed.paths, ["gone.bin", "moved.bin", "over.bin", "text"]);
        assert_eq!(changed.overwritten, ["over.bin"]);
    }

    #[tokio::test]
    async fn a_file_that_may_not_be_read_is_a_change_and_not_the_end() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        let snapshot = Snapshot::take(folder.path(), Arc::default()).unwrap();
        std::fs::write(at("locked"), "x").unwrap();
        std::fs::create_dir(at("hidden")).unwrap();
        for name in ["locked", "hidden"] {
            std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(0o000)).unwrap();
        }
        let changed = snapshot.changed().await.unwrap().paths;
        std::fs::set_permissions(at("hidden"), std::fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(changed, ["locked"]);
    }

    #[tokio::test]
    async fn an_ignore_file_made_a_pipe_or_a_link_is_a_change_and_not_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "x").unwrap();
        let snapshot = Snapshot::take(folder.path(), Arc::default()).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at(".gitignore")).unwrap();
        std::fs::create_dir(at("src")).unwrap();
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, at("src/.gitignore"), FileType::Fifo, mode, 0).unwrap();
        assert_eq!(
            snapshot.changed().await.unwrap().paths,
            [".gitignore", "src/.gitignore"]
        );
    }

    #[tokio::test]
    async fn a_file_that_no_commit_can_hold_is_named_with_its_size() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("old"), vec![0; 200]).unwrap();
        let snapshot = Snapshot::with_limit(folder.path(), Arc::default(), 100).unwrap();
        assert_eq!(
            snapshot.changed().await.unwrap(),
            Changed::default(),
            "it was there before"
        );
        // Sparse: nobody may read it whole only to compare it.
        let big = std::fs::File::create(at("big")).unwrap();
        big.set_len(1 << 42).unwrap();
        std::fs::write(at("small"), "x").unwrap();
        let changed = snapshot.changed().await.unwrap();
        assert_eq!(changed.paths, ["big", "small"]);
        assert_eq!(changed.oversized, [("big".to_owned(), 1 << 42)]);
    }
}
