//! Puts mounts into the private root, never through a link that a hostile command left.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

use super::failure::Failure;
use super::real::open_real;
use crate::mount::{Access, Mount};
use crate::sys;

pub(super) const RDONLY: u64 = 1;
pub(super) const NOSUID: u64 = 2;
pub(super) const NODEV: u64 = 4;
pub(super) const NOEXEC: u64 = 8;

/// Where our own small files lie inside the root.
const OWN: &str = ".foreman";

/// Copies the host's mounts while the host's root is still there.
pub(super) fn open_sources(mounts: &[Mount]) -> Result<Vec<Option<OwnedFd>>, Failure> {
    mounts
        .iter()
        .map(|mount| match mount {
            Mount::Bind { source, .. } => copy_tree(source).map(Some),
            _ => Ok(None),
        })
        .collect()
}

fn copy_tree(source: &Path) -> Result<OwnedFd, Failure> {
    let failed = || Failure::to::<rustix::io::Errno>(format!("bind {}", source.display()));
    let found = open_real(source).map_err(failed())?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(&found, c"", flags).map_err(failed())
}

/// Copies a mount by a path that is no link.
pub(super) fn open_tree(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    rustix::mount::open_tree(base, path, flags).map_err(Failure::to(format!("bind {}", path.display())))
}

/// Makes an empty root and attaches it somewhere, since only an attached mount can become the root.
pub(super) fn new_root() -> Result<OwnedFd, Failure> {
    let root = new_tmpfs("0755", 16 << 20, NOSUID | NODEV)?;
    let attached = ["/tmp", "/proc", "/run", "/mnt", "/usr"].into_iter().any(|place| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&root, c"", CWD, place, flags).is_ok()
    });
    if !attached {
        return Err(Failure::new("failed to attach the new root"));
    }
    // Files are made by their path, relative to this folder.
    for folder in [OWN, "dev", "proc"] {
        make_folder(root.as_fd(), OsStr::new(folder))?;
    }
    let path = Path::new(OWN).join("empty");
    rustix::fs::openat(
        &root,
        &path,
        OFlags::CREATE | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o444),
    )
    .map_err(Failure::to("make an empty file"))?;
    Ok(root)
}

fn new_tmpfs(mode: &str, size: u64, attributes: u64) -> Result<OwnedFd, Failure> {
    let failed = || Failure::to::<rustix::io::Errno>("make a tmpfs");
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed())?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", mode).map_err(failed())?;
    // No size at all would mean no bound. An entry takes memory also where its file is empty.
    let size = size.max(4096);
    rustix::mount::fsconfig_set_string(context.as_fd(), "size", size.to_string()).map_err(failed())?;
    let entries = (size / 4096).max(1024);
    rustix::mount::fsconfig_set_string(context.as_fd(), "nr_inodes", entries.to_string()).map_err(failed())?;
    rustix::mount::fsconfig_create(context.as_fd()).map_err(failed())?;
    mount_context(&context, attributes).map_err(failed())
}

pub(super) fn mount_context(context: &OwnedFd, attributes: u64) -> rustix::io::Result<OwnedFd> {
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Puts one mount where it belongs.
pub(super) fn place(root: &OwnedFd, mount: &Mount, source: Option<OwnedFd>) -> Result<(), Failure> {
    match mount {
        Mount::Bind { target, access, .. } => {
            let tree = source.ok_or_else(|| Failure::new("no source"))?;
            let read_only = if *access == Access::ReadOnly { RDONLY } else { 0 };
            sys::set_mount_attributes(tree.as_fd(), NOSUID | NODEV | read_only, true)
                .map_err(Failure::to("set the mount's attributes"))?;
            attach(root, &tree, target)
        }
        Mount::Tmpfs { target, size_bytes } => {
            let mode = if target == Path::new("/tmp") || target == Path::new("/dev/shm") {
                "1777"
            } else {
                "0755"
            };
            let tmpfs = new_tmpfs(mode, *size_bytes, NOSUID | NODEV)?;
            attach(root, &tmpfs, target)
        }
        Mount::Symlink { link, points_to } => {
            let (folder, name) = split(root, link)?;
            match rustix::fs::symlinkat(points_to, &folder, name) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
                Err(error) => Err(Failure::to("make the link")(error)),
            }
        }
        Mount::Text { target, text } => {
            let name = format!("text-{}", target.display().to_string().replace('/', "-"));
            let path = Path::new(OWN).join(name);
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            let file = rustix::fs::openat(root, &path, flags, Mode::from_raw_mode(0o444))
                .map_err(Failure::to("make the file"))?;
            File::from(file)
                .write_all(text.as_bytes())
                .map_err(Failure::to("write the file"))?;
            attach_read_only(root, &path, target)
        }
        Mount::Mask { target } => mask(root, target),
    }
}

