//! Descriptors: waiting for them, moving them, closing them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use super::answer::check;

/// Waits until one of the descriptors is readable or at its end; returns which are.
///
/// `None` entries are left out. No timeout means for ever.
pub(crate) fn poll(fds: &[Option<BorrowedFd<'_>>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut entries: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let millis = timeout.map_or(-1, |time| {
        // Round up, so that a deadline has passed when the call returns.
        i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    // SAFETY: the list lives through the call and its length is its own.
    let answer = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, millis) };
    match check(libc::c_long::from(answer)) {
        Ok(_) => Ok(entries.iter().map(|entry| entry.revents != 0).collect()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
        Err(error) => Err(error),
    }
}

/// Borrows a descriptor that the process was started with.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: dup of any integer is sound; a closed one is an error. The answer is a new descriptor.
    unsafe {
        let copy = check(libc::c_long::from(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10)))?;
        Ok(OwnedFd::from_raw_fd(copy as RawFd))
    }
}

/// Makes `target` (0, 1 or 2) another name of a descriptor.
pub(crate) fn become_standard(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: plain integers; the standard descriptors are owned by nobody in these processes.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), target) })).map(drop)
}

/// Makes every descriptor from `first` on close at exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOEXEC: libc::c_uint = 4;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) }).map(drop)
}

/// Tells whether there is something to be read from a descriptor now; its end alone is nothing.
pub(crate) fn has_input(fd: BorrowedFd<'_>) -> bool {
    let mut entry = libc::pollfd {
        fd: fd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: the one entry lives through the call.
    let answer = unsafe { libc::poll(&raw mut entry, 1, 0) };
    answer == 1 && entry.revents & libc::POLLIN != 0
}
