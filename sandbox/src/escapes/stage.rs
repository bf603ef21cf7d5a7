//! What is worth reaching: set up on the host beside the sandbox.

use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use super::attempt::{Attempt, SECRET};

/// A folder, servers and a process of the host; gone when dropped.
pub(super) struct Stage {
    folder: PathBuf,
    tcp: TcpListener,
    _abstract: UnixListener,
    abstract_name: String,
    _unix: UnixListener,
    victim: Child,
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
        let victim = std::process::Command::new("/proc/self/exe")
            .args([crate::HELPER_ARGUMENT.to_owned(), Attempt::Wait.argument()])
            .env_clear()
            .env("SECRET", SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Stage {
            folder,
            tcp: TcpListener::bind("127.0.0.1:0")?,
            _abstract: listener,
            abstract_name: name,
            _unix: unix,
            victim,
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
        crate::sys::own_pid()
    }

    pub(super) fn victim(&self) -> i32 {
        self.victim.id() as i32
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.victim.kill();
        let _ = self.victim.wait();
        let _ = std::fs::remove_dir_all(Path::new(&self.folder));
    }
}
