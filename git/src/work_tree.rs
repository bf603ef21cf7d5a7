//! Work trees: a commit's files on disk, with an admin folder that lies outside of them.

mod attributes;
mod commit;
mod fitting;
mod ignore;
mod remove;
mod tracked;
mod walk;

use std::{
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

pub use fitting::{CommitLimits, Fitting, LEFT_OUT, LeftOut, Unfit, is_fit_name};
use gix::progress::Discard;
pub use ignore::Ignores;
pub use remove::remove_tree;
pub use tracked::Tracked;

use crate::{
    Oid,
    error::{Error, Result, chain},
    repository::Repository,
};

/// Written last: without it the work tree was cut off while it was made. Its second line names the commit whose
/// attributes hold, where that is another.
const BASE_FILE: &str = "foreman-base";

/// A commit's files in a folder, with an admin folder elsewhere.
///
/// In the folder lies a `.git` *file* that names the admin folder, so that the git program works inside when it may
/// read the admin folder and the mirror's objects. The admin folder holds HEAD, the index and the objects that this
/// work tree makes; it borrows the mirror's. Nothing that is in the folder is trusted: [`WorkTree::commit_all`] reads
/// the admin folder, whatever `.git` says by then.
#[derive(Debug, Clone)]
pub struct WorkTree {
    tree: PathBuf,
    admin: PathBuf,
    base: Oid,
    /// Commit whose `.gitattributes` say how files stand on disk.
    attributes: Oid,
    repository: Repository,
}

impl WorkTree {
    /// Checks `commit` out of `source` (a mirror's repository) into `tree`, with its admin folder at `admin`. Both
    /// must not exist, or be empty. Submodules become empty folders, large-file pointers stay pointers, links are
    /// written as links wherever they point; no filter program and no hook runs.
    pub fn materialise(source: &Repository, commit: Oid, tree: &Path, admin: &Path) -> Result<Self> {
        Self::materialise_by_attributes_of(commit, source, commit, tree, admin)
    }

    /// Checks `commit` out as [`WorkTree::materialise`] does, by the `.gitattributes` of `attributes`, a commit that is
    /// trusted more: those of `commit` itself are written as files and decide nothing. So the bytes of a file that both
    /// commits have are the same on disk.
    pub fn materialise_by_attributes_of(
        attributes: Oid,
        source: &Repository,
        commit: Oid,
        tree: &Path,
        admin: &Path,
    ) -> Result<Self> {
        let tree_oid = source.tree_of(commit)?;
        let attributes_oid = source.tree_of(attributes)?;
        for folder in [tree, admin] {
            make_empty(folder)?;
        }
        let tree = tree.canonicalize().map_err(|e| Error::io("open", tree, e))?;
        let admin = admin.canonicalize().map_err(|e| Error::io("open", admin, e))?;
        let source_objects = source.path().join("objects");
        let source_objects = source_objects
            .canonicalize()
            .map_err(|e| Error::io("open", source_objects, e))?;
        for folder in ["objects/info", "objects/pack", "refs/heads", "info"] {
            let folder = admin.join(folder);
            std::fs::create_dir_all(&folder).map_err(|e| Error::io("make", folder, e))?;
        }
        // No hooks and no file-system monitor: the git program inside runs what the tree holds only when asked to.
        let mut config = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogAllRefUpdates = false\n\
                          \thooksPath = /dev/null\n\tfsmonitor = false\n\tuntrackedCache = false\n[gc]\n\tauto = 0\n[maintenance]\n\tauto = false\n"
            .to_owned();
        if attributes != commit {
            // Else it takes for changed what stands there by other attributes. Git before 2.43 does not know of it.
            config.push_str(&format!("[attr]\n\ttree = {attributes}\n"));
        }
        write(&admin.join("config"), config.as_bytes())?;
        write(&admin.join("HEAD"), format!("{commit}\n").as_bytes())?;
        let mut alternates = source_objects.into_os_string().into_encoded_bytes();
        alternates.push(b'\n');
        write(&admin.join("objects/info/alternates"), &alternates)?;
        let shallow = source.path().join("shallow");
        if shallow.exists() {
            let cut = std::fs::read(&shallow).map_err(|e| Error::io("read", shallow, e))?;
            write(&admin.join("shallow"), &cut)?;
        }

        check_out(source, tree_oid, attributes_oid, &tree, Some(&admin.join("index")))?;

        let mut link = b"gitdir: ".to_vec();
        link.extend_from_slice(admin.as_os_str().as_encoded_bytes());
        link.push(b'\n');
        write(&tree.join(".git"), &link)?;
        write(&admin.join(BASE_FILE), format!("{commit}\n{attributes}\n").as_bytes())?;
        let repository = Repository::open(&admin)?;
        Ok(WorkTree {
            tree,
            admin,
            base: commit,
            attributes,
            repository,
        })
    }

    /// Opens a work tree that was made before, for example by a process that ended since. One that was cut off while
    /// it was made is refused.
    pub fn open(tree: &Path, admin: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(admin.join(BASE_FILE)).unwrap_or_default();
        let mut lines = text.lines().map(|line| line.trim().parse().ok());
        let base = lines.next().flatten();
        // Those of an earlier version have one line.
        let attributes = lines.next().unwrap_or(base);
        let (Some(base), Some(attributes)) = (base, attributes) else {
            return Err(Error::Missing {
                action: "open a work tree",
                what: "a finished work tree".into(),
                path: admin.into(),
            });
        };
        let canonical = |path: &Path| path.canonicalize().map_err(|e| Error::io("open", path, e));
        Ok(WorkTree {
            tree: canonical(tree)?,
            admin: canonical(admin)?,
            base,
            attributes,
            repository: Repository::open(admin)?,
        })
    }

    /// Writes only the files of `commit` into `tree`, which must not exist or be empty: no `.git`, nothing to commit from.
    pub fn export(source: &Repository, commit: Oid, tree: &Path) -> Result<()> {
        let tree_oid = source.tree_of(commit)?;
        make_empty(tree)?;
        check_out(source, tree_oid, tree_oid, tree, None)
    }

    /// Returns the folder with the files.
    pub fn path(&self) -> &Path {
        &self.tree
    }

    /// Returns the admin folder. Programs inside the work tree may read it and must not write it.
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// Returns the folders outside of the work tree that the git program inside must be able to read: the admin
    /// folder and the objects that it borrows.
    pub fn read_only_paths(&self) -> Vec<PathBuf> {
        let mut paths = vec![self.admin.clone()];
        if let Ok(alternates) = std::fs::read_to_string(self.admin.join("objects/info/alternates")) {
            paths.extend(alternates.lines().filter(|line| !line.is_empty()).map(PathBuf::from));
        }
        paths
    }

    /// Returns the commit that was checked out.
    pub fn base(&self) -> Oid {
        self.base
    }

    /// Returns the repository that holds what this work tree commits and reads what the mirror has. Push from it.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Reads what the index remembers of the checkout.
    fn index(&self) -> Result<gix::index::File> {
        gix::index::File::at(
            self.admin.join("index"),
            gix::hash::Kind::Sha1,
            true,
            Default::default(),
        )
        .map_err(|e| self.repository.fail("read the index of", &e))
    }

    /// Removes the files and the admin folder.
    pub fn remove(self) -> Result<()> {
        remove_tree(&self.tree)?;
        remove_tree(&self.admin)
    }
}

fn make_empty(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make", folder, e))?;
    let mut entries = std::fs::read_dir(folder).map_err(|e| Error::io("open", folder, e))?;
    if entries.next().is_some() {
        return Err(Error::Invalid {
            action: "make a work tree",
            reason: format!("{} is not empty; remove it or choose another folder", folder.display()),
        });
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).map_err(|e| Error::io("write", path, e))
}

/// Writes the files of a tree by the attributes of another, or of itself.
fn check_out(
    source: &Repository,
    tree_oid: Oid,
    attributes_oid: Oid,
    tree: &Path,
    index_path: Option<&Path>,
) -> Result<()> {
    let repo = source.gix();
    let fail = |e: gix::Error| checkout_error(source, tree, &chain(&e), &e);
    let state = repo.index_from_tree(&tree_oid).map_err(fail)?;
    let (mut state, _) = state.into_parts();
    if attributes_oid == tree_oid {
        write_files(source, &mut state, None, true, tree)?;
    } else {
        let trusted = repo.index_from_tree(&attributes_oid).map_err(fail)?;
        let trusted = attributes::of(source, &trusted)?;
        // The tree's own files of that name would be read as attributes were they beside the others: they are written
        // before them, as files whose name means nothing, and before any link that could lead elsewhere.
        let mut own = attributes::take_out(&mut state);
        attributes::veil(&mut own);
        write_files(source, &mut own, Some(trusted.clone()), false, tree)?;
        attributes::unveil(&mut own);
        write_files(source, &mut state, Some(trusted), true, tree)?;
        attributes::put_back(&mut state, &own);
    }
    let mut index = gix::index::File::from_state(state, index_path.unwrap_or(Path::new("index")));
    if index_path.is_some() {
        index.write(Default::default()).map_err(fail)?;
    }
    Ok(())
}

/// Writes the files of an index, by the attributes among them or by others.
fn write_files(
    source: &Repository,
    index: &mut gix::index::State,
    attributes: Option<gix::worktree::stack::state::Attributes>,
    executable_bit: bool,
    tree: &Path,
) -> Result<()> {
    const THREADS: usize = 2;
    if index.entries().is_empty() {
        // One that something was taken out of is not what the checkout takes for empty.
        return Ok(());
    }
    let repo = source.gix();
    let fail = |e: gix::Error| checkout_error(source, tree, &chain(&e), &e);
    let source_of_attributes = gix::worktree::stack::state::attributes::Source::IdMapping;
    let mut options = repo.checkout_options(source_of_attributes).map_err(fail)?;
    if let Some(attributes) = attributes {
        options.attributes = attributes;
    }
    // Attributes may ask for conversions of text; whatever programs the configuration names, none runs.
    options.filters.options_mut().drivers.clear();
    options.destination_is_initially_empty = true;
    options.thread_limit = Some(THREADS);
    options.fs = gix::fs::Capabilities {
        precompose_unicode: false,
        ignore_case: false,
        executable_bit,
        symlink: true,
    };
    let objects = repo.objects.clone().into_arc().map_err(|e| {
        Error::io(
            "open the objects of",
            source.path(),
            std::io::Error::other(e.to_string()),
        )
    })?;
    let never = AtomicBool::new(false);
    let outcome =
        gix::worktree::state::checkout(index, tree, objects, &Discard, &Discard, &never, options).map_err(fail)?;
    if let Some(record) = outcome.errors.first() {
        let text = chain(&record.error);
        return Err(checkout_error(
            source,
            tree,
            &format!("{}: {text}", record.path),
            &record.error,
        ));
    }
    if let Some(collision) = outcome.collisions.first() {
        return Err(Error::Invalid {
            action: "check out",
            reason: format!("{} exists twice on this file system", collision.path),
        });
    }
    Ok(())
}

fn checkout_error(source: &Repository, tree: &Path, text: &str, error: &(dyn std::error::Error + 'static)) -> Error {
    if crate::error::says_disk_full(text) {
        return Error::DiskFull {
            action: "check out into",
            path: tree.to_owned(),
        };
    }
    // The mirror lacking or garbling an object is damage; the work tree refusing a write is not.
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return Error::io("check out into", tree, std::io::Error::new(io.kind(), text.to_owned()));
        }
        next = cause.source();
    }
    source.damaged_by("check out from", text.to_owned())
}
