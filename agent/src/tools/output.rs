//! What a model or a repository wrote, made fit to be shown: capped, without control sequences.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

pub use schemas::inert::{one_line, printable, truncate};

/// Returns the longest start of a text that has at most `limit` bytes.
pub fn head_bytes(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns the longest end of a text that has at most `limit` bytes.
pub fn tail_bytes(text: &str, limit: usize) -> &str {
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// Cuts out the middle of a long text at line ends; returns `None` where it is short enough.
pub fn head_and_tail(text: &str, limit: usize, note: &str) -> Option<String> {
    if text.len() <= limit {
        return None;
    }
    let head = head_bytes(text, limit / 2);
    let head = head
        .rfind('\n')
        .filter(|at| *at > limit / 4)
        .map_or(head, |at| &head[..=at]);
    let tail = tail_bytes(text, limit - limit / 2);
    let tail = tail
        .find('\n')
        .filter(|at| *at < limit / 4)
        .map_or(tail, |at| &tail[at + 1..]);
    let gone = &text[head.len()..text.len() - tail.len()];
    let lines = gone.lines().count();
    Some(format!(
        "{head}\n[… {lines} lines, {} bytes left out{note} …]\n{tail}",
        gone.len()
    ))
}

/// Keeps whole outputs in a folder outside the work tree, numbered, so that the model can page through them.
#[derive(Debug)]
pub struct Spill {
    folder: PathBuf,
    next: AtomicU32,
    limit: usize,
}

/// The prefix under which `read_file` finds kept outputs.
pub const SPILL_PREFIX: &str = "tool-output/";

impl Spill {
    /// Keeps outputs of at most `limit` bytes each in `folder`, which is made when the first one comes.
    pub fn new(folder: PathBuf, limit: usize) -> Self {
        Self {
            folder,
            next: AtomicU32::new(1),
            limit,
        }
    }

    /// Keeps one output and returns the name to read it by.
    pub fn keep(&self, text: &str) -> std::io::Result<String> {
        std::fs::create_dir_all(&self.folder)?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        std::fs::write(self.file(number), head_bytes(text, self.limit))?;
        Ok(format!("{SPILL_PREFIX}{number}"))
    }

    /// Caps a text, keeping the whole when something had to go.
    pub fn cap(&self, text: String, limit: usize) -> String {
        if text.len() <= limit {
            return text;
        }
        let note = match self.keep(&text) {
            Ok(name) => {
                format!("; the whole is kept: read_file path {name:?} with offset and limit")
            }
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "a long tool output could not be kept");
                String::new()
            }
        };
        head_and_tail(&text, limit, &note).unwrap_or(text)
    }

    /// Returns the file of a kept output, if `path` names one.
    pub fn find(&self, path: &str) -> Option<PathBuf> {
        let number: u32 = path.strip_prefix(SPILL_PREFIX)?.parse().ok()?;
        Some(self.file(number)).filter(|file| file.is_file())
    }

    /// Returns the folder of kept outputs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn file(&self, number: u32) -> PathBuf {
        self.folder.join(format!("{number}.txt"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_output_keeps_its_first_and_last_lines_and_the_whole_on_disk() {
        let folder = tempfile::tempdir().unwrap();
        let spill = Spill::new(folder.path().join("out"), 1 << 20);
        let text: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
        let capped = spill.cap(text.clone(), 2000);
        assert!(
            capped.len() < 2300 && capped.starts_with("line 1\n") && capped.ends_with("line 5000\n"),
            "{capped}"
        );
        assert!(capped.contains("tool-output/1"));
        assert_eq!(
            std::fs::read_to_string(spill.find("tool-output/1").unwrap()).unwrap(),
            text
        );
        assert_eq!(spill.find("tool-output/../../etc/passwd"), None);
        assert_eq!(spill.find("tool-output/2"), None);
    }

    proptest! {
        #[test]
        fn caps_hold_for_any_text(text in any::<String>(), limit in 0usize..200) {
            prop_assert!(head_bytes(&text, limit).len() <= limit);
            prop_assert!(tail_bytes(&text, limit).len() <= limit);
            if let Some(cut) = head_and_tail(&text, limit, "") {
                prop_assert!(cut.len() <= limit + 80);
            }
        }
    }
}
