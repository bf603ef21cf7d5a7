//! What happened in a run, in order, on disk: one JSON object a line, appended before it is acted on.
//!
//! The format is that of recorded sessions too: [`crate::model::replay`] plays any journal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::coder::End;
use crate::model::{Category, Message, Protocol, Reply};
use crate::tools::Outcome;

/// Longest journal that is read back, in bytes.
const READ_LIMIT: u64 = 256 * 1024 * 1024;

/// Holds the first line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The version of the format.
    #[serde(default = "format_version")]
    pub format: u32,
    /// The stem of the task's file, or its name where there is no file.
    pub task: String,
    /// The round of the Workload.
    pub round: u32,
    /// The model asked.
    pub model: String,
    /// How tool calls travel.
    pub protocol: Protocol,
    /// True where the model's words are played from a recording.
    #[serde(default)]
    pub replay: bool,
}

fn format_version() -> u32 {
    1
}

/// Holds one line of a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Entry {
    /// What is recorded.
    Header(Header),
    /// What the loop says to the model.
    Message {
        /// The turn before which it is said.
        turn: u32,
        /// The message.
        message: Message,
    },
    /// What the model answers.
    Reply {
        /// The turn.
        #[serde(default)]
        turn: u32,
        /// The answer.
        #[serde(flatten)]
        reply: Reply,
    },
    /// What a tool answers.
    Result {
        /// The turn.
        turn: u32,
        /// The place of the call in its turn, from 0.
        index: usize,
        /// The tool.
        tool: String,
        /// How it went.
        outcome: Outcome,
        /// Whether the work tree changed.
        mutated: bool,
        /// What the model sees.
        content: String,
    },
    /// A request to the model that brought no reply.
    ModelFailed {
        /// The turn.
        turn: u32,
        /// How it counts.
        category: Category,
        /// What went wrong.
        message: String,
    },
    /// Something the loop decided.
    Note {
        /// The turn.
        turn: u32,
        /// The decision.
        text: String,
    },
    /// How the run ended.
    End(End),
    /// A line of a newer format.
    #[serde(other)]
    Unknown,
}

/// Tells why a journal cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("failed to {action} the journal {path}: {source}")]
pub struct JournalError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl JournalError {
    /// Returns what went wrong, without the path.
    pub fn reason(&self) -> String {
        if self.source.kind() == std::io::ErrorKind::NotFound {
            "there is no such file".into()
        } else {
            self.source.to_string()
        }
    }
}

/// Sees every entry after it is on disk.
pub type Tap = Arc<dyn Fn(&Entry) + Send + Sync>;

/// Appends entries to a file.
///
/// Every entry is handed to the kernel in one write before `append` returns, so that it outlives this
/// process; `seal` makes it outlive the machine.
pub struct Journal {
    file: File,
    path: PathBuf,
    tap: Option<Tap>,
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Journal {
    /// Creates a journal, replacing none: an existing file is an error.
    pub fn create(path: &Path, tap: Option<Tap>) -> Result<Self, JournalError> {
        let fail = |source| JournalError {
            action: "create",
            path: path.to_owned(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(fail)?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(fail)?;
        Ok(Self {
            file,
            path: path.to_owned(),
            tap,
        })
    }

    /// Opens a journal on a disk that is always full.
    #[cfg(all(test, target_os = "linux"))]
    pub(crate) fn full_for_tests() -> Self {
        let path = PathBuf::from("/dev/full");
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .expect("Linux has /dev/full");
        Self { file, path, tap: None }
    }

    /// Returns where the journal lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends one entry.
    pub fn append(&mut self, entry: &Entry) -> Result<(), JournalError> {
        let fail = |path: &Path, source| JournalError {
            action: "write",
            path: path.to_owned(),
            source,
        };
        let mut line = serde_json::to_vec(entry).map_err(|error| fail(&self.path, std::io::Error::other(error)))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|source| fail(&self.path, source))?;
        if let Some(tap) = &self.tap {
            tap(entry);
        }
        Ok(())
    }

    /// Forces everything to the disk.
    pub fn seal(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|source| JournalError {
            action: "sync",
            path: self.path.clone(),
            source,
        })
    }
}

/// Reads a journal; a torn last line is left out, a broken line before it is an error that names it.
pub fn read(path: &Path) -> Result<Vec<Entry>, JournalError> {
    let fail = |source| JournalError {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(fail)?;
    let size = file.metadata().map_err(fail)?.len();
    if size > READ_LIMIT {
        return Err(fail(std::io::Error::other(format!(
            "it is {size} bytes long, at most {READ_LIMIT} are read"
        ))));
    }
    let mut bytes = Vec::new();
    file.take(READ_LIMIT).read_to_end(&mut bytes).map_err(fail)?;
    parse(&bytes).map_err(|reason| fail(std::io::Error::new(std::io::ErrorKind::InvalidData, reason)))
}

/// Reads entries from the bytes of a journal.
pub fn parse(bytes: &[u8]) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    let mut lines = bytes.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(line) {
            Ok(entry) => entries.push(entry),
            Err(_) if lines.peek().is_none() => break, // no newline after it: torn by a kill
            Err(error) => return Err(format!("line {}: {error}", number + 1)),
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::model::{Finish, RawCall, Speaker};

    fn header() -> Header {
        Header {
            format: 1,
            task: "t".into(),
            round: 1,
            model: "m".into(),
            protocol: Protocol::Text,
            replay: false,
        }
    }

    #[test]
    fn what_is_appended_is_read_back_and_a_torn_tail_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/journal.jsonl");
        let call = RawCall {
            id: "c".into(),
            name: "bash".into(),
            arguments: "{\"command\": \"ls".into(),
        };
        let entries = vec![
            Entry::Header(header()),
            Entry::Message {
                turn: 0,
                message: Message::text(Speaker::User, "line\n\u{1b}[31m"),
            },
            Entry::Reply {
                turn: 1,
                reply: Reply {
                    content: "x".into(),
                    calls: vec![call],
                    finish: Finish::Length,
                    ..Reply::default()
                },
            },
        ];
        let mut journal = Journal::create(&path, None).unwrap();
        for entry in &entries {
            journal.append(entry).unwrap();
        }
        journal.seal().unwrap();
        assert_eq!(read(&path).unwrap(), entries);
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.contains(&0x1b), "control characters are escaped on disk");
        for cut in bytes.len() - 20..bytes.len() - 1 {
            assert_eq!(parse(&bytes[..cut]).unwrap().len(), 2, "torn at {cut}");
        }
        assert!(
            Journal::create(&path, None).is_err(),
            "an existing journal is not overwritten"
        );
    }

    #[test]
    fn a_broken_line_in_the_middle_is_named() {
        let error = parse(
            b"{\"type\":\"note\",\"turn\":1,\"text\":\"a\"}\n{broken\n{\"type\":\"note\",\"turn\":1,\"text\":\"a\"}\n",
        )
        .unwrap_err();
        assert!(error.starts_with("line 2:"), "{error}");
    }
}
