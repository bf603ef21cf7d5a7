//! What a command sees of the file system.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The host's devices that any command may use.
pub(crate) const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// Tells whether a bound folder may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Read and execute.
    ReadOnly,
    /// Read, execute and write.
    ReadWrite,
}

/// Describes one entry of the sandbox's file system. All targets are absolute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mount {
    /// Shows a file or folder of the host.
    Bind {
        /// The path on the host.
        source: PathBuf,
        /// The path inside the sandbox.
        target: PathBuf,
        /// Whether it may be written.
        access: Access,
    },
    /// An empty writable folder that goes away with the command.
    Tmpfs {
        /// The path inside the sandbox.
        target: PathBuf,
        /// The most bytes that it holds. Not enforced by [`crate::Backend::Landlock`].
        size_bytes: u64,
    },
    /// A symbolic link, in a root that is private; without effect where the host's root is seen.
    Symlink {
        /// Where the link lies.
        link: PathBuf,
        /// What it points to.
        points_to: PathBuf,
    },
    /// A small read-only file with given text, in a root that is private; where the host's root is
    /// seen, the host's file of that name is shown read-only instead.
    Text {
        /// The path inside the sandbox.
        target: PathBuf,
        /// What the file says.
        text: String,
    },
    /// Hides a file or folder that a bind would show.
    Mask {
        /// The path inside the sandbox.
        target: PathBuf,
    },
}

impl Mount {
    /// Returns the path inside the sandbox.
    pub fn target(&self) -> &std::path::Path {
        match self {
            Mount::Bind { target, .. }
            | Mount::Tmpfs { target, .. }
            | Mount::Text { target, .. }
            | Mount::Mask { target } => target,
            Mount::Symlink { link, .. } => link,
        }
    }
}
