//! What is worth reaching: set up on the host beside the sandbox.
#![allow(unsafe_code)]

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::attempt::Attempt;
use super::raw::{Message, SECRET, raw};
use crate::part::part;

/// A folder, servers and a process of the host; gone when dropped.
pub(super) struct Stage {
    folder: PathBuf,
    tcp: TcpListener,
    _abstract: UnixListener,
    abstract_name: String,
    _unix: UnixListener,
    _datagram: UnixDatagram,
    /// Numbers of System V's shared memory and message queue.
    shared: i32,
    queue: i32,
    victim: Child,
    bystander: Child,
}

impl Stage {
    /// Sets everything up.
    pub(super) fn set() -> io::Result<Stage> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("foreman-escapes-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().canonicalize()?.join(&name);
        std::fs::create_dir(&folder)?;
        std::fs::create_dir(folder.join("home"))?;
        std::fs::create_dir(folder.join("work-tree"))?;
        std::fs::write(folder.join("home/secret"), SECRET)?;
        std::fs::write(folder.join("home/victim"), "untouched")?;
        let unix = UnixListener::bind(folder.join("home/socket"))?;
        let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes())?)?;
        let datagram = UnixDatagram::bind(folder.join("home/datagram"))?;
        let program = folder.join("home/program");
        std::fs::write(&program, "#!/bin/sh\ntrue\n")?;
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
        let (shared, queue) = (share_secret()?, leave_message()?);
        Ok(Stage {
            folder,
            tcp: TcpListener::bind("127.0.0.1:0")?,
            _abstract: listener,
            abstract_name: name,
            _unix: unix,
            _datagram: datagram,
            shared,
            queue,
            victim: start_process()?,
            bystander: start_process()?,
        })
    }

    pub(super) fn work_tree(&self) -> PathBuf {
        self.folder.join("work-tree")
    }

    pub(super) fn secret(&self) -> PathBuf {
        self.folder.join("home/secret")
    }

    pub(super) fn outside(&self) -> PathBuf {
        self.folder.join("home/written")
    }

    pub(super) fn victim_file(&self) -> PathBuf {
        self.folder.join("home/victim")
    }

    pub(super) fn unix_path(&self) -> PathBuf {
        self.folder.join("home/socket")
    }

    pub(super) fn abstract_name(&self) -> &str {
        &self.abstract_name
    }

    pub(super) fn tcp_port(&self) -> u16 {
        self.tcp.local_addr().map_or(0, |address| address.port())
    }

    pub(super) fn own_pid(&self) -> i32 {
        std::process::id() as i32
    }

    pub(super) fn own_group(&self) -> i32 {
        rustix::process::getpgrp().as_raw_nonzero().get()
    }

    pub(super) fn victim(&self) -> i32 {
        self.victim.id() as i32
    }

    /// One more process, which one attempt may end.
    pub(super) fn bystander(&self) -> i32 {
        self.bystander.id() as i32
    }

    pub(super) fn program(&self) -> PathBuf {
        self.folder.join("home/program")
    }

    pub(super) fn datagram_path(&self) -> PathBuf {
        self.folder.join("home/datagram")
    }

    /// A file that one attempt may take away.
    pub(super) fn disposable(&self, name: &str) -> PathBuf {
        let path = self.folder.join("home").join(name);
        std::fs::write(&path, "disposable").unwrap();
        path
    }

    pub(super) fn shared_memory_and_queue(&self) -> (i32, i32) {
        (self.shared, self.queue)
    }
}

fn start_process() -> io::Result<Child> {
    let (args, (key, value)) = part(&Attempt::Wait.part());
    std::process::Command::new("/proc/self/exe")
        .args(args)
        .env_clear()
        .env(key, value)
        .env("SECRET", SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

/// Puts the secret into System V's shared memory.
fn share_secret() -> io::Result<i32> {
    let mode = i64::from(libc::IPC_CREAT | 0o600);
    let id = raw(libc::SYS_shmget, [libc::IPC_PRIVATE.into(), 4096, mode, 0, 0])?;
    let place = raw(libc::SYS_shmat, [id, 0, 0, 0, 0])? as *mut u8;
    // SAFETY: the kernel has just put a page there, which is this function's alone.
    unsafe { std::ptr::copy_nonoverlapping(SECRET.as_ptr(), place, SECRET.len()) };
    raw(libc::SYS_shmdt, [place as i64, 0, 0, 0, 0])?;
    Ok(id as i32)
}

/// Leaves a message in a queue of System V's.
fn leave_message() -> io::Result<i32> {
    let mode = i64::from(libc::IPC_CREAT | 0o600);
    let id = raw(libc::SYS_msgget, [libc::IPC_PRIVATE.into(), mode, 0, 0, 0])?;
    let message = Message::default();
    raw(libc::SYS_msgsnd, [id, &raw const message as i64, 8, 0, 0])?;
    Ok(id as i32)
}

impl Drop for Stage {
    fn drop(&mut self) {
        for process in [&mut self.victim, &mut self.bystander] {
            let _ = process.kill();
            let _ = process.wait();
        }
        for (call, id) in [(libc::SYS_shmctl, self.shared), (libc::SYS_msgctl, self.queue)] {
            let _ = raw(call, [id.into(), libc::IPC_RMID.into(), 0, 0, 0]);
        }
        let _ = std::fs::remove_dir_all(Path::new(&self.folder));
    }
}
