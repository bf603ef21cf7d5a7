//! One attempt to escape, made by this test binary inside a sandbox.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};

use serde::{Deserialize, Serialize};

use sandbox::Outcome;

use super::raw::{Message, SECRET, raw, read_shared_memory, signal_as_owner};
use crate::part::part;

/// Begins the line that an attempt ends with.
const MARK: &str = "FOREMAN-ATTEMPT ";

/// What is attempted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Attempt {
    /// No attempt: stay until standard input ends.
    Wait,
    Read(String),
    ReadThroughLink(String),
    ReadThroughHardLink(String),
    Write(String),
    Truncate(String),
    TruncateByPath(String),
    TruncateUnopened(String),
    RenameTo(String),
    OpenForWriting(String),
    ConnectTcp(u16),
    ConnectAbstract(String),
    ConnectUnix(String),
    Signal(i32),
    SignalByPidfd(i32),
    Trace(i32),
    TraceParent,
    Descriptors,
    Capabilities,
    SetUserId,
    CreateSetUserId,
    MakeDevice,
    RunFromMemory(String),
    /// A system call that is to be denied as such: any other answer is an escape.
    Call {
        number: i64,
        args: [i64; 5],
    },
    /// A system call that reaches out when it succeeds.
    CallOn {
        number: i64,
        args: [i64; 5],
    },
    ReadReopened(String),
    Run(String),
    Exchange(String),
    LinkTo(String),
    MakePipe(String),
    MakeFolder(String),
    Remove(String),
    SendDatagram(String),
    ReadSharedMemory(i32),
    TakeMessage(i32),
    OpenQueue,
    QueueSignal(i32),
    SignalAsOwner(i32),
    Limit(i32),
    MoveToProcessors(i32),
    TakeParentDescriptor,
}

impl Attempt {
    /// Returns the part that this test binary plays to make it.
    ///
    /// In hexadecimal, so that a path in it is not rewritten to one inside the sandbox.
    pub fn part(&self) -> String {
        let json = serde_json::to_vec(self).unwrap();
        let hex: String = json.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("attempt {hex}")
    }

    fn parse(hex: &str) -> Option<Attempt> {
        let bytes: Option<Vec<u8>> = (0..hex.len() / 2)
            .map(|index| u8::from_str_radix(hex.get(2 * index..2 * index + 2)?, 16).ok())
            .collect();
        serde_json::from_slice(&bytes?).ok()
    }
}

/// Makes an attempt, says how it ended, and ends the process.
pub fn main(hex: &str) -> ! {
    let text = match Attempt::parse(hex) {
        None => "broken argument".to_owned(),
        Some(attempt) => match make(&attempt) {
            Ok(detail) => format!("escaped {detail}"),
            Err(error) => format!("held {error}"),
        },
    };
    // Without this line the attempt counts as escaped.
    let _ = writeln!(io::stdout(), "\n{MARK}{text}");
    std::process::exit(0)
}

/// Reads an attempt's output. What gave no clear answer has escaped: the table must be sure.
pub fn verdict(outcome: &Outcome) -> (bool, String) {
    let text = outcome.stdout.text();
    let said = text.lines().find_map(|line| line.strip_prefix(MARK));
    match said.and_then(|said| said.split_once(' ')) {
        Some(("held", detail)) => (false, detail.to_owned()),
        Some(("escaped", detail)) => (true, detail.to_owned()),
        _ => (
            true,
            format!("no clear answer: {:?} {:?} {text:?}", outcome.reason, outcome.exit),
        ),
    }
}

fn held(text: impl Into<String>) -> io::Error {
    io::Error::other(text.into())
}

