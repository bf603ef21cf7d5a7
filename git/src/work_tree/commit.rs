//! Committing what a work tree holds, trusting nothing that is in it.

use std::{collections::HashMap, collections::HashSet, path::Path};

use gix::{
    bstr::{BString, ByteSlice},
    objs::tree::{EntryKind as Kind, EntryMode},
};
use rustix::fs::{FileType, Stat};

use super::{
    CommitLimits, Fitting, LEFT_OUT, LeftOut, Unfit, WorkTree,
    fitting::is_fit_name,
    ignore::Ignores,
    walk::{Folder, Item},
};
use crate::{
    Oid,
    error::{Error, Result},
    repository::{Identity, Repository},
};

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
    /// folder is left out; so is what Git takes for `.git` on other systems. Submodules stay as they were, whatever was put into their folders. A message that carries a claim is
    /// sealed. The objects go to [`WorkTree::repository`]; no ref moves.
    pub fn commit_all(
        &self,
        parent: Oid,
        message: &str,
        author: &Identity,
        committer: &Identity,
        limits: &CommitLimits,
    ) -> Result<Option<Oid>> {
        let made = self.commit_fitting(parent, message, author, committer, limits, &|| false)?;
        match made.left_out.into_iter().next() {
            None => Ok(made.commit),
            Some(LeftOut {
                path,
                why: Unfit::TooLarge { found, limit },
            }) => Err(Error::TooLarge {
                action: "commit",
                what: path.to_string(),
                found,
                limit,
            }),
            Some(other) => Err(Error::Invalid {
                action: "commit the work tree",
                reason: other.to_string(),
            }),
        }
    }

    /// Commits as [`WorkTree::commit_all`] does, but leaves out what no commit may hold, and says so: the rest of the
    /// work is not lost for one file. `stop` is asked before each file, and ends the work with [`Error::Stopped`].
    pub fn commit_fitting(
        &self,
        parent: Oid,
        message: &str,
        author: &Identity,
        committer: &Identity,
        limits: &CommitLimits,
        stop: &dyn Fn() -> bool,
    ) -> Result<Fitting> {
        let (tree, mut made) = self.write_tree(limits, stop)?;
        if tree != self.repository.tree_of(parent)? {
            let commit = self
                .repository
                .write_claimed(tree, &[parent], message, author, committer)?;
            made.commit = Some(commit);
        }
        Ok(made)
    }

    /// Writes the tree that is to be committed, and says what is not in it.
    fn write_tree(&self, limits: &CommitLimits, stop: &dyn Fn() -> bool) -> Result<(Oid, Fitting)> {
        let repo = self.repository.gix();
        let fail = |e: gix::Error| self.repository.fail("read the index of", &e);
        let index = self.index()?;
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
            base_tree,
            index: &base_index,
            pipeline,
            ignores: Ignores::default(),
            limits,
            stop,
            files: 0,
            bytes: 0,
            made: Fitting::default(),
        };
        let tree = match walk.folder(&root, &BString::default(), false, 0)? {
            Some(tree) => tree,
            None => self.repository.write_tree(&repo, Vec::new())?,
        };
        Ok((tree, walk.made))
    }
}

struct Walk<'a> {
    root: &'a Path,
    repository: &'a Repository,
    repo: &'a gix::Repository,
    known: HashMap<BString, Known>,
    /// Folders that hold files of the index.
    folders: HashSet<BString>,
    base_tree: Oid,
    index: &'a gix::index::State,
    pipeline: gix::filter::Pipeline<'a>,
    ignores: Ignores,
    limits: &'a CommitLimits,
    stop: &'a dyn Fn() -> bool,
    files: usize,
    /// Bytes of files that the index does not have like this.
    bytes: u64,
    made: Fitting,
}

