//! What the supervisor reports: what is enforced, and how the command ended.

use std::time::Duration;

use super::cgroup::Cgroup;
use super::failure::Failure;
use super::message::Message;
use crate::backend::Backend;
use crate::outcome::{Enforced, Exit, Reason};
use crate::wire::{Net, Report, Request};

/// Why the supervisor kills.
pub(super) enum Verdict {
    /// A limit was passed; the text names it.
    Limit(Reason, String),
    /// The caller asked for it, or is gone.
    Cancelled,
}

/// Returns the verdict on a command that is out of memory.
pub(super) fn out_of_memory(limit: Option<u64>) -> Verdict {
    let text = match limit {
        Some(limit) => format!("killed at the memory limit of {limit} bytes"),
        None => "killed for lack of memory".into(),
    };
    Verdict::Limit(Reason::OOMKilled, text)
}

/// Says what keeps the limits and the network, before the command has confined itself.
pub(super) fn enforced(request: &Request, cgroup: Option<&Cgroup>) -> Enforced {
    let limits = &request.limits;
    let mut enforced = Enforced::nothing(request.backend);
    if let Some(cgroup) = cgroup {
        enforced.memory = cgroup.memory().into();
        enforced.pids = if cgroup.limits_pids() { "cgroup" } else { "none" }.into();
        enforced.cpus = if cgroup.limits_cpus() { "cgroup" } else { "none" }.into();
    }
    if enforced.memory == "none" && limits.memory_bytes.is_some() {
        enforced.memory = "monitor".into();
    }
    if enforced.pids == "none" && limits.pids.is_some() {
        // Root of the machine is exempt from the resource limit, and without a user namespace it would
        // count all of the user's processes.
        let counted = request.backend == Backend::Namespaces && !request.root_of_machine;
        enforced.pids = if counted { "rlimit" } else { "monitor" }.into();
    }
    if enforced.cpus == "none" && limits.cpus.is_some() {
        enforced.cpus = "affinity".into();
    }
    enforced.network = match (request.backend, request.net) {
        (_, Net::Host) => "none",
        (Backend::Namespaces, Net::None) => "namespace",
        (Backend::Namespaces, _) => "namespace+proxy",
        (Backend::Landlock, Net::None) => "seccomp",
        (Backend::Landlock, _) => "landlock+proxy",
        (Backend::Unsafe, _) => "none",
    }
    .into();
    enforced
}

/// Makes the report on a command that ran, from what init said and why it was killed, if it was.
pub(super) fn ended(
    said: &[u8],
    verdict: Option<Verdict>,
    mut enforced: Enforced,
    mut peak: u64,
    wall: Duration,
) -> Report {
    let mut exit = None;
    let mut failure = None;
    for message in Message::read_all(said) {
        match message {
            Message::Confined { landlock_abi, seccomp } => {
                enforced.landlock_abi = landlock_abi;
                enforced.seccomp = seccomp;
            }
            Message::Failed { text, missing } => failure = Some(Failure { text, missing }),
            Message::Ended { status, peak: one } => {
                exit = Some(Exit::of_status(status));
                if peak == 0 {
                    peak = one;
                }
            }
        }
    }
    let (reason, message) = match (verdict, failure, exit) {
        (None, Some(failure), _) => {
            return Report {
                wall,
                ..not_started(enforced.backend, failure)
            };
        }
        (Some(Verdict::Limit(reason, text)), ..) => (reason, Some(text)),
        (Some(Verdict::Cancelled), ..) => (Reason::Cancelled, None),
        (None, None, Some(Exit::Code(0))) => (Reason::Completed, None),
        (None, None, Some(_)) => (Reason::Error, None),
        (None, None, None) => {
            let text = "the sandbox's first process ended without a word".to_owned();
            (Reason::Error, Some(text))
        }
    };
    Report {
        exit: exit.unwrap_or(Exit::Signal(libc::SIGKILL)),
        reason,
        program_missing: false,
        message,
        peak_memory_bytes: peak,
        wall,
        enforced,
    }
}

/// Makes the report on a command that never ran.
pub(super) fn not_started(backend: Backend, failure: Failure) -> Report {
    Report {
        exit: Exit::Code(if failure.missing { 127 } else { 128 }),
        reason: Reason::StartError(failure.text),
        program_missing: failure.missing,
        message: None,
        peak_memory_bytes: 0,
        wall: Duration::ZERO,
        enforced: Enforced::nothing(backend),
    }
}
