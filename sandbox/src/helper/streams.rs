//! The command's standard streams.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

/// The command's three standard streams.
pub(super) struct Streams {
    pub(super) stdin: OwnedFd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Makes the standard input: nothing, or given bytes in a memory file, so that nobody needs to feed a pipe.
///
/// The file is sealed: whoever reads it could otherwise write to it, and have memory that nobody counts.
pub(super) fn input(bytes: Option<&[u8]>) -> std::io::Result<OwnedFd> {
    let Some(bytes) = bytes else {
        return Ok(File::open("/dev/null")?.into());
    };
    let memory = rustix::fs::memfd_create("stdin", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}
