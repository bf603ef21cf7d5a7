//! Ending every process that a step left behind.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// How long processes may take to end after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(20);

/// Kills every descendant of this process, and, where it is the first process of its namespace, every
/// process it can see; returns `false` where some remain.
///
/// This process is a subreaper: whatever the steps start stays below it however often it forks or
/// changes its session. That nothing is left is what the kernel says: no child to wait for. Call it
/// only while no child is waited for elsewhere.
pub(super) fn end_all_others() -> bool {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for pid in others() {
            // A process that is gone by now is what is wanted.
            let _ = kill_process(pid, Signal::KILL);
        }
        let none_left = reap();
        if none_left && (!is_first() || others().is_empty()) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Collects ended children; returns whether there are none at all any more.
fn reap() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => return false,
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return true,
        }
    }
}

fn is_first() -> bool {
    rustix::process::getpid().as_raw_nonzero().get() == 1
}

/// Lists the processes to end.
fn others() -> Vec<Pid> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let mut parents: HashMap<i32, i32> = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        if let Some((parent, state)) = parent_of(pid)
            && state != b'Z'
        {
            parents.insert(pid, parent);
        }
    }
    if own == 1 {
        return parents
            .keys()
            .filter(|pid| **pid != 1)
            .filter_map(|pid| Pid::from_raw(*pid))
            .collect();
    }
    let mut below: HashSet<i32> = HashSet::from([own]);
    // Parents usually have lower numbers, but numbers wrap: go round until nothing is added.
    loop {
        let before = below.len();
        for (pid, parent) in &parents {
            if below.contains(parent) {
                below.insert(*pid);
            }
        }
        if below.len() == before {
            break;
        }
    }
    below.remove(&own);
    below.into_iter().filter_map(Pid::from_raw).collect()
}

/// Reads the parent and state of a process.
fn parent_of(pid: i32) -> Option<(i32, u8)> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, also brackets and spaces: the last bracket ends it.
    let end = stat.iter().rposition(|b| *b == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 2..)?).ok()?;
    let mut fields = rest.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    Some((fields.next()?.parse().ok()?, state))
}
