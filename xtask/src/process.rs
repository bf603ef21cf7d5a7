//! Starting other programs and believing their exit codes.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Builds a command that works in `folder`.
pub fn command(folder: &Path, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder);
    command
}

/// Builds a call of the Cargo that runs this program.
pub fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = command(root, std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    command
}

/// Runs a command with this program's input and output; fails where it fails.
pub fn run(mut command: Command) -> Result<()> {
    let shown = format!(
        "{} {}",
        command.get_program().display(),
        command.get_args().map(OsStr::display).fold(String::new(), join)
    );
    let status = command.status().with_context(|| format!("failed to start {shown}"))?;
    if !status.success() {
        bail!("{shown} ended with {status}");
    }
    Ok(())
}

fn join(line: String, word: std::ffi::os_str::Display<'_>) -> String {
    if line.is_empty() {
        word.to_string()
    } else {
        format!("{line} {word}")
    }
}

/// Kills a process; one that has ended meanwhile is none to be killed.
pub fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}
