//! The log of a gate: written to a file and printed, with bounded memory and bounded size.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::report::LogDigest;

/// Bytes of a step's output that are kept from its beginning.
pub(super) const HEAD_MAX: u64 = 16 << 20;
/// Bytes of a step's output that are kept from its end.
pub(super) const TAIL_MAX: usize = 256 << 10;

/// The log of a gate.
pub(super) struct GateLog {
    file: File,
    print: bool,
    hash: Sha256,
    bytes: u64,
    failed: Option<io::Error>,
}

impl GateLog {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        Ok(Self {
            file: File::create(path)?,
            print: true,
            hash: Sha256::new(),
            bytes: 0,
            failed: None,
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.failed.is_none()
            && let Err(error) = self.file.write_all(bytes)
        {
            self.failed = Some(error);
        }
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        // A reader that is gone ends the printing, not the gate.
        if self.print && io::stdout().write_all(bytes).is_err() {
            self.print = false;
        }
    }

    pub(super) fn line(&mut self, text: &str) {
        self.write(format!("== {text}\n").as_bytes());
    }

    /// Ends the log; `None` where it could not be stored whole.
    pub(super) fn finish(mut self) -> Option<LogDigest> {
        let _ = io::stdout().flush();
        if self.failed.is_none() {
            self.failed = self.file.sync_all().err();
        }
        if let Some(error) = &self.failed {
            eprintln!("failed to store the log: {error}");
            return None;
        }
        Some(LogDigest {
            sha256: hex::encode(self.hash.finalize()),
            bytes: self.bytes,
        })
    }
}

/// What is left of one step's output.
pub(super) struct Drained {
    /// Its end, at most [`TAIL_MAX`] bytes.
    pub tail: Vec<u8>,
}

/// Copies a step's output into the log until it ends: its first [`HEAD_MAX`] bytes as they come, and
/// of the rest the last [`TAIL_MAX`].
pub(super) fn drain(mut from: impl Read, log: &mut GateLog) -> Drained {
    let mut buffer = vec![0; 64 << 10];
    let mut tail: VecDeque<u8> = VecDeque::with_capacity(TAIL_MAX + buffer.len());
    let mut total: u64 = 0;
    let mut ends_line = true;
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        let bytes = &buffer[..read];
        if total < HEAD_MAX {
            let room = usize::try_from(HEAD_MAX - total).unwrap_or(usize::MAX).min(read);
            log.write(&bytes[..room]);
        }
        total += read as u64;
        ends_line = bytes.last() == Some(&b'\n');
        tail.extend(bytes);
        let over = tail.len().saturating_sub(TAIL_MAX);
        tail.drain(..over);
    }
    let tail = Vec::from(tail);
    if total > HEAD_MAX {
        let unwritten = total - HEAD_MAX;
        let shown = unwritten.min(tail.len() as u64);
        if unwritten > shown {
            log.write(b"\n");
            log.line(&format!("{} bytes left out", unwritten - shown));
        }
        log.write(&tail[tail.len() - usize::try_from(shown).unwrap_or(0)..]);
    }
    if !ends_line {
        log.write(b"\n");
    }
    Drained { tail }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn quiet(path: &Path) -> GateLog {
        let mut log = GateLog::create(path).unwrap();
        log.print = false;
        log
    }

    #[test]
    fn a_long_output_keeps_its_beginning_and_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = quiet(&path);
        let endless = io::repeat(b'x').take(HEAD_MAX * 3);
        let drained = drain(
            (&b"first line\n"[..]).chain(endless).chain(&b"\nlast line\n"[..]),
            &mut log,
        );
        assert!(drained.tail.ends_with(b"\nlast line\n"));
        assert_eq!(drained.tail.len(), TAIL_MAX);
        let digest = log.finish().unwrap();
        let stored = std::fs::read(&path).unwrap();
        assert_eq!(stored.len() as u64, digest.bytes);
        assert_eq!(hex::encode(Sha256::digest(&stored)), digest.sha256);
        assert!(stored.starts_with(b"first line\n") && stored.ends_with(b"\nlast line\n"));
        assert!(digest.bytes < HEAD_MAX + TAIL_MAX as u64 + 100);
    }

    #[test]
    fn a_short_output_is_kept_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = quiet(&path);
        drain(&b"one\ntwo"[..], &mut log);
        log.line("end");
        log.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one\ntwo\n== end\n");
    }

    #[test]
    fn a_log_that_cannot_be_stored_gets_no_digest() {
        // /dev/full takes nothing.
        let mut log = quiet(Path::new("/dev/full"));
        log.write(b"x");
        assert!(log.finish().is_none());
    }
}
