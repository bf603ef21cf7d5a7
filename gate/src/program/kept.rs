//! What a change is judged by, as it was checked out: no step may change it, nor add to it.
//!
//! Looked at after every step, while nothing runs. What a step rewrites and puts back before it ends is not seen: it
//! was the same step that judged with it, and what runs in a step decides how that step ends anyway.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use git::{Ignores, Repository};
use sha2::{Digest, Sha256};

use super::manifest;
use crate::pinned::{MANIFEST_MAX, Parts, Pinned, differing};
use crate::protected::Protected;

/// Leads Git to what the work tree is compared with.
const LINK: &str = ".git";
/// Largest file of ignore patterns.
const IGNORE_MAX: u64 = 1 << 20;

/// The protected files of a work tree, and the pinned parts of its manifests.
pub(super) struct Kept<'a> {
    root: &'a Path,
    protected: Protected,
    pinned: &'a [Pinned],
    ignored: Ignored,
    /// Folders that were checked out, once they are known.
    folders: Option<HashSet<PathBuf>>,
    files: BTreeMap<PathBuf, Option<[u8; 32]>>,
    manifests: Vec<(PathBuf, &'a Pinned, Parts)>,
}

impl<'a> Kept<'a> {
    /// Remembers what stands below `root`, which is as it was checked out.
    pub(super) fn of(root: &'a Path, protected: Protected, pinned: &'a [Pinned], ignored: Ignored) -> Self {
        let mut kept = Self {
            root,
            protected,
            pinned,
            ignored,
            folders: None,
            files: BTreeMap::new(),
            manifests: Vec::new(),
        };
        let mut seen = Seen::default();
        kept.look(Path::new(""), false, &mut Ignores::default(), &mut seen);
        let state = |path: PathBuf| {
            let state = state(root, &path);
            (path, state)
        };
        kept.files = seen
            .protected
            .into_iter()
            .chain([PathBuf::from(LINK)])
            .map(state)
            .collect();
        let at_root = pinned
            .iter()
            .filter_map(|one| Some((PathBuf::from(one.file.strip_prefix('/')?), one)));
        let manifests = seen.manifests.into_iter().chain(at_root);
        kept.manifests = manifests
            .map(|(path, pinned)| {
                let parts = read(root, &path, pinned);
                (path, pinned, parts)
            })
            .collect();
        kept.folders = Some(seen.folders);
        kept
    }

    /// Returns what is not as it was, if anything.
    pub(super) fn changed(&self) -> Option<String> {
        let known = self
            .files
            .iter()
            .find(|(path, before)| state(self.root, path) != **before);
        if let Some((path, _)) = known {
            return Some(path.to_string_lossy().into_owned());
        }
        for (path, pinned, before) in &self.manifests {
            let now = read(self.root, path, pinned);
            if let Some(part) = differing(&path.to_string_lossy(), before, &now).into_iter().next() {
                return Some(part);
            }
        }
        let mut seen = Seen::default();
        self.look(Path::new(""), false, &mut Ignores::default(), &mut seen);
        let new = seen.protected.into_iter().find(|path| !self.files.contains_key(path));
        new.or(seen.unreadable).map(|path| path.to_string_lossy().into_owned())
    }

    /// Looks for protected files and manifests in a folder and below. What steps build where the base ignores whole
    /// folders, packages and their manifests above all, belongs to nobody's judgement.
    fn look(&self, folder: &Path, ignored: bool, ignores: &mut Ignores, seen: &mut Seen<'a>) {
        let entries: std::io::Result<Vec<_>> =
            std::fs::read_dir(self.root.join(folder)).and_then(|entries| entries.collect());
        let Ok(entries) = entries else {
            seen.unreadable.get_or_insert_with(|| folder.to_owned());
            return;
        };
        let entered = self.ignored.enter(folder, ignores);
        for entry in entries {
            let path = folder.join(entry.file_name());
            let text = path.to_string_lossy();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                let ignored = ignored || ignores.matches(path.as_os_str().as_bytes().into(), true);
                let checked_out = self.folders.as_ref().is_none_or(|folders| folders.contains(&path));
                if checked_out || !ignored {
                    self.look(&path, ignored, ignores, seen);
                    seen.folders.insert(path);
                }
            } else if text != LINK {
                if self.protected.covers(&text).is_some() {
                    seen.protected.push(path.clone());
                }
                let pinned = self
                    .pinned
                    .iter()
                    .filter(|one| !one.file.starts_with('/') && one.covers(&text));
                seen.manifests.extend(pinned.map(|one| (path.clone(), one)));
            }
        }
        if entered {
            ignores.leave();
        }
    }
}

