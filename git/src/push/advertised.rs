//! The refs that a server tells before a push, without what libgit2 cannot read.

use std::io::{self, ErrorKind, Read};

/// Lines of a repository whose own history is cut off. They change nothing for a push onto what it has.
const SHALLOW: &[u8] = b"shallow ";

/// Takes the lines of cut-off history out of an advertisement; what follows it passes as it is.
pub(super) struct Advertised<R> {
    inner: R,
    /// Flush packets until the end of the advertisement.
    flushes: usize,
    line: Vec<u8>,
    read: usize,
}

impl<R: Read> Advertised<R> {
    /// Reads an advertisement that ends with so many flush packets: one, and another before it over HTTP.
    pub(super) fn new(inner: R, flushes: usize) -> Self {
        Self {
            inner,
            flushes,
            line: Vec::new(),
            read: 0,
        }
    }

    /// Reads one packet that passes.
    fn next(&mut self) -> io::Result<()> {
        self.read = 0;
        loop {
            self.line.clear();
            if !self.fill(4)? {
                return Ok(());
            }
            let length = std::str::from_utf8(&self.line).ok();
            let Some(length) = length.and_then(|text| usize::from_str_radix(text, 16).ok()) else {
                // No packet: whoever reads it says so.
                self.flushes = 0;
                return Ok(());
            };
            if length == 0 {
                self.flushes -= 1;
            }
            if length <= 4 {
                return Ok(());
            }
            if !self.fill(length)? || !self.line[4..].starts_with(SHALLOW) {
                return Ok(());
            }
        }
    }

    /// Reads until there are so many bytes of the line; returns whether the stream had them.
    fn fill(&mut self, length: usize) -> io::Result<bool> {
        let mut at = self.line.len();
        self.line.resize(length, 0);
        while at < length {
            match self.inner.read(&mut self.line[at..]) {
                Ok(0) => {
                    self.line.truncate(at);
                    self.flushes = 0;
                    return Ok(false);
                }
                Ok(read) => at += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl<R: Read> Read for Advertised<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.line.len() {
            if self.flushes == 0 {
                return self.inner.read(buffer);
            }
            self.next()?;
        }
        let read = (&self.line[self.read..]).read(buffer)?;
        self.read += read;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Gives one byte at a time, as a slow server does.
    struct Slow<'a>(&'a [u8]);

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let one = buffer.len().min(1);
            self.0.read(&mut buffer[..one])
        }
    }

    fn passed(text: &str, flushes: usize) -> String {
        let mut passed = String::new();
        Advertised::new(Slow(text.as_bytes()), flushes)
            .read_to_string(&mut passed)
            .unwrap();
        passed
    }

    #[test]
    fn lines_of_cut_off_history_are_left_out_of_the_advertisement_alone() {
        let (one, cut) = ("0009refs\n", "0010shallow 123\n");
        assert_eq!(
            passed(&format!("{one}{cut}{cut}0000{cut}"), 1),
            format!("{one}0000{cut}")
        );
        let both = format!("{one}0000{one}{cut}0000");
        assert_eq!(passed(&both, 2), format!("{one}0000{one}0000"));
        for whole in ["", "00", "0009re", "nonsense", "0000", "0004", "0001"] {
            assert_eq!(passed(whole, 2), whole);
        }
    }
}
