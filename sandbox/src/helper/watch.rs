//! Watches a running sandbox until it ends or is to be ended, and leaves no process of it alive.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::disk::Disks;
use super::memory::MemoryCounter;
use super::processes;
use super::report::{self, Verdict, out_of_memory};
use super::tmpfs::Tmpfs;
use crate::backend::Backend;
use crate::outcome::{Enforced, Reason};
use crate::sys::{self, Waited};
use crate::wire::{Report, Request};

/// How often memory and processes are counted where no cgroup does it.
const COUNT_EVERY: Duration = Duration::from_millis(10);
/// The same, when more than half of the memory limit is used.
const COUNT_OFTEN: Duration = Duration::from_millis(3);
/// How long init may take to kill all, before the supervisor does.
const INIT_KILLS: Duration = Duration::from_secs(2);
/// How often the cgroup is asked for kills, and disks for what is left.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// A started sandbox.
pub(super) struct Running {
    pub(super) init: i32,
    pub(super) ended: OwnedFd,
    /// Closing it has init kill all and end.
    pub(super) alive: Option<OwnedFd>,
    pub(super) reports: File,
    pub(super) cgroup: Option<Cgroup>,
    pub(super) started: Instant,
    pub(super) enforced: Enforced,
}

/// Watches until the end, kills what is left, and reports.
pub(super) fn watch(mut running: Running, request: &Request, control: &UnixStream, disks: Disks) -> Report {
    let limits = &request.limits;
    let deadline = limits.wall.map(|wall| running.started + wall);
    let mut counts = Counts::of(request, &running, disks);
    if counts.by_monitor() {
        sys::run_promptly();
    }
    let mut tick = Duration::ZERO;
    let mut verdict = loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            let wall = limits.wall.unwrap_or_default();
            let text = format!("killed after {} s, the time limit", wall.as_secs_f64());
            break Some(Verdict::Limit(Reason::TimedOut, text));
        }
        let pause = counts.anything().then_some(tick);
        let timeout = [left, pause].into_iter().flatten().min();
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        let fds = [Some(running.ended.as_fd()), Some(control.as_fd())];
        match sys::poll(&fds, timeout) {
            Ok(ready) if ready[0] => break None,
            Ok(ready) if ready[1] => break Some(Verdict::Cancelled),
            Ok(_) => {}
            Err(_) => break Some(Verdict::Cancelled),
        }
        match counts.take(&running) {
            Ok(next) => tick = next,
            Err(over) => break Some(over),
        }
    };
    kill_all(&mut running, request.backend);
    let wall = running.started.elapsed();
    let mut peak = counts.peak;
    if let Some(cgroup) = &running.cgroup {
        peak = peak.max(cgroup.peak());
        if verdict.is_none() && cgroup.out_of_memory() {
            verdict = Some(out_of_memory(limits.memory_bytes));
        }
    }
    let mut said = Vec::new();
    // All writers are dead; a broken pipe would only shorten what was said.
    let _ = running.reports.read_to_end(&mut said);
    if let Some(cgroup) = running.cgroup.take() {
        cgroup.remove();
    }
    report::ended(&said, verdict, running.enforced, peak, wall)
}

/// What is counted while the command runs.
struct Counts {
    memory_limit: Option<u64>,
    /// The limits that only counting keeps.
    monitored_memory: Option<u64>,
    monitored_pids: Option<u32>,
    cgroup: bool,
    disks: Disks,
    memory: MemoryCounter,
    tmpfs: Tmpfs,
    /// The most memory seen, in bytes.
    peak: u64,
}

impl Counts {
    fn of(request: &Request, running: &Running, disks: Disks) -> Counts {
        let limits = &request.limits;
        Counts {
            memory_limit: limits.memory_bytes,
            monitored_memory: limits.memory_bytes.filter(|_| running.enforced.memory == "monitor"),
            monitored_pids: limits.pids.filter(|_| running.enforced.pids == "monitor"),
            cgroup: running.cgroup.is_some(),
            disks,
            memory: MemoryCounter::default(),
            tmpfs: Tmpfs::of(request),
            peak: 0,
        }
    }

    fn by_monitor(&self) -> bool {
        self.monitored_memory.is_some() || self.monitored_pids.is_some()
    }

    /// Tells whether there is anything to count.
    fn anything(&self) -> bool {
        self.by_monitor() || self.cgroup || !self.disks.is_empty()
    }

    /// Counts once; returns how long to wait until the next time, or which limit is passed.
    fn take(&mut self, running: &Running) -> Result<Duration, Verdict> {
        if let Some(text) = self.disks.exhausted() {
            return Err(Verdict::Limit(Reason::Error, text));
        }
        if let Some(cgroup) = &running.cgroup {
            self.peak = self.peak.max(cgroup.current());
            if cgroup.out_of_memory() {
                return Err(out_of_memory(self.memory_limit));
            }
        }
        if !self.by_monitor() {
            return Ok(ASK_EVERY);
        }
        let mut next = COUNT_EVERY;
        let family = processes::descendants(running.init);
        if let Some(limit) = self.monitored_memory {
            let used = self.memory.count(&family, self.tmpfs.used(&family), limit);
            self.peak = self.peak.max(used);
            if used > limit {
                return Err(out_of_memory(self.memory_limit));
            }
            if used > limit / 2 {
                next = COUNT_OFTEN;
            }
        }
        if let Some(limit) = self.monitored_pids {
            let count = processes::threads(&family);
            // One is init.
            if count > u64::from(limit) + 1 {
                let text = format!("killed for more than {limit} processes and threads");
                return Err(Verdict::Limit(Reason::Error, text));
            }
            if count > u64::from(limit) / 4 {
                next = COUNT_OFTEN;
            }
        }
        Ok(next)
    }
}

/// Kills every process of the sandbox and returns when none is left.
fn kill_all(running: &mut Running, backend: Backend) {
    running.alive = None;
    if let Some(cgroup) = &running.cgroup {
        cgroup.kill();
    }
    if backend == Backend::Namespaces {
        // The end of a pid namespace's init ends all of it, and waiting for it waits for all.
        sys::kill(running.init, libc::SIGKILL);
    } else {
        // Init kills faster than can be done from here, where it has a domain to kill in.
        let _ = sys::poll(&[Some(running.ended.as_fd())], Some(INIT_KILLS));
    }
    processes::kill_descendants(sys::own_pid());
    while let Waited::Ended(..) = sys::wait(-1, true) {}
}
