//! The first process inside a sandbox: sets it up, starts the command, reaps orphans.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use serde::{Deserialize, Serialize};

use super::supervise::Streams;
use super::{Failure, confine, namespaces, processes};
use crate::Backend;
use crate::sys::{self, Fork, Waited};
use crate::wire::Request;

/// What init and the command tell the supervisor, as lines of JSON on one pipe.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The command is confined and becomes its program next.
    Confined { landlock_abi: u32, seccomp: bool },
    /// The command did not start.
    Failed { text: String, missing: bool },
    /// The command ended with this raw status; `peak` is of its largest process.
    Ended { status: i32, peak: u64 },
}

impl Message {
    pub(super) fn read_all(bytes: &[u8]) -> Vec<Message> {
        bytes
            .split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .collect()
    }

    pub(super) fn send(&self, pipe: &mut File) {
        if let Ok(mut line) = serde_json::to_vec(self) {
            line.push(b'\n');
            // A supervisor that is gone has taken this process with it.
            let _ = pipe.write_all(&line);
        }
    }
}

/// Runs as init; `go` gives one byte to begin, and its end means that the supervisor is gone.
pub(super) fn main(request: &Request, control: &UnixStream, streams: Streams, go: &OwnedFd, reports: OwnedFd) -> ! {
    let mut reports = File::from(reports);
    let scoped = request.backend == Backend::Landlock && confine::enter_signal_scope();
    if let Err(failure) = run(request, control, streams, go, &mut reports) {
        Message::Failed {
            text: failure.text,
            missing: failure.missing,
        }
        .send(&mut reports);
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
        sys::signal_on_parent_death(libc::SIGKILL).map_err(Failure::to("bind init to its supervisor"))?;
    } else {
        sys::become_subreaper().map_err(Failure::to("become a subreaper"))?;
        let _ = sys::new_session();
    }
    let mut byte = [0];
    let begun = File::from(go.try_clone().map_err(Failure::to("copy a descriptor"))?)
        .read(&mut byte)
        .map_err(Failure::to("hear from the supervisor"))?;
    if begun == 0 {
        return Err(Failure {
            text: "the supervisor is gone".into(),
            missing: false,
        });
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
    let command = match sys::fork(0).map_err(Failure::to("start the command's process"))? {
        Fork::Child => {
            let failure = confine::become_program(request, &streams, reports);
            Message::Failed {
                text: failure.text,
                missing: failure.missing,
            }
            .send(reports);
            sys::exit_now(127)
        }
        Fork::Parent(pid) => pid,
    };
    drop(streams);
    let null = File::open("/dev/null").map_err(Failure::to("open /dev/null"))?;
    for standard in 0..3 {
        sys::become_standard(null.as_fd(), standard).map_err(Failure::to("close the output"))?;
    }
    // Nothing inside may look into init, which is all that init needed its powers for.
    let _ = sys::set_dumpable(false);
    let _ = sys::drop_capabilities();
    reap(command, go, &children, reports);
    Ok(())
}

/// Reaps until the command ends or the supervisor is gone.
fn reap(command: i32, go: &OwnedFd, children: &OwnedFd, reports: &mut File) {
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
        match sys::poll(&[Some(children.as_fd()), Some(go.as_fd())], None) {
            Ok(ready) if !ready[1] => {
                let mut buffer = [0; 1024];
                // Only empties the descriptor; what ended is asked for above.
                let _ = rustix::io::read(children, &mut buffer);
            }
            _ => return,
        }
    }
}
