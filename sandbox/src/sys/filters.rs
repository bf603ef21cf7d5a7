//! System-call filters, and the questions of those that leave calls to somebody else.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::answer::check;

/// Installs a seccomp filter on this thread; needs no_new_privs or privilege.
pub(crate) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    install(program, 0).map(drop)
}

/// Installs a seccomp filter like [`install_filter`]; returns the descriptor on which the calls are asked about that
/// the filter leaves to somebody else.
pub(crate) fn install_asking_filter(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let listener = install(program, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: with this flag the answer is a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(listener as RawFd) })
}

fn install(program: &[libc::sock_filter], flags: libc::c_ulong) -> io::Result<libc::c_long> {
    const SET_MODE_FILTER: libc::c_uint = 1;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program is live and its length is its own; the kernel only reads it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, flags, &raw const program) })
}

/// A call that a filter leaves to somebody else.
pub(crate) struct Question {
    id: u64,
    /// The thread that asks, and waits.
    pub(crate) thread: u32,
    /// The number of the call.
    pub(crate) number: i32,
    /// Its arguments.
    pub(crate) arguments: [u64; 6],
}

/// Takes the next question of an asking filter; `None` when whoever asked is gone.
pub(crate) fn next_question(listener: BorrowedFd<'_>) -> io::Result<Option<Question>> {
    // SAFETY: plain data, for which the kernel asks that it be zero.
    let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives through the call and is the one that the request names.
    let answer = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV as _,
            &raw mut asked,
        )
    };
    match check(libc::c_long::from(answer)) {
        Ok(_) => Ok(Some(Question {
            id: asked.id,
            thread: asked.pid,
            number: asked.data.nr,
            arguments: asked.data.args,
        })),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What becomes of a call that was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The kernel carries it out.
    GoesOn,
    /// It is done already; whoever asked is told of success.
    Done,
    /// It fails with this number.
    Fails(i32),
}

/// Answers a question. Whoever asked may be gone.
pub(crate) fn answer_question(listener: BorrowedFd<'_>, question: &Question, answer: Answer) {
    let (error, flags) = match answer {
        Answer::GoesOn => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
        Answer::Done => (0, 0),
        Answer::Fails(errno) => (-errno, 0),
    };
    let answer = libc::seccomp_notif_resp {
        id: question.id,
        val: 0,
        error,
        flags,
    };
    // SAFETY: the structure lives through the call and is the one that the request names.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND as _,
            &raw const answer,
        );
    }
}

/// Puts a descriptor in the place of one of whoever asks.
pub(crate) fn replace_descriptor(
    listener: BorrowedFd<'_>,
    question: &Question,
    number: u32,
    by: BorrowedFd<'_>,
    close_on_exec: bool,
) -> io::Result<()> {
    let addfd = libc::seccomp_notif_addfd {
        id: question.id,
        flags: libc::SECCOMP_ADDFD_FLAG_SETFD as u32,
        srcfd: by.as_raw_fd() as u32,
        newfd: number,
        newfd_flags: if close_on_exec { libc::O_CLOEXEC as u32 } else { 0 },
    };
    // SAFETY: the structure lives through the call and is the one that the request names.
    let answer = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ADDFD as _,
            &raw const addfd,
        )
    };
    check(libc::c_long::from(answer)).map(drop)
}
