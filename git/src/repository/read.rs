//! Commits, trees, blobs and ancestry.

use gix::{
    bstr::{BStr, BString, ByteSlice},
    objs::tree::EntryMode,
};

use super::Repository;
use crate::{
    Oid,
    error::{Error, Result},
};

/// What a tree entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A plain file.
    File,
    /// A file with the executable bit.
    Exec,
    /// A symbolic link; its blob is the target.
    Symlink,
    /// A commit of another repository.
    Submodule,
    /// A folder.
    Tree,
}

impl EntryKind {
    pub(crate) fn from_mode(mode: EntryMode) -> Self {
        use gix::objs::tree::EntryKind as Kind;
        match mode.kind() {
            Kind::Tree => EntryKind::Tree,
            Kind::Blob => EntryKind::File,
            Kind::BlobExecutable => EntryKind::Exec,
            Kind::Link => EntryKind::Symlink,
            Kind::Commit => EntryKind::Submodule,
        }
    }
}

/// One entry of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Path from the root of the tree that was listed, with `/`.
    pub path: BString,
    /// What it is.
    pub kind: EntryKind,
    /// The object.
    pub oid: Oid,
}

/// A commit, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// The commit.
    pub oid: Oid,
    /// Its tree.
    pub tree: Oid,
    /// Its parents, first parent first.
    pub parents: Vec<Oid>,
    /// Who wrote it.
    pub author: super::Identity,
    /// Who committed it.
    pub committer: super::Identity,
    /// The message, with damaged UTF-8 replaced.
    pub message: String,
}

type Entries = Vec<(BString, EntryMode, Oid)>;

