//! A running command: one thread that moves its output and waits for its supervisor.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::command::{Command, Network};
use crate::outcome::Outcome;
use crate::output::{Output, Stream};
use crate::proxy::{Proxy, ProxyServer};
use crate::wire::{self, Report, Request};
use crate::{Backend, Error, HELPER_ARGUMENT, Sandbox, resolve};

/// How long to wait for the end of the output when the supervisor has reported that all are dead.
const DRAIN: Duration = Duration::from_secs(2);

/// A running command. Dropping it kills the command.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    killer: Killer,
    thread: Option<JoinHandle<()>>,
    ended: oneshot::Receiver<Outcome>,
    outcome: Option<Outcome>,
}

/// Kills a running command from anywhere; cheap to clone.
#[derive(Debug, Clone)]
pub struct Killer {
    control: Arc<UnixStream>,
}

impl Killer {
    /// Kills every process of the command; it then ends with [`crate::Reason::Cancelled`].
    ///
    /// Does nothing when the command has ended already.
    pub fn kill(&self) {
        // The supervisor being gone is what is wanted.
        let _ = wire::send(self.control.as_fd(), &[wire::CANCEL], &[]);
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
            let outcome = (&mut self.ended).await.unwrap_or_else(|_| lost());
            self.outcome = Some(outcome);
        }
        self.outcome.clone().unwrap_or_else(lost)
    }

    /// Waits on this thread; not for use on an async executor's threads.
    pub fn wait_blocking(mut self) -> Outcome {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            return lost();
        }
        match self.outcome.take() {
            Some(outcome) => outcome,
            None => self.ended.try_recv().unwrap_or_else(|_| lost()),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.killer.kill();
    }
}

fn lost() -> Outcome {
    Outcome::not_started(Backend::Unsafe, "the thread that watched the command is gone".into())
}

/// Starts the supervisor and the thread that speaks to it.
pub(crate) fn spawn(sandbox: &Sandbox, command: Command, output: Output) -> Result<Child, Error> {
    let (proxy, listening) = match &command.network {
        Network::None | Network::Host => (None, None),
        Network::AllowList(proxy) => {
            let listening = (sandbox.backend != Backend::Namespaces)
                .then(|| proxy.serve_on_loopback())
                .transpose()
                .map_err(|source| Error::Prepare {
                    what: "the proxy's port on loopback".into(),
                    source,
                })?;
            (Some(proxy.clone()), listening)
        }
    };
    let stdin = command.stdin.clone().unwrap_or_default();
    let address = listening.as_ref().map(ProxyServer::address);
    let request = resolve::request(sandbox.backend, command, address).map(|mut request| {
        request.cgroups = sandbox.cgroups;
        request
    });
    start(
        &sandbox.helper,
        sandbox.backend,
        request,
        stdin,
        output,
        proxy,
        listening,
    )
}

/// Starts a supervisor for a request that is made already.
pub(crate) fn start(
    helper: &std::path::Path,
    backend: Backend,
    request: Result<Request, String>,
    stdin: Vec<u8>,
    output: Output,
    proxy: Option<Proxy>,
    listening: Option<ProxyServer>,
) -> Result<Child, Error> {
    let prepare = |what: &str| {
        let what = what.to_owned();
        move |source| Error::Prepare { what, source }
    };
    let (control, theirs) = UnixStream::pair().map_err(prepare("a socket pair"))?;
    let control = Arc::new(control);
    let (sender, ended) = oneshot::channel();
    let request = match request {
        Ok(request) => request,
        Err(why) => {
            // The receiver is held two lines below.
            let _ = sender.send(Outcome::not_started(backend, why));
            return Ok(Child {
                pid: 0,
                killer: Killer { control },
                thread: None,
                ended,
                outcome: None,
            });
        }
    };
    let (out_reader, out_writer) = std::io::pipe().map_err(prepare("an output pipe"))?;
    let (err_reader, err_writer) = std::io::pipe().map_err(prepare("an output pipe"))?;
    let process = std::process::Command::new(helper)
        .arg0("foreman-sandbox")
        .arg(HELPER_ARGUMENT)
        .arg(crate::helper::SUPERVISE)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .inspect_err(|_| remove_scratch(request.scratch.as_deref()))
        .map_err(|source| Error::Helper {
            helper: helper.to_owned(),
            source,
        })?;
    let pid = process.id();
    let merged = output.merged;
    let scratch = request.scratch.clone();
    let mut pump = Pump {
        scratch,
        process,
        control: control.clone(),
        out: Some(File::from(OwnedFd::from(out_reader))),
        err: Some(File::from(OwnedFd::from(err_reader))),
        stdout: Stream::new(output.stdout),
        stderr: Stream::new(output.stderr),
        proxy,
        server: listening,
        backend,
    };
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
                let mut socket: UnixStream = control_clone(&pump.control)?;
                wire::send_request(&mut socket, &request, &stdin, outputs)?;
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
        killer: Killer { control },
        thread: Some(thread),
        ended,
        outcome: None,
    })
}

fn control_clone(control: &Arc<UnixStream>) -> std::io::Result<UnixStream> {
    control.try_clone()
}

/// Removes what a supervisor that is gone would have removed, as far as its processes are gone too.
fn remove_scratch(scratch: Option<&std::path::Path>) {
    if let Some(scratch) = scratch {
        // What is left lies in the temporary folder, private and named for us.
        let _ = std::fs::remove_dir_all(scratch);
    }
}

/// Moves output and waits for the report.
struct Pump {
    scratch: Option<std::path::PathBuf>,
    process: std::process::Child,
    control: Arc<UnixStream>,
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
            let ready = self.poll(Some(control.as_fd()), None)?;
            self.read_outputs(&ready, &mut buffer);
            if !ready[0] {
                continue;
            }
            let (count, fds) = wire::receive(control.as_fd(), &mut buffer)?;
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
        let _ = self.control.shutdown(std::net::Shutdown::Both);
        let ended = self.process.wait();
        if !matches!(report, Ok(Some(_))) {
            remove_scratch(self.scratch.as_deref());
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
