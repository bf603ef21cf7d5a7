//! Why a command could not be started at all.

use std::path::PathBuf;

use crate::backend::Backend;

/// Says why a sandbox could not be set up or a command not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No backend works on this machine.
    #[error(
        "failed to find a working sandbox: namespaces: {namespaces}; landlock: {landlock}; allow user \
         namespaces or a kernel with Landlock, or start with --unsafe-no-sandbox"
    )]
    NoBackend {
        /// Why namespaces do not work.
        namespaces: String,
        /// Why Landlock does not work.
        landlock: String,
    },
    /// The backend that was asked for does not work on this machine.
    #[error("failed to use the sandbox backend {backend}: {why}")]
    BackendUnavailable {
        /// The backend that was asked for.
        backend: Backend,
        /// Why it does not work.
        why: String,
    },
    /// The supervisor process could not be started.
    #[error("failed to start the sandbox supervisor {helper:?}")]
    Helper {
        /// The executable that was to be the supervisor.
        helper: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A resource that a start needs could not be had.
    #[error("failed to prepare a sandbox: {what}")]
    Prepare {
        /// What was being prepared.
        what: String,
        /// The cause.
        source: std::io::Error,
    },
}
