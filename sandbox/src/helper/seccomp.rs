//! The system-call filter: what no build or test needs and an escape does.
//!
//! The filter names what is denied. What it cannot name by its number alone is judged by arguments
//! that are passed in registers; calls whose arguments lie in memory are denied as a whole
//! (`clone3`, whose callers fall back to `clone`).

mod calls;
mod program;

use calls::{ALWAYS, ARCH_ONLY, FCHMODAT2, MOUNTING, NAMED_MEMORY, OPEN_TREE_ATTR};
use libc::sock_filter;
use program::Filter;

use crate::backend::Backend;
use crate::wire::Net;

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;
/// Makes a file that was opened for reading unchangeable for ever.
const FS_IOC_ENABLE_VERITY: u32 = 0x4080_6685;
const MSG_FASTOPEN: u32 = 0x2000_0000;
/// Flags of an open that make its mode count; without them that register may hold anything.
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// Largest piece of System V memory where it cannot be counted, and most semaphores of one set; servers of databases take
/// some dozens of bytes and less than a score. There are thousands of either.
const SHARED_PIECE: u32 = 4096;
const SEMAPHORES: u32 = 32;
/// Modes of an allocation that give space back.
const GIVES_BACK: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_COLLAPSE_RANGE) as u32;

/// Asks who is told of what a socket or terminal has to say, and so who gets a signal.
const FIOSETOWN: u32 = 0x8901;
const SIOCSPGRP: u32 = 0x8902;
const F_SETOWN_EX: u32 = 15;
/// One process, of `linux/resource.h` and `linux/ioprio.h`.
const PRIO_PROCESS: u32 = 0;
const IOPRIO_WHO_PROCESS: u32 = 1;

/// What a filter depends on.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    pub(super) backend: Backend,
    pub(super) net: Net,
    pub(super) nesting: bool,
    /// Whether space may be taken otherwise than by writing: a disk that is watched could be full between two looks.
    /// File systems that cannot do it at all answer as is done here, and callers write instead.
    pub(super) preallocates: bool,
    /// Whether there may be memory that no process maps. Where it cannot be counted, there is none to have, as on a
    /// kernel without it, and of the System V kind only small pieces, as with a low `kernel.shmmax`.
    pub(super) unmapped_memory: bool,
    /// Whether the processors may be chosen freely: not where staying on some is what keeps the limit.
    pub(super) any_processor: bool,
    pub(super) landlock_abi: u32,
    /// Whether there is somebody to leave calls to; where not, they are denied.
    pub(super) askable: bool,
}

impl Rules {
    /// Tells whether the filter leaves calls to somebody else.
    pub(super) fn asks(&self) -> bool {
        self.askable && (self.judges_signals() || self.connects())
    }

    /// Tells whether connections are made: on the host's network, to a proxy of there.
    pub(super) fn connects(&self) -> bool {
        self.backend == Backend::Landlock && matches!(self.net, Net::PortProxy(_))
    }

    fn judges_signals(&self) -> bool {
        self.backend == Backend::Landlock && self.landlock_abi < 6
    }
}