/// Binds one of our own files over a path.
fn attach_read_only(root: &OwnedFd, path: &Path, target: &Path) -> Result<(), Failure> {
    let tree = open_tree(root.as_fd(), path)?;
    sys::set_mount_attributes(tree.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC, true)
        .map_err(Failure::to("set the mount's attributes"))?;
    attach(root, &tree, target)
}

/// Hides a path with something empty; one that is not there needs no hiding.
fn mask(root: &OwnedFd, target: &Path) -> Result<(), Failure> {
    let mut folder = root.try_clone().map_err(Failure::to("copy a descriptor"))?;
    for part in parts(target) {
        match rustix::fs::openat(
            &folder,
            part,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(next) => folder = next,
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(()),
            Err(error) => return Err(Failure::to("look at the path")(error)),
        }
    }
    let stat = rustix::fs::fstat(&folder).map_err(Failure::to("look at the path"))?;
    match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::Directory => {
            let empty = new_tmpfs("0555", 4096, RDONLY | NOSUID | NODEV | NOEXEC)?;
            move_to(&empty, &folder)
        }
        // A link's own target is masked by its own path, or not shown at all.
        rustix::fs::FileType::Symlink => Ok(()),
        _ => attach_read_only(root, &Path::new(OWN).join("empty"), target),
    }
}

/// Moves a detached mount to a target, which is made when it is not there.
pub(super) fn attach(root: &OwnedFd, tree: &OwnedFd, target: &Path) -> Result<(), Failure> {
    let stat = rustix::fs::fstat(tree).map_err(Failure::to("look at the source"))?;
    let folder = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    let (parent, name) = split(root, target)?;
    if folder {
        make_folder(parent.as_fd(), name)?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o444)) {
            Ok(_) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Failure::to("make the mount point")(error)),
        }
    }
    let place = open_part(parent.as_fd(), name)?;
    move_to(tree, &place)
}

fn move_to(tree: &OwnedFd, place: &OwnedFd) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", place, c"", flags).map_err(Failure::to("attach the mount"))
}

fn parts(path: &Path) -> Vec<&OsStr> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name),
            _ => None,
        })
        .collect()
}

/// Opens the folder that holds a path, making what is missing, and never through a link: a bound
/// folder may hold links that a hostile command left there.
pub(super) fn split<'a>(root: &OwnedFd, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Failure> {
    let mut parts = parts(path);
    let name = parts.pop().ok_or_else(|| Failure::new("the target is the root"))?;
    let mut folder = root.try_clone().map_err(Failure::to("copy a descriptor"))?;
    for part in parts {
        make_folder(folder.as_fd(), part)?;
        folder = open_part(folder.as_fd(), part)?;
    }
    Ok((folder, name))
}

fn make_folder(parent: BorrowedFd<'_>, name: &OsStr) -> Result<(), Failure> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        // A read-only parent answers this before it looks; opening the folder tells the rest.
        Err(rustix::io::Errno::ROFS) => Ok(()),
        Err(error) => Err(Failure::to("make a folder for the mount")(error)),
    }
}

fn open_part(parent: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Failure> {
    let opened = rustix::fs::openat(
        parent,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .map_err(Failure::to(format!("open {name:?} on the way to the mount")))?;
    let stat = rustix::fs::fstat(&opened).map_err(Failure::to("look at a folder"))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Symlink {
        let text = format!("{name:?} on the way to the mount is a symbolic link");
        return Err(Failure::new(text));
    }
    Ok(opened)
}
