//! The private root of a sandbox, and the rest of what its namespaces need.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::{Failure, inside_identity};
use crate::command::{Access, Mount};
use crate::sys;
use crate::wire::{self, Net, PROXY_PORT, Request};

/// The namespaces of a sandbox.
pub(super) const FLAGS: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

const RDONLY: u64 = 1;
const NOSUID: u64 = 2;
const NODEV: u64 = 4;
const NOEXEC: u64 = 8;

/// Folders of `/proc` whose files are settings of the whole machine.
const MACHINE: [&str; 7] = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"];

/// Where our own small files lie inside the root.
const OWN: &str = ".foreman";

/// Gives the sandbox's init its user and group, from the supervisor's side.
pub(super) fn map_identity(pid: i32) -> Result<(), Failure> {
    let (user, group) = sys::identity();
    let (inside_user, inside_group) = inside_identity();
    let write = |name: &str, text: String| {
        std::fs::write(format!("/proc/{pid}/{name}"), text)
            .map_err(Failure::to(format!("write {name} of the user namespace")))
    };
    write("setgroups", "deny".into())?;
    write("gid_map", format!("{inside_group} {group} 1"))?;
    write("uid_map", format!("{inside_user} {user} 1"))
}

/// Tells whether this process's user is the machine's root, whatever number it sees.
///
/// Asked before the process enters a namespace of its own.
pub(super) fn is_root_of_machine() -> bool {
    let own = sys::identity().0;
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if map.split_whitespace().eq(["0", "0", "4294967295"]) {
        return own == 0;
    }
    // Elsewhere the owner of the machine's settings is seen under the number that root has here. An
    // unmapped owner and an unmapped user look the same, and are then taken for root.
    std::fs::metadata("/proc/sys").map_or(true, |data| data.uid() == own)
}

/// Builds everything and makes the private root the root.
pub(super) fn enter(request: &Request, control: BorrowedFd<'_>) -> Result<(), Failure> {
    sys::set_host_name("foreman").map_err(Failure::to("set the host name"))?;
    if request.net != Net::Host {
        sys::bring_up_loopback().map_err(Failure::to("bring up the loopback device"))?;
    }
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(Failure::to("make the mounts private"))?;
    let sources = open_sources(&request.mounts)?;
    let devices = open_devices()?;
    let root = new_root()?;
    for (mount, source) in request.mounts.iter().zip(sources) {
        place(&root, mount, source).map_err(|failure| add(failure, &format!("mount {}", mount.target().display())))?;
    }
    place_devices(&root, devices)?;
    place_proc(&root, request.nesting && !request.root_of_machine)?;
    pivot(&root)?;
    if request.net == Net::NamespaceProxy {
        hand_over_listener(control)?;
    }
    Ok(())
}

fn add(failure: Failure, what: &str) -> Failure {
    Failure {
        text: format!("failed to {what}: {}", failure.text),
        missing: failure.missing,
    }
}

/// Copies the host's mounts while the host's root is still there.
fn open_sources(mounts: &[Mount]) -> Result<Vec<Option<OwnedFd>>, Failure> {
    mounts
        .iter()
        .map(|mount| match mount {
            Mount::Bind { source, .. } => open_tree(CWD, source).map(Some),
            _ => Ok(None),
        })
        .collect()
}

fn open_tree(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    rustix::mount::open_tree(base, path, flags).map_err(Failure::to(format!("bind {}", path.display())))
}

fn open_devices() -> Result<Vec<(&'static str, OwnedFd)>, Failure> {
    crate::resolve::DEVICES
        .into_iter()
        .map(|name| Ok((name, open_tree(CWD, &Path::new("/dev").join(name))?)))
        .collect()
}

/// Makes an empty root and attaches it somewhere, since only an attached mount can become the root.
fn new_root() -> Result<OwnedFd, Failure> {
    let root = new_tmpfs("0755", 16 << 20, NOSUID | NODEV)?;
    let attached = ["/tmp", "/proc", "/run", "/mnt", "/usr"].into_iter().any(|place| {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&root, c"", CWD, place, flags).is_ok()
    });
    if !attached {
        return Err(Failure {
            text: "failed to attach the new root".into(),
            missing: false,
        });
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
    rustix::mount::fsconfig_set_string(context.as_fd(), "size", size.to_string()).map_err(failed())?;
    rustix::mount::fsconfig_create(context.as_fd()).map_err(failed())?;
    mount_context(&context, attributes).map_err(failed())
}

