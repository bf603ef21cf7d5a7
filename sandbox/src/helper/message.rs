//! What init and the command tell the supervisor.

use std::fs::File;
use std::io::Write;

use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// One thing told, a line of JSON on a pipe that both write to and no program ever holds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The command is confined and becomes its program next.
    Confined { landlock_abi: u32, seccomp: bool },
    /// The command did not start.
    Failed { text: String, missing: bool },
    /// The command ended with this raw status; `peak` is of its largest process.
    Ended { status: i32, peak: u64 },
}

impl Message {
    /// Reads all that was told.
    pub(super) fn read_all(bytes: &[u8]) -> Vec<Message> {
        bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    /// Tells it.
    pub(super) fn send(&self, pipe: &mut File) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            // A supervisor that is gone has taken this process with it.
            let _ = pipe.write_all(&line);
        }
    }
}

impl From<Failure> for Message {
    fn from(failure: Failure) -> Message {
        Message::Failed {
            text: failure.text,
            missing: failure.missing,
        }
    }
}
