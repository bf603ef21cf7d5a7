//! Who was started: a process is its id with the time of its start and the machine's boot, so that another process that
//! was given the id later is not taken for it.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::state::State;

/// The folder of the records, one file each, in the state folder.
const FOLDER: &str = "run";
/// How often it is looked whether a process has ended.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A process that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Its place in the order of starts.
    pub order: usize,
    pub name: String,
    pub pid: u32,
    /// When it started, in the kernel's ticks since boot.
    pub started: u64,
    /// The boot that the ticks count from.
    pub boot: String,
    /// What it was started with: the program and what it was told.
    #[serde(default)]
    pub command: Vec<String>,
}

impl Recorded {
    /// Describes the process of this id as it is now.
    pub fn of(order: usize, name: &str, pid: u32) -> Result<Recorded> {
        let (_, started) = stat(pid).with_context(|| format!("failed to find the process of {name}"))?;
        Ok(Recorded {
            order,
            name: name.to_owned(),
            pid,
            started,
            boot: boot()?,
            command: Vec::new(),
        })
    }

    /// Returns whether this very process runs.
    pub fn runs(&self) -> Result<bool> {
        Ok(self.boot == boot()?
            && stat(self.pid).is_some_and(|(state, started)| runs(state) && started == self.started))
    }

    /// Returns whether it was frozen: it is there, and does nothing.
    pub fn is_frozen(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| state == 'T' && started == self.started)
    }

    /// Sends a signal to this very process, and to no other that was given its id later.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let failed = || format!("failed to signal {} (process {})", self.name, self.pid);
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            bail!("{}: {} is no process id", failed(), self.pid);
        };
        // The handle stays with the process that had the id when it was opened: what is looked at next is what is signalled.
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else {
            return Ok(());
        };
        if !self.runs()? {
            return Ok(());
        }
        match pidfd_send_signal(&handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error).with_context(failed),
        }
    }

    /// Ends the process: asks it to, and after `patience` makes it. Does nothing to another process of the same id.
    pub fn stop(&self, patience: Duration) -> Result<()> {
        let failed = || format!("failed to stop {} (process {})", self.name, self.pid);
        for signal in [Signal::TERM, Signal::KILL] {
            self.signal(signal)?;
            if self.is_frozen() {
                // It hears of the signal once it goes on.
                self.signal(Signal::CONT)?;
            }
            let begin = Instant::now();
            while begin.elapsed() < patience {
                if !self.runs()? {
                    return Ok(());
                }
                std::thread::sleep(LOOK_EVERY);
            }
        }
        bail!("{}: it goes on after SIGKILL", failed())
    }

    /// Reads how much memory it uses, in MiB.
    pub fn memory(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? / 1024)
    }
}

/// Writes a record.
pub fn write(state: &State, recorded: &Recorded) -> Result<()> {
    let name = format!("{FOLDER}/{}.json", recorded.name);
    state.write(&name, &serde_json::to_vec_pretty(recorded)?)
}

/// Reads every record, in the order of starts.
pub fn read(state: &State) -> Result<Vec<Recorded>> {
    let folder = state.file(FOLDER);
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::<PathBuf>::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("failed to list {}", folder.display()))? {
        paths.push(entry?.path());
    }
    let mut all = Vec::new();
    // A record that was cut off has another extension, and its process was never let go.
    for path in paths
        .iter()
        .filter(|path| path.extension().is_some_and(|it| it == "json"))
    {
        let failed = || format!("failed to read {}", path.display());
        let bytes = fs::read(path).with_context(failed)?;
        all.push(serde_json::from_slice::<Recorded>(&bytes).with_context(failed)?);
    }
    all.sort_by_key(|recorded| recorded.order);
    Ok(all)
}

/// Reads state and start of a process; nothing where there is none.
fn stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads state and start from a line of `/proc/PID/stat`. The name of the program may hold blanks and brackets.
fn parse_stat(line: &str) -> Option<(char, u64)> {
    let (_, rest) = line.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let state = words.next()?.chars().next()?;
    // Field 22, counted from 1; the state is the third.
    Some((state, words.nth(18)?.parse().ok()?))
}

/// Returns whether a process in this state can still do something.
fn runs(state: char) -> bool {
    !matches!(state, 'Z' | 'X' | 'x')
}

fn boot() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(path)
        .with_context(|| format!("failed to read {path}"))?
        .trim()
        .to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::Path;
    use std::process::Command;

    use super::*;

    #[test]
    fn state_and_start_are_read_whatever_the_program_is_called() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse_stat(&format!("42 (sh) {rest}")), Some(('S', 4711)));
        assert_eq!(parse_stat(&format!("42 (a) R 1 (b) {rest}")), Some(('S', 4711)));
        assert_eq!(parse_stat("42 (sh) S 1"), None);
        assert!(runs('S') && runs('D') && !runs('Z'));
    }

    #[test]
    fn a_process_is_stopped_and_its_record_says_so() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let recorded = Recorded::of(0, "sleep", child.id()).unwrap();
        assert!(recorded.runs().unwrap());
        recorded.stop(Duration::from_secs(20)).unwrap();
        assert!(!recorded.runs().unwrap());
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn another_process_with_the_same_id_is_left_alone() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let recorded = Recorded::of(0, "sleep", child.id()).unwrap();
        let later = Recorded {
            started: recorded.started - 1,
            ..recorded.clone()
        };
        let other_boot = Recorded {
            boot: "another".to_owned(),
            ..recorded.clone()
        };
        for other in [later, other_boot] {
            assert!(!other.runs().unwrap());
            other.stop(Duration::from_secs(20)).unwrap();
        }
        assert!(recorded.runs().unwrap(), "it was not ours to stop");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_does_not_listen_is_killed() {
        let mut child = Command::new("sh")
            .args(["-c", "trap '' TERM; echo ready; while :; do sleep 1; done"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let recorded = Recorded::of(0, "sh", child.id()).unwrap();
        recorded.stop(Duration::from_millis(200)).unwrap();
        assert!(!recorded.runs().unwrap());
        child.wait().unwrap();
    }

    #[test]
    fn records_are_read_in_the_order_of_starts_and_cut_off_ones_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = State::open(Path::new("/"), Some(folder.path())).unwrap();
        assert_eq!(read(&state).unwrap(), []);
        let recorded = |order, name: &str| Recorded {
            order,
            name: name.to_owned(),
            pid: 1,
            started: 0,
            boot: String::new(),
            command: Vec::new(),
        };
        write(&state, &recorded(1, "b")).unwrap();
        write(&state, &recorded(0, "c")).unwrap();
        state.write("run/a.part", b"{").unwrap();
        let names: Vec<_> = read(&state).unwrap().into_iter().map(|found| found.name).collect();
        assert_eq!(names, ["c", "b"]);
    }
}
