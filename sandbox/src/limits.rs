//! What a command may use.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Bounds what a command may use. `None` means no bound.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// The most wall-clock time, from the start of the program.
    pub wall: Option<Duration>,
    /// The most memory of all processes together, in bytes.
    pub memory_bytes: Option<u64>,
    /// The most processes and threads at one time.
    pub pids: Option<u32>,
    /// The most processors, in whole and fractions.
    pub cpus: Option<f64>,
    /// The largest file that may be written, in bytes.
    pub file_size_bytes: Option<u64>,
    /// The most open files of one process.
    pub open_files: Option<u64>,
    /// What stays free on the host's file systems that the command may write to.
    pub keep_free: Option<KeepFree>,
}

/// Says how much of a file system a command leaves free: a command that takes space when less is left is ended.
///
/// Of the entries that a file system has for files, the same part is kept, but no more than 100 000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepFree {
    /// So many bytes,
    pub bytes: u64,
    /// or, where that is less, this part of the file system in per cent.
    pub percent: u8,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wall: None,
            memory_bytes: None,
            pids: Some(4096),
            cpus: None,
            file_size_bytes: None,
            open_files: Some(65_536),
            keep_free: None,
        }
    }
}
