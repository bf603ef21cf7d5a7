//! The supervisor: starts the sandbox, watches limits, kills everything, reports.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::cgroup::Cgroup;
use super::disk::Disks;
use super::tmpfs::Tmpfs;
use super::{Failure, init, namespaces, processes};
use crate::Backend;
use crate::outcome::{Enforced, Exit, Reason};
use crate::sys::{self, Fork, Waited};
use crate::wire::{self, Net, Report, Request};

/// How often memory and processes are counted where no cgroup does it.
const COUNT_EVERY: Duration = Duration::from_millis(10);
/// The same, when more than half of the memory limit is used.
const COUNT_OFTEN: Duration = Duration::from_millis(3);
/// How long init may take to kill all, before the supervisor does.
const INIT_KILLS: Duration = Duration::from_secs(2);
/// How often the cgroup is asked for kills.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Runs as the supervisor; the request comes over the socket that is standard input.
pub(super) fn main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        // The caller sees that no report came, and the process's exit code.
        Err(_) => 3,
    };
    sys::exit_now(code)
}

fn run() -> std::io::Result<()> {
    let mut control = UnixStream::from(sys::inherited(0)?);
    // Fails when standard input is no socket: then this process was started by hand.
    control.peer_addr()?;
    let null = File::open("/dev/null")?;
    sys::become_standard(null.as_fd(), 0)?;
    // A Ctrl-C at the terminal is the caller's to answer.
    let _ = sys::new_session();
    sys::become_subreaper()?;
    let (mut request, stdin, fds) = wire::receive_request(&mut control)?;
    request.root_of_machine = namespaces::is_root_of_machine();
    let mut fds = fds.into_iter();
    let (Some(stdout), Some(stderr)) = (fds.next(), fds.next()) else {
        return Err(std::io::ErrorKind::InvalidData.into());
    };
    let streams = Streams {
        stdin: stdin_file(&request, &stdin)?,
        stdout,
        stderr,
    };
    drop(stdin);
    let disks = Disks::of(&request);
    let report = match start(&mut request, &control, streams) {
        Ok(running) => watch(running, &request, &control, disks),
        Err(failure) => not_started(request.backend, failure),
    };
    if let Some(scratch) = &request.scratch {
        remove_scratch(scratch);
    }
    wire::send_report(&mut control, &report)
}

/// The command's three standard streams.
pub(super) struct Streams {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Puts the input bytes into a memory file, so that nobody needs to feed a pipe.
fn stdin_file(request: &Request, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    if !request.stdin {
        return Ok(File::open("/dev/null")?.into());
    }
    let memory = rustix::fs::memfd_create("stdin", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = File::from(memory);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

/// Removes the folders that stood for private ones; a command may have left unreadable folders.
fn remove_scratch(scratch: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    if std::fs::remove_dir_all(scratch).is_ok() {
        return;
    }
    let mut folders = vec![scratch.to_owned()];
    while let Some(folder) = folders.pop() {
        let _ = std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700));
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let inner = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        folders.extend(inner.map(|entry| entry.path()));
    }
    // A folder that cannot be removed now is in the temporary folder, private and named for us.
    let _ = std::fs::remove_dir_all(scratch);
}

/// A started sandbox.
struct Running {
    init: i32,
    ended: OwnedFd,
    /// Closing it has init kill all and end.
    alive: Option<OwnedFd>,
    reports: File,
    cgroup: Option<Cgroup>,
    started: Instant,
    enforced: Enforced,
}

fn start(request: &mut Request, control: &UnixStream, streams: Streams) -> Result<Running, Failure> {
    let limits = request.limits;
    let cgroup = if request.cgroups { Cgroup::create(&limits) } else { None };
    let is_counted = cgroup.as_ref().is_some_and(|cgroup| cgroup.memory() != "none");
    request.unmapped_memory = limits.memory_bytes.is_none() || is_counted;
    let request = &*request;
    let (go_reader, go) = pipe()?;
    let (reports, reports_writer) = pipe()?;
    if sys::identity().0 == 0 {
        // Not allowed when nested in a user namespace, where the groups are harmless.
        let _ = sys::drop_groups();
    }
    let flags = match (request.backend, request.net) {
        (Backend::Namespaces, Net::Host) => namespaces::FLAGS & !libc::CLONE_NEWNET,
        (Backend::Namespaces, _) => namespaces::FLAGS,
        _ => 0,
    };
    let fork = sys::fork(flags).map_err(Failure::to("create the namespaces"))?;
    let pid = match fork {
        Fork::Child => {
            drop((go, reports));
            init::main(request, control, streams, &go_reader, reports_writer)
        }
        Fork::Parent(pid) => pid,
    };
    let failed = |failure: Failure| {
        sys::kill(pid, libc::SIGKILL);
        sys::wait(pid, true);
        failure
    };
    drop((streams, go_reader, reports_writer));
    if request.backend == Backend::Namespaces {
        namespaces::map_identity(pid).map_err(failed)?;
    }
    let mut enforced = Enforced::nothing(request.backend);
    if let Some(cgroup) = &cgroup {
        cgroup
            .add(pid)
            .map_err(Failure::to("move the command into its cgroup"))
            .map_err(failed)?;
        enforced.memory = cgroup.memory().into();
        enforced.pids = if cgroup.limits_pids() { "cgroup" } else { "none" }.into();
        enforced.cpus = if cgroup.limits_cpus() { "cgroup" } else { "none" }.into();
    }
    describe_fallbacks(request, &mut enforced);
    // The host's own out-of-memory killer takes the command before the rest.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    let ended = sys::pidfd(pid)
        .map_err(Failure::to("watch the sandbox's init"))
        .map_err(failed)?;
    let _ = sys::set_dumpable(false);
    rustix::io::write(&go, b"g")
        .map_err(Failure::to("start the sandbox's init"))
        .map_err(failed)?;
    Ok(Running {
        init: pid,
        ended,
        alive: Some(go),
        reports: File::from(reports),
        cgroup,
        started: Instant::now(),
        enforced,
    })
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Failure::to("make a pipe"))
}

