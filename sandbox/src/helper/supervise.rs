//! The supervisor: takes the request, starts the sandbox, has it watched, reports.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::cgroup::Cgroup;
use super::disk::Disks;
use super::failure::Failure;
use super::streams::{self, Streams};
use super::watch::{Running, watch};
use super::{init, namespaces, report};
use crate::backend::Backend;
use crate::remove::remove_tree;
use crate::sys::{self, Fork};
use crate::wire::{self, Net, Request};

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
    let disks = Disks::of(&request);
    let streams = streams::input(request.stdin.then_some(stdin.as_slice()))
        .map_err(Failure::to("keep the standard input in memory"))
        .map(|stdin| Streams { stdin, stdout, stderr });
    drop(stdin);
    let report = match streams.and_then(|streams| start(&mut request, &control, streams)) {
        Ok(running) => watch(running, &request, &control, disks),
        Err(failure) => report::not_started(request.backend, failure),
    };
    if let Some(scratch) = &request.scratch {
        // What cannot be removed lies in the temporary folder, private and named for us.
        let _ = remove_tree(scratch);
    }
    wire::send_report(&mut control, &report)
}

fn start(request: &mut Request, control: &UnixStream, streams: Streams) -> Result<Running, Failure> {
    let limits = request.limits;
    let cgroup = if request.cgroups { Cgroup::create(&limits) } else { None };
    let is_counted = cgroup.as_ref().is_some_and(|cgroup| cgroup.memory() != "none");
    request.unmapped_memory = limits.memory_bytes.is_none() || is_counted;
    let is_throttled = cgroup.as_ref().is_some_and(Cgroup::limits_cpus);
    request.any_processor = limits.cpus.is_none() || is_throttled;
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
    if let Some(cgroup) = &cgroup {
        cgroup
            .add(pid)
            .map_err(Failure::to("move the command into its cgroup"))
            .map_err(failed)?;
    }
    // The host's own out-of-memory killer takes the command before the rest.
    let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "500");
    let ended = sys::pidfd(pid)
        .map_err(Failure::to("watch the sandbox's init"))
        .map_err(failed)?;
    let _ = sys::become_unreadable();
    rustix::io::write(&go, b"g")
        .map_err(Failure::to("start the sandbox's init"))
        .map_err(failed)?;
    Ok(Running {
        init: pid,
        ended,
        alive: Some(go),
        reports: File::from(reports),
        started: Instant::now(),
        enforced: report::enforced(request, cgroup.as_ref()),
        cgroup,
    })
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Failure::to("make a pipe"))
}
