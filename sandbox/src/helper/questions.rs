//! Answers whether a command may send a signal, on kernels whose Landlock has no scope for signals (before Linux 6.12).
//!
//! Such a kernel lets a process signal any other of its user. The system-call filter cannot tell a process of the
//! sandbox from one of the host, so it leaves those calls to init, which can: what lies below init is the sandbox's. The
//! process that asks waits meanwhile, and its arguments are in registers that nobody can change.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::processes;
use crate::sys::{self, Question};
use crate::wire;

/// Where questions come from.
pub(super) enum Questions {
    /// The command has yet to say where.
    Awaited(UnixStream),
    /// The filter's own descriptor.
    Asked(OwnedFd),
    /// There are none, or no more.
    None,
}

impl From<UnixStream> for Questions {
    fn from(socket: UnixStream) -> Questions {
        Questions::Awaited(socket)
    }
}

/// Hands over where the questions of this process, and of all that it starts, come from.
pub(super) fn hand_over(socket: &UnixStream, listener: &OwnedFd) -> std::io::Result<()> {
    wire::send(socket.as_fd(), b"q", &[listener.as_fd()])
}

impl Questions {
    /// Returns what is readable when there is something to be done.
    pub(super) fn source(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Questions::Awaited(socket) => Some(socket.as_fd()),
            Questions::Asked(listener) => Some(listener.as_fd()),
            Questions::None => None,
        }
    }

    /// Takes what is there: the descriptor, or one question.
    pub(super) fn answer_next(&mut self) {
        match self {
            Questions::Awaited(socket) => {
                let received = wire::receive(socket.as_fd(), &mut [0]);
                let listener = received.ok().and_then(|(_, fds)| fds.into_iter().next());
                *self = listener.map_or(Questions::None, Questions::Asked);
            }
            Questions::Asked(listener) => {
                // At its end, which is that of all who could ask, it would keep init waiting.
                if !sys::has_input(listener.as_fd()) {
                    *self = Questions::None;
                    return;
                }
                match sys::next_question(listener.as_fd()) {
                    Ok(Some(question)) => {
                        sys::answer_question(listener.as_fd(), &question, stays_inside(&question));
                    }
                    // Whoever asked is gone.
                    Ok(None) => {}
                    Err(_) => *self = Questions::None,
                }
            }
            Questions::None => {}
        }
    }
}

/// Tells whether a signal reaches nobody but processes below init.
fn stays_inside(question: &Question) -> bool {
    let init = sys::own_pid();
    // The kernel, too, reads no more than the lower half.
    let target = question.arguments[0] as i32;
    match libc::c_long::from(question.number) {
        libc::SYS_kill if target < -1 => target
            .checked_neg()
            .is_some_and(|group| processes::is_group_below(init, group)),
        libc::SYS_kill
        | libc::SYS_tkill
        | libc::SYS_tgkill
        | libc::SYS_rt_sigqueueinfo
        | libc::SYS_rt_tgsigqueueinfo => target > 0 && processes::is_below(init, target),
        _ => false,
    }
}
