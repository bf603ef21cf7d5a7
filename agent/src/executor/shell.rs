//! The coder's shell: one sandboxed command in the work tree.

use std::path::PathBuf;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::native::toolchain;
use crate::tools::bash::{Shell, ShellError, ShellExit, ShellOutput};

/// Most memory of one command, in bytes.
const MEMORY: u64 = 4 << 30;
/// Most processes of one command.
const PROCESSES: u32 = 1024;
/// Largest file that a command may write, in bytes.
const FILE_BYTES: u64 = 2 << 30;
/// Size of the private `/tmp`, in bytes.
const TMP_BYTES: u64 = 1 << 30;

/// Runs commands in one work tree.
pub struct TreeShell {
    /// The sandbox.
    pub sandbox: sandbox::Sandbox,
    /// The work tree.
    pub tree: PathBuf,
    /// What may be read and not written: Git's folders.
    pub read_only: Vec<PathBuf>,
}

impl TreeShell {
    fn command(&self, text: &str, limit: Duration) -> sandbox::Command {
        let mut command = sandbox::Command::new("sh")
            .arg("-c")
            .arg(text)
            .cwd(&self.tree)
            .env("CI", "true")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("PAGER", "cat")
            .rw(&self.tree, &self.tree)
            .tmpfs("/tmp", TMP_BYTES)
            .wall(limit)
            .memory(MEMORY)
            .toolchain(toolchain());
        for path in &self.read_only {
            command = command.ro(path, path);
        }
        command.limits.pids = Some(PROCESSES);
        command.limits.file_size_bytes = Some(FILE_BYTES);
        command
    }
}

impl Shell for TreeShell {
    fn run<'a>(
        &'a self,
        command: &'a str,
        limit: Duration,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ShellOutput, ShellError>> {
        async move {
            let mut child = self
                .sandbox
                .spawn(self.command(command, limit), sandbox::Output::captured_together())
                .map_err(|error| ShellError::Sandbox(error.to_string()))?;
            let outcome = tokio::select! {
                outcome = child.wait() => outcome,
                () = cancel.cancelled() => {
                    child.kill();
                    child.wait().await;
                    return Err(ShellError::Cancelled);
                }
            };
            let exit = match (&outcome.reason, outcome.exit) {
                (sandbox::Reason::StartError(why), _) => return Err(ShellError::Sandbox(why.clone())),
                (sandbox::Reason::Cancelled, _) => return Err(ShellError::Cancelled),
                (sandbox::Reason::TimedOut, _) => ShellExit::TimedOut,
                (sandbox::Reason::OOMKilled, _) => ShellExit::OutOfMemory,
                (_, sandbox::Exit::Code(code)) => ShellExit::Code(code),
                (_, sandbox::Exit::Signal(signal)) => ShellExit::Signal(signal),
            };
            Ok(ShellOutput { exit, output: outcome.stdout.text(), notes: Vec::new() })
        }
        .boxed()
    }
}