fn make(attempt: &Attempt) -> io::Result<String> {
    match attempt {
        Attempt::Wait => {
            io::stdin().read_to_end(&mut Vec::new())?;
            Err(held("waited"))
        }
        Attempt::Read(path) => read(path),
        Attempt::ReadThroughLink(path) => {
            let _ = std::fs::remove_file("link");
            std::os::unix::fs::symlink(path, "link")?;
            read("link")
        }
        Attempt::ReadThroughHardLink(path) => {
            let _ = std::fs::remove_file("hard-link");
            std::fs::hard_link(path, "hard-link")?;
            read("hard-link")
        }
        Attempt::Write(path) => std::fs::write(path, "written").map(|()| "wrote".into()),
        Attempt::Truncate(path) => {
            rustix::fs::openat(
                rustix::fs::CWD,
                path,
                rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::TRUNC,
                rustix::fs::Mode::empty(),
            )?;
            Ok("truncated".into())
        }
        Attempt::TruncateByPath(path) => {
            let path = std::ffi::CString::new(path.as_str())?;
            call(libc::SYS_truncate, [path.as_ptr() as libc::c_long, 0, 0, 0, 0])
        }
        // Opened neither for reading nor for writing, and emptied all the same.
        Attempt::TruncateUnopened(path) => {
            let path = std::ffi::CString::new(path.as_str())?;
            let flags = libc::O_ACCMODE | libc::O_TRUNC;
            call(
                libc::SYS_openat,
                [libc::AT_FDCWD.into(), path.as_ptr() as libc::c_long, flags.into(), 0, 0],
            )
        }
        Attempt::RenameTo(path) => {
            own_file()?;
            std::fs::rename("own", path).map(|()| "renamed".into())
        }
        Attempt::OpenForWriting(path) => std::fs::OpenOptions::new()
            .write(true)
            .open(path)
            .map(|_| "opened".into()),
        Attempt::ConnectTcp(port) => TcpStream::connect(("127.0.0.1", *port)).map(|_| "connected".into()),
        Attempt::ConnectAbstract(name) => {
            let address = SocketAddr::from_abstract_name(name.as_bytes())?;
            UnixStream::connect_addr(&address).map(|_| "connected".into())
        }
        Attempt::ConnectUnix(path) => UnixStream::connect(path).map(|_| "connected".into()),
        Attempt::Signal(pid) => call(libc::SYS_kill, [(*pid).into(), libc::SIGCONT.into(), 0, 0, 0]),
        Attempt::SignalByPidfd(pid) => {
            let fd = raw(libc::SYS_pidfd_open, [(*pid).into(), 0, 0, 0, 0])?;
            call(libc::SYS_pidfd_send_signal, [fd, libc::SIGCONT.into(), 0, 0, 0])
        }
        Attempt::Trace(pid) => trace(*pid),
        Attempt::TraceParent => trace(std::os::unix::process::parent_id() as i32),
        Attempt::Descriptors => descriptors(),
        Attempt::Capabilities => capabilities(),
        Attempt::SetUserId => {
            std::fs::write("plain", "").map_err(|error| held(format!("work tree: {error}")))?;
            std::fs::set_permissions("plain", std::fs::Permissions::from_mode(0o4755)).map(|()| "set it".into())
        }
        Attempt::CreateSetUserId => {
            let _ = std::fs::remove_file("made");
            let made = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o4755)
                .open("made")?;
            let mode = made.metadata()?.permissions().mode();
            if mode & 0o4000 != 0 {
                Ok(format!("made a file of mode {mode:o}"))
            } else {
                Err(held(format!("mode {mode:o}")))
            }
        }
        Attempt::MakeDevice => {
            use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
            let _ = std::fs::remove_file("device");
            // The first disk.
            mknodat(
                CWD,
                "device",
                FileType::BlockDevice,
                Mode::from_raw_mode(0o600),
                makedev(8, 0),
            )?;
            Ok("made a disk".into())
        }
        Attempt::RunFromMemory(secret) => run_from_memory(secret),
        Attempt::Call { number, args } => match raw(*number, *args) {
            Err(error) if denied(&error) => Err(error),
            other => Ok(format!("answered {other:?}")),
        },
        Attempt::CallOn { number, args } => call(*number, *args),
        Attempt::ReadReopened(path) => {
            let path = std::fs::OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(path)?;
            read(&format!("/proc/self/fd/{}", path.as_raw_fd()))
        }
        Attempt::Run(path) => std::process::Command::new(path)
            .output()
            .map(|output| format!("it ended with {}", output.status)),
        Attempt::Exchange(path) => {
            own_file()?;
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, "own", rustix::fs::CWD, path, flags)?;
            Ok("exchanged".into())
        }
        Attempt::LinkTo(path) => {
            own_file()?;
            std::fs::hard_link("own", path).map(|()| "linked".into())
        }
        Attempt::MakePipe(path) => {
            use rustix::fs::{CWD, FileType, Mode, mknodat};
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            Ok("made it".into())
        }
        Attempt::MakeFolder(path) => std::fs::create_dir(path).map(|()| "made it".into()),
        Attempt::Remove(path) => std::fs::remove_file(path).map(|()| "removed it".into()),
        Attempt::SendDatagram(path) => {
            // One of a pair, since making one alone may be denied.
            let (socket, _other) = UnixDatagram::pair()?;
            socket.send_to(b"hello", path).map(|_| "sent it".into())
        }
        Attempt::ReadSharedMemory(id) => read_shared_memory(*id),
        Attempt::TakeMessage(id) => {
            let mut message = Message::default();
            const NO_WAIT: i64 = libc::IPC_NOWAIT as i64;
            call(
                libc::SYS_msgrcv,
                [(*id).into(), &raw mut message as i64, 64, 0, NO_WAIT],
            )
        }
        Attempt::OpenQueue => {
            let name = c"foreman-escapes";
            let flags = libc::O_RDWR | libc::O_CREAT;
            let answer = call(libc::SYS_mq_open, [name.as_ptr() as i64, flags.into(), 0o600, 0, 0]);
            let _ = raw(libc::SYS_mq_unlink, [name.as_ptr() as i64, 0, 0, 0, 0]);
            // In a private namespace it is nobody else's.
            match answer {
                Ok(_) if std::process::id() < 100 => Err(held("a queue of its own")),
                answer => answer,
            }
        }
        Attempt::QueueSignal(pid) => {
            // `si_signo`, `si_errno`, `si_code`: as from sigqueue.
            let mut info = [0i32; 32];
            (info[0], info[2]) = (libc::SIGCONT, -1);
            let signal = libc::SIGCONT.into();
            call(
                libc::SYS_rt_sigqueueinfo,
                [(*pid).into(), signal, info.as_ptr() as i64, 0, 0],
            )
        }
        Attempt::SignalAsOwner(pid) => signal_as_owner(*pid),
        Attempt::Limit(pid) => {
            // What it is anyway, or lower: nobody here leaves a core.
            let none = [0u64; 2];
            let resource = i64::from(libc::RLIMIT_CORE);
            call(
                libc::SYS_prlimit64,
                [(*pid).into(), resource, none.as_ptr() as i64, 0, 0],
            )
        }
        Attempt::MoveToProcessors(pid) => {
            let mut processors = [0u64; 16];
            let size = size_of_val(&processors) as i64;
            // Those of its own: where they are set, they could be others.
            raw(
                libc::SYS_sched_getaffinity,
                [0, size, processors.as_mut_ptr() as i64, 0, 0],
            )?;
            let processors = processors.as_ptr() as i64;
            call(libc::SYS_sched_setaffinity, [(*pid).into(), size, processors, 0, 0])
        }
        Attempt::TakeParentDescriptor => {
            let folder = format!("/proc/{}/fd", std::os::unix::process::parent_id());
            // Their numbers tell nothing.
            let mut last = held("none");
            for entry in std::fs::read_dir(folder)? {
                match std::fs::File::open(entry?.path()) {
                    Ok(found) => return Ok(format!("took {found:?}")),
                    Err(error) => last = error,
                }
            }
            Err(last)
        }
    }
}

