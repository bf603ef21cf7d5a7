//! The system-call filter: what no build or test needs and an escape does.
//!
//! The filter names what is denied. What it cannot name by its number alone is judged by arguments
//! that are passed in registers; calls whose arguments lie in memory are denied as a whole
//! (`clone3`, whose callers fall back to `clone`).

use libc::{c_long, sock_filter};

use crate::Backend;
use crate::wire::Net;

#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;

/// The first number of the x32 calls, which name the same calls a second time.
const X32: u32 = 0x4000_0000;

const ALLOW: u32 = 0x7fff_0000;
const DENY: u32 = 0x0005_0000;

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// Denied in every sandbox.
const ALWAYS: &[c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_setns,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_reboot,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_nfsservctl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_vhangup,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_quotactl_fd,
];

/// Denied unless the command makes sandboxes of its own.
const MOUNTING: &[c_long] = &[
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_unshare,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
];

#[cfg(target_arch = "x86_64")]
const ARCH_ONLY: &[c_long] = &[
    libc::SYS_iopl,
    libc::SYS_ioperm,
    libc::SYS_kexec_file_load,
    libc::SYS_lookup_dcookie,
    libc::SYS_uselib,
    libc::SYS_ustat,
    libc::SYS_sysfs,
    libc::SYS__sysctl,
];
#[cfg(target_arch = "aarch64")]
const ARCH_ONLY: &[c_long] = &[libc::SYS_kexec_file_load, libc::SYS_lookup_dcookie];

/// `open_tree_attr` and later calls of the mounting family, by numbers that libc does not name yet.
const OPEN_TREE_ATTR: c_long = 467;

const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541C;
const MSG_FASTOPEN: u32 = 0x2000_0000;
/// `fchmodat2`, which libc names on newer targets only.
const FCHMODAT2: c_long = 452;
/// Flags of an open that make its mode count; without them that register may hold anything.
const CREATES: u32 = (libc::O_CREAT | (libc::O_TMPFILE & !libc::O_DIRECTORY)) as u32;

/// Largest piece of System V memory where it cannot be counted; servers of databases take some dozens of bytes.
const SHARED_PIECE: u32 = 1 << 20;
/// Modes of an allocation that give space back.
const GIVES_BACK: u32 = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_COLLAPSE_RANGE) as u32;

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
    pub(super) landlock_abi: u32,
}

/// Makes the filter for a command.
pub(super) fn filter(rules: &Rules) -> Vec<sock_filter> {
    let Rules {
        backend,
        net,
        nesting,
        preallocates,
        unmapped_memory,
        landlock_abi,
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
    // What makes sandboxes of its own needs it for their input.
    if !unmapped_memory && !nesting {
        filter.deny(libc::SYS_memfd_create, libc::ENOSYS);
        filter.deny(libc::SYS_memfd_secret, libc::ENOSYS);
        filter.when(libc::SYS_shmget, |body| {
            body.deny_if_above(1, SHARED_PIECE, libc::EINVAL)
        });
    }
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
    });
    match backend {
        Backend::Namespaces => own_network(&mut filter),
        Backend::Landlock | Backend::Unsafe if net == Net::Host => own_network(&mut filter),
        Backend::Landlock | Backend::Unsafe => host_network(&mut filter, net),
    }
    if backend == Backend::Landlock && landlock_abi < 6 {
        no_signals_by_number(&mut filter);
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
fn host_network(filter: &mut Filter, net: Net) {
    filter.when(libc::SYS_socketpair, |body| {
        body.deny_unless_equal(0, libc::AF_UNIX as u32, u32::MAX, libc::EPERM);
        // A pair of datagram sockets could be connected to something else.
        body.allow_if_equal(1, libc::SOCK_STREAM as u32, 0xf);
        body.deny_unless_equal(1, libc::SOCK_SEQPACKET as u32, 0xf, libc::EPERM);
    });
    if !matches!(net, Net::PortProxy(_)) {
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
    // Data in the first packet would leave without a connect for Landlock to judge.
    for (number, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        filter.when(number, |body| body.deny_if_any_bit(flags, MSG_FASTOPEN, libc::EPERM));
    }
    filter.deny(libc::SYS_listen, libc::EPERM);
}

/// Without Landlock's scope for signals (before Linux 6.12): signals go to the own process or its
/// group only, by numbers that name no process.
fn no_signals_by_number(filter: &mut Filter) {
    for number in [
        libc::SYS_tkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_pidfd_send_signal,
        libc::SYS_rt_tgsigqueueinfo,
    ] {
        filter.deny(number, libc::EPERM);
    }
    filter.when(libc::SYS_kill, |body| {
        body.allow_if_equal(0, 0, u32::MAX);
        body.deny_all(libc::EPERM);
    });
}

const fn stmt(code: u32, k: u32) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    }
}

