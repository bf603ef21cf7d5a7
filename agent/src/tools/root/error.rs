//! Why a file of the work tree cannot be read or written.

use rustix::io::Errno;

/// Tells why a file cannot be read or written; the words are for the model.
#[derive(Debug, thiserror::Error)]
pub enum RootError {
    /// The path leads out, or to what is not for the model.
    #[error("failed to use the path {path:?}: {reason}")]
    Refused {
        /// The path as given.
        path: String,
        /// Why it is refused.
        reason: String,
    },
    /// The path is protected.
    #[error(
        "failed to write {path:?}: it is protected ({pattern}); a task may not change it. Leave it as it is, and if the task cannot be done without it, submit NO-GO and say so"
    )]
    Protected {
        /// The path.
        path: String,
        /// The pattern that protects it.
        pattern: String,
    },
    /// Parts of the file are pinned, and would change.
    #[error(
        "failed to write {path:?}: it would change {}, by which the gate's steps go; a task may not change that. Leave it as it is at the base, the rest of the file is free; if the task cannot be done without it, submit NO-GO and say so", parts.join(", ")
    )]
    Pinned {
        /// The path.
        path: String,
        /// What would change, as `path (part)`.
        parts: Vec<String>,
    },
    /// Content would take the place of a pointer.
    #[error(
        "failed to write {path:?}: it is a Git LFS pointer, and what is written over it would be committed in place of the {size} bytes for which it stands, which are not here. Leave it as it is, or delete it if the task wants the file gone; if the task cannot be done without its content, submit NO-GO and say so"
    )]
    Pointer {
        /// The path.
        path: String,
        /// How large the file is for which it stands.
        size: u64,
    },
    /// There is nothing there.
    #[error("failed to find {path:?}: no such file in the work tree")]
    Missing {
        /// The path.
        path: String,
    },
    /// It is larger than tools take.
    #[error(
        "failed to read {path:?}: it has {size} bytes, at most {limit} are read; use grep or bash (head, sed -n) on it"
    )]
    TooLarge {
        /// The path.
        path: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },
    /// The machine failed.
    #[error("failed to {action} {path:?}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl RootError {
    /// Tells whether the machine is at fault, not the model.
    pub fn is_infrastructure(&self) -> bool {
        match self {
            Self::Io { source, .. } => !matches!(
                source.kind(),
                std::io::ErrorKind::PermissionDenied
                    | std::io::ErrorKind::IsADirectory
                    | std::io::ErrorKind::NotADirectory
                    | std::io::ErrorKind::InvalidFilename
            ),
            _ => false,
        }
    }
}

/// Refuses a path.
pub(super) fn refused(path: &str, reason: &str) -> RootError {
    RootError::Refused {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Reports what the system said.
pub(super) fn io(action: &'static str, path: &str, error: Errno) -> RootError {
    RootError::Io {
        action,
        path: path.to_owned(),
        source: error.into(),
    }
}
