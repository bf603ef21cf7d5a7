//! Objects: blobs, trees made from edits, commits.

use std::collections::BTreeMap;

use gix::{
    bstr::{BString, ByteSlice},
    objs::tree::EntryMode,
};

use super::{
    EntryKind, Repository,
    read::{join, mode_of},
};
use crate::{
    Oid,
    error::{Error, Result},
};

/// Who made a commit, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name.
    pub name: String,
    /// Mail address.
    pub email: String,
    /// Seconds since 1970, UTC.
    pub seconds: i64,
    /// Offset of the local time in seconds east of UTC.
    pub offset: i32,
}

impl Identity {
    /// Names a person or program at a time in UTC.
    pub fn new(name: impl Into<String>, email: impl Into<String>, seconds: i64) -> Self {
        Identity {
            name: name.into(),
            email: email.into(),
            seconds,
            offset: 0,
        }
    }

    pub(crate) fn unknown() -> Self {
        Identity::new("unknown", "", 0)
    }

    pub(crate) fn from_signature(signature: &gix::actor::SignatureRef<'_>) -> Self {
        let time = signature.time().unwrap_or_default();
        Identity {
            name: signature.name.to_str_lossy().into_owned(),
            email: signature.email.to_str_lossy().into_owned(),
            seconds: time.seconds,
            offset: time.offset,
        }
    }

    pub(crate) fn signature(&self) -> gix::actor::Signature {
        gix::actor::Signature {
            name: clean(&self.name).into(),
            email: clean(&self.email).into(),
            time: gix::date::Time {
                seconds: self.seconds,
                offset: self.offset,
            },
        }
    }

    #[cfg(test)]
    pub(crate) fn test() -> Self {
        Identity::new("Tester", "tester@example.invalid", 1_700_000_000)
    }
}

/// Takes out what would break a commit header.
pub(crate) fn clean(text: &str) -> String {
    let kept: String = text.chars().filter(|c| !c.is_control() && !"<>".contains(*c)).collect();
    kept.trim().to_owned()
}

/// One change to a tree: write or remove a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEdit {
    path: BString,
    content: Option<(EntryKind, Vec<u8>)>,
}

impl FileEdit {
    /// Writes a plain file.
    pub fn write(path: impl Into<BString>, bytes: impl Into<Vec<u8>>) -> Self {
        FileEdit {
            path: path.into(),
            content: Some((EntryKind::File, bytes.into())),
        }
    }

    /// Writes a symbolic link.
    pub fn symlink(path: impl Into<BString>, target: impl Into<Vec<u8>>) -> Self {
        FileEdit {
            path: path.into(),
            content: Some((EntryKind::Symlink, target.into())),
        }
    }

    /// Removes a file, or a folder with all that is in it.
    pub fn remove(path: impl Into<BString>) -> Self {
        FileEdit {
            path: path.into(),
            content: None,
        }
    }

    /// Sets the executable bit of a file that is written.
    pub fn executable(mut self) -> Self {
        if let Some((kind @ EntryKind::File, _)) = &mut self.content {
            *kind = EntryKind::Exec;
        }
        self
    }
}

type Leaf = Option<(EntryMode, Oid)>;

/// Edits of one folder: names that are set or removed here, and folders that are edited below.
#[derive(Default)]
struct FolderEdit {
    here: BTreeMap<BString, Leaf>,
    below: BTreeMap<BString, FolderEdit>,
}

impl Repository {
    /// Writes a blob.
    pub fn write_blob(&self, bytes: &[u8]) -> Result<Oid> {
        let oid = self.gix().write_blob(bytes).map(|id| id.detach());
        oid.map_err(|e| self.fail("write an object to", &e))
    }

    /// Writes a commit of `edits` on top of `parent`'s tree (an empty one without a parent). No ref moves.
    pub fn commit_files(&self, parent: Option<Oid>, edits: &[FileEdit], message: &str, who: &Identity) -> Result<Oid> {
        let mut leaves = Vec::with_capacity(edits.len());
        for edit in edits {
            let leaf = match &edit.content {
                Some((kind, bytes)) => Some((mode_of(*kind), self.write_blob(bytes)?)),
                None => None,
            };
            leaves.push((edit.path.clone(), leaf));
        }
        let base = parent.map(|oid| self.tree_of(oid)).transpose()?;
        let tree = self.edit_tree(base, leaves)?;
        self.write_commit(tree, parent.as_slice(), message, who, who)
    }

    /// Writes a commit. No ref moves.
    pub fn write_commit(
        &self,
        tree: Oid,
        parents: &[Oid],
        message: &str,
        author: &Identity,
        committer: &Identity,
    ) -> Result<Oid> {
        let mut text = message.replace('\0', "");
        if !text.ends_with('\n') {
            text.push('\n');
        }
        let commit = gix::objs::Commit {
            tree,
            parents: parents.iter().copied().collect(),
            author: author.signature(),
            committer: committer.signature(),
            encoding: None,
            message: text.into(),
            extra_headers: Vec::new(),
        };
        let oid = self.gix().write_object(&commit).map(|id| id.detach());
        oid.map_err(|e| self.fail("write a commit to", &e))
    }

