//! Committing what a work tree holds, trusting nothing that is in it.

use std::{collections::HashMap, collections::HashSet, path::Path};

use gix::{
    bstr::{BString, ByteSlice},
    objs::tree::{EntryKind as Kind, EntryMode},
};
use rustix::fs::{FileType, Stat};

use super::{
    WorkTree,
    ignore::Ignores,
    walk::{Folder, Item},
};
use crate::{
    Oid,
    error::{Error, Result},
    repository::{Identity, Repository},
};

/// What a commit of a work tree may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitLimits {
    /// The largest file in bytes.
    pub file_bytes: u64,
    /// The most files, ignored ones not counted.
    pub files: usize,
    /// The deepest folder.
    pub depth: usize,
}

impl Default for CommitLimits {
    fn default() -> Self {
        // 100 MiB is what forges take.
        CommitLimits {
            file_bytes: 100 * 1024 * 1024,
            files: 1_000_000,
            depth: 256,
        }
    }
}

/// A file as the index remembers it.
struct Known {
    oid: Oid,
    mode: EntryMode,
    stat: gix::index::entry::Stat,
    /// It was written so close to the index that its times prove nothing.
    racy: bool,
}

impl WorkTree {
    /// Commits everything in the work tree on top of `parent`; `None` if the tree is the one `parent` has.
    ///
    /// `.gitignore` files are honoured for files that `base` does not have; executable bits, removals and links are
    /// kept, links as links. Anything named `.git`, at any depth, and anything that is neither a file, a link nor a
    /// folder is left out. Submodules stay as they were. The objects go to [`WorkTree::repository`]; no ref moves.
    pub fn commit_all(
        &self,
        parent: Oid,
        message: &str,
        author: &Identity,
        committer: &Identity,
        limits: &CommitLimits,
    ) -> Result<Option<Oid>> {
        let tree = self.write_tree(limits)?;
        if tree == self.repository.tree_of(parent)? {
            return Ok(None);
        }
        self.repository
            .write_commit(tree, &[parent], message, author, committer)
            .map(Some)
    }

    /// Writes the tree that [`WorkTree::commit_all`] would commit.
    pub fn write_tree(&self, limits: &CommitLimits) -> Result<Oid> {
        let repo = self.repository.gix();
        let fail = |e: gix::Error| self.repository.fail("read the index of", &e);
        let index = gix::index::File::at(
            self.admin.join("index"),
            gix::hash::Kind::Sha1,
            true,
            Default::default(),
        )
        .map_err(fail)?;
        let mut known = HashMap::with_capacity(index.entries().len());
        let mut folders = HashSet::new();
        let timestamp = index.timestamp();
        for entry in index.entries() {
            let path = entry.path(&index);
            let mut end = path.len();
            while let Some(slash) = path[..end].rfind_byte(b'/') {
                end = slash;
                if !folders.insert(BString::from(&path[..end])) {
                    break;
                }
            }
            let Some(mode) = entry.mode.to_tree_entry_mode() else {
                continue;
            };
            let racy = entry.stat.is_racy(timestamp, Default::default());
            known.insert(
                path.to_owned(),
                Known {
                    oid: entry.id,
                    mode,
                    stat: entry.stat,
                    racy,
                },
            );
        }
        let base_tree = self.repository.tree_of(self.attributes)?;
        // Attributes come from where those of the checkout came from, never from the work tree, and may ask for conversions of text. Programs are named by configuration only,
        // and the admin folder's names none.
        let base_index = repo.index_from_tree(&base_tree).map_err(fail)?;
        let source = gix::worktree::stack::state::attributes::Source::IdMapping;
        let attributes = repo.attributes_only(&base_index, source).map_err(fail)?;
        let pipeline = gix::filter::Pipeline::new(&repo, attributes.detach()).map_err(fail)?;

        let root = Folder::open(&self.tree).map_err(|e| Error::io("open", &self.tree, e))?;
        let mut walk = Walk {
            root: &self.tree,
            repository: &self.repository,
            repo: &repo,
            known,
            folders,
            index: &base_index,
            pipeline,
            ignores: Ignores::default(),
            limits,
            files: 0,
        };
        match walk.folder(&root, &BString::default(), false, 0)? {
            Some(tree) => Ok(tree),
            None => self.repository.write_tree(&repo, Vec::new()),
        }
    }
}

struct Walk<'a> {
    root: &'a Path,
    repository: &'a Repository,
    repo: &'a gix::Repository,
    known: HashMap<BString, Known>,
    /// Folders that hold files of the index.
    folders: HashSet<BString>,
    index: &'a gix::index::State,
    pipeline: gix::filter::Pipeline<'a>,
    ignores: Ignores,
    limits: &'a CommitLimits,
    files: usize,
}

