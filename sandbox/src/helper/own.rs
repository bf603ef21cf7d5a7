//! What every private root has of its own: devices, terminals, the process table.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD};
use rustix::mount::FsOpenFlags;

use super::failure::Failure;
use super::place::{NODEV, NOEXEC, NOSUID, RDONLY, attach, mount_context, open_tree, split};
use crate::mount::DEVICES;
use crate::sys;

/// Folders of `/proc` whose files are settings of the whole machine.
const MACHINE: [&str; 7] = ["sys", "sysrq-trigger", "irq", "bus", "fs", "acpi", "scsi"];

pub(super) fn open_devices() -> Result<Vec<(&'static str, OwnedFd)>, Failure> {
    DEVICES
        .into_iter()
        .map(|name| Ok((name, open_tree(CWD, &Path::new("/dev").join(name))?)))
        .collect()
}

pub(super) fn place_devices(root: &OwnedFd, devices: Vec<(&'static str, OwnedFd)>) -> Result<(), Failure> {
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
pub(super) fn place_proc(root: &OwnedFd, nesting: bool) -> Result<(), Failure> {
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
