//! Single processes of a running tier, stopped as a fault would stop them, and started again with what they left.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use clap::ValueEnum;
use rustix::process::Signal;

use super::api::Api;
use super::ledger::{self, Recorded};
use super::server;
use super::state::State;
use super::tier;

/// How long a process may take to stop by itself.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// How a process is stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// It is asked to end, and made to where it does not.
    #[default]
    Term,
    /// It is killed, and can write nothing more.
    Kill,
    /// It stays, holds its connections, and does nothing.
    Freeze,
}

/// Stops processes, the last that was started first.
pub fn stop(state: &State, names: &[String], by: By) -> Result<()> {
    let _lock = state.lock()?;
    for process in find(state, names)?.iter().rev() {
        match by {
            By::Term => process.stop(STOP_WITHIN)?,
            By::Kill => {
                process.signal(Signal::KILL)?;
                // What is left is to see that it is gone.
                process.stop(STOP_WITHIN)?;
            }
            By::Freeze => process.signal(Signal::STOP)?,
        }
    }
    Ok(())
}

/// Starts processes again, in the order of their first start; those that are frozen go on. Waits until the API answers,
/// where nothing else of the tier is missing.
pub fn start(state: &State, names: &[String]) -> Result<()> {
    let _lock = state.lock()?;
    let mut again = Vec::new();
    for process in find(state, names)? {
        if process.runs()? {
            process.signal(Signal::CONT)?;
            again.push(process);
        } else if process.command.is_empty() {
            bail!(
                "{} was started by an older `real up`, which did not write down how; run `cargo xtask real down` and `up`",
                process.name
            );
        } else {
            again.push(server::start_again(state, &process)?);
        }
    }
    let all = ledger::read(state)?;
    for process in all.iter().filter(|it| !names.contains(&it.name)) {
        if !process.runs()? || process.is_frozen() {
            return Ok(());
        }
    }
    let api = Api::of(&state.kubeconfig()?)?;
    tier::until_ready(state, &again.iter().collect::<Vec<_>>(), &api, "/readyz", |_| true)
}

/// Finds processes by their names, in the order of their starts.
fn find(state: &State, names: &[String]) -> Result<Vec<Recorded>> {
    let all = ledger::read(state)?;
    let known = || all.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = names.iter().find(|name| all.iter().all(|it| it.name != **name)) {
        return Err(match all.is_empty() {
            true => anyhow!(
                "nothing is up in {}; run `cargo xtask real up`",
                state.folder().display()
            ),
            false => anyhow!("there is no process {name:?}; there are {}", known()),
        });
    }
    Ok(all.into_iter().filter(|it| names.contains(&it.name)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;

    use super::super::server::Server;
    use super::*;

    fn recorded(state: &State) -> Recorded {
        ledger::read(state).unwrap().remove(0)
    }

    /// Waits until the probe has begun so many times.
    fn begun(state: &State, times: usize) {
        let log = || std::fs::read_to_string(state.log("probe")).unwrap();
        while log().matches("begun").count() < times {
            assert!(recorded(state).runs().unwrap(), "it ended early: {}", log());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_is_stopped_in_every_way_and_started_again_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        let server = Server {
            name: "probe",
            program: "/bin/sh".into(),
            arguments: vec!["-c".to_owned(), "echo begun; exec sleep 600".to_owned()],
        };
        let names = ["probe".to_owned()];
        server.start(&state, 3).unwrap();
        // One that never ran is missing: nobody waits for an API.
        let gone = Recorded {
            started: 1,
            ..Recorded::of(4, "other", std::process::id()).unwrap()
        };
        ledger::write(&state, &gone).unwrap();
        begun(&state, 1);
        for (by, times) in [(By::Term, 2), (By::Kill, 3)] {
            let before = recorded(&state);
            stop(&state, &names, by).unwrap();
            assert!(!before.runs().unwrap(), "{by:?}");
            start(&state, &names).unwrap();
            begun(&state, times);
            let after = recorded(&state);
            assert!(after.pid != before.pid && after.order == 3, "{by:?}: {after:?}");
            assert_eq!(after.command, before.command);
        }
        let before = recorded(&state);
        stop(&state, &names, By::Freeze).unwrap();
        while !before.is_frozen() {
            std::thread::yield_now();
        }
        assert!(before.runs().unwrap());
        start(&state, &names).unwrap();
        while before.is_frozen() {
            std::thread::yield_now();
        }
        assert_eq!(recorded(&state), before, "it is the same process");
        stop(&state, &names, By::Freeze).unwrap();
        // A frozen one is stopped as quickly as any other.
        before.stop(Duration::from_secs(600)).unwrap();
        assert!(!before.runs().unwrap());
    }

    #[test]
    fn a_process_that_there_is_not_is_named_beside_those_that_there_are() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        let asked = ["etdc".to_owned()];
        let error = stop(&state, &asked, By::Term).unwrap_err().to_string();
        assert!(error.contains("cargo xtask real up"), "{error}");
        ledger::write(&state, &Recorded::of(0, "etcd", std::process::id()).unwrap()).unwrap();
        let error = start(&state, &asked).unwrap_err().to_string();
        assert!(
            error.contains("\"etdc\"") && error.contains("there are etcd"),
            "{error}"
        );
    }
}
