//! What a process gives up, and what binds it to others.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{DumpableBehavior, Signal, set_child_subreaper, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

use super::answer::check;

/// Has the kernel kill this process when its parent thread ends.
pub(crate) fn die_with_parent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?)
}

/// Makes orphaned descendants children of this process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    Ok(set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Keeps other processes of the same user from inspecting this one.
pub(crate) fn become_unreadable() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// Gives up gaining privileges by exec, for good.
pub(crate) fn set_no_new_privileges() -> io::Result<()> {
    Ok(set_no_new_privs(true)?)
}

/// Drops every capability, from every set, for good.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    for one in CapabilitySet::all().iter() {
        // Not known to this kernel, or not allowed because there are none to drop it with.
        let _ = remove_capability_from_bounding_set(one);
    }
    // Fails on kernels that have no such set.
    let _ = clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, none)?)
}

/// Leaves all supplementary groups; needs privilege.
pub(crate) fn drop_groups() -> io::Result<()> {
    // SAFETY: zero groups need no list.
    check(libc::c_long::from(unsafe { libc::setgroups(0, std::ptr::null()) })).map(drop)
}

/// Returns the effective user and group.
pub(crate) fn identity() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// Returns the kernel's Landlock ABI, 0 when it has none.
pub(crate) fn landlock_abi() -> u32 {
    const VERSION: libc::c_uint = 1;
    // SAFETY: with this flag the call takes no attributes and only answers a number.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            VERSION,
        )
    };
    u32::try_from(answer).unwrap_or(0)
}

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
            number: asked.data.nr,
            arguments: asked.data.args,
        })),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Lets the call of a question go on, or has it fail with `EPERM`.
pub(crate) fn answer_question(listener: BorrowedFd<'_>, question: &Question, allowed: bool) {
    let answer = libc::seccomp_notif_resp {
        id: question.id,
        val: 0,
        error: if allowed { 0 } else { -libc::EPERM },
        flags: if allowed {
            libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32
        } else {
            0
        },
    };
    // SAFETY: the structure lives through the call and is the one that the request names. Whoever asked may be gone.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND as _,
            &raw const answer,
        );
    }
}
