//! What the Job runner offers for the `log` subresource of Pods.

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

/// Which part of a container's log is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// The Pod's namespace.
    pub namespace: String,
    /// The Pod's name.
    pub pod: String,
    /// The Pod's identity.
    pub uid: String,
    /// The container's name.
    pub container: String,
    /// Whether the stream goes on until the container ends.
    pub follow: bool,
    /// Whether the container's earlier run is meant.
    pub previous: bool,
    /// Whether every line starts with its time (RFC 3339) and a space.
    pub timestamps: bool,
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// Only lines not older than this, in seconds.
    pub since_seconds: Option<u64>,
    /// Only lines not older than this time (RFC 3339).
    pub since_time: Option<String>,
    /// At most this many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why a log cannot be given.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// The container has not started yet, or there was no earlier run.
    #[error("{0}")]
    NotYet(String),
    /// The log was removed or never existed.
    #[error("{0}")]
    NotFound(String),
    /// The log could not be read.
    #[error("failed to read the log: {0}")]
    Io(String),
}

/// Gives out the logs of containers.
pub trait PodLogs: Send + Sync {
    /// Opens a log; the stream honours every field of `request`.
    fn open<'a>(
        &'a self,
        request: LogRequest,
    ) -> BoxFuture<'a, Result<BoxStream<'static, std::io::Result<Bytes>>, LogError>>;
}
