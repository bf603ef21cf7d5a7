//! Processes: making them, becoming another program, signals, and their ends.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use rustix::process::{Pid, PidfdFlags};

use super::answer::check;

/// Which side of a fork this is.
pub(crate) enum Fork {
    /// The new process.
    Child,
    /// The old process, with the new one's id.
    Parent(i32),
}

/// Forks with namespace flags.
///
/// The caller's process has one thread that allocates (a supervisor), so the child may go on in Rust.
pub(crate) fn fork(namespaces: libc::c_int) -> io::Result<Fork> {
    let flags = libc::c_long::from(namespaces) | libc::c_long::from(libc::SIGCHLD);
    // SAFETY: clone without CLONE_VM and with no new stack behaves as fork does.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok(if pid == 0 {
        Fork::Child
    } else {
        Fork::Parent(pid as i32)
    })
}

/// Ends this process at once, running nothing on the way.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Becomes another program; returns only the error.
pub(crate) fn exec(program: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let mut argv: Vec<*const libc::c_char> = args.iter().map(|arg| arg.as_ptr()).collect();
    argv.push(std::ptr::null());
    let mut envp: Vec<*const libc::c_char> = env.iter().map(|variable| variable.as_ptr()).collect();
    envp.push(std::ptr::null());
    // SAFETY: both lists end in a null pointer and all strings are live and NUL-terminated.
    unsafe {
        libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
    }
    io::Error::last_os_error()
}

/// Returns this process's id.
pub(crate) fn own_pid() -> i32 {
    std::process::id() as i32
}

/// Starts a new session.
pub(crate) fn new_session() -> io::Result<()> {
    Ok(rustix::process::setsid().map(drop)?)
}

/// Sends a signal; a process that is gone is no error.
pub(crate) fn kill(pid: i32, signal: libc::c_int) {
    // SAFETY: kill takes plain integers.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// Tells whether this process may signal another; one that is gone counts as yes.
pub(crate) fn may_signal(pid: i32) -> bool {
    // SAFETY: kill takes plain integers; signal 0 only asks.
    let answer = unsafe { libc::kill(pid, 0) };
    answer == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::EPERM)
}

/// What waiting for children found.
pub(crate) enum Waited {
    /// There are no children.
    NoChildren,
    /// There are children, and none ended.
    Nothing,
    /// This child ended, with this raw status.
    Ended(i32, i32),
}

/// Collects one ended child, of any kind when `pid` is -1.
pub(crate) fn wait(pid: i32, block: bool) -> Waited {
    loop {
        let mut status = 0;
        let flags = libc::__WALL | if block { 0 } else { libc::WNOHANG };
        // SAFETY: the status lives through the call.
        let ended = unsafe { libc::waitpid(pid, &raw mut status, flags) };
        if ended > 0 {
            return Waited::Ended(ended, status);
        }
        if ended == 0 {
            return Waited::Nothing;
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return Waited::NoChildren;
        }
    }
}

/// Returns the most memory that one ended descendant used, in bytes.
pub(crate) fn children_peak() -> u64 {
    // SAFETY: rusage is plain data, and an all-zero one is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives through the call.
    let answer = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) };
    if answer == 0 {
        u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024
    } else {
        0
    }
}

/// Opens a descriptor that becomes readable when a process ends.
pub(crate) fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// Opens a descriptor that becomes readable when a child ends, and blocks SIGCHLD for it.
pub(crate) fn child_signal() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset and lives through the calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(libc::c_long::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives every signal its default action and blocks none, as a fresh program expects.
pub(crate) fn reset_signals() {
    // SAFETY: plain integers and a set that is initialised and lives through the call.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}
