//! A running command: one thread that moves its output and waits for its supervisor.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::backend::Backend;
use crate::error::Error;
use crate::helper::{HELPER_ARGUMENT, SUPERVISE};
use crate::outcome::Outcome;
use crate::output::{Output, Stream};
use crate::proxy::{Proxy, ProxyServer};
use crate::resolve::Prepared;
use crate::scratch::Scratch;
use crate::wire::{self, Report};

/// How long to wait for the end of the output when the supervisor has reported that all are dead.
const DRAIN: Duration = Duration::from_secs(2);

/// A running command. Dropping it kills the command.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    backend: Backend,
    killer: Killer,
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<Outcome>,
    outcome: Option<Outcome>,
}

/// Kills a running command from anywhere; cheap to clone.
#[derive(Debug, Clone)]
pub struct Killer {
    control: Arc<Control>,
}

/// The caller's end of the socket to the supervisor.
#[derive(Debug)]
struct Control {
    socket: UnixStream,
    /// Whether somebody asked for the end, and whether the supervisor has its request whole. Whichever comes second
    /// sends the word: in the midst of the request it would be taken for a part of it.
    cancelled: AtomicBool,
    requested: AtomicBool,
}

impl Control {
    fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if self.requested.load(Ordering::SeqCst) {
            self.send_cancel();
        }
    }

    fn request(
        &self,
        prepared: &Prepared,
        stdin: &[u8],
        outputs: [std::os::fd::BorrowedFd<'_>; 2],
    ) -> std::io::Result<()> {
        wire::send_request(&self.socket, &prepared.request, stdin, outputs)?;
        self.requested.store(true, Ordering::SeqCst);
        if self.cancelled.load(Ordering::SeqCst) {
            self.send_cancel();
        }
        Ok(())
    }

    fn send_cancel(&self) {
        // The supervisor being gone is what is wanted.
        let _ = wire::send(self.socket.as_fd(), &[wire::CANCEL], &[]);
    }
}

impl Killer {
    /// Kills every process of the command; it then ends with [`crate::Reason::Cancelled`].
    ///
    /// Does nothing when the command has ended already.
    pub fn kill(&self) {
        self.control.cancel();
    }
}

impl Child {
    /// Returns the process id of the command's supervisor on this host.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Kills every process of the command; it then ends with [`crate::Reason::Cancelled`].
    pub fn kill(&self) {
        self.killer.kill();
    }

    /// Returns a handle that kills the command.
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Waits for the end of the command and of its output. May be cancelled and called again.
    pub async fn wait(&mut self) -> Outcome {
        if self.outcome.is_none() {
            let outcome = (&mut self.ended).await.unwrap_or_else(|_| lost(self.backend));
            self.outcome = Some(outcome);
        }
        self.outcome.clone().unwrap_or_else(|| lost(self.backend))
    }

    /// Waits on this thread; not for use on an async executor's threads.
    pub fn wait_blocking(mut self) -> Outcome {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return lost(self.backend);
        }
        match self.outcome.take() {
            Some(outcome) => outcome,
            None => self.ended.try_recv().unwrap_or_else(|_| lost(self.backend)),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.killer.kill();
    }
}

fn lost(backend: Backend) -> Outcome {
    Outcome::not_started(backend, "the thread that watched the command is gone".into())
}

/// What a start needs.
pub(crate) struct Start<'a> {
    /// The program that becomes the supervisor.
    pub(crate) helper: &'a Path,
    pub(crate) backend: Backend,
    /// What the supervisor is told, or why it cannot be.
    pub(crate) prepared: Result<Prepared, String>,
    pub(crate) stdin: Vec<u8>,
    pub(crate) output: Output,
    /// Serves the listener that comes out of a network namespace.
    pub(crate) proxy: Option<Proxy>,
    /// Serves already, on the host's loopback device.
    pub(crate) server: Option<ProxyServer>,
}

/// Starts the supervisor and the thread that speaks to it.
pub(crate) fn start(start: Start<'_>) -> Result<Child, Error> {
    let prepare = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Prepare { what, source }
    };
    let (socket, theirs) = UnixStream::pair().map_err(prepare("a socket pair"))?;
    let control = Arc::new(Control {
        socket,
        cancelled: AtomicBool::new(false),
        requested: AtomicBool::new(false),
    });
    let (sender, ended) = oneshot::channel();
    let mut prepared = match start.prepared {
        Ok(prepared) => prepared,
        Err(why) => {
            // The receiver is held two lines below.
            let _ = sender.send(Outcome::not_started(start.backend, why));
            return Ok(Child {
                pid: 0,
                backend: start.backend,
                killer: Killer { control },
                thread: None,
                ended,
                outcome: None,
            });
        }
    };
    let (out_reader, out_writer) = std::io::pipe().map_err(prepare("an output pipe"))?;
    let (err_reader, err_writer) = std::io::pipe().map_err(prepare("an output pipe"))?;
    let process = std::process::Command::new(start.helper)
        .arg0("foreman-sandbox")
        .arg(HELPER_ARGUMENT)
        .arg(SUPERVISE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|source| Error::Helper {
            helper: start.helper.to_owned(),
            source,
        })?;
    let pid = process.id();
    let merged = start.output.merged;
    let mut pump = Pump {
        scratch: prepared.scratch.take(),
        process,
        control: control.clone(),
        out: Some(File::from(OwnedFd::from(out_reader))),
        err: Some(File::from(OwnedFd::from(err_reader))),
        stdout: Stream::new(start.output.stdout),
        stderr: Stream::new(start.output.stderr),
        proxy: start.proxy,
        server: start.server,
        backend: start.backend,
    };
    let stdin = start.stdin;
    let thread = std::thread::Builder::new()
        .name("sandbox".into())
        .spawn(move || {
            let err_writer = if merged {
                // Held open, it would keep the second pipe from ever ending.
                drop(err_writer);
                out_writer.try_clone()
            } else {
                Ok(err_writer)
            };
            let report = err_writer.and_then(|err_writer| {
                let outputs = [out_writer.as_fd(), err_writer.as_fd()];
                pump.control.request(&prepared, &stdin, outputs)?;
                drop((out_writer, err_writer));
                pump.run()
            });
            let outcome = pump.finish(report);
            // Nobody waiting is no error.
            let _ = sender.send(outcome);
        })
        .map_err(prepare("a thread"))?;
    Ok(Child {
        pid,
        backend: start.backend,
        killer: Killer { control },
        thread: Some(thread),
        ended,
        outcome: None,
    })
}

