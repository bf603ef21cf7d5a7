//! The system calls for which no safe wrapper serves, each behind a safe function.
//!
//! This is the crate's only module with unsafe code. Every block passes the kernel plain integers,
//! pointers to live local values, or NUL-terminated strings that outlive the call.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// Turns a system call's answer into a result.
fn check(answer: libc::c_long) -> io::Result<libc::c_long> {
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer)
    }
}

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

fn prctl(option: libc::c_int, argument: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used take plain integers.
    check(libc::c_long::from(unsafe { libc::prctl(option, argument, 0, 0, 0) })).map(drop)
}

/// Has the kernel send this process a signal when its parent thread ends.
pub(crate) fn signal_on_parent_death(signal: libc::c_int) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong)
}

/// Makes orphaned descendants children of this process.
pub(crate) fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Sets whether other processes of the same user may inspect this one.
pub(crate) fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable))
}

/// Gives up gaining privileges by exec, for good.
pub(crate) fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Drops every capability, from every set, for good.
pub(crate) fn drop_capabilities() -> io::Result<()> {
    for capability in 0..64 {
        match prctl(libc::PR_CAPBSET_DROP, capability) {
            Ok(()) => {}
            // Past the last capability, or not allowed because there are none to drop it with.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => break,
            Err(error) => return Err(error),
        }
    }
    // SAFETY: the ambient set takes plain integers; older kernels answer EINVAL, and have none.
    unsafe {
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    }
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    #[repr(C)]
    #[derive(Clone, Copy)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    let header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let data = [Data {
        effective: 0,
        permitted: 0,
        inheritable: 0,
    }; 2];
    // SAFETY: both structures live through the call and have the layout of capset(2), version 3.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Leaves all supplementary groups; needs privilege.
pub(crate) fn drop_groups() -> io::Result<()> {
    // SAFETY: zero groups need no list.
    check(libc::c_long::from(unsafe { libc::setgroups(0, std::ptr::null()) })).map(drop)
}

/// Returns the effective user and group.
pub(crate) fn identity() -> (u32, u32) {
    // SAFETY: neither call can fail.
    unsafe { (libc::geteuid(), libc::getegid()) }
}

/// Returns this process's id.
pub(crate) fn own_pid() -> i32 {
    std::process::id() as i32
}

/// Starts a new session.
pub(crate) fn new_session() -> io::Result<()> {
    // SAFETY: setsid has no preconditions.
    check(libc::c_long::from(unsafe { libc::setsid() })).map(drop)
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

/// Asks the scheduler to run this thread soon after it wakes, for a short time, before others that
/// wait as long; and, where that is allowed, with more weight.
///
/// Kernels before Linux 6.12 know no slice of one's own, and leave things as they are.
pub(crate) fn run_promptly() {
    #[repr(C)]
    #[derive(Default)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    const SLICE_NANOSECONDS: u64 = 100_000;
    for nice in [-10, 0] {
        let size = std::mem::size_of::<SchedAttr>() as u32;
        let wanted = SchedAttr {
            size,
            nice,
            runtime: SLICE_NANOSECONDS,
            ..SchedAttr::default()
        };
        // SAFETY: the structure lives through the call, says its size, and has sched_setattr(2)'s layout.
        if check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) }).is_ok() {
            return;
        }
    }
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

/// Splits a raw wait status into code or signal.
pub(crate) fn exit_of(status: i32) -> crate::Exit {
    if libc::WIFSIGNALED(status) {
        crate::Exit::Signal(libc::WTERMSIG(status))
    } else {
        crate::Exit::Code(libc::WEXITSTATUS(status))
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
    // SAFETY: plain integers; the answer is a new descriptor that nothing else owns.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the descriptor was just opened.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
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

/// Waits until one of the descriptors is readable or at its end; returns which are.
///
/// `None` entries are left out. No timeout means for ever.
pub(crate) fn poll(fds: &[Option<BorrowedFd<'_>>], timeout: Option<Duration>) -> io::Result<Vec<bool>> {
    let mut entries: Vec<libc::pollfd> = fds
        .iter()
        .map(|fd| libc::pollfd {
            fd: fd.map_or(-1, |fd| fd.as_raw_fd()),
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let millis = timeout.map_or(-1, |time| {
        // Round up, so that a deadline has passed when the call returns.
        i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
    });
    // SAFETY: the list lives through the call and its length is its own.
    let answer = unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, millis) };
    match check(libc::c_long::from(answer)) {
        Ok(_) => Ok(entries.iter().map(|entry| entry.revents != 0).collect()),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(vec![false; fds.len()]),
        Err(error) => Err(error),
    }
}

/// Borrows a descriptor that the process was started with.
pub(crate) fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: dup of any integer is sound; a closed one is an error. The answer is a new descriptor.
    unsafe {
        let copy = check(libc::c_long::from(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10)))?;
        Ok(OwnedFd::from_raw_fd(copy as RawFd))
    }
}

/// Makes `target` (0, 1 or 2) another name of a descriptor.
pub(crate) fn become_standard(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: plain integers; the standard descriptors are owned by nobody in these processes.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), target) })).map(drop)
}