    /// Writes the tree that `base` becomes by `leaves`; `None` removes a path. Folders that become empty go away.
    pub(crate) fn edit_tree(&self, base: Option<Oid>, leaves: Vec<(BString, Leaf)>) -> Result<Oid> {
        let mut root = FolderEdit::default();
        for (path, leaf) in leaves {
            let refuse = |reason: &str| Error::Invalid {
                action: "write a tree",
                reason: format!("{:?}: {reason}", path.to_str_lossy()),
            };
            let mut folder = &mut root;
            let mut parts = path.split_str("/").peekable();
            while let Some(part) = parts.next() {
                if part.is_empty()
                    || part == b"."
                    || part == b".."
                    || part.eq_ignore_ascii_case(b".git")
                    || part.contains(&0)
                {
                    return Err(refuse("a path has no empty part, no '.', '..' or '.git'"));
                }
                if parts.peek().is_some() {
                    folder = folder.below.entry(part.into()).or_default();
                } else {
                    folder.here.insert(part.into(), leaf);
                }
            }
        }
        let repo = self.gix();
        let tree = self.apply(&repo, base, root)?;
        match tree {
            Some(tree) => Ok(tree),
            None => self.write_tree(&repo, Vec::new()),
        }
    }

    fn apply(&self, repo: &gix::Repository, base: Option<Oid>, edit: FolderEdit) -> Result<Option<Oid>> {
        let mut entries: BTreeMap<BString, (EntryMode, Oid)> = match base {
            Some(base) => self
                .entries(repo, base)?
                .into_iter()
                .map(|(name, mode, oid)| (name, (mode, oid)))
                .collect(),
            None => BTreeMap::new(),
        };
        for (name, leaf) in edit.here {
            match leaf {
                Some(leaf) => entries.insert(name, leaf),
                None => entries.remove(&name),
            };
        }
        for (name, below) in edit.below {
            let base = entries
                .get(&name)
                .filter(|(mode, _)| mode.is_tree())
                .map(|(_, oid)| *oid);
            match self.apply(repo, base, below)? {
                Some(tree) => {
                    entries.insert(name, (gix::objs::tree::EntryKind::Tree.into(), tree));
                }
                None if base.is_some() => {
                    entries.remove(&name);
                }
                None => {}
            }
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let entries = entries
            .into_iter()
            .map(|(name, (mode, oid))| (name, mode, oid))
            .collect();
        self.write_tree(repo, entries).map(Some)
    }

    pub(crate) fn write_tree(&self, repo: &gix::Repository, entries: Vec<(BString, EntryMode, Oid)>) -> Result<Oid> {
        let mut entries: Vec<_> = entries
            .into_iter()
            .map(|(filename, mode, oid)| gix::objs::tree::Entry { mode, filename, oid })
            .collect();
        entries.sort();
        let tree = repo.write_object(gix::objs::Tree { entries }).map(|id| id.detach());
        tree.map_err(|e| self.fail("write a tree to", &e))
    }

    /// Joins two parts of a repository path.
    pub(crate) fn join_path(prefix: &BString, name: &BString) -> BString {
        join(prefix.as_ref(), name.as_ref())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn real_git_finds_the_objects_sound() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&dir.path().join("r.git"), "main").unwrap();
        let who = Identity::test();
        let edits = [
            FileEdit::write("a/b", "1"),
            FileEdit::write("a.b", "2"),
            FileEdit::write("a-b", "3").executable(),
        ];
        let one = repo.commit_files(None, &edits, "one", &who).unwrap();
        let two = repo
            .commit_files(
                Some(one),
                &[FileEdit::remove("a/b"), FileEdit::symlink("l", "a.b")],
                "two",
                &who,
            )
            .unwrap();
        repo.set_ref("refs/heads/main", Some(two)).unwrap();
        let git = |args: &[&str]| {
            let out = std::process::Command::new("git")
                .arg("-C")
                .arg(repo.path())
                .args(args)
                .output()
                .unwrap();
            assert!(
                out.status.success(),
                "{args:?}: {}",
                String::from_utf8_lossy(&out.stderr)
            );
            String::from_utf8(out.stdout).unwrap()
        };
        git(&["fsck", "--strict"]);
        assert_eq!(git(&["ls-tree", "-r", "--name-only", "main"]), "a-b\na.b\nl\n");
        assert_eq!(
            git(&["log", "--format=%an <%ae> %s", "main"]).lines().next().unwrap(),
            "Tester <tester@example.invalid> two"
        );
    }

    #[test]
    fn paths_that_leave_the_tree_or_touch_git_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&dir.path().join("r.git"), "main").unwrap();
        for path in ["../x", "a/../x", ".git/config", "a/.GIT/x", "/abs", "a//b", ""] {
            let result = repo.commit_files(None, &[FileEdit::write(path, "x")], "m", &Identity::test());
            assert!(result.is_err(), "{path:?}");
        }
    }

    #[test]
    fn an_identity_cannot_break_the_commit_header() {
        let who = Identity::new("Evil\nparent 123 <x>", "a\n@b>", 5);
        assert_eq!(who.signature().name, "Evilparent 123 x");
        assert_eq!(who.signature().email, "a@b");
    }
}
