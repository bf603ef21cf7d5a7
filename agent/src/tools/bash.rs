//! `bash`: one command in the work tree, locked in.
//!
//! Commands are stateless: each starts in the work tree with a fresh environment, no network and no credentials,
//! and everything it started is gone when it ends.

use std::time::Duration;

use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::output::{one_line, printable};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::{Inner, ToolResult, Toolbox, text};

/// Runs a command where it can do no harm.
pub trait Shell: Send + Sync {
    /// Runs `command` by `sh -c` in the work tree, for at most `limit`. Dropping the future, or `cancel`, ends
    /// everything that the command started.
    fn run<'a>(
        &'a self,
        command: &'a str,
        limit: Duration,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ShellOutput, ShellError>>;
}

/// Holds what a command left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShellOutput {
    /// How it ended.
    pub exit: ShellExit,
    /// What it printed, both streams; the middle is left out where it printed too much.
    pub output: String,
    /// What holds of the place where it ran and the model should know, such as a weaker sandbox.
    pub notes: Vec<String>,
}

/// Says how a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShellExit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// It overran its time.
    TimedOut,
    /// It used more memory than it may.
    OutOfMemory,
}

/// Tells that a command could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum ShellError {
    /// The sandbox cannot start.
    #[error("failed to start the sandbox: {0}")]
    Sandbox(String),
    /// The run is being cancelled.
    #[error("failed to finish the command: the run was cancelled")]
    Cancelled,
}

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "bash",
        description: "Runs one shell command in the work tree, in a sandbox without network. Nothing is kept between commands but files. Git is read-only: commits are made for you.",
        params: vec![
            Param::required("command", Kind::Body, "the command; it must not wait for input")
                .also(&["cmd", "script", "code"]),
        ],
    }
}

pub(super) async fn run(
    toolbox: &Toolbox,
    inner: &Inner,
    arguments: &Arguments,
    cancel: &CancellationToken,
) -> ToolResult {
    let command = text(arguments, "command");
    if command.trim().is_empty() {
        return ToolResult::refused("failed to run the command: it is empty");
    }
    if command.contains('\0') || command.len() > 64 * 1024 {
        return ToolResult::refused(
            "failed to run the command: it is longer than 64 KiB or holds a zero byte; put scripts into a file",
        );
    }
    let Some(shell) = &inner.shell else {
        return ToolResult::failed("failed to start the sandbox: none is available on this node");
    };
    let before = toolbox.fingerprint().await;
    let outcome = shell.run(command, inner.bash_timeout, cancel).await;
    let mutated = before != toolbox.fingerprint().await;
    let pinned = if mutated {
        toolbox.pinned_changes().await
    } else {
        Vec::new()
    };
    match outcome {
        Ok(mut output) => {
            if !pinned.is_empty() {
                output.notes.push(format!(
                    "{} is not as it is at the base, and the gate refuses that, as its steps go by it: put it back; the rest of the file is free",
                    one_line(&pinned.join(", "), 400)
                ));
            }
            let report = report(&output, inner.bash_timeout);
            ToolResult {
                mutated,
                ..ToolResult::done(report)
            }
        }
        Err(error) => ToolResult {
            mutated,
            ..ToolResult::failed(error.to_string())
        },
    }
}

fn report(output: &ShellOutput, limit: Duration) -> String {
    let clean = printable(&output.output);
    let body = clean.trim_end_matches('\n');
    let end = match output.exit {
        ShellExit::Code(code) => format!("exit code {code}"),
        ShellExit::Signal(signal) => format!("ended by signal {signal}"),
        ShellExit::TimedOut => format!(
            "ended after {} s, its time limit; run less at once, and nothing that waits or serves",
            limit.as_secs()
        ),
        ShellExit::OutOfMemory => "ended because it used more memory than it may".into(),
    };
    let mut report = if body.is_empty() {
        format!("[no output; {end}]")
    } else {
        format!("{body}\n[{end}]")
    };
    for note in &output.notes {
        report.push_str(&format!("\n[{}]", printable(note)));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_command_is_always_told() {
        let said = |exit, output: &str| {
            report(
                &ShellOutput {
                    exit,
                    output: output.into(),
                    notes: vec![],
                },
                Duration::from_secs(30),
            )
        };
        assert_eq!(said(ShellExit::Code(0), ""), "[no output; exit code 0]");
        assert_eq!(said(ShellExit::Code(1), "a\u{1b}[1mb\n\n"), "ab\n[exit code 1]");
        assert!(said(ShellExit::TimedOut, "x").contains("30 s"));
        assert!(said(ShellExit::OutOfMemory, "").contains("memory"));
    }
}
