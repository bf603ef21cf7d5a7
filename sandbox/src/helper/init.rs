//! The first process inside a sandbox: sets it up, starts the command, reaps orphans.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::failure::Failure;
use super::message::Message;
use super::questions::Questions;
use super::streams::Streams;
use super::{confine, domain, namespaces, processes};
use crate::backend::Backend;
use crate::sys::{self, Fork, Waited};
use crate::wire::{Net, Request};

/// Runs as init; `go` gives one byte to begin, and its end means that the supervisor is gone.
pub(super) fn main(request: &Request, control: &UnixStream, streams: Streams, go: &OwnedFd, reports: OwnedFd) -> ! {
    let mut reports = File::from(reports);
    let scoped = request.backend == Backend::Landlock && domain::enter_signal_scope(request.landlock_at_most);
    if let Err(failure) = run(request, control, streams, go, &mut reports) {
        Message::from(failure).send(&mut reports);
    }
    if scoped {
        processes::kill_domain();
    } else if request.backend != Backend::Namespaces {
        processes::kill_descendants(sys::own_pid());
    }
    sys::exit_now(0)
}

fn run(
    request: &Request,
    control: &UnixStream,
    streams: Streams,
    go: &OwnedFd,
    reports: &mut File,
) -> Result<(), Failure> {
    if request.backend == Backend::Namespaces {
        sys::die_with_parent().map_err(Failure::to("bind init to its supervisor"))?;
    } else {
        sys::become_subreaper().map_err(Failure::to("become a subreaper"))?;
        let _ = sys::new_session();
    }
    let mut byte = [0];
    let begun = File::from(go.try_clone().map_err(Failure::to("copy a descriptor"))?)
        .read(&mut byte)
        .map_err(Failure::to("hear from the supervisor"))?;
    if begun == 0 {
        return Err(Failure::new("the supervisor is gone"));
    }
    if let Some(cpus) = request.limits.cpus {
        // Where a cgroup limits the processors, staying on as many costs nothing.
        let count = cpus.ceil().clamp(1.0, 4096.0) as usize;
        let _ = sys::use_processors(count, processes::seed());
    }
    if request.backend == Backend::Namespaces {
        namespaces::enter(request, control.as_fd())?;
    }
    let children = sys::child_signal().map_err(Failure::to("watch for ended processes"))?;
    let (asked, asks) = UnixStream::pair().map_err(Failure::to("make a socket pair"))?;
    let command = match sys::fork(0).map_err(Failure::to("start the command's process"))? {
        Fork::Child => {
            drop(asked);
            let failure = confine::become_program(request, &streams, &asks, reports);
            Message::from(failure).send(reports);
            sys::exit_now(127)
        }
        Fork::Parent(pid) => pid,
    };
    drop((streams, asks));
    let null = File::open("/dev/null").map_err(Failure::to("open /dev/null"))?;
    for standard in 0..3 {
        sys::become_standard(null.as_fd(), standard).map_err(Failure::to("close the output"))?;
    }
    // Nothing inside may look into init, which is all that init needed its powers for.
    let _ = sys::become_unreadable();
    let _ = sys::drop_capabilities();
    let questions = Questions::from(asked);
    reap(command, go, &children, questions, request.net, reports);
    Ok(())
}

/// Reaps until the command ends or the supervisor is gone, and answers what the command's filter asks meanwhile.
fn reap(command: i32, go: &OwnedFd, children: &OwnedFd, mut questions: Questions, net: Net, reports: &mut File) {
    loop {
        loop {
            match sys::wait(-1, false) {
                Waited::Ended(pid, status) if pid == command => {
                    Message::Ended {
                        status,
                        peak: sys::children_peak(),
                    }
                    .send(reports);
                    return;
                }
                Waited::Ended(..) => {}
                Waited::Nothing => break,
                Waited::NoChildren => return,
            }
        }
        match sys::poll(&[Some(children.as_fd()), Some(go.as_fd()), questions.source()], None) {
            Ok(ready) if !ready[1] => {
                if ready[2] {
                    questions.answer_next(net);
                }
                if ready[0] {
                    let mut buffer = [0; 1024];
                    // Only empties the descriptor; what ended is asked for above.
                    let _ = rustix::io::read(children, &mut buffer);
                }
            }
            _ => return,
        }
    }
}
