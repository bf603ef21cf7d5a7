//! Container logs: one file each, a time on every line, bounded, read while they grow.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;

use crate::pod_logs::{LogError, LogRequest, PodLogs};

/// Longest line that is kept whole.
const LINE_BYTES: usize = 16 * 1024;

/// Writes a container's output, each line with its time, at most `limit` bytes and the last `tail` lines.
pub struct LogWriter {
    file: File,
    partial: Vec<u8>,
    written: u64,
    limit: u64,
    tail: VecDeque<Vec<u8>>,
    tail_bytes: usize,
    dropped: u64,
}

/// Bytes of the tail that is kept of a log beyond its limit.
const TAIL_BYTES: usize = 256 * 1024;

impl LogWriter {
    /// Writes to `file`, at most about `limit` bytes.
    pub fn new(file: File, limit: u64) -> Self {
        Self {
            file,
            partial: Vec::new(),
            written: 0,
            limit,
            tail: VecDeque::new(),
            tail_bytes: 0,
            dropped: 0,
        }
    }

    /// Takes output as it comes.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let line_end = bytes.iter().position(|byte| *byte == b'\n');
            let room = LINE_BYTES.saturating_sub(self.partial.len());
            let take = line_end.unwrap_or(bytes.len()).min(room);
            self.partial.extend_from_slice(&bytes[..take]);
            let ended = line_end == Some(take);
            bytes = &bytes[take + usize::from(ended)..];
            if ended || self.partial.len() >= LINE_BYTES {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let mut line = format!("{:.9} ", Timestamp::now()).into_bytes();
        line.append(&mut self.partial);
        line.push(b'\n');
        if self.written + line.len() as u64 <= self.limit {
            self.written += line.len() as u64;
            let _ = self.file.write_all(&line);
            return;
        }
        self.limit = self.written;
        self.tail_bytes += line.len();
        self.tail.push_back(line);
        while self.tail_bytes > TAIL_BYTES {
            let Some(old) = self.tail.pop_front() else { break };
            self.tail_bytes -= old.len();
            self.dropped += old.len() as u64;
        }
    }

    fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.end_line();
        }
        if self.dropped > 0 {
            let _ = writeln!(
                self.file,
                "{:.9} [… {} bytes left out …]",
                Timestamp::now(),
                self.dropped
            );
        }
        for line in self.tail.drain(..) {
            let _ = self.file.write_all(&line);
        }
        let _ = self.file.flush();
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Returns the log file of a container.
pub fn path(root: &Path, uid: &str, container: &str) -> PathBuf {
    root.join(uid).join(format!("{container}.log"))
}

/// Reads the last lines of a log, without their times, at most `most` bytes.
pub fn last_lines(path: &Path, lines: usize, most: usize) -> String {
    let Ok(mut file) = File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map(|meta| meta.len()).unwrap_or(0);
    let start = length.saturating_sub((most * 2) as u64 + 4096);
    let _ = file.seek(SeekFrom::Start(start));
    let mut bytes = Vec::new();
    let _ = file.take((most * 2) as u64 + 8192).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let all: Vec<&str> = text.lines().skip(usize::from(start > 0)).map(without_time).collect();
    let joined = all[all.len().saturating_sub(lines)..].join("\n");
    let mut cut = joined.len().saturating_sub(most);
    while !joined.is_char_boundary(cut) {
        cut += 1;
    }
    joined[cut..].to_owned()
}

fn without_time(line: &str) -> &str {
    line.split_once(' ').map_or("", |(_, rest)| rest)
}

/// Says which logs still grow, and where they are.
#[derive(Clone, Debug, Default)]
pub struct Growing(Arc<std::sync::Mutex<std::collections::HashMap<PathBuf, Arc<AtomicBool>>>>);

impl Growing {
    fn with<T>(&self, act: impl FnOnce(&mut std::collections::HashMap<PathBuf, Arc<AtomicBool>>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Marks a log as growing.
    pub fn begin(&self, path: &Path) {
        self.with(|map| map.insert(path.to_owned(), Arc::new(AtomicBool::new(true))));
    }

    /// Marks a log as complete.
    pub fn end(&self, path: &Path) {
        if let Some(flag) = self.with(|map| map.remove(path)) {
            flag.store(false, Ordering::Release);
        }
    }

    fn flag(&self, path: &Path) -> Option<Arc<AtomicBool>> {
        self.with(|map| map.get(path).cloned())
    }
}

/// Gives out the logs below one folder.
#[derive(Clone, Debug)]
pub struct LogFiles {
    root: PathBuf,
    growing: Growing,
}

impl LogFiles {
    /// Serves the logs below `root`.
    pub fn new(root: PathBuf, growing: Growing) -> Self {
        Self { root, growing }
    }
}

impl PodLogs for LogFiles {
    fn open<'a>(
        &'a self,
        request: LogRequest,
    ) -> BoxFuture<'a, Result<BoxStream<'static, std::io::Result<Bytes>>, LogError>> {
        Box::pin(async move {
            if request.previous {
                let text = format!(
                    "previous terminated container {:?} in pod {:?} not found",
                    request.container, request.pod
                );
                return Err(LogError::NotYet(text));
            }
            let path = path(&self.root, &request.uid, &request.container);
            let growing = self.growing.flag(&path).filter(|_| request.follow);
            let waiting = || {
                format!(
                    "container {:?} in pod {:?} is waiting to start",
                    request.container, request.pod
                )
            };
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(LogError::NotYet(waiting())),
                Err(error) => return Err(LogError::Io(error.to_string())),
            };
            let since = since(&request);
            let mut reader = Reader {
                file: BufReader::new(file),
                partial: Vec::new(),
                left: request.limit_bytes,
            };
            if let Some(lines) = request.tail_lines {
                reader
                    .seek_tail(&path, lines)
                    .map_err(|error| LogError::Io(error.to_string()))?;
            }
            let keep = move |line: &[u8]| -> Option<Vec<u8>> {
                let space = line.iter().position(|byte| *byte == b' ')?;
                if let Some(since) = since {
                    let time: Timestamp = std::str::from_utf8(&line[..space]).ok()?.parse().ok()?;
                    if time < since {
                        return None;
                    }
                }
                Some(if request.timestamps {
                    line.to_vec()
                } else {
                    line[space + 1..].to_vec()
                })
            };
            let stream = futures::stream::unfold(Some((reader, growing, keep)), |state| async move {
                let (mut reader, growing, keep) = state?;
                loop {
                    let grows = growing.as_ref().is_some_and(|flag| flag.load(Ordering::Acquire));
                    match reader.next(&keep) {
                        Ok(Some(bytes)) => return Some((Ok(Bytes::from(bytes)), Some((reader, growing, keep)))),
                        Ok(None) if reader.left != Some(0) && grows => {
                            tokio::time::sleep(Duration::from_millis(50)).await
                        }
                        Ok(None) => return None,
                        Err(error) => return Some((Err(error), None)),
                    }
                }
            });
            Ok(stream.boxed())
        })
    }
}

