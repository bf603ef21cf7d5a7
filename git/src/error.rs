//! The one error type of this crate.

use std::{fmt, path::PathBuf, time::Duration};

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error is about, as a metric label and an Event reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// The server did not accept the credentials, or wants some and none match.
    Auth,
    /// A repository, ref or object is not there.
    NotFound,
    /// The overall or the idle time limit passed.
    Timeout,
    /// The server could not be reached or cut the connection.
    Network,
    /// The server, or a rule of this process, said no.
    Refused,
    /// The disk, or the quota on it, is full.
    DiskFull,
    /// Data on disk or on the wire is damaged.
    Corrupt,
    /// A limit of this process was reached: size of a file, a lock held by another process.
    LocalLimit,
    /// What was asked for cannot be asked for: a malformed URL or ref name.
    Invalid,
    /// Anything else that the machine did not do.
    Local,
}

impl Category {
    /// Names the category in kebab case.
    pub fn as_str(self) -> &'static str {
        match self {
            Category::Auth => "auth",
            Category::NotFound => "not-found",
            Category::Timeout => "timeout",
            Category::Network => "network",
            Category::Refused => "refused",
            Category::DiskFull => "disk-full",
            Category::Corrupt => "corrupt",
            Category::LocalLimit => "local-limit",
            Category::Invalid => "invalid",
            Category::Local => "local",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Everything that goes wrong with Git. No message holds a secret: URLs are shown without user information.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The URL cannot be used.
    #[error(
        "failed to parse the Git URL {url:?}: {reason}; expected https://host/path, ssh://user@host/path, user@host:path, git://host/path, file:///path or an absolute path"
    )]
    Url {
        /// The URL as it was given, without a password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A line of the credentials file cannot be used; the line is not shown, since it may hold a secret.
    #[error(
        "failed to read the credentials in {path}, line {line}: expected https://user:password@host/path, https://token@host/path, or ssh://user@host/path key=FILE"
    )]
    Credentials {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A local path lies outside the folders that were allowed at start.
    #[error(
        "failed to open {path}: local repositories are allowed only below {allowed}; allow its folder when starting, or use a network URL"
    )]
    PathNotAllowed {
        /// The path asked for.
        path: PathBuf,
        /// The allowed roots, as text.
        allowed: String,
    },
    /// The server wants other credentials.
    #[error("failed to {action} {url}: {reason}; check the credential whose URL prefix matches it")]
    Auth {
        /// What was being done.
        action: &'static str,
        /// The remote.
        url: String,
        /// What the server said.
        reason: String,
    },
    /// The remote repository or a ref on it does not exist, or is hidden from these credentials.
    #[error("failed to {action} {url}: {what} not found{}; check the URL, the name and what the credentials may read", suffix(.reason))]
    NotFound {
        /// What was being done.
        action: &'static str,
        /// The remote.
        url: String,
        /// What is missing: `repository`, `branch main`, …
        what: String,
        /// What the server said, if anything.
        reason: String,
    },
    /// The time limit passed.
    #[error("failed to {action} {url}: no answer within {}; the server hangs or the limit is too low", seconds(.after))]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// The remote.
        url: String,
        /// The limit that passed.
        after: Duration,
    },
    /// The connection failed.
    #[error("failed to {action} {url}: {reason}; is the server up, and is the address right?")]
    Network {
        /// What was being done.
        action: &'static str,
        /// The remote.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The server does not do what was asked, or what it asks for is not done by us.
    #[error("failed to {action} {url}: {reason}")]
    Refused {
        /// What was being done.
        action: &'static str,
        /// The remote.
        url: String,
        /// What was said.
        reason: String,
    },
    /// The disk is full.
    #[error("failed to {action} {path}: no space left on the device; free some space, it is tried again")]
    DiskFull {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
    },
    /// A repository on disk is damaged. A mirror is rebuilt by its next fetch.
    #[error("failed to {action} {path}: the repository is damaged ({reason}); a mirror is rebuilt by its next fetch")]
    Corrupt {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An object or ref that was asked for is not in the local repository.
    #[error("failed to {action}: {what} is not in {path}; fetch it first")]
    Missing {
        /// What was being done.
        action: &'static str,
        /// The object or ref.
        what: String,
        /// The local repository.
        path: PathBuf,
    },
    /// Something is larger than this process accepts.
    #[error("failed to {action} {what}: it has {found} bytes, the limit is {limit}")]
    TooLarge {
        /// What was being done.
        action: &'static str,
        /// The object or file.
        what: String,
        /// Its size in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Another process holds the mirror.
    #[error("failed to lock {path} within {}: process {holder} holds it; wait for it or end it", seconds(.waited))]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Process id of the holder, as it wrote it.
        holder: String,
        /// How long this process waited.
        waited: Duration,
    },
    /// An argument cannot be used: a ref name, a path, an object of the wrong kind.
    #[error("failed to {action}: {reason}")]
    Invalid {
        /// What was being done.
        action: &'static str,
        /// What is wrong with the argument.
        reason: String,
    },
    /// The file system said no.
    #[error("failed to {action} {path}: {source}")]
    Io {
        /// What was being done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A blocking call ended without an answer: the runtime is shutting down, or it panicked.
    #[error("failed to finish a Git call: {0}")]
    Stopped(String),
}

fn suffix(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    }
}

fn seconds(duration: &Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

impl Error {
    /// Says what the error is about.
    pub fn category(&self) -> Category {
        match self {
            Error::Url { .. } | Error::Credentials { .. } | Error::Invalid { .. } => Category::Invalid,
            Error::PathNotAllowed { .. } | Error::Refused { .. } => Category::Refused,
            Error::Auth { .. } => Category::Auth,
            Error::NotFound { .. } | Error::Missing { .. } => Category::NotFound,
            Error::Timeout { .. } => Category::Timeout,
            Error::Network { .. } => Category::Network,
            Error::DiskFull { .. } => Category::DiskFull,
            Error::Corrupt { .. } => Category::Corrupt,
            Error::TooLarge { .. } | Error::Locked { .. } => Category::LocalLimit,
            Error::Io { .. } | Error::Stopped(_) => Category::Local,
        }
    }

    /// Says whether the same call may succeed later without anybody changing what was asked for.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Timeout { .. }
            | Error::Network { .. }
            | Error::DiskFull { .. }
            | Error::Corrupt { .. }
            | Error::Locked { .. }
            | Error::Stopped(_) => true,
            Error::Io { source, .. } => source.kind() == std::io::ErrorKind::Interrupted,
            _ => false,
        }
    }

    /// Wraps a file-system error, telling a full disk from the rest.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        if is_disk_full(&source) {
            Error::DiskFull {
                action,
                path: path.into(),
            }
        } else {
            Error::Io {
                action,
                path: path.into(),
                source,
            }
        }
    }

    /// Wraps an error of gix about the local repository at `path`.
    pub(crate) fn gix(
        action: &'static str,
        path: impl Into<PathBuf>,
        source: &(dyn std::error::Error + 'static),
    ) -> Self {
        let path = path.into();
        let text = chain(source);
        if says_disk_full(&text) {
            Error::DiskFull { action, path }
        } else {
            Error::Corrupt {
                action,
                path,
                reason: text,
            }
        }
    }

    /// Wraps an error of git2 about the local repository at `path`.
    pub(crate) fn git2(action: &'static str, path: impl Into<PathBuf>, source: &git2::Error) -> Self {
        let path = path.into();
        let text = source.message().to_owned();
        if says_disk_full(&text) {
            return Error::DiskFull { action, path };
        }
        match source.code() {
            git2::ErrorCode::NotFound => Error::Missing {
                action,
                what: text,
                path,
            },
            git2::ErrorCode::InvalidSpec => Error::Invalid { action, reason: text },
            _ => Error::Corrupt {
                action,
                path,
                reason: text,
            },
        }
    }
}

