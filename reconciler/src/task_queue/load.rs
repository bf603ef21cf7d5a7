//! Reading what changed in a repository, on a thread for blocking work.

use std::collections::{BTreeMap, BTreeSet};

use git::{ByteSlice, ChangeKind, EntryKind, Git, Oid, RemoteUrl, Repository};
use schemas::file_error::{FileError, START};
use schemas::task_file::{self, MAX_FILE};

use super::files::{Files, Parsed};
use super::observe::Inventory;
use super::validate::Valid;

/// Fewer files than this are not worth a thread.
const SHARE: usize = 64;

/// What was read.
pub struct Loaded {
    /// Commit.
    pub revision: Oid,
    /// Files at that commit.
    pub files: Files,
    /// Paths whose objects have to be looked at.
    pub look_at: BTreeSet<String>,
    /// Paths whose content changed.
    pub changed: BTreeSet<String>,
    /// Whether every file was read, so that what no file makes any more can be found.
    pub whole: bool,
    /// How many files were read and parsed.
    pub parsed: u64,
}

impl Loaded {
    /// Where every file was read, looks at what the queue made, too: no file may make it any more.
    pub fn look_at_what_is_made(&mut self, inventory: &Inventory, queue_uid: &str) {
        if self.whole {
            self.look_at.extend(inventory.paths(queue_uid));
        }
    }
}

/// Nothing was read; what was known before stands.
pub struct Failed {
    /// What was known before.
    pub files: Option<Files>,
    /// Why.
    pub error: git::Error,
}

/// Fetches the branch, unless its tip is here, and reads what differs from the files that are known; nothing where the
/// tip is what they were read at.
pub async fn load(
    git: &Git,
    url: &RemoteUrl,
    valid: &Valid,
    tip: Oid,
    old: Option<(Files, Option<Oid>)>,
    queue_uid: &str,
) -> Result<Loaded, Failed> {
    let (url, valid, uid) = (url.clone(), valid.clone(), queue_uid.to_owned());
    let (mut files, known) = match old {
        Some((files, Some(revision))) => (files, Some(revision)),
        _ => (Files::default(), None),
    };
    if known == Some(tip) {
        // What has to be looked at again is known without the repository.
        return Ok(Loaded {
            revision: tip,
            look_at: files.take_unfinished(),
            files,
            changed: BTreeSet::new(),
            whole: false,
            parsed: 0,
        });
    }
    let spare = known.map(|_| ());
    let read = git
        .run(move |git| {
            let mirror = git.mirrors().mirror(&url)?;
            let revision = mirror.fetch_branch_at(&valid.branch, tip)?;
            let repository = mirror.repository();
            // What was read of a mirror that was rebuilt since, or of a commit that is not kept, is read anew.
            let base = known.filter(|commit| repository.has(*commit));
            let changes = match base {
                Some(base) => changed_files(&repository, base, revision, &valid.folder),
                None => all_files(&repository, revision, &valid.folder),
            }?;
            Ok((revision, changes, base.is_none(), valid, uid))
        })
        .await;
    match read {
        Err(error) => Err(Failed {
            files: spare.map(|()| files),
            error,
        }),
        Ok((revision, changes, whole, valid, uid)) => {
            if whole {
                files = Files::default();
            }
            let parsed = changes.values().filter(|parsed| parsed.is_some()).count() as u64;
            let changed: BTreeSet<String> = changes.keys().cloned().collect();
            let mut look_at = files.take_unfinished();
            look_at.extend(files.update(changes, &valid.folder, &uid));
            look_at.extend(changed.iter().cloned());
            Ok(Loaded {
                revision,
                files,
                look_at,
                changed,
                whole,
                parsed,
            })
        }
    }
}

type Changes = BTreeMap<String, Option<Parsed>>;

fn changed_files(repository: &Repository, base: Oid, revision: Oid, folder: &str) -> git::Result<Changes> {
    let mut gone = Changes::new();
    let mut wanted = Vec::new();
    for change in repository.changed_paths(Some(base), Some(revision), folder)? {
        let path = change.path.to_str_lossy().into_owned();
        if !task_file::is_task_file(&path) {
            continue;
        }
        match (change.kind, change.new) {
            (ChangeKind::Deleted, _) | (_, None) => {
                gone.insert(path, None);
            }
            (_, Some((kind, oid))) => wanted.push(Wanted {
                raw: change.path,
                path,
                kind,
                oid,
            }),
        }
    }
    let mut changes = read_all(repository, &wanted)?;
    changes.append(&mut gone);
    Ok(changes)
}

fn all_files(repository: &Repository, revision: Oid, folder: &str) -> git::Result<Changes> {
    let mut wanted = Vec::new();
    for entry in repository.tree_entries(revision, folder, true)?.unwrap_or_default() {
        let path = entry.path.to_str_lossy().into_owned();
        if entry.kind != EntryKind::Tree && task_file::is_task_file(&path) {
            wanted.push(Wanted {
                raw: entry.path,
                path,
                kind: entry.kind,
                oid: entry.oid,
            });
        }
    }
    read_all(repository, &wanted)
}

/// A file that is to be read.
struct Wanted {
    raw: git::BString,
    path: String,
    kind: EntryKind,
    oid: Oid,
}

/// Reads files on all processors.
fn read_all(repository: &Repository, wanted: &[Wanted]) -> git::Result<Changes> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = wanted.len().div_ceil(threads).max(SHARE);
    let read = |share: &[Wanted]| -> git::Result<Vec<(String, Option<Parsed>)>> {
        share
            .iter()
            .map(|one| {
                let parsed = read(repository, one.raw.as_ref(), &one.path, one.kind, one.oid)?;
                Ok((one.path.clone(), Some(parsed)))
            })
            .collect()
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = wanted
            .chunks(share)
            .map(|share| scope.spawn(move || read(share)))
            .collect();
        let mut changes = Changes::new();
        for thread in running {
            changes.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(changes)
    })
}

/// Reads one file. What is wrong with the file is a value; only the repository can fail.
fn read(repository: &Repository, raw: &git::BStr, path: &str, kind: EntryKind, oid: Oid) -> git::Result<Parsed> {
    let refuse =
        |message: String, expected: &str| Ok(Err(vec![FileError::new(path, START, message).expected(expected)]));
    if raw.to_str().is_err() {
        return refuse("the file's name is not UTF-8".into(), "a name in UTF-8");
    }
    match kind {
        EntryKind::File | EntryKind::Exec => {}
        EntryKind::Symlink => {
            return refuse(
                "the file is a symbolic link, and links are not followed".into(),
                "a plain file",
            );
        }
        EntryKind::Submodule | EntryKind::Tree => return refuse("this is no file".into(), "a plain file"),
    }
    let size = repository.blob_size(oid)?;
    if size > MAX_FILE as u64 {
        return refuse(
            format!("the file has {size} bytes"),
            &format!("at most {MAX_FILE} bytes ({} KiB)", MAX_FILE / 1024),
        );
    }
    Ok(task_file::parse(path, &repository.read_blob(oid, MAX_FILE as u64)?))
}
