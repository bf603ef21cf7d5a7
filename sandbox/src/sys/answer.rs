//! What a system call answers.

use std::io;

/// Turns a system call's answer into a result.
pub(super) fn check(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}