/// Makes the filter for a command.
pub(super) fn filter(rules: &Rules) -> Vec<sock_filter> {
    let Rules {
        backend,
        net,
        nesting,
        preallocates,
        unmapped_memory,
        any_processor,
        landlock_abi,
        askable,
    } = *rules;
    let mut filter = Filter::begin();
    for number in ALWAYS.iter().chain(ARCH_ONLY).copied() {
        filter.deny(number, libc::EPERM);
    }
    filter.deny(libc::SYS_clone3, libc::ENOSYS);
    // A private root has no foreign file that may be written; without one, Landlock alone keeps them.
    let truncates = backend == Backend::Landlock && landlock_abi < 3;
    if truncates {
        filter.deny(libc::SYS_truncate, libc::EPERM);
    }
    judge_opens(&mut filter, truncates);
    if backend == Backend::Landlock {
        on_host_processes(&mut filter);
    }
    // What makes sandboxes of its own needs it for their input.
    if !unmapped_memory && !nesting {
        only_mapped_memory(&mut filter);
    }
    stay_on_processors(&mut filter, backend, any_processor);
    if !preallocates {
        filter.when(libc::SYS_fallocate, |body| {
            body.when_any_bit(1, GIVES_BACK, |body| body.allow_all());
            body.deny_all(libc::EOPNOTSUPP);
        });
    }
    no_set_user_id(&mut filter);
    if !nesting {
        for number in MOUNTING.iter().copied().chain([OPEN_TREE_ATTR]) {
            filter.deny(number, libc::EPERM);
        }
        filter.when(libc::SYS_clone, |body| {
            body.deny_if_any_bit(0, NEW_NAMESPACES, libc::EPERM)
        });
    }
    filter.when(libc::SYS_ioctl, |body| {
        body.deny_if_equal(1, TIOCSTI, libc::EPERM);
        body.deny_if_equal(1, TIOCLINUX, libc::EPERM);
        body.deny_if_equal(1, FS_IOC_ENABLE_VERITY, libc::EPERM);
        if rules.judges_signals() {
            body.deny_if_equal(1, FIOSETOWN, libc::EPERM);
            body.deny_if_equal(1, SIOCSPGRP, libc::EPERM);
        }
    });
    match backend {
        Backend::Namespaces => own_network(&mut filter),
        Backend::Landlock | Backend::Unsafe if net == Net::Host => own_network(&mut filter),
        Backend::Landlock | Backend::Unsafe => host_network(&mut filter, rules),
    }
    if rules.judges_signals() {
        judge_signals(&mut filter, askable);
    }
    filter.finish()
}

/// Nothing becomes a program that runs as its owner: a file of the work tree is a file of the host, owned by the user who
/// runs Foreman, and would be that user's power for whoever else on the machine starts it.
fn no_set_user_id(filter: &mut Filter) {
    for (number, mode) in [
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_chmod, 1),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_creat, 1),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_mknod, 1),
        (libc::SYS_fchmod, 1),
        (libc::SYS_fchmodat, 2),
        (libc::SYS_mknodat, 2),
        (FCHMODAT2, 2),
    ] {
        filter.when(number, |body| body.deny_if_any_bit(mode, libc::S_ISUID, libc::EPERM));
    }
}

/// Denies what an open may not do: make a program that runs as its owner and, where Landlock does not know truncation
/// (ABI 1 and 2), empty a file that is not opened for writing, which Landlock would have judged.
fn judge_opens(filter: &mut Filter, truncates: bool) {
    for (number, flags) in [
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_open, 1),
        (libc::SYS_openat, 2),
    ] {
        filter.when(number, |body| {
            body.when_any_bit(flags, CREATES, |body| {
                body.deny_if_any_bit(flags + 1, libc::S_ISUID, libc::EPERM);
            });
            if truncates {
                body.when_any_bit(flags, libc::O_TRUNC as u32, |body| {
                    for mode in [libc::O_WRONLY, libc::O_RDWR] {
                        body.allow_if_equal(flags, mode as u32, libc::O_ACCMODE as u32);
                    }
                    body.deny_all(libc::EPERM);
                });
            }
        });
    }
    // Its mode lies in memory; callers fall back to openat.
    filter.deny(libc::SYS_openat2, libc::ENOSYS);
}

/// In a network namespace: the families that it holds, and no other (vsock and the like do not know
/// namespaces).
fn own_network(filter: &mut Filter) {
    for number in [libc::SYS_socket, libc::SYS_socketpair] {
        filter.when(number, |body| {
            for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
                body.allow_if_equal(0, family as u32, u32::MAX);
            }
            // Route netlink: looked at by name resolution. Other protocols of it are not needed.
            body.deny_unless_equal(0, libc::AF_NETLINK as u32, u32::MAX, libc::EAFNOSUPPORT);
            body.deny_unless_equal(2, 0, u32::MAX, libc::EAFNOSUPPORT);
        });
    }
}