fn since(request: &LogRequest) -> Option<Timestamp> {
    let seconds = request.since_seconds.and_then(|seconds| {
        Timestamp::now()
            .checked_sub(jiff::SignedDuration::from_secs(seconds as i64))
            .ok()
    });
    seconds.or_else(|| request.since_time.as_ref().and_then(|time| time.parse().ok()))
}

struct Reader {
    file: BufReader<File>,
    partial: Vec<u8>,
    left: Option<u64>,
}

impl Reader {
    /// Returns the next whole lines, up to 64 KiB, or nothing when the file has no more for now.
    fn next(&mut self, keep: &impl Fn(&[u8]) -> Option<Vec<u8>>) -> std::io::Result<Option<Vec<u8>>> {
        let mut out = Vec::new();
        while out.len() < 64 * 1024 && self.left != Some(0) {
            if self.file.read_until(b'\n', &mut self.partial)? == 0 {
                break;
            }
            if self.partial.last() != Some(&b'\n') {
                continue;
            }
            let line = std::mem::take(&mut self.partial);
            let Some(mut kept) = keep(&line) else { continue };
            if let Some(left) = &mut self.left {
                kept.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= kept.len() as u64;
            }
            out.extend(kept);
        }
        Ok(Some(out).filter(|out| !out.is_empty()))
    }

    fn seek_tail(&mut self, path: &Path, lines: u64) -> std::io::Result<()> {
        let mut file = File::open(path)?;
        let mut at = file.metadata()?.len();
        let mut found = 0;
        let mut block = vec![0_u8; 64 * 1024];
        let end = at;
        while at > 0 {
            let size = at.min(block.len() as u64);
            at -= size;
            file.seek(SeekFrom::Start(at))?;
            file.read_exact(&mut block[..size as usize])?;
            for index in (0..size).rev() {
                if block[index as usize] == b'\n' && at + index + 1 != end {
                    found += 1;
                    if found == lines {
                        self.file.seek(SeekFrom::Start(at + index + 1))?;
                        return Ok(());
                    }
                }
            }
        }
        if lines == 0 {
            self.file.seek(SeekFrom::Start(end))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    async fn read(root: &Path, change: impl FnOnce(&mut LogRequest)) -> String {
        let mut request = LogRequest {
            uid: "u".into(),
            container: "c".into(),
            ..LogRequest::default()
        };
        change(&mut request);
        let mut stream = LogFiles::new(root.to_owned(), Growing::default())
            .open(request)
            .await
            .unwrap();
        let mut text = Vec::new();
        while let Some(bytes) = stream.next().await {
            text.extend(bytes.unwrap());
        }
        String::from_utf8(text).unwrap()
    }

    fn writer(root: &Path, limit: u64) -> LogWriter {
        let path = path(root, "u", "c");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        LogWriter::new(File::create(path).unwrap(), limit)
    }

    #[tokio::test]
    async fn lines_come_back_without_their_times_and_the_tail_alone_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 1 << 20);
        log.push(b"one\ntw");
        log.push(b"o\n\nthree");
        drop(log);
        assert_eq!(read(folder.path(), |_| ()).await, "one\ntwo\n\nthree\n");
        assert_eq!(read(folder.path(), |r| r.tail_lines = Some(2)).await, "\nthree\n");
        assert_eq!(read(folder.path(), |r| r.tail_lines = Some(0)).await, "");
        assert_eq!(read(folder.path(), |r| r.limit_bytes = Some(5)).await, "one\nt");
        assert!(read(folder.path(), |r| r.timestamps = true).await.contains("Z one\n"));
        assert_eq!(last_lines(&path(folder.path(), "u", "c"), 2, 100), "\nthree");
    }

    #[tokio::test]
    async fn a_log_beyond_its_limit_keeps_its_true_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 10_000);
        for number in 0..100_000 {
            log.push(format!("line {number}\n").as_bytes());
        }
        drop(log);
        let text = read(folder.path(), |_| ()).await;
        assert!(text.starts_with("line 0\n") && text.ends_with("line 99999\n") && text.contains("bytes left out"));
        assert!(text.len() < 400_000);
    }
}