fn mount_context(context: &OwnedFd, attributes: u64) -> rustix::io::Result<OwnedFd> {
    let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Puts one mount where it belongs.
fn place(root: &OwnedFd, mount: &Mount, source: Option<OwnedFd>) -> Result<(), Failure> {
    match mount {
        Mount::Bind { target, access, .. } => {
            let tree = source.ok_or_else(|| Failure {
                text: "no source".into(),
                missing: false,
            })?;
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
fn attach(root: &OwnedFd, tree: &OwnedFd, target: &Path) -> Result<(), Failure> {
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
fn split<'a>(root: &OwnedFd, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Failure> {
    let mut parts = parts(path);
    let name = parts.pop().ok_or_else(|| Failure {
        text: "the target is the root".into(),
        missing: false,
    })?;
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
        return Err(Failure { text, missing: false });
    }
    Ok(opened)
}

fn place_devices(root: &OwnedFd, devices: Vec<(&'static str, OwnedFd)>) -> Result<(), Failure> {
    for (name, tree) in devices {
        sys::set_mount_attributes(tree.as_fd(), NOSUID | NOEXEC, false)
            .map_err(Failure::to("set a device's attributes"))?;
        attach(root, &tree, &Path::new("/dev").join(name))?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    let (dev, _) = split(root, Path::new("/dev/null"))?;
    for (name, target) in links {
        rustix::fs::symlinkat(target, &dev, name).map_err(Failure::to("make a link in /dev"))?;
    }
    // Terminals of its own, where the kernel gives them: few programs need one.
    if let Ok(terminals) = new_terminals() {
        attach(root, &terminals, Path::new("/dev/pts"))?;
    }
    Ok(())
}

fn new_terminals() -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("devpts", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_flag(context.as_fd(), "newinstance")?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "ptmxmode", "0666")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    mount_context(&context, NOSUID | NOEXEC)
}

/// Mounts the process table of the new pid namespace.
///
/// With `nesting` the settings of the machine are not covered, since a table with covered parts keeps
/// inner sandboxes from mounting their own; their owner is root of the machine, who this is not.
fn place_proc(root: &OwnedFd, nesting: bool) -> Result<(), Failure> {
    let failed = || Failure::to::<rustix::io::Errno>("mount /proc");
    let context = rustix::mount::fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed())?;
    rustix::mount::fsconfig_create(context.as_fd()).map_err(failed())?;
    let table = mount_context(&context, NOSUID | NODEV | NOEXEC).map_err(failed())?;
    attach(root, &table, Path::new("/proc"))?;
    if nesting {
        return Ok(());
    }
    for name in MACHINE {
        let present = rustix::fs::statat(&table, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        if present {
            let part = open_tree(table.as_fd(), Path::new(name))?;
            sys::set_mount_attributes(part.as_fd(), RDONLY | NOSUID | NODEV | NOEXEC, true)
                .map_err(Failure::to("make a part of /proc read-only"))?;
            attach(root, &part, &Path::new("/proc").join(name))?;
        }
    }
    Ok(())
}

/// Makes the new root the root and lets go of the host's.
fn pivot(root: &OwnedFd) -> Result<(), Failure> {
    let failed = || Failure::to::<rustix::io::Errno>("change the root");
    rustix::process::fchdir(root).map_err(failed())?;
    rustix::process::pivot_root(c".", c".").map_err(failed())?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(failed())?;
    rustix::process::chdir(c"/").map_err(failed())?;
    sys::set_mount_attributes(root.as_fd(), RDONLY | NOSUID | NODEV, false)
        .map_err(Failure::to("make the root read-only"))
}

/// Listens inside the otherwise empty network and hands the listener to the caller's proxy.
///
/// A socket stays in the network namespace that it was made in, wherever it is accepted from.
fn hand_over_listener(control: BorrowedFd<'_>) -> Result<(), Failure> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", PROXY_PORT))
        .map_err(Failure::to("listen for the proxy inside the sandbox"))?;
    wire::send(control, &wire::frame(wire::LISTENER, b"{}"), &[listener.as_fd()])
        .map_err(Failure::to("hand the listener to the proxy"))
}