impl Walk<'_> {
    /// Writes the tree of one folder; `None` if nothing in it is committed.
    fn folder(&mut self, folder: &Folder, path: &BString, ignored: bool, depth: usize) -> Result<Option<Oid>> {
        let items = folder.items().map_err(|e| self.io("read", path, e))?;
        let entered = self.read_ignores(folder, path, &items)?;
        let mut entries = Vec::with_capacity(items.len());
        for item in &items {
            if (self.stop)() {
                return Err(Error::Stopped("the commit was given up".into()));
            }
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
        match folder.read_file(&item.name, LIMIT) {
            Ok(Ok((patterns, _))) => self.ignores.enter(path, &patterns),
            // One that is too large or may not be read names nothing.
            Ok(Err(_)) => return Ok(false),
            Err(e) if is_denied(&e) => return Ok(false),
            Err(e) => return Err(self.io("read", &Repository::join_path(path, &item.name), e)),
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
        if known.is_some_and(|known| known.mode.is_commit()) && item.kind == FileType::Directory {
            return self.submodule(folder, &path, item);
        }
        let tracked = known.is_some();
        let is_dir = item.kind == FileType::Directory;
        let ignored = ignored || self.ignores.matches(path.as_ref(), is_dir);
        let is_link = item.kind == FileType::Symlink;
        // A name that is fit for a file may be none for a link.
        let becomes_link = is_link && known.is_some_and(|known| !known.mode.is_link());
        let committed = tracked && !becomes_link || self.folders.contains(&path);
        if !committed && (tracked || !ignored) && !is_fit_name(item.name.as_ref(), is_link) {
            return Ok(self.leave_out(&path, Unfit::Name));
        }
        match item.kind {
            FileType::Directory => {
                if ignored && !self.folders.contains(&path) {
                    return Ok(None);
                }
                if depth >= self.limits.depth {
                    let limit = self.limits.depth;
                    return self.leave_folder_out(&path, Unfit::TooDeep { limit });
                }
                let below = match folder.open_folder(&item.name) {
                    Ok(below) => below,
                    Err(e) if is_denied(&e) => return self.leave_folder_out(&path, Unfit::Unreadable),
                    Err(e) => return Err(self.io("open", &path, e)),
                };
                let tree = self.folder(&below, &path, ignored, depth + 1)?;
                Ok(tree.map(|oid| (Kind::Tree.into(), oid)))
            }
            _ if ignored && !tracked => Ok(None),
            FileType::Symlink => {
                if self.files >= self.limits.files {
                    return Ok(self.too_many(&path));
                }
                let target = folder.read_link(&item.name).map_err(|e| self.io("read", &path, e))?;
                self.files += 1;
                Ok(Some((Kind::Link.into(), self.repository.write_blob(&target)?)))
            }
            FileType::RegularFile => self.file(folder, &path, item),
            // Pipes, sockets and devices have no place in a tree.
            _ => Ok(None),
        }
    }

    fn file(&mut self, folder: &Folder, path: &BString, item: &Item) -> Result<Option<(EntryMode, Oid)>> {
        if let Some(known) = self.known.get(path)
            && !known.racy
            && known.mode == mode_of(&item.stat)
            && unchanged(&known.stat, &item.stat)
        {
            self.files += 1;
            return Ok(Some((known.mode, known.oid)));
        }
        if self.files >= self.limits.files {
            return Ok(self.too_many(path));
        }
        let (most, all) = (self.limits.file_bytes, self.limits.total_bytes);
        let left = all.saturating_sub(self.bytes);
        let read = match folder.read_file(&item.name, most.min(left)) {
            Ok(read) => read,
            Err(e) if is_denied(&e) => return Ok(self.leave_out(path, Unfit::Unreadable)),
            Err(e) => return Err(self.io("read", path, e)),
        };
        let (bytes, stat) = match read {
            Ok(read) => read,
            Err(found) if found > most => {
                return Ok(self.leave_out(path, Unfit::TooLarge { found, limit: most }));
            }
            Err(found) => return Ok(self.leave_out(path, Unfit::TooMuch { found, limit: all })),
        };
        self.files += 1;
        let size = bytes.len() as u64;
        let relative = gix::path::from_bstr(path.as_bstr()).map_err(|e| self.invalid(path, e.to_string()))?;
        let mut converted = Vec::new();
        let convert = match self.pipeline.convert_to_git(bytes.as_slice(), &relative, self.index) {
            Ok(mut outcome) => std::io::Read::read_to_end(&mut outcome, &mut converted).is_ok(),
            Err(_) => false,
        };
        // A conversion that the tree's attributes ask for and the content does not allow: the bytes as they are.
        let content = if convert { &converted } else { &bytes };
        let oid = self.repository.write_blob(content)?;
        let known = self.known.get(path).map(|known| known.oid);
        if let Some(known) = known
            && (known == oid || self.is_as_checked_out(known, &bytes, path))
        {
            return Ok(Some((mode_of(&stat), known)));
        }
        self.bytes += size;
        Ok(Some((mode_of(&stat), oid)))
    }

    /// Says whether a file holds what the checkout of a blob wrote. Not all of it is converted back into that blob: lines
    /// that end by CRLF in the blob are not, where attributes call it text. That is no change of anybody's.
    fn is_as_checked_out(&mut self, blob: Oid, bytes: &[u8], path: &BString) -> bool {
        let Ok(blob) = self.repository.read_blob(blob, self.limits.file_bytes) else {
            return false;
        };
        let written = self
            .pipeline
            .convert_to_worktree(&blob, path.as_ref(), Default::default());
        written.is_ok_and(|written| written.as_bytes() == Some(bytes))
    }

    /// Keeps a submodule as it is, and says so where somebody put files into its folder.
    fn submodule(&mut self, folder: &Folder, path: &BString, item: &Item) -> Result<Option<(EntryMode, Oid)>> {
        let empty = match folder.open_folder(&item.name).and_then(|below| below.items()) {
            Ok(items) => items.is_empty(),
            Err(e) if is_denied(&e) => true,
            Err(e) => return Err(self.io("open", path, e)),
        };
        Ok(match empty {
            true => self.known.get(path).map(|known| (known.mode, known.oid)),
            false => self.leave_out(path, Unfit::Submodule),
        })
    }

    /// Leaves a path out: what the base has of it stays.
    fn leave_out(&mut self, path: &BString, why: Unfit) -> Option<(EntryMode, Oid)> {
        self.made.left_out_count += 1;
        if self.made.left_out.len() < LEFT_OUT {
            let path = path.clone();
            self.made.left_out.push(LeftOut { path, why });
        }
        self.known.get(path).map(|known| (known.mode, known.oid))
    }

    fn leave_folder_out(&mut self, path: &BString, why: Unfit) -> Result<Option<(EntryMode, Oid)>> {
        self.leave_out(path, why);
        if !self.folders.contains(path) {
            return Ok(None);
        }
        let name = path.to_str().map_err(|e| self.invalid(path, e.to_string()))?;
        let known = self.repository.entry_at(self.base_tree, name)?;
        Ok(known.map(|known| (Kind::Tree.into(), known.oid)))
    }

    fn too_many(&mut self, path: &BString) -> Option<(EntryMode, Oid)> {
        let limit = self.limits.files;
        self.leave_out(path, Unfit::TooMany { limit })
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

fn is_denied(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
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