/// Makes every descriptor from `first` on close at exec.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOEXEC: libc::c_uint = 4;
    // SAFETY: plain integers.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) }).map(drop)
}

/// Sets both values of a resource limit, at most to the hard one in force.
pub(crate) fn limit(resource: libc::c_long, value: u64) -> io::Result<()> {
    let mut now = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // The resource's type is an enum of C on one libc and an integer on another.
    let resource = resource as _;
    // SAFETY: the structure lives through both calls.
    unsafe {
        check(libc::c_long::from(libc::getrlimit(resource, &raw mut now)))?;
        let value = value.min(now.rlim_max);
        let wanted = libc::rlimit {
            rlim_cur: value,
            rlim_max: value,
        };
        check(libc::c_long::from(libc::setrlimit(resource, &raw const wanted))).map(drop)
    }
}

/// Keeps this process on `count` of the processors that it may use, beginning at one that varies.
pub(crate) fn use_processors(count: usize, seed: usize) -> io::Result<()> {
    // SAFETY: the sets are plain data, initialised by zeroing, and live through the calls.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = std::mem::size_of::<libc::cpu_set_t>();
        check(libc::c_long::from(libc::sched_getaffinity(0, size, &raw mut allowed)))?;
        let usable: Vec<usize> = (0..libc::CPU_SETSIZE as usize)
            .filter(|&cpu| libc::CPU_ISSET(cpu, &allowed))
            .collect();
        if count >= usable.len() {
            return Ok(());
        }
        let mut chosen: libc::cpu_set_t = std::mem::zeroed();
        for index in 0..count.max(1) {
            libc::CPU_SET(usable[(seed + index) % usable.len()], &mut chosen);
        }
        check(libc::c_long::from(libc::sched_setaffinity(0, size, &raw const chosen))).map(drop)
    }
}

/// Sets the host name of this UTS namespace.
pub(crate) fn set_host_name(name: &str) -> io::Result<()> {
    // SAFETY: the pointer and length are of a live string.
    check(libc::c_long::from(unsafe {
        libc::sethostname(name.as_ptr().cast(), name.len())
    }))
    .map(drop)
}

/// Brings up the loopback device of this network namespace.
pub(crate) fn bring_up_loopback() -> io::Result<()> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").ok();
    let fd = match &socket {
        Some(socket) => socket.as_fd().try_clone_to_owned()?,
        None => {
            // SAFETY: plain integers; the answer is a new descriptor.
            unsafe {
                let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
                OwnedFd::from_raw_fd(check(libc::c_long::from(fd))? as RawFd)
            }
        }
    };
    // SAFETY: ifreq is plain data; the name fits and is NUL-terminated by the zeroing.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        let fd = fd.as_raw_fd();
        check(libc::c_long::from(libc::ioctl(
            fd,
            libc::SIOCGIFFLAGS as _,
            &raw mut request,
        )))?;
        request.ifr_ifru.ifru_flags |= (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        check(libc::c_long::from(libc::ioctl(
            fd,
            libc::SIOCSIFFLAGS as _,
            &raw mut request,
        )))
        .map(drop)
    }
}

/// Makes a mount, and with `recursive` all below it, have attributes (`MOUNT_ATTR_*`).
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64, recursive: bool) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        set: u64,
        clear: u64,
        propagation: u64,
        user_namespace: u64,
    }
    const RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { RECURSIVE } else { 0 };
    let wanted = MountAttr {
        set: attributes,
        clear: 0,
        propagation: 0,
        user_namespace: 0,
    };
    let empty = c"";
    // SAFETY: the path is NUL-terminated; the structure has mount_setattr(2)'s layout and its size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            empty.as_ptr(),
            flags,
            &raw const wanted,
            std::mem::size_of::<MountAttr>(),
        )
    })
    .map(drop)
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
    const SET_MODE_FILTER: libc::c_uint = 1;
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the program is live and its length is its own; the kernel only reads it.
    check(unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, 0, &raw const program) }).map(drop)
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

/// Makes a raw system call for the table of escapes.
pub(crate) fn raw(number: libc::c_long, arguments: [libc::c_long; 5]) -> io::Result<libc::c_long> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the callers pass integers, null pointers, or pointers to live NUL-terminated strings.
    check(unsafe { libc::syscall(number, a, b, c, d, e) })
}

/// Returns the size of a memory page in bytes.
pub(crate) fn page_size() -> u64 {
    // SAFETY: sysconf takes a plain integer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
