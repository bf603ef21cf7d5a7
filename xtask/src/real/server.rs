//! A server as a process of its own, which outlives this one.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use super::ledger::{self, Recorded};
use super::state::State;

/// What the process does until it is recorded: it waits for a line, and ends where none comes. So no server runs that
/// `down` does not know of, even if this program is killed in the moment after it started one.
const WAIT_TO_BE_RECORDED: &str = "read -r line && exec \"$@\" </dev/null";

/// How a server is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its name, which its log and its record bear.
    pub name: &'static str,
    /// The program.
    pub program: PathBuf,
    /// What it is told.
    pub arguments: Vec<String>,
}

impl Server {
    /// Starts it, in a process group of its own, and records it before it does anything.
    pub fn start(&self, state: &State, order: usize) -> Result<Recorded> {
        let log = state.log(self.name);
        let begun = || -> Result<File> {
            if let Some(folder) = log.parent() {
                std::fs::create_dir_all(folder)?;
            }
            Ok(File::create(&log)?)
        };
        let output = begun().with_context(|| format!("failed to start {}", self.name))?;
        let mut command = vec![self.program.to_string_lossy().into_owned()];
        command.extend(self.arguments.iter().cloned());
        launch(state, order, self.name, command, output)
    }
}

/// Starts a process again as it was started before; its log goes on.
pub fn start_again(state: &State, before: &Recorded) -> Result<Recorded> {
    let output = File::options().append(true).create(true).open(state.log(&before.name));
    let output = output.with_context(|| format!("failed to start {}", before.name))?;
    launch(state, before.order, &before.name, before.command.clone(), output)
}

fn launch(state: &State, order: usize, name: &str, command: Vec<String>, output: File) -> Result<Recorded> {
    let failed = || format!("failed to start {name}");
    let mut child = Command::new("/bin/sh")
        .args(["-c", WAIT_TO_BE_RECORDED, "sh"])
        .args(&command)
        .current_dir(state.folder())
        .stdin(Stdio::piped())
        .stdout(output.try_clone().with_context(failed)?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .with_context(failed)?;
    let recorded = Recorded {
        command,
        ..Recorded::of(order, name, child.id())?
    };
    ledger::write(state, &recorded)?;
    let mut gate = child.stdin.take().with_context(failed)?;
    gate.write_all(b"go\n").with_context(failed)?;
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_server_is_recorded_before_it_runs_and_stopped_by_its_record() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        // It proves that it was recorded when it began: it reads its own record.
        let script = "cat run/probe.json; echo; echo begun; exec sleep 600";
        let server = Server {
            name: "probe",
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), script.to_owned()],
        };
        let recorded = server.start(&state, 0).unwrap();
        assert_eq!(ledger::read(&state).unwrap(), std::slice::from_ref(&recorded));
        let log = loop {
            let log = std::fs::read_to_string(state.log("probe")).unwrap();
            if log.contains("begun") {
                break log;
            }
            assert!(recorded.runs().unwrap(), "it ended early: {log}");
            std::thread::yield_now();
        };
        assert!(log.contains(&format!("\"pid\": {}", recorded.pid)), "{log}");
        recorded.stop(Duration::from_secs(20)).unwrap();
        assert!(!recorded.runs().unwrap());
    }

    #[test]
    fn a_server_that_nobody_recorded_never_begins() {
        let output = Command::new("/bin/sh")
            .args(["-c", WAIT_TO_BE_RECORDED, "sh", "echo", "begun"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.stdout, b"");
        assert!(!output.status.success());
    }
}