/// Moves output and waits for the report.
struct Pump {
    scratch: Option<Scratch>,
    process: std::process::Child,
    control: Arc<Control>,
    out: Option<File>,
    err: Option<File>,
    stdout: Stream,
    stderr: Stream,
    proxy: Option<Proxy>,
    server: Option<ProxyServer>,
    backend: Backend,
}

impl Pump {
    /// Runs until the supervisor's report, or until its end without one.
    fn run(&mut self) -> std::io::Result<Option<Report>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let control = self.control.clone();
            let ready = self.poll(Some(control.socket.as_fd()), None)?;
            self.read_outputs(&ready, &mut buffer);
            if !ready[0] {
                continue;
            }
            let (count, fds) = wire::receive(control.socket.as_fd(), &mut buffer)?;
            if count == 0 {
                return Ok(None);
            }
            if let (Some(proxy), Some(listener)) = (&self.proxy, fds.into_iter().next()) {
                self.server = Some(proxy.serve(std::net::TcpListener::from(listener), None)?);
            }
            frames.extend_from_slice(&buffer[..count]);
            while let Some((tag, text)) = wire::take_frame(&mut frames) {
                if tag == wire::REPORT {
                    let report = serde_json::from_slice(&text)?;
                    self.drain(&mut buffer);
                    return Ok(Some(report));
                }
            }
        }
    }

    fn poll(
        &self,
        control: Option<std::os::fd::BorrowedFd<'_>>,
        timeout: Option<Duration>,
    ) -> std::io::Result<Vec<bool>> {
        let fds = [
            control,
            self.out.as_ref().map(File::as_fd),
            self.err.as_ref().map(File::as_fd),
        ];
        crate::sys::poll(&fds, timeout)
    }

    fn read_outputs(&mut self, ready: &[bool], buffer: &mut [u8]) {
        let streams = [(&mut self.out, &mut self.stdout), (&mut self.err, &mut self.stderr)];
        for ((pipe, stream), _) in streams.into_iter().zip(&ready[1..]).filter(|(_, ready)| **ready) {
            let count = pipe.as_mut().map_or(0, |pipe| pipe.read(buffer).unwrap_or(0));
            if count == 0 {
                *pipe = None;
            } else {
                stream.feed(&buffer[..count]);
            }
        }
    }

    /// Reads what is left in the pipes; all writers are dead by now.
    fn drain(&mut self, buffer: &mut [u8]) {
        while self.out.is_some() || self.err.is_some() {
            match self.poll(None, Some(DRAIN)) {
                Ok(ready) if ready.contains(&true) => self.read_outputs(&ready, buffer),
                _ => break,
            }
        }
    }

    fn finish(mut self, report: std::io::Result<Option<Report>>) -> Outcome {
        self.server = None;
        let _ = self.control.socket.shutdown(std::net::Shutdown::Both);
        let ended = self.process.wait();
        match (&report, self.scratch.take()) {
            (Ok(Some(_)), Some(scratch)) => scratch.leave(),
            // The supervisor would have removed it.
            (_, scratch) => drop(scratch),
        }
        let mut outcome = match report {
            Ok(Some(report)) => Outcome {
                exit: report.exit,
                reason: report.reason,
                program_missing: report.program_missing,
                message: report.message,
                peak_memory_bytes: report.peak_memory_bytes,
                wall: report.wall,
                enforced: report.enforced,
                ..Outcome::not_started(self.backend, String::new())
            },
            Ok(None) => Outcome::not_started(
                self.backend,
                format!(
                    "the sandbox supervisor ended without a report ({}); the program that starts \
                     sandboxes calls sandbox::reexec_main_if_requested() first thing in main",
                    ended.map_or_else(|error| error.to_string(), |status| status.to_string())
                ),
            ),
            Err(error) => Outcome::not_started(
                self.backend,
                format!("failed to speak to the sandbox supervisor: {error}"),
            ),
        };
        let (stdout, out_error) = self.stdout.finish();
        let (stderr, err_error) = self.stderr.finish();
        outcome.stdout = stdout;
        outcome.stderr = stderr;
        outcome.output_error = out_error.or(err_error);
        outcome
    }
}