/// Says what keeps the limits for which no cgroup serves.
fn describe_fallbacks(request: &Request, enforced: &mut Enforced) {
    let limits = &request.limits;
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
}

/// Why the supervisor kills.
enum Verdict {
    Limit(Reason, String),
    Cancelled,
}

fn watch(mut running: Running, request: &Request, control: &UnixStream, mut disks: Disks) -> Report {
    let limits = &request.limits;
    let deadline = limits.wall.map(|wall| running.started + wall);
    let monitor_memory = running.enforced.memory == "monitor";
    let monitor_pids = running.enforced.pids == "monitor";
    let mut peak = 0;
    let mut counter = MemoryCounter::default();
    let mut tmpfs = Tmpfs::of(request);
    if monitor_memory || monitor_pids {
        sys::run_promptly();
    }
    let mut verdict = None;
    let mut tick = Duration::ZERO;
    loop {
        let timeout = match deadline.map(|deadline| deadline.saturating_duration_since(Instant::now())) {
            Some(left) if left.is_zero() => {
                let wall = limits.wall.unwrap_or_default();
                let text = format!("killed after {} s, the time limit", wall.as_secs_f64());
                verdict = Some(Verdict::Limit(Reason::TimedOut, text));
                break;
            }
            Some(left) => left.min(tick),
            None => tick,
        };
        let watches =
            tick > Duration::ZERO || monitor_memory || monitor_pids || running.cgroup.is_some() || !disks.is_empty();
        let timeout = if watches {
            Some(timeout)
        } else {
            deadline.map(|_| timeout)
        };
        let timeout = timeout.map(|timeout| timeout.max(Duration::from_millis(1)));
        let fds = [Some(running.ended.as_fd()), Some(control.as_fd())];
        match sys::poll(&fds, timeout) {
            Ok(ready) if ready[0] => break,
            Ok(ready) if ready[1] => {
                verdict = Some(Verdict::Cancelled);
                break;
            }
            Ok(_) => {}
            Err(_) => {
                verdict = Some(Verdict::Cancelled);
                break;
            }
        }
        tick = ASK_EVERY;
        if let Some(text) = disks.exhausted() {
            verdict = Some(Verdict::Limit(Reason::Error, text));
            break;
        }
        if let Some(cgroup) = &running.cgroup {
            peak = peak.max(cgroup.current());
            if cgroup.out_of_memory() {
                verdict = Some(out_of_memory(limits.memory_bytes));
                break;
            }
        }
        if monitor_memory || monitor_pids {
            tick = COUNT_EVERY;
            let family = processes::descendants(running.init);
            if let Some(limit) = limits.memory_bytes.filter(|_| monitor_memory) {
                let used = counter.count(&family, tmpfs.used(&family), limit);
                peak = peak.max(used);
                if used > limit {
                    verdict = Some(out_of_memory(limits.memory_bytes));
                    break;
                }
                if used > limit / 2 {
                    tick = COUNT_OFTEN;
                }
            }
            if let Some(limit) = limits.pids.filter(|_| monitor_pids) {
                let count = processes::threads(&family);
                // One is init.
                if count > u64::from(limit) + 1 {
                    let text = format!("killed for more than {limit} processes and threads");
                    verdict = Some(Verdict::Limit(Reason::Error, text));
                    break;
                }
                if count > u64::from(limit) / 4 {
                    tick = COUNT_OFTEN;
                }
            }
        }
    }
    kill_all(&mut running, request.backend);
    let wall = running.started.elapsed();
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
    report(&said, verdict, running.enforced, peak, wall)
}

