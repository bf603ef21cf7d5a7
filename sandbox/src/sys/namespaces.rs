//! What only the owner of a namespace may do: its name, its loopback device, its mounts.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::answer::check;

/// Sets the host name of this UTS namespace.
pub(crate) fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and length are of a live string.
    check(libc::c_long::from(unsafe {
        libc::sethostname(name.as_ptr().cast(), name.len())
    }))
    .map(drop)
}

/// Brings up the loopback device of this network namespace.
pub(crate) fn bring_up_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").ok();
    let fd = match &socket {
        Some(socket) => socket.as_fd().try_clone_to_owned()?,
        None => {
            // SAFETY: plain integers; the answer is a new descriptor.
            unsafe {
                let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
                OwnedFd::from_raw_fd(check(libc::c_long::from(fd))? as RawFd)
            }
        }
    };
    // SAFETY: ifreq is plain data; the name fits and is NUL-terminated by the zeroing.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        let fd = fd.as_raw_fd();
        check(libc::c_long::from(libc::ioctl(
            fd,
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::c_long::from(libc::ioctl(
            fd,
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        )))
        .map(drop)
    }
}

/// Makes a mount, and with `recursive` all below it, have attributes (`MOUNT_ATTR_*`).
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
    let wanted = MountAttr {
        set: attributes,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let empty = c"";
    // SAFETY: the path is NUL-terminated; the structure has mount_setattr(2)'s layout and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const wanted,
            std::mem::size_of::<MountAttr>(),
        )
    })
    .map(drop)
}
