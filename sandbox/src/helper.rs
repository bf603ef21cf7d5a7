//! The other side of the re-execution: what runs in the supervisor process and below it.
//!
//! Three processes stand between the caller and the command: the *supervisor* watches limits from
//! outside; *init* is the first process of the sandbox, reaps orphans and builds the private root; the
//! *command* confines itself and becomes the program. Each dies with the one above it.

mod cgroup;
mod confine;
mod disk;
mod init;
mod namespaces;
mod processes;
mod seccomp;
mod supervise;
mod tmpfs;

use crate::HELPER_ARGUMENT;

/// The second argument that makes a supervisor.
pub(crate) const SUPERVISE: &str = "__foreman_sandbox:helper";
/// How the second argument begins that makes one attempt to escape, for the table of escapes.
pub(crate) const ATTEMPT: &str = "__foreman_sandbox:attempt:";

/// The user and group that a command of root sees itself as.
const ORDINARY: u32 = 1000;

/// See [`crate::reexec_main_if_requested`].
pub(crate) fn main_if_requested() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() != Some(HELPER_ARGUMENT) {
        return;
    }
    match args.next().as_deref() {
        Some(SUPERVISE) => supervise::main(),
        Some(other) => {
            if let Some(attempt) = other.strip_prefix(ATTEMPT) {
                crate::escapes::attempt_main(attempt);
            }
        }
        None => {}
    }
}

/// Returns the user and group that a command in a user namespace sees itself as.
///
/// Root runs its commands as an ordinary user, so that programs behave as they do for people and no
/// program takes its user id for power that it has not.
pub(crate) fn inside_identity() -> (u32, u32) {
    match crate::sys::identity() {
        (0, _) => (ORDINARY, ORDINARY),
        (user, group) => (user, group),
    }
}

/// A failure on the way to the command, as a sentence.
pub(crate) struct Failure {
    pub text: String,
    /// Whether the program itself was not found.
    pub missing: bool,
}

impl Failure {
    /// Makes a function that adds what was attempted to a cause.
    pub(crate) fn to<E: std::fmt::Display>(what: impl std::fmt::Display) -> impl FnOnce(E) -> Failure {
        move |cause| Failure {
            text: format!("failed to {what}: {cause}"),
            missing: false,
        }
    }
}