/// How long an exact count below the limit is relied on while a quick one lies above it.
const EXACT_EVERY: Duration = Duration::from_millis(100);

/// Counts memory by quick bounds while they tell on which side of the limit it is.
#[derive(Default)]
struct MemoryCounter {
    /// When the last exact count was made, and what it was.
    exact: Option<(Instant, u64)>,
}

impl MemoryCounter {
    fn count(&mut self, family: &[i32], files: u64, limit: u64) -> u64 {
        let most = processes::memory_at_most(family) + files;
        if most <= limit {
            self.exact = None;
            return most;
        }
        let least = processes::memory_at_least(family) + files;
        if least > limit {
            return least;
        }
        if let Some((made, exact)) = self.exact
            && made.elapsed() < EXACT_EVERY
        {
            return exact.max(least);
        }
        // The first is init, which takes no memory and must go on.
        let commands = family.get(1..).unwrap_or_default();
        let exact = processes::memory_exactly(commands, files);
        if exact <= limit {
            processes::go_on(commands);
        }
        self.exact = Some((Instant::now(), exact));
        exact
    }
}

fn out_of_memory(limit: Option<u64>) -> Verdict {
    let text = match limit {
        Some(limit) => format!("killed at the memory limit of {limit} bytes"),
        None => "killed for lack of memory".into(),
    };
    Verdict::Limit(Reason::OOMKilled, text)
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

fn report(said: &[u8], verdict: Option<Verdict>, mut enforced: Enforced, peak: u64, wall: Duration) -> Report {
    let messages = init::Message::read_all(said);
    let mut exit = None;
    let mut peak = peak;
    let mut failure = None;
    for message in messages {
        match message {
            init::Message::Confined { landlock_abi, seccomp } => {
                enforced.landlock_abi = landlock_abi;
                enforced.seccomp = seccomp;
            }
            init::Message::Failed { text, missing } => failure = Some(Failure { text, missing }),
            init::Message::Ended { status, peak: one } => {
                exit = Some(sys::exit_of(status));
                if peak == 0 {
                    peak = one;
                }
            }
        }
    }
    if let (Some(failure), None) = (&failure, &verdict) {
        let mut report = not_started(enforced.backend, Failure { ..failure.copy() });
        report.wall = wall;
        return report;
    }
    let (reason, message) = match (verdict, exit) {
        (Some(Verdict::Limit(reason, text)), _) => (reason, Some(text)),
        (Some(Verdict::Cancelled), _) => (Reason::Cancelled, None),
        (None, Some(Exit::Code(0))) => (Reason::Completed, None),
        (None, Some(_)) => (Reason::Error, None),
        (None, None) => {
            let text = "the sandbox's first process ended without a word".to_owned();
            (Reason::Error, Some(text))
        }
    };
    let exit = exit.unwrap_or(Exit::Signal(libc::SIGKILL));
    Report {
        exit,
        reason,
        program_missing: false,
        message,
        peak_memory_bytes: peak,
        wall,
        enforced,
    }
}

impl Failure {
    fn copy(&self) -> Failure {
        Failure {
            text: self.text.clone(),
            missing: self.missing,
        }
    }
}

fn not_started(backend: Backend, failure: Failure) -> Report {
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
