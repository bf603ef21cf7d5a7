//! The other side of the re-execution: what runs in the supervisor process and below it.
//!
//! Three processes stand between the caller and the command: the *supervisor* watches limits from
//! outside; *init* is the first process of the sandbox, reaps orphans and builds the private root; the
//! *command* confines itself and becomes the program. Each dies with the one above it.
//!
//! `supervise` starts `init`, which starts `confine`; what they say to each other is in `message`.

mod cgroup;
mod confine;
mod disk;
mod domain;
mod failure;
mod init;
mod memory;
mod message;
mod namespaces;
mod own;
mod place;
mod processes;
mod questions;
mod real;
mod report;
mod seccomp;
mod streams;
mod supervise;
mod tmpfs;
mod watch;

/// Names the argument that turns an executable into the sandbox's supervisor.
pub const HELPER_ARGUMENT: &str = "__foreman_sandbox";

/// The second argument that makes a supervisor.
pub(crate) const SUPERVISE: &str = "__foreman_sandbox:helper";

/// See [`crate::reexec_main_if_requested`].
pub(crate) fn main_if_requested() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == HELPER_ARGUMENT)
        && args.next().is_some_and(|second| second == SUPERVISE)
    {
        supervise::main();
    }
}