/// On the host's network: connected pairs only, and TCP where a proxy was granted.
///
/// Sockets of the Unix family are denied because neither this filter nor Landlock can tell the
/// command's own from those of the host's services.
fn host_network(filter: &mut Filter, rules: &Rules) {
    filter.when(libc::SYS_socketpair, |body| {
        body.deny_unless_equal(0, libc::AF_UNIX as u32, u32::MAX, libc::EPERM);
        // A pair of datagram sockets could be connected to something else.
        body.allow_if_equal(1, libc::SOCK_STREAM as u32, 0xf);
        body.deny_unless_equal(1, libc::SOCK_SEQPACKET as u32, 0xf, libc::EPERM);
    });
    if !rules.connects() {
        filter.deny(libc::SYS_socket, libc::EPERM);
        return;
    }
    filter.when(libc::SYS_socket, |body| {
        body.deny_unless_equal(1, libc::SOCK_STREAM as u32, 0xf, libc::EPERM);
        body.deny_if_equal(0, libc::AF_UNIX as u32, libc::EPERM);
        for protocol in [0, libc::IPPROTO_TCP as u32] {
            body.when_equal(2, protocol, |body| {
                body.allow_if_equal(0, libc::AF_INET as u32, u32::MAX);
                body.allow_if_equal(0, libc::AF_INET6 as u32, u32::MAX);
            });
        }
        body.deny_all(libc::EPERM);
    });
    if rules.askable {
        filter.when(libc::SYS_connect, |body| body.ask());
    } else {
        filter.deny(libc::SYS_connect, libc::EPERM);
    }
    // Data in the first packet would leave without a connect to judge.
    for (number, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        filter.when(number, |body| body.deny_if_any_bit(flags, MSG_FASTOPEN, libc::EPERM));
    }
    filter.deny(libc::SYS_listen, libc::EPERM);
}

/// Where the host's processes have numbers here: nothing is set for any process but the own one, and nothing is shared
/// with others by a name. Landlock knows neither.
fn on_host_processes(filter: &mut Filter) {
    for number in [
        libc::SYS_prlimit64,
        libc::SYS_sched_setscheduler,
        libc::SYS_sched_setparam,
        libc::SYS_sched_setattr,
    ] {
        filter.when(number, |body| body.deny_unless_equal(0, 0, u32::MAX, libc::EPERM));
    }
    for (number, one_process) in [
        (libc::SYS_setpriority, PRIO_PROCESS),
        (libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS),
    ] {
        filter.when(number, |body| {
            body.deny_unless_equal(0, one_process, u32::MAX, libc::EPERM);
            body.deny_unless_equal(1, 0, u32::MAX, libc::EPERM);
        });
    }
    for number in NAMED_MEMORY.iter().copied() {
        filter.deny(number, libc::ENOSYS);
    }
}

/// Denies memory that no process maps, as far as it comes in more than small pieces.
fn only_mapped_memory(filter: &mut Filter) {
    for number in [libc::SYS_memfd_create, libc::SYS_memfd_secret, libc::SYS_msgget] {
        filter.deny(number, libc::ENOSYS);
    }
    filter.when(libc::SYS_shmget, |body| {
        body.deny_if_above(1, SHARED_PIECE, libc::EINVAL)
    });
    filter.when(libc::SYS_semget, |body| body.deny_if_above(1, SEMAPHORES, libc::EINVAL));
}

fn stay_on_processors(filter: &mut Filter, backend: Backend, any_processor: bool) {
    if !any_processor {
        filter.deny(libc::SYS_sched_setaffinity, libc::EPERM);
    } else if backend == Backend::Landlock {
        filter.when(libc::SYS_sched_setaffinity, |body| {
            body.deny_unless_equal(0, 0, u32::MAX, libc::EPERM)
        });
    }
}

/// Without Landlock's scope for signals (before Linux 6.12): signals go to the own group, by the number that means it,
/// and where somebody is asked to the sandbox's other processes.
fn judge_signals(filter: &mut Filter, asks: bool) {
    for number in [
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
    ] {
        if asks {
            filter.when(number, |body| body.ask());
        } else {
            filter.deny(number, libc::EPERM);
        }
    }
    filter.when(libc::SYS_kill, |body| {
        body.allow_if_equal(0, 0, u32::MAX);
        if asks {
            body.ask();
        } else {
            body.deny_all(libc::EPERM);
        }
    });
    filter.deny(libc::SYS_pidfd_send_signal, libc::EPERM);
    // Who is told by a signal that a descriptor is ready.
    filter.when(libc::SYS_fcntl, |body| {
        body.deny_if_equal(1, libc::F_SETOWN as u32, libc::EPERM);
        body.deny_if_equal(1, F_SETOWN_EX, libc::EPERM);
    });
}

#[cfg(test)]
mod tests;