fn own_file() -> io::Result<()> {
    std::fs::write("own", "own").map_err(|error| held(format!("work tree: {error}")))
}

/// Tells whether an error is one of a policy, not of bad arguments.
fn denied(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EAFNOSUPPORT)
    )
}

fn call(number: libc::c_long, args: [i64; 5]) -> io::Result<String> {
    raw(number, args).map(|answer| format!("answered {answer}"))
}

fn trace(pid: i32) -> io::Result<String> {
    const SEIZE: libc::c_long = 0x4206;
    call(libc::SYS_ptrace, [SEIZE, pid.into(), 0, 0, 0])
}

fn read(path: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(1 << 20).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let known = text.contains(SECRET) || path == "/etc/shadow" && text.contains(':');
    if known {
        Ok("read the secret".into())
    } else {
        Err(held(format!("{} bytes without the secret", bytes.len())))
    }
}

/// Runs a program that lies in no file: what it may do is what this process may do.
fn run_from_memory(secret: &str) -> io::Result<String> {
    let memory = rustix::fs::memfd_create("program", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut memory = std::fs::File::from(memory);
    io::copy(&mut std::fs::File::open("/proc/self/exe")?, &mut memory)?;
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    let (args, (key, value)) = part(&Attempt::Read(secret.to_owned()).part());
    let output = std::process::Command::new(path).args(args).env(key, value).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().find_map(|line| line.strip_prefix(MARK)) {
        Some(said) if said.starts_with("held") => Err(held(said)),
        said => Ok(format!("{said:?} {:?}", output.status)),
    }
}

/// Looks for descriptors beyond the standard ones.
fn descriptors() -> io::Result<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let number: i32 = entry.file_name().to_string_lossy().parse().unwrap_or(-1);
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let own_listing = target.to_string_lossy().ends_with("/fd");
        if number > 2 && !own_listing {
            found.push(format!("{number} -> {}", target.display()));
        }
    }
    if found.is_empty() {
        Err(held("none beyond 0, 1, 2"))
    } else {
        Ok(found.join(", "))
    }
}

fn capabilities() -> io::Result<String> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let sets: Vec<&str> = status
        .lines()
        // The bounding set gives nothing to a process that can gain nothing by exec.
        .filter(|line| line.starts_with("Cap") && !line.starts_with("CapBnd:"))
        .filter(|line| {
            line.split_whitespace()
                .nth(1)
                .is_some_and(|set| set.bytes().any(|byte| byte != b'0'))
        })
        .collect();
    let fixed = status
        .lines()
        .any(|line| line.starts_with("NoNewPrivs:") && line.ends_with('1'));
    if sets.is_empty() && fixed {
        Err(held("none, and none to gain"))
    } else {
        Ok(sets.join(", "))
    }
}