const fn jump(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;

/// A filter in the making.
struct Filter {
    program: Vec<sock_filter>,
}

/// The judgement of one call's arguments. What it does not decide is allowed.
struct Body {
    program: Vec<sock_filter>,
}

impl Filter {
    fn begin() -> Filter {
        let program = vec![
            stmt(LOAD, ARCHITECTURE),
            jump(EQUAL, ARCH, 1, 0),
            stmt(RETURN, DENY | libc::ENOSYS as u32),
            stmt(LOAD, NUMBER),
            jump(AT_LEAST, X32, 0, 1),
            stmt(RETURN, DENY | libc::ENOSYS as u32),
        ];
        Filter { program }
    }

    fn deny(&mut self, number: c_long, errno: i32) {
        self.program.push(jump(EQUAL, number as u32, 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    fn when(&mut self, number: c_long, judge: impl FnOnce(&mut Body)) {
        let mut body = Body { program: Vec::new() };
        judge(&mut body);
        body.program.push(stmt(RETURN, ALLOW));
        // Bodies are a dozen instructions; a jump reaches 255.
        let length = body.program.len() as u8;
        self.program.push(jump(EQUAL, number as u32, 0, length));
        self.program.append(&mut body.program);
    }

    fn finish(mut self) -> Vec<sock_filter> {
        self.program.push(stmt(RETURN, ALLOW));
        self.program
    }
}

impl Body {
    /// Loads the lower half of an argument; the kernel looks at no more of those judged here.
    fn load(&mut self, argument: u32, mask: u32) {
        self.program.push(stmt(LOAD, 16 + 8 * argument));
        if mask != u32::MAX {
            self.program.push(stmt(AND, mask));
        }
    }

    fn deny_if_any_bit(&mut self, argument: u32, bits: u32, errno: i32) {
        self.load(argument, u32::MAX);
        self.program.push(jump(ANY_BIT, bits, 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    fn deny_if_equal(&mut self, argument: u32, value: u32, errno: i32) {
        self.load(argument, u32::MAX);
        self.program.push(jump(EQUAL, value, 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    /// Judges all 64 bits.
    fn deny_if_above(&mut self, argument: u32, value: u32, errno: i32) {
        self.program.push(stmt(LOAD, 16 + 8 * argument + 4));
        self.program.push(jump(EQUAL, 0, 0, 2));
        self.load(argument, u32::MAX);
        self.program.push(jump(AT_LEAST, value.saturating_add(1), 0, 1));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    fn deny_unless_equal(&mut self, argument: u32, value: u32, mask: u32, errno: i32) {
        self.load(argument, mask);
        self.program.push(jump(EQUAL, value, 1, 0));
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    fn allow_if_equal(&mut self, argument: u32, value: u32, mask: u32) {
        self.load(argument, mask);
        self.program.push(jump(EQUAL, value, 0, 1));
        self.program.push(stmt(RETURN, ALLOW));
    }

    fn allow_all(&mut self) {
        self.program.push(stmt(RETURN, ALLOW));
    }

    fn deny_all(&mut self, errno: i32) {
        self.program.push(stmt(RETURN, DENY | errno as u32));
    }

    /// Judges further when an argument has one of some bits.
    fn when_any_bit(&mut self, argument: u32, bits: u32, judge: impl FnOnce(&mut Body)) {
        let mut body = Body { program: Vec::new() };
        judge(&mut body);
        self.load(argument, u32::MAX);
        self.program.push(jump(ANY_BIT, bits, 0, body.program.len() as u8));
        self.program.append(&mut body.program);
    }

    /// Judges further when an argument has a value.
    fn when_equal(&mut self, argument: u32, value: u32, judge: impl FnOnce(&mut Body)) {
        let mut body = Body { program: Vec::new() };
        judge(&mut body);
        self.load(argument, u32::MAX);
        self.program.push(jump(EQUAL, value, 0, body.program.len() as u8));
        self.program.append(&mut body.program);
    }
}

#[cfg(test)]
mod tests;