impl Repository {
    /// Reads a commit.
    pub fn commit_info(&self, oid: Oid) -> Result<CommitInfo> {
        let data = self.object(oid, gix::objs::Kind::Commit)?;
        let commit = gix::objs::CommitRef::from_bytes(&data, gix::hash::Kind::Sha1)
            .map_err(|e| self.fail("read a commit of", &e))?;
        let who = |signature: Result<gix::actor::SignatureRef<'_>, _>| match signature {
            Ok(signature) => super::Identity::from_signature(&signature),
            Err(_) => super::Identity::unknown(),
        };
        Ok(CommitInfo {
            oid,
            tree: commit.tree(),
            parents: commit.parents().collect(),
            author: who(commit.author()),
            committer: who(commit.committer()),
            message: commit.message.to_str_lossy().into_owned(),
        })
    }

    /// Finds the tree of a commit or tag; a tree is its own tree.
    pub fn tree_of(&self, oid: Oid) -> Result<Oid> {
        let repo = self.gix();
        let object = repo
            .try_find_object(oid)
            .map_err(|e| self.fail("read an object of", &e))?
            .ok_or_else(|| self.missing("read a tree", format!("object {oid}")))?;
        let tree = object.peel_to_tree().map_err(|e| self.fail("read a tree of", &e))?;
        Ok(tree.id)
    }

    /// Lists the folder `path` (`""` is the root) of a commit or tree, with everything below it if `recursive`.
    /// `None` if there is no such folder. Paths are relative to the root of the repository, in Git's order.
    pub fn tree_entries(&self, treeish: Oid, path: &str, recursive: bool) -> Result<Option<Vec<TreeEntry>>> {
        let root = self.tree_of(treeish)?;
        let start = if path.trim_matches('/').is_empty() {
            root
        } else {
            match self.find_in(root, path)? {
                Some(entry) if entry.kind == EntryKind::Tree => entry.oid,
                _ => return Ok(None),
            }
        };
        let mut out = Vec::new();
        self.list_into(start, BString::from(path.trim_matches('/')), recursive, &mut out)?;
        Ok(Some(out))
    }

    fn list_into(&self, tree: Oid, prefix: BString, recursive: bool, out: &mut Vec<TreeEntry>) -> Result<()> {
        let repo = self.gix();
        let mut pending = vec![(tree, prefix)];
        // Depth first, so that the order is the one of the paths.
        while let Some((tree, prefix)) = pending.pop() {
            let mut below = Vec::new();
            for (name, mode, oid) in self.entries(&repo, tree)? {
                let path = join(prefix.as_ref(), name.as_ref());
                if mode.is_tree() && recursive {
                    below.push((oid, path));
                } else {
                    out.push(TreeEntry {
                        path,
                        kind: EntryKind::from_mode(mode),
                        oid,
                    });
                }
            }
            below.reverse();
            pending.extend(below);
        }
        if recursive {
            out.sort_by(|a, b| a.path.cmp(&b.path));
        }
        Ok(())
    }

    /// Finds one path of a commit or tree.
    pub fn entry_at(&self, treeish: Oid, path: &str) -> Result<Option<TreeEntry>> {
        let root = self.tree_of(treeish)?;
        self.find_in(root, path)
    }

    pub(super) fn find_in(&self, root: Oid, path: &str) -> Result<Option<TreeEntry>> {
        let repo = self.gix();
        let mut tree = root;
        let mut parts = path.split('/').filter(|p| !p.is_empty()).peekable();
        while let Some(part) = parts.next() {
            let entries = self.entries(&repo, tree)?;
            let Some((_, mode, oid)) = entries.into_iter().find(|(name, ..)| name == part) else {
                return Ok(None);
            };
            if parts.peek().is_none() {
                return Ok(Some(TreeEntry {
                    path: path.trim_matches('/').into(),
                    kind: EntryKind::from_mode(mode),
                    oid,
                }));
            }
            if !mode.is_tree() {
                return Ok(None);
            }
            tree = oid;
        }
        Ok(None)
    }

    /// Returns the size of a blob in bytes without reading it.
    pub fn blob_size(&self, oid: Oid) -> Result<u64> {
        let header = self
            .gix()
            .try_find_header(oid)
            .map_err(|e| self.fail("read a blob of", &e))?
            .ok_or_else(|| self.missing("read a blob", format!("object {oid}")))?;
        Ok(header.size())
    }

    /// Reads a blob of at most `max_bytes` bytes; a larger one is an error that is found before it is read.
    pub fn read_blob(&self, oid: Oid, max_bytes: u64) -> Result<Vec<u8>> {
        let found = self.blob_size(oid)?;
        if found > max_bytes {
            return Err(Error::TooLarge {
                action: "read",
                what: format!("blob {oid}"),
                found,
                limit: max_bytes,
            });
        }
        self.object(oid, gix::objs::Kind::Blob)
    }

    /// Reads the file at `path` of a commit or tree; `None` if there is none. A link gives its target.
    pub fn read_file(&self, treeish: Oid, path: &str, max_bytes: u64) -> Result<Option<(EntryKind, Vec<u8>)>> {
        match self.entry_at(treeish, path)? {
            Some(TreeEntry {
                kind: EntryKind::Tree | EntryKind::Submodule,
                ..
            })
            | None => Ok(None),
            Some(entry) => Ok(Some((entry.kind, self.read_blob(entry.oid, max_bytes)?))),
        }
    }

    pub(crate) fn entries(&self, repo: &gix::Repository, tree: Oid) -> Result<Entries> {
        let tree = repo.find_tree(tree).map_err(|e| self.fail("read a tree of", &e))?;
        let decoded = tree.decode().map_err(|e| self.fail("read a tree of", &e))?;
        Ok(decoded
            .entries
            .iter()
            .map(|e| (e.filename.to_owned(), e.mode, e.oid.to_owned()))
            .collect())
    }

    fn object(&self, oid: Oid, kind: gix::objs::Kind) -> Result<Vec<u8>> {
        let repo = self.gix();
        let mut object = repo
            .try_find_object(oid)
            .map_err(|e| self.fail("read an object of", &e))?
            .ok_or_else(|| self.missing("read an object", format!("{kind} {oid}")))?;
        if object.kind != kind {
            return Err(Error::Invalid {
                action: "read an object",
                reason: format!("{oid} is a {}, a {kind} was expected", object.kind),
            });
        }
        Ok(std::mem::take(&mut object.data))
    }

    pub(crate) fn missing(&self, action: &'static str, what: String) -> Error {
        Error::Missing {
            action,
            what,
            path: self.path().to_owned(),
        }
    }
}

