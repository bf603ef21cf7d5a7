//! Where a command's output goes: files, bounded captures, callbacks. Never all of it in memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;

/// Says where the two output streams go.
#[derive(Debug, Default)]
pub struct Output {
    pub(crate) stdout: Vec<Sink>,
    pub(crate) stderr: Vec<Sink>,
    pub(crate) merged: bool,
}

/// Is called with each piece of a stream.
pub type OnBytes = Box<dyn FnMut(&[u8]) + Send>;

/// Takes a stream as it comes.
pub enum Sink {
    /// Keeps the first and the last bytes in memory.
    Capture {
        /// How many bytes of the beginning.
        head: usize,
        /// How many bytes of the end.
        tail: usize,
    },
    /// Writes to a file.
    File(FileSink),
    /// Calls a function with each piece, on the thread that reads the stream.
    Call(OnBytes),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Sink::Capture { head, tail } => write!(f, "Capture({head}+{tail})"),
            Sink::File(file) => write!(f, "{file:?}"),
            Sink::Call(_) => f.write_str("Call"),
        }
    }
}

/// Writes a stream to a file, wholly or up to a number of bytes with its end kept.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    room: Option<u64>,
    tail: Tail,
    left_out: u64,
}

impl FileSink {
    /// Writes everything.
    pub fn whole(file: File) -> FileSink {
        FileSink {
            file,
            room: None,
            tail: Tail::new(0),
            left_out: 0,
        }
    }

    /// Writes at most about `max_bytes`: the beginning as it comes, then, at the end of the stream,
    /// one line that says how much is left out and the last `tail_bytes`.
    pub fn bounded(file: File, max_bytes: u64, tail_bytes: usize) -> FileSink {
        let tail = usize::try_from(max_bytes).map_or(tail_bytes, |max| tail_bytes.min(max));
        FileSink {
            file,
            room: Some(max_bytes.saturating_sub(tail as u64)),
            tail: Tail::new(tail),
            left_out: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let Some(room) = &mut self.room else {
            return self.file.write_all(bytes);
        };
        let now = usize::try_from(*room).map_or(bytes.len(), |room| room.min(bytes.len()));
        *room -= now as u64;
        self.left_out += self.tail.push(&bytes[now..]);
        self.file.write_all(&bytes[..now])
    }

    fn finish(&mut self) -> std::io::Result<()> {
        if self.left_out > 0 {
            writeln!(self.file, "\n[… {} bytes left out …]", self.left_out)?;
        }
        let (first, second) = self.tail.bytes.as_slices();
        self.file.write_all(first)?;
        self.file.write_all(second)?;
        self.file.flush()
    }
}

/// Keeps the last bytes of a stream.
#[derive(Debug, Default)]
struct Tail {
    limit: usize,
    bytes: VecDeque<u8>,
}

impl Tail {
    fn new(limit: usize) -> Tail {
        Tail {
            limit,
            bytes: VecDeque::new(),
        }
    }

    /// Takes bytes and returns how many fell out at the front.
    fn push(&mut self, bytes: &[u8]) -> u64 {
        let mut dropped = 0;
        let keep = if bytes.len() > self.limit {
            dropped += bytes.len() - self.limit;
            &bytes[bytes.len() - self.limit..]
        } else {
            bytes
        };
        let over = (self.bytes.len() + keep.len()).saturating_sub(self.limit);
        self.bytes.drain(..over);
        dropped += over;
        self.bytes.extend(keep);
        dropped as u64
    }
}

/// What a capturing sink kept of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capture {
    /// The first bytes.
    pub head: Vec<u8>,
    /// The last bytes that are not in `head`.
    pub tail: Vec<u8>,
    /// How many bytes the stream had.
    pub total_bytes: u64,
    /// Whether bytes between `head` and `tail` are missing.
    pub truncated: bool,
}

impl Capture {
    /// Returns what was kept as text, with a line that says how much is missing, if any.
    pub fn text(&self) -> String {
        let mut text = String::from_utf8_lossy(&self.head).into_owned();
        if self.truncated {
            let missing = self.total_bytes - (self.head.len() + self.tail.len()) as u64;
            text.push_str(&format!("\n[… {missing} bytes left out …]\n"));
        }
        text.push_str(&String::from_utf8_lossy(&self.tail));
        text
    }

    /// Returns the last line that is not empty.
    pub fn last_line(&self) -> Option<String> {
        let bytes = if self.tail.is_empty() { &self.head } else { &self.tail };
        let text = String::from_utf8_lossy(bytes);
        text.lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .map(str::to_owned)
    }
}

/// The bytes of a captured stream's head by default.
const HEAD: usize = 32 * 1024;
/// The bytes of a captured stream's tail by default.
const TAIL: usize = 32 * 1024;

