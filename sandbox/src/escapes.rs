//! The table of escapes: attempts that every backend must hold, made for real from inside.
//!
//! [`run`] sets up what is worth reaching on the host (a secret in a home, servers, another process),
//! runs one command for each attempt and tells for each whether it was held. The same attempts without
//! confinement ([`crate::Backend::Unsafe`]) show that they can succeed at all.

mod attempt;
mod stage;

use attempt::Attempt;
pub(crate) use attempt::attempt_main;
use stage::Stage;

use crate::output::Output;
use crate::{Backend, Command, Error, Sandbox, Toolchain};

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The attempt, in a few words.
    pub name: &'static str,
    /// Whether it got out.
    pub escaped: bool,
    /// Whether it gets out when nothing is confined, for any user on any machine.
    pub succeeds_unconfined: bool,
    /// What the attempt saw.
    pub detail: String,
}

/// How all attempts ended in one backend.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The backend.
    pub backend: Backend,
    /// One entry for each attempt.
    pub findings: Vec<Finding>,
}

impl Findings {
    /// Returns the attempts that got out.
    pub fn escaped(&self) -> Vec<&Finding> {
        self.findings.iter().filter(|finding| finding.escaped).collect()
    }

    /// Returns the attempts that were held although nothing was confined: they would prove nothing.
    pub fn powerless(&self) -> Vec<&Finding> {
        self.findings
            .iter()
            .filter(|finding| finding.succeeds_unconfined && !finding.escaped)
            .collect()
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let escaped = self.escaped().len();
        writeln!(
            f,
            "sandbox {}: {} cases, {escaped} escaped",
            self.backend,
            self.findings.len()
        )?;
        for finding in &self.findings {
            let verdict = if finding.escaped { "ESCAPED" } else { "held" };
            writeln!(f, "  {verdict:7} {}: {}", finding.name, finding.detail)?;
        }
        Ok(())
    }
}

/// Makes every attempt in a sandbox.
///
/// The running executable makes the attempts, so it calls [`crate::reexec_main_if_requested`] first
/// thing in `main` (a test binary: [`crate::test_helper`]).
pub fn run(sandbox: &Sandbox) -> Result<Findings, Error> {
    let prepare = |source| Error::Prepare {
        what: "the stage for the table of escapes".into(),
        source,
    };
    let stage = Stage::set().map_err(prepare)?;
    let own = std::fs::read_link("/proc/self/exe").map_err(prepare)?;
    let tools = Toolchain::host();
    let mut findings = Vec::new();
    for (name, succeeds_unconfined, attempt) in table(&stage) {
        let command = Command::new("/opt/attempt")
            .args([crate::HELPER_ARGUMENT.to_owned(), attempt.argument()])
            .toolchain(&tools)
            .ro(&own, "/opt/attempt")
            .rw(stage.work_tree(), "/workspace")
            .cwd("/workspace")
            .wall(std::time::Duration::from_secs(20));
        let outcome = sandbox.run_blocking(command, Output::captured());
        let (escaped, detail) = attempt::verdict(&outcome);
        findings.push(Finding {
            name,
            escaped,
            succeeds_unconfined,
            detail,
        });
    }
    Ok(Findings {
        backend: sandbox.backend(),
        findings,
    })
}

/// The attempts: name, whether anybody succeeds without a sandbox, and what is done.
fn table(stage: &Stage) -> Vec<(&'static str, bool, Attempt)> {
    let secret = stage.secret();
    let victim = stage.victim();
    let behind = |pid: i32| format!("/proc/{pid}/root{}", secret.display());
    let call = |number: libc::c_long, args: [i64; 5]| Attempt::Call { number, args };
    vec![
        (
            "read a secret in the home",
            true,
            Attempt::Read(secret.display().to_string()),
        ),
        (
            "read a secret through a link in the work tree",
            true,
            Attempt::ReadThroughLink(secret.display().to_string()),
        ),
        (
            "read a secret through a hard link",
            true,
            Attempt::ReadThroughHardLink(secret.display().to_string()),
        ),
        (
            "read a secret behind /proc/<pid>/root",
            true,
            Attempt::Read(behind(victim)),
        ),
        ("read a secret behind /proc/1/root", false, Attempt::Read(behind(1))),
        (
            "write outside",
            true,
            Attempt::Write(stage.outside().display().to_string()),
        ),
        (
            "truncate a file outside",
            true,
            Attempt::Truncate(stage.victim_file().display().to_string()),
        ),
        (
            "truncate a file outside by its path",
            true,
            Attempt::TruncateByPath(stage.victim_file().display().to_string()),
        ),
        (
            "truncate a file outside without opening it for writing",
            true,
            Attempt::TruncateUnopened(stage.victim_file().display().to_string()),
        ),
        (
            "rename a file out of the work tree",
            true,
            Attempt::RenameTo(stage.outside().with_extension("renamed").display().to_string()),
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
            Attempt::ConnectUnix(stage.unix_path().display().to_string()),
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
            Attempt::RunFromMemory(secret.display().to_string()),
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
    ]
}