pub(crate) fn mode_of(kind: EntryKind) -> EntryMode {
    use gix::objs::tree::EntryKind as Kind;
    match kind {
        EntryKind::File => Kind::Blob,
        EntryKind::Exec => Kind::BlobExecutable,
        EntryKind::Symlink => Kind::Link,
        EntryKind::Submodule => Kind::Commit,
        EntryKind::Tree => Kind::Tree,
    }
    .into()
}

pub(crate) fn join(prefix: &BStr, name: &BStr) -> BString {
    let mut path = BString::from(prefix);
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use crate::{EntryKind, FileEdit, Identity, Oid, Repository, error::Category};

    fn fixture() -> (tempfile::TempDir, Repository) {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repository::init_bare(&dir.path().join("r.git"), "main").unwrap();
        (dir, repo)
    }

    fn commit(repo: &Repository, parent: Option<Oid>, edits: &[FileEdit]) -> Oid {
        repo.commit_files(parent, edits, "message", &Identity::test()).unwrap()
    }

    #[test]
    fn a_tree_is_listed_with_kinds_and_only_below_the_folder_asked_for() {
        let (_dir, repo) = fixture();
        let head = commit(
            &repo,
            None,
            &[
                FileEdit::write("tasks/b/two.md", "2"),
                FileEdit::write("tasks/a.md", "1"),
                FileEdit::write("run.sh", "x").executable(),
                FileEdit::symlink("link", "../../etc/passwd"),
            ],
        );
        let list = |path: &str, recursive| {
            let entries = repo.tree_entries(head, path, recursive).unwrap();
            entries.map(|e| e.into_iter().map(|e| (e.path.to_string(), e.kind)).collect::<Vec<_>>())
        };
        assert_eq!(
            list("", true).unwrap(),
            [
                ("link".to_string(), EntryKind::Symlink),
                ("run.sh".to_string(), EntryKind::Exec),
                ("tasks/a.md".to_string(), EntryKind::File),
                ("tasks/b/two.md".to_string(), EntryKind::File),
            ]
        );
        assert_eq!(list("tasks", false).unwrap().len(), 2);
        assert_eq!(list("tasks/b/", true).unwrap()[0].0, "tasks/b/two.md");
        assert_eq!(list("absent", true), None);
        assert_eq!(list("run.sh", true), None, "a file is no folder");
    }

    #[test]
    fn a_blob_over_the_limit_is_refused_before_it_is_read() {
        let (_dir, repo) = fixture();
        let head = commit(&repo, None, &[FileEdit::write("big", "x".repeat(100))]);
        let error = repo.read_file(head, "big", 99).unwrap_err();
        assert_eq!(error.category(), Category::LocalLimit);
        assert_eq!(repo.read_file(head, "big", 100).unwrap().unwrap().1.len(), 100);
        assert_eq!(repo.read_file(head, "none", 100).unwrap(), None);
    }

    #[test]
    fn an_empty_repository_resolves_to_nothing() {
        let (_dir, repo) = fixture();
        assert_eq!(repo.resolve("HEAD").unwrap(), None);
        assert_eq!(repo.resolve("refs/heads/main").unwrap(), None);
        let head = commit(&repo, None, &[FileEdit::write("a", "1")]);
        repo.set_ref("refs/heads/main", Some(head)).unwrap();
        assert_eq!(repo.resolve("HEAD").unwrap(), Some(head));
        repo.set_ref("refs/heads/main", None).unwrap();
        assert_eq!(repo.resolve("refs/heads/main").unwrap(), None);
        assert!(repo.set_ref("main", Some(head)).is_err());
        assert!(repo.set_ref("refs/heads/../../x", Some(head)).is_err());
    }
}
