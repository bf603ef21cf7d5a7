//! How a command ended, and what was really enforced while it ran.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::Backend;
use crate::output::Capture;

/// Tells how the command's main process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Exit {
    /// Splits a raw wait status into code or signal.
    pub(crate) fn of_status(status: i32) -> Exit {
        if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            Exit::Code(libc::WEXITSTATUS(status))
        }
    }

    /// Returns the code as a shell would: the code itself, or 128 and the signal's number.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }

    /// Tells whether the code is 0.
    pub fn success(self) -> bool {
        self == Exit::Code(0)
    }
}

/// Names why a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// It returned 0.
    Completed,
    /// It returned another code or a signal ended it.
    Error,
    /// It was killed because it reached its memory limit.
    OOMKilled,
    /// It was killed because its time was up.
    TimedOut,
    /// It was killed because the caller asked for it, or died.
    Cancelled,
    /// It never ran, or its supervisor was lost; the text says why.
    StartError(String),
}

impl Reason {
    /// Returns the one-word name, as Pods show it.
    pub fn name(&self) -> &'static str {
        match self {
            Reason::Completed => "Completed",
            Reason::Error => "Error",
            Reason::OOMKilled => "OOMKilled",
            Reason::TimedOut => "TimedOut",
            Reason::Cancelled => "Cancelled",
            Reason::StartError(_) => "StartError",
        }
    }
}

/// Says what was really enforced, by which means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enforced {
    /// The backend that ran the command.
    pub backend: Backend,
    /// The Landlock ABI in force, 0 when none.
    pub landlock_abi: u32,
    /// Whether a seccomp filter was in force.
    pub seccomp: bool,
    /// How the network was kept away: `namespace`, `seccomp`, `namespace+proxy`, `landlock+proxy` or `none`.
    pub network: String,
    /// How the memory limit was kept: `cgroup-v2`, `cgroup-v1`, `monitor` or `none`.
    pub memory: String,
    /// How the number of processes was kept: `cgroup`, `rlimit`, `monitor` or `none`.
    pub pids: String,
    /// How the processors were kept: `cgroup`, `affinity` or `none`.
    pub cpus: String,
}

impl Enforced {
    /// Returns the record of a command for which nothing was enforced yet.
    pub fn nothing(backend: Backend) -> Enforced {
        Enforced {
            backend,
            landlock_abi: 0,
            seccomp: false,
            network: "none".into(),
            memory: "none".into(),
            pids: "none".into(),
            cpus: "none".into(),
        }
    }
}

/// Tells how a command ended. When it exists, no process of the command is alive.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How the main process ended.
    pub exit: Exit,
    /// Why the command ended.
    pub reason: Reason,
    /// Whether the program was not found (or not executable) inside the sandbox.
    pub program_missing: bool,
    /// A sentence for people where the reason alone does not say enough, such as the limit that was hit.
    pub message: Option<String>,
    /// The most memory that all processes used together, in bytes, as far as it was measured.
    pub peak_memory_bytes: u64,
    /// The wall-clock time from the start of the program to the end of its last process.
    pub wall: Duration,
    /// What was really enforced.
    pub enforced: Enforced,
    /// What a capturing sink kept of the standard output (of both streams, when merged).
    pub stdout: Capture,
    /// What a capturing sink kept of the standard error.
    pub stderr: Capture,
    /// The first error of a sink: the rest of that sink's output is lost.
    pub output_error: Option<String>,
}

impl Outcome {
    /// Returns the outcome of a command that never ran.
    pub(crate) fn start_error(backend: Backend, error: &dyn std::error::Error) -> Outcome {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Outcome::not_started(backend, text)
    }

    pub(crate) fn not_started(backend: Backend, why: String) -> Outcome {
        Outcome {
            exit: Exit::Code(128),
            reason: Reason::StartError(why),
            program_missing: false,
            message: None,
            peak_memory_bytes: 0,
            wall: Duration::ZERO,
            enforced: Enforced::nothing(backend),
            stdout: Capture::default(),
            stderr: Capture::default(),
            output_error: None,
        }
    }

    /// Tells whether the command ran to its own end with code 0.
    pub fn success(&self) -> bool {
        self.reason == Reason::Completed
    }
}