impl Output {
    /// Throws both streams away.
    pub fn discard() -> Output {
        Output::default()
    }

    /// Captures 32 KiB of head and tail of each stream.
    pub fn captured() -> Output {
        Output::default()
            .stdout(Sink::Capture { head: HEAD, tail: TAIL })
            .stderr(Sink::Capture { head: HEAD, tail: TAIL })
    }

    /// Captures 32 KiB of head and tail of both streams together, in the order of their writes.
    pub fn captured_together() -> Output {
        Output::default().together(Sink::Capture { head: HEAD, tail: TAIL })
    }

    /// Adds a sink to the standard output.
    #[must_use]
    pub fn stdout(mut self, sink: Sink) -> Output {
        self.stdout.push(sink);
        self
    }

    /// Adds a sink to the standard error.
    #[must_use]
    pub fn stderr(mut self, sink: Sink) -> Output {
        self.stderr.push(sink);
        self
    }

    /// Adds a sink that gets both streams in the order of their writes.
    ///
    /// Both are then one pipe; sinks of the standard error alone get nothing.
    #[must_use]
    pub fn together(mut self, sink: Sink) -> Output {
        self.merged = true;
        self.stdout.push(sink);
        self
    }
}

/// Feeds one stream to its sinks.
#[derive(Debug)]
pub(crate) struct Stream {
    sinks: Vec<Sink>,
    head_limit: usize,
    capture: Capture,
    tail: Tail,
    error: Option<String>,
}

impl Stream {
    pub(crate) fn new(sinks: Vec<Sink>) -> Stream {
        let limits = sinks.iter().find_map(|sink| match sink {
            Sink::Capture { head, tail } => Some((*head, *tail)),
            _ => None,
        });
        let (head_limit, tail_limit) = limits.unwrap_or((0, 0));
        Stream {
            sinks,
            head_limit,
            capture: Capture::default(),
            tail: Tail::new(tail_limit),
            error: None,
        }
    }

    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut failed = None;
        for (index, sink) in self.sinks.iter_mut().enumerate() {
            match sink {
                Sink::Capture { .. } => {}
                Sink::Call(call) => call(bytes),
                Sink::File(file) => {
                    if let Err(error) = file.write(bytes) {
                        self.error
                            .get_or_insert_with(|| format!("failed to write output to its file: {error}"));
                        failed = Some(index);
                    }
                }
            }
        }
        if let Some(index) = failed {
            self.sinks.remove(index);
        }
        self.capture.total_bytes += bytes.len() as u64;
        let room = (self.head_limit - self.capture.head.len()).min(bytes.len());
        self.capture.head.extend_from_slice(&bytes[..room]);
        if self.tail.push(&bytes[room..]) > 0 {
            self.capture.truncated = true;
        }
    }

    pub(crate) fn finish(mut self) -> (Capture, Option<String>) {
        for sink in &mut self.sinks {
            if let Sink::File(file) = sink
                && let Err(error) = file.finish()
            {
                self.error
                    .get_or_insert_with(|| format!("failed to write output to its file: {error}"));
            }
        }
        self.capture.tail = self.tail.bytes.into();
        (self.capture, self.error)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use std::io::{Read, Seek};

    #[test]
    fn short_stream_is_kept_whole() {
        let mut stream = Stream::new(vec![Sink::Capture { head: 4, tail: 4 }]);
        stream.feed(b"abc");
        stream.feed(b"defg");
        let (capture, _) = stream.finish();
        assert_eq!(capture.text(), "abcdefg");
        assert!(!capture.truncated);
    }

    #[test]
    fn long_stream_keeps_head_and_tail_and_counts_the_rest() {
        let mut stream = Stream::new(vec![Sink::Capture { head: 3, tail: 5 }]);
        for _ in 0..1000 {
            stream.feed(b"xyz");
        }
        stream.feed(b"\nlast\n");
        let (capture, _) = stream.finish();
        assert_eq!(capture.total_bytes, 3006);
        assert_eq!(capture.head, b"xyz");
        assert_eq!(capture.tail, b"last\n");
        assert_eq!(capture.last_line().as_deref(), Some("last"));
        assert!(capture.text().contains("2998 bytes left out"));
    }

    #[test]
    fn bounded_file_keeps_beginning_and_end() {
        let mut file = tempfile::tempfile().unwrap();
        let sink = FileSink::bounded(file.try_clone().unwrap(), 20, 10);
        let mut stream = Stream::new(vec![Sink::File(sink)]);
        stream.feed(b"0123456789");
        for _ in 0..1000 {
            stream.feed(b"noise");
        }
        stream.feed(b"true end!\n");
        let (_, error) = stream.finish();
        assert_eq!(error, None);
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "0123456789\n[… 5000 bytes left out …]\ntrue end!\n");
    }
}