impl Walk<'_> {
    /// Writes the tree of one folder; `None` if nothing in it is committed.
    fn folder(&mut self, folder: &Folder, path: &BString, ignored: bool, depth: usize) -> Result<Option<Oid>> {
        if depth > self.limits.depth {
            return Err(self.invalid(path, format!("it is nested deeper than {} folders", self.limits.depth)));
        }
        let items = folder.items().map_err(|e| self.io("read", path, e))?;
        let entered = self.read_ignores(folder, path, &items)?;
        let mut entries = Vec::with_capacity(items.len());
        for item in &items {
            if item.name.eq_ignore_ascii_case(b".git") {
                continue;
            }
            if let Some((mode, oid)) = self.item(folder, path, item, ignored, depth)? {
                entries.push((item.name.clone(), mode, oid));
            }
        }
        if entered {
            self.ignores.leave();
        }
        if entries.is_empty() {
            return Ok(None);
        }
        self.repository.write_tree(self.repo, entries).map(Some)
    }

    fn read_ignores(&mut self, folder: &Folder, path: &BString, items: &[Item]) -> Result<bool> {
        const LIMIT: u64 = 1024 * 1024;
        let Some(item) = items
            .iter()
            .find(|item| item.name == ".gitignore" && item.kind == FileType::RegularFile)
        else {
            return Ok(false);
        };
        let read = folder
            .read_file(&item.name, LIMIT)
            .map_err(|e| self.io("read", &Repository::join_path(path, &item.name), e))?;
        match read {
            Ok((patterns, _)) => self.ignores.enter(path, &patterns),
            Err(_) => return Err(self.invalid(path, "its .gitignore is larger than 1 MiB".into())),
        }
        Ok(true)
    }

    fn item(
        &mut self,
        folder: &Folder,
        parent: &BString,
        item: &Item,
        ignored: bool,
        depth: usize,
    ) -> Result<Option<(EntryMode, Oid)>> {
        let path = Repository::join_path(parent, &item.name);
        let known = self.known.get(&path);
        if let Some(Known { mode, oid, .. }) = known
            && mode.is_commit()
            && item.kind == FileType::Directory
        {
            return Ok(Some((*mode, *oid)));
        }
        let tracked = known.is_some();
        let is_dir = item.kind == FileType::Directory;
        let ignored = ignored || self.ignores.matches(path.as_ref(), is_dir);
        match item.kind {
            FileType::Directory => {
                if ignored && !self.folders.contains(&path) {
                    return Ok(None);
                }
                let below = match folder.open_folder(&item.name) {
                    Ok(below) => below,
                    Err(e) => return Err(self.io("open", &path, e)),
                };
                let tree = self.folder(&below, &path, ignored, depth + 1)?;
                Ok(tree.map(|oid| (Kind::Tree.into(), oid)))
            }
            _ if ignored && !tracked => Ok(None),
            FileType::Symlink => {
                let target = folder.read_link(&item.name).map_err(|e| self.io("read", &path, e))?;
                self.count(&path)?;
                Ok(Some((Kind::Link.into(), self.repository.write_blob(&target)?)))
            }
            FileType::RegularFile => self.file(folder, &path, item).map(Some),
            // Pipes, sockets and devices have no place in a tree.
            _ => Ok(None),
        }
    }

    fn file(&mut self, folder: &Folder, path: &BString, item: &Item) -> Result<(EntryMode, Oid)> {
        self.count(path)?;
        if let Some(known) = self.known.get(path)
            && !known.racy
            && known.mode == mode_of(&item.stat)
            && unchanged(&known.stat, &item.stat)
        {
            return Ok((known.mode, known.oid));
        }
        let read = folder
            .read_file(&item.name, self.limits.file_bytes)
            .map_err(|e| self.io("read", path, e))?;
        let (bytes, stat) = read.map_err(|found| Error::TooLarge {
            action: "commit",
            what: path.to_string(),
            found,
            limit: self.limits.file_bytes,
        })?;
        let relative = gix::path::from_bstr(path.as_bstr()).map_err(|e| self.invalid(path, e.to_string()))?;
        let mut converted = Vec::new();
        let convert = match self.pipeline.convert_to_git(bytes.as_slice(), &relative, self.index) {
            Ok(mut outcome) => std::io::Read::read_to_end(&mut outcome, &mut converted).is_ok(),
            Err(_) => false,
        };
        // A conversion that the tree's attributes ask for and the content does not allow: the bytes as they are.
        let bytes = if convert { &converted } else { &bytes };
        Ok((mode_of(&stat), self.repository.write_blob(bytes)?))
    }

    fn count(&mut self, path: &BString) -> Result<()> {
        self.files += 1;
        if self.files > self.limits.files {
            return Err(self.invalid(
                path,
                format!("the work tree has more than {} files to commit", self.limits.files),
            ));
        }
        Ok(())
    }

    fn io(&self, action: &'static str, path: &BString, error: std::io::Error) -> Error {
        Error::io(
            action,
            self.root.join(gix::path::from_bstr(path.as_bstr()).unwrap_or_default()),
            error,
        )
    }

    fn invalid(&self, path: &BString, reason: String) -> Error {
        Error::Invalid {
            action: "commit the work tree",
            reason: format!("{path}: {reason}"),
        }
    }
}

fn mode_of(stat: &Stat) -> EntryMode {
    if stat.st_mode & 0o100 != 0 {
        Kind::BlobExecutable.into()
    } else {
        Kind::Blob.into()
    }
}

/// Says whether a file is the one that was checked out. The change time counts: a program can set a file's
/// modification time, not this one.
fn unchanged(known: &gix::index::entry::Stat, stat: &Stat) -> bool {
    // The index keeps the low 32 bits, as Git does.
    #[allow(clippy::unnecessary_cast)]
    let low = |value: i64| value as u32;
    #[allow(clippy::unnecessary_cast)]
    let same_ino = known.ino == stat.st_ino as u32;
    same_ino
        && known.size == low(stat.st_size)
        && known.mtime.secs == low(stat.st_mtime)
        && i64::from(known.mtime.nsecs) == stat.st_mtime_nsec as i64
        && known.ctime.secs == low(stat.st_ctime)
        && i64::from(known.ctime.nsecs) == stat.st_ctime_nsec as i64
}
