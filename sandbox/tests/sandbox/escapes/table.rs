//! What is attempted.

use super::attempt::Attempt;
use super::stage::Stage;

/// Attempts that are no escape for what makes sandboxes of its own: it does so in namespaces that it has itself.
pub const FOR_NESTING: [&str; 4] = [
    "make a user namespace",
    "mount",
    "change the root",
    "open a mounted tree",
];

/// The attempts: name, whether anybody succeeds without a sandbox, and what is done.
pub fn table(stage: &Stage) -> Vec<(&'static str, bool, Attempt)> {
    let secret = stage.secret();
    let victim = stage.victim();
    let behind = |pid: i32| format!("/proc/{pid}/root{}", secret.display());
    let call = |number: libc::c_long, args: [i64; 5]| Attempt::Call { number, args };
    let on = |number: libc::c_long, args: [i64; 5]| Attempt::CallOn { number, args };
    let text = |path: &std::path::Path| path.display().to_string();
    let (shared, queue) = stage.shared_memory_and_queue();
    vec![
        ("read a secret in the home", true, Attempt::Read(text(&secret))),
        (
            "read a secret through a link in the work tree",
            true,
            Attempt::ReadThroughLink(text(&secret)),
        ),
        (
            "read a secret through a hard link",
            true,
            Attempt::ReadThroughHardLink(text(&secret)),
        ),
        (
            "read a secret behind /proc/<pid>/root",
            true,
            Attempt::Read(behind(victim)),
        ),
        ("read a secret behind /proc/1/root", false, Attempt::Read(behind(1))),
        ("write outside", true, Attempt::Write(text(&stage.outside()))),
        (
            "truncate a file outside",
            true,
            Attempt::Truncate(text(&stage.victim_file())),
        ),
        (
            "truncate a file outside by its path",
            true,
            Attempt::TruncateByPath(text(&stage.victim_file())),
        ),
        (
            "truncate a file outside without opening it for writing",
            true,
            Attempt::TruncateUnopened(text(&stage.victim_file())),
        ),
        (
            "rename a file out of the work tree",
            true,
            Attempt::RenameTo(text(&stage.outside().with_extension("renamed"))),
        ),
        (
            "open the machine's core pattern for writing",
            false,
            Attempt::OpenForWriting("/proc/sys/kernel/core_pattern".into()),
        ),
        (
            "open the sysrq trigger for writing",
            false,
            Attempt::OpenForWriting("/proc/sysrq-trigger".into()),
        ),
        (
            "open the kernel's log",
            false,
            Attempt::OpenForWriting("/dev/kmsg".into()),
        ),
        ("read the password hashes", false, Attempt::Read("/etc/shadow".into())),
        (
            "connect to a loopback server of the host",
            true,
            Attempt::ConnectTcp(stage.tcp_port()),
        ),
        (
            "reach an abstract Unix socket",
            true,
            Attempt::ConnectAbstract(stage.abstract_name().to_owned()),
        ),
        (
            "reach a Unix socket by its path",
            true,
            Attempt::ConnectUnix(text(&stage.unix_path())),
        ),
        (
            "signal the process that runs the sandbox",
            true,
            Attempt::Signal(stage.own_pid()),
        ),
        ("signal another process", true, Attempt::Signal(victim)),
        (
            "signal another process by a pidfd",
            true,
            Attempt::SignalByPidfd(victim),
        ),
        ("trace another process", false, Attempt::Trace(victim)),
        (
            "trace the process that runs the sandbox",
            false,
            Attempt::Trace(stage.own_pid()),
        ),
        ("trace the sandbox's init", false, Attempt::TraceParent),
        (
            "read another process's environment",
            true,
            Attempt::Read(format!("/proc/{victim}/environ")),
        ),
        (
            "read another process's memory",
            false,
            Attempt::OpenForWriting(format!("/proc/{victim}/mem")),
        ),
        ("hold a descriptor of the caller's", false, Attempt::Descriptors),
        ("hold a capability", false, Attempt::Capabilities),
        ("set the set-user-ID bit of a file", true, Attempt::SetUserId),
        ("make a file with the set-user-ID bit", true, Attempt::CreateSetUserId),
        ("make a disk in the work tree", false, Attempt::MakeDevice),
        (
            "read a secret by a program from memory",
            true,
            Attempt::RunFromMemory(text(&secret)),
        ),
        (
            "make a user namespace",
            false,
            call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]),
        ),
        ("mount", true, call(libc::SYS_mount, [0; 5])),
        ("open a mount context", false, call(libc::SYS_fsopen, [0; 5])),
        ("change the root", false, call(libc::SYS_chroot, [0; 5])),
        ("enter another namespace", true, call(libc::SYS_setns, [-1, 0, 0, 0, 0])),
        (
            "read the session keyring",
            true,
            call(libc::SYS_keyctl, [0, -3, 1, 0, 0]),
        ),
        ("request a key", true, call(libc::SYS_request_key, [0; 5])),
        ("use bpf", false, call(libc::SYS_bpf, [0; 5])),
        ("use perf events", false, call(libc::SYS_perf_event_open, [0; 5])),
        ("use io_uring", false, call(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0])),
        ("use userfaultfd", false, call(libc::SYS_userfaultfd, [-1, 0, 0, 0, 0])),
        (
            "write another process's memory",
            true,
            call(libc::SYS_process_vm_writev, [victim.into(), 0, 0, 0, 0]),
        ),
        (
            "take another process's descriptor",
            true,
            call(libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
        ),
        (
            "open a file by its handle",
            true,
            call(libc::SYS_open_by_handle_at, [-1, 0, 0, 0, 0]),
        ),
        (
            "load a kernel module",
            false,
            call(libc::SYS_finit_module, [-1, 0, 0, 0, 0]),
        ),
        (
            "push input into a terminal",
            true,
            call(libc::SYS_ioctl, [0, 0x5412, 0, 0, 0]),
        ),
        (
            "open a raw socket",
            false,
            call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_RAW.into(), 1, 0, 0]),
        ),
        (
            "open a packet socket",
            false,
            call(
                libc::SYS_socket,
                [libc::AF_PACKET.into(), libc::SOCK_RAW.into(), 0, 0, 0],
            ),
        ),
        (
            "open a vsock",
            false,
            call(
                libc::SYS_socket,
                [libc::AF_VSOCK.into(), libc::SOCK_STREAM.into(), 0, 0, 0],
            ),
        ),
        (
            "open a kernel crypto socket",
            false,
            call(
                libc::SYS_socket,
                [libc::AF_ALG.into(), libc::SOCK_SEQPACKET.into(), 0, 0, 0],
            ),
        ),
        (
            "read a secret by reopening a path",
            true,
            Attempt::ReadReopened(text(&secret)),
        ),
        ("run a program outside", true, Attempt::Run(text(&stage.program()))),
        (
            "change places with a file outside",
            true,
            Attempt::Exchange(text(&stage.disposable("exchanged"))),
        ),
        (
            "link a file out of the work tree",
            true,
            Attempt::LinkTo(text(&stage.outside().with_extension("linked"))),
        ),
        (
            "make a pipe outside",
            true,
            Attempt::MakePipe(text(&stage.outside().with_extension("pipe"))),
        ),
        (
            "make a folder outside",
            true,
            Attempt::MakeFolder(text(&stage.outside().with_extension("folder"))),
        ),
        (
            "remove a file outside",
            true,
            Attempt::Remove(text(&stage.disposable("removed"))),
        ),
        (
            "send to a Unix datagram socket by its path",
            true,
            Attempt::SendDatagram(text(&stage.datagram_path())),
        ),
        ("read the host's shared memory", true, Attempt::ReadSharedMemory(shared)),
        (
            "take a message from the host's queue",
            true,
            Attempt::TakeMessage(queue),
        ),
        ("open a queue by its name", false, Attempt::OpenQueue),
        (
            "signal a thread of another process",
            true,
            on(
                libc::SYS_tgkill,
                [victim.into(), victim.into(), libc::SIGCONT.into(), 0, 0],
            ),
        ),
        (
            "signal a thread by its number alone",
            true,
            on(libc::SYS_tkill, [victim.into(), libc::SIGCONT.into(), 0, 0, 0]),
        ),
        ("queue a signal for another process", true, Attempt::QueueSignal(victim)),
        (
            "signal the group of another process",
            true,
            on(libc::SYS_kill, [-i64::from(stage.own_group()), 0, 0, 0, 0]),
        ),
        (
            "have the kernel signal another process",
            true,
            Attempt::SignalAsOwner(stage.bystander()),
        ),
        ("limit another process", true, Attempt::Limit(victim)),
        (
            "limit the process that runs the sandbox",
            true,
            Attempt::Limit(stage.own_pid()),
        ),
        (
            "slow another process down",
            true,
            on(libc::SYS_setpriority, [0, victim.into(), 10, 0, 0]),
        ),
        (
            "move another process to other processors",
            true,
            Attempt::MoveToProcessors(victim),
        ),
        (
            "slow another process's disks down",
            true,
            on(libc::SYS_ioprio_set, [1, victim.into(), 3 << 13, 0, 0]),
        ),
        (
            "have another process killed first",
            true,
            Attempt::OpenForWriting(format!("/proc/{victim}/oom_score_adj")),
        ),
        ("take a descriptor of init's", false, Attempt::TakeParentDescriptor),
        ("open the terminal", false, Attempt::OpenForWriting("/dev/tty".into())),
        (
            "leave its control group",
            false,
            Attempt::OpenForWriting("/sys/fs/cgroup/cgroup.procs".into()),
        ),
        ("restart the machine", false, call(libc::SYS_reboot, [0; 5])),
        ("swap", false, call(libc::SYS_swapoff, [0; 5])),
        ("open a mounted tree", true, call(libc::SYS_open_tree, [-1, 0, 0, 0, 0])),
    ]
}
