//! What goes wrong on the way to the command.

/// A failure on the way to the command, as a sentence.
#[derive(Clone)]
pub(super) struct Failure {
    pub(super) text: String,
    /// Whether the program itself was not found.
    pub(super) missing: bool,
}

impl Failure {
    /// Makes a failure of the sandbox, not of the program.
    pub(super) fn new(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            missing: false,
        }
    }

    /// Makes a failure that says that the program is not there.
    pub(super) fn missing(text: impl Into<String>) -> Failure {
        Failure {
            text: text.into(),
            missing: true,
        }
    }

    /// Makes a function that adds what was attempted to a cause.
    pub(super) fn to<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
        move |cause| Failure::new(format!("failed to {what}: {cause}"))
    }

    /// Adds what was attempted around it.
    pub(super) fn within(self, what: impl std::fmt::Display) -> Failure {
        Failure {
            text: format!("failed to {what}: {}", self.text),
            ..self
        }
    }
}