/// What is found below a folder.
#[derive(Default)]
struct Seen<'a> {
    folders: HashSet<PathBuf>,
    protected: Vec<PathBuf>,
    manifests: Vec<(PathBuf, &'a Pinned)>,
    /// First folder that could not be read.
    unreadable: Option<PathBuf>,
}

/// The `.gitignore` files of the base: those of the branch have no say in what is looked at.
#[derive(Default)]
pub(super) struct Ignored(BTreeMap<PathBuf, Vec<u8>>);

impl Ignored {
    /// Reads them from a commit.
    pub(super) fn of(repository: &Repository, commit: git::Oid) -> git::Result<Self> {
        let mut found = BTreeMap::new();
        for entry in repository.tree_entries(commit, "", true)?.unwrap_or_default() {
            let path = Path::new(std::ffi::OsStr::from_bytes(&entry.path));
            let plain = matches!(entry.kind, git::EntryKind::File | git::EntryKind::Exec);
            if plain && path.file_name().is_some_and(|name| name == ".gitignore") {
                let patterns = match repository.read_blob(entry.oid, IGNORE_MAX) {
                    // Without its patterns more is looked at, not less.
                    Err(git::Error::TooLarge { .. }) => continue,
                    read => read?,
                };
                found.insert(path.parent().unwrap_or(Path::new("")).to_owned(), patterns);
            }
        }
        Ok(Self(found))
    }

    fn enter(&self, folder: &Path, ignores: &mut Ignores) -> bool {
        let Some(patterns) = self.0.get(folder) else {
            return false;
        };
        ignores.enter(&folder.as_os_str().as_bytes().into(), patterns);
        true
    }
}

/// Reads the pinned parts of a manifest in the work tree.
fn read(root: &Path, path: &Path, pinned: &Pinned) -> Parts {
    let full = root.join(path);
    match full.symlink_metadata() {
        Err(_) => pinned.read(None),
        Ok(metadata) if metadata.is_file() && metadata.len() <= MANIFEST_MAX as u64 => match std::fs::read(&full) {
            Ok(content) => pinned.read(Some(&content)),
            Err(_) => Parts::Unreadable([0; 32]),
        },
        Ok(_) => Parts::Unreadable([0; 32]),
    }
}