/// Says whether a system error means that the disk or the quota is full.
pub(crate) fn is_disk_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) || says_disk_full(&error.to_string())
}

/// Says whether an error text names a full disk. Libraries below keep the text but not always the kind.
pub(crate) fn says_disk_full(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("no space left on device") || text.contains("no storage space") || text.contains("quota exceeded")
}

/// Joins an error and its causes into one line, without repeating what the outer text already says.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = one_line(&error.to_string());
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = one_line(&cause.to_string());
        if !cause_text.is_empty() && !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Makes server text safe to show: one line, no control characters, at most 400 characters.
pub(crate) fn one_line(text: &str) -> String {
    let mut out = String::new();
    for word in text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
    {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(word);
    }
    if out.chars().count() > 400 {
        out = out.chars().take(399).chain(['…']).collect();
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_system_errors() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(Error::io("write", "/x", full).category(), Category::DiskFull);
        let denied = std::io::Error::from_raw_os_error(13);
        assert_eq!(Error::io("write", "/x", denied).category(), Category::Local);
    }

    #[test]
    fn server_text_is_one_printable_line() {
        assert_eq!(one_line("a\u{1b}[31m\r\n  b\tc"), "a [31m b c");
        assert!(one_line(&"x".repeat(5000)).chars().count() <= 400);
    }
}
