//! Why a queue cannot be served, in words for people.

/// Why a repository or a queue cannot be used, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Reason, in CamelCase.
    pub reason: String,
    /// What was found, what was expected, what to do.
    pub message: String,
}

impl Problem {
    /// Names a problem.
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            message: message.into(),
        }
    }

    /// Describes an error of Git.
    pub fn of(error: &git::Error) -> Self {
        use git::Category;
        let reason = match error.category() {
            Category::Auth => "AuthFailed",
            Category::NotFound => "NotFound",
            Category::Timeout => "Timeout",
            Category::Network => "Unreachable",
            Category::Refused => "Refused",
            Category::DiskFull => "DiskFull",
            Category::Corrupt => "Corrupt",
            Category::LocalLimit => "LocalLimit",
            Category::Invalid => "Invalid",
            Category::Local => "LocalError",
        };
        Self::new(reason, error.to_string())
    }
}