/// Computes a digest of what stands at `path`; `None` where nothing does, or not below folders that are none but links.
fn state(root: &Path, path: &Path) -> Option<[u8; 32]> {
    for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
        if !root.join(folder).symlink_metadata().ok()?.is_dir() {
            return None;
        }
    }
    let full = root.join(path);
    let metadata = full.symlink_metadata().ok()?;
    let mut hash = Sha256::new();
    if metadata.is_symlink() {
        hash.update(b"l");
        hash.update(std::fs::read_link(&full).ok()?.as_os_str().as_encoded_bytes());
    } else if metadata.is_file() {
        hash.update(if metadata.permissions().mode() & 0o100 != 0 {
            b"x"
        } else {
            b"f"
        });
        manifest::add_content(&full, &mut hash).ok()?;
    } else {
        return None;
    }
    Some(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is done to a work tree, and what must be named then.
    type Change<'a> = (&'a dyn Fn(&Path), Option<&'a str>);

    const MANIFEST: &str = r#"{"scripts":{"test":"node t"},"dependencies":{}}"#;

    fn write(path: PathBuf, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn every_change_of_what_judges_is_seen_and_no_other() {
        let changes: [Change; 16] = [
            (&|root| write(root.join("ci/check.sh"), "exit 0"), Some("ci/check.sh")),
            (
                &|root| std::fs::remove_file(root.join("ci/check.sh")).unwrap(),
                Some("ci/check.sh"),
            ),
            (
                &|root| {
                    let open = std::fs::Permissions::from_mode(0o755);
                    std::fs::set_permissions(root.join("ci/check.sh"), open).unwrap();
                },
                Some("ci/check.sh"),
            ),
            (
                &|root| {
                    std::fs::rename(root.join("ci"), root.join("other")).unwrap();
                    std::os::unix::fs::symlink("other", root.join("ci")).unwrap();
                },
                Some("ci/check.sh"),
            ),
            (&|root| write(root.join("ci/new.sh"), ""), Some("ci/new.sh")),
            (&|root| write(root.join("GNUmakefile"), "all:"), Some("GNUmakefile")),
            (
                &|root| write(root.join("deep/er/GNUmakefile"), "all:"),
                Some("deep/er/GNUmakefile"),
            ),
            (
                &|root| std::os::unix::fs::symlink("/elsewhere", root.join("later")).unwrap(),
                Some("later"),
            ),
            (&|root| write(root.join(".git"), "gitdir: elsewhere"), Some(".git")),
            (
                &|root| write(root.join("package.json"), r#"{"scripts":{"test":"exit 0"}}"#),
                Some("package.json (scripts.test)"),
            ),
            (
                &|root| write(root.join("setup.cfg"), "[tool:pytest]\naddopts = -k nothing\n"),
                Some("setup.cfg (tool:pytest)"),
            ),
            (&|root| write(root.join("src.rs"), "other"), None),
            (&|root| write(root.join("ci/check.sh"), "exit 1"), None),
            // Packages bring files of any name.
            (&|root| write(root.join("packages/a/GNUmakefile"), "all:"), None),
            (&|root| write(root.join("packages/a/package.json"), "{"), None),
            (
                &|root| {
                    write(
                        root.join("package.json"),
                        r#"{"scripts":{"test":"node t"},"dependencies":{"a":"1"}}"#,
                    )
                },
                None,
            ),
        ];
        let pinned = [("package.json", "scripts.test"), ("/setup.cfg", "tool:pytest")].map(|(file, part)| Pinned {
            file: file.to_owned(),
            parts: vec![part.to_owned()],
        });
        for (number, (change, wanted)) in changes.into_iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path();
            write(root.join("ci/check.sh"), "exit 1");
            write(root.join("src.rs"), "one");
            write(root.join(".git"), "gitdir: here");
            write(root.join("package.json"), MANIFEST);
            let rules = Protected::new(["ci/**", "GNUmakefile", "later/rules/**"]).unwrap();
            let ignored = Ignored(BTreeMap::from([(PathBuf::new(), b"packages/\n*.log\n".to_vec())]));
            let kept = Kept::of(root, rules, &pinned, ignored);
            assert_eq!(kept.changed(), None);
            change(root);
            assert_eq!(kept.changed().as_deref(), wanted, "{number}");
        }
    }

    #[test]
    fn what_was_checked_out_of_an_ignored_folder_is_kept_and_looked_into() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root.join("packages/ours/GNUmakefile"), "one");
        let ignored = Ignored(BTreeMap::from([(PathBuf::new(), b"packages/\n".to_vec())]));
        let kept = Kept::of(root, Protected::new(["GNUmakefile"]).unwrap(), &[], ignored);
        write(root.join("packages/theirs/GNUmakefile"), "two");
        assert_eq!(kept.changed(), None);
        write(root.join("packages/GNUmakefile"), "two");
        assert_eq!(kept.changed().as_deref(), Some("packages/GNUmakefile"));
        std::fs::remove_file(root.join("packages/GNUmakefile")).unwrap();
        write(root.join("packages/ours/GNUmakefile"), "two");
        assert_eq!(kept.changed().as_deref(), Some("packages/ours/GNUmakefile"));
    }
}
