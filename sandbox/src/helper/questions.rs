//! Answers what the system-call filter leaves to init: calls that it cannot judge by what registers hold.
//!
//! The thread that asks waits meanwhile.

mod connects;
mod signals;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use crate::sys::{self, Answer, Question};
use crate::wire::{self, Net};

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

    /// Takes what is there: the descriptor, or one question of a command with this network.
    pub(super) fn answer_next(&mut self, net: Net) {
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
                        let answer = answer(listener.as_fd(), &question, net);
                        sys::answer_question(listener.as_fd(), &question, answer);
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

fn answer(listener: BorrowedFd<'_>, question: &Question, net: Net) -> Answer {
    match (libc::c_long::from(question.number), net) {
        (libc::SYS_connect, Net::PortProxy(port)) => connects::answer(listener, question, port),
        _ if signals::stays_inside(question) => Answer::GoesOn,
        _ => Answer::Fails(libc::EPERM),
    }
}
