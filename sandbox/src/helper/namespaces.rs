//! The namespaces of a sandbox: their identity, their root, their network.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::mount::{MountPropagationFlags, UnmountFlags};

use super::failure::Failure;
use super::own::{open_devices, place_devices, place_proc};
use super::place::{NODEV, NOSUID, RDONLY, new_root, open_sources, place};
use crate::wire::{self, Net, PROXY_PORT, Request};
use crate::{identity, sys};

/// The namespaces of a sandbox.
pub(super) const FLAGS: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Gives the sandbox's init its user and group, from the supervisor's side.
pub(super) fn map_identity(pid: i32) -> Result<(), Failure> {
    let (user, group) = sys::identity();
    let (inside_user, inside_group) = identity::inside();
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
        place(&root, mount, source).map_err(|failure| failure.within(format!("mount {}", mount.target().display())))?;
    }
    place_devices(&root, devices)?;
    place_proc(&root, request.nesting && !request.root_of_machine)?;
    pivot(&root)?;
    if request.net == Net::NamespaceProxy {
        hand_over_listener(control)?;
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
