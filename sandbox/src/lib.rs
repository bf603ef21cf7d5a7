//! One way to run untrusted commands.
//!
//! A model's shell commands, the steps of a gate and the containers of a Pod all run through this
//! crate. [`Sandbox::detect`] picks the best [`Backend`] that the machine allows; a [`Command`] says
//! what to run, what it may see and what it may use; an [`Outcome`] says how it ended and what was
//! really enforced.
//!
//! A command is never started by the caller itself. The running executable is started again as a
//! small supervisor ([`reexec_main_if_requested`]), which builds the sandbox, watches the limits and
//! kills every descendant before it reports the end. When the caller dies, so does the command.
//!
//! ```no_run
//! // First thing in `main`:
//! sandbox::reexec_main_if_requested();
//!
//! let sandbox = sandbox::Sandbox::detect()?;
//! let command = sandbox::Command::new("cargo")
//!     .args(["test", "--offline"])
//!     .toolchain(&sandbox::Toolchain::host())
//!     .rw("/srv/work-tree", "/workspace")
//!     .cwd("/workspace");
//! let outcome = sandbox.run_blocking(command, sandbox::Output::captured());
//! println!("{:?}: {}", outcome.reason, outcome.stdout.text());
//! # Ok::<(), sandbox::Error>(())
//! ```
//!
//! The backends differ. [`Backend::Namespaces`] gives the command a file system, process table,
//! network stack and host name of its own, with Landlock and seccomp inside. [`Backend::Landlock`]
//! serves machines where namespaces are forbidden and is weaker: the command sees the names (not the
//! contents) of the host's processes and files, may change the mode, group, times and extended attributes of files that
//! its user owns, has no Unix sockets and no named shared memory, and a granted network proxy is told apart by port alone.
//!
//! Limits are kept by a control group where one can be made. Where none can, the supervisor counts what processes map and
//! what lies in private memory files; what the kernel itself holds for a command (buffers of pipes and sockets, shared
//! memory that was touched and let go) it cannot see. [`Enforced`] says by which means each limit was kept.

mod backend;
mod child;
mod command;
mod error;
mod helper;
mod identity;
mod limits;
mod mount;
mod outcome;
mod output;
mod probe;
pub mod proxy;
mod remove;
mod resolve;
mod scratch;
mod substitute;
mod sys;
mod toolchain;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use child::Start;
use proxy::ProxyServer;

pub use backend::Backend;
pub use child::{Child, Killer};
pub use command::{Command, Network};
pub use error::Error;
pub use helper::HELPER_ARGUMENT;
pub use limits::{KeepFree, Limits};
pub use mount::{Access, Mount};
pub use outcome::{Enforced, Exit, Outcome, Reason};
pub use output::{Capture, FileSink, OnBytes, Output, Sink};
pub use probe::{Availability, Probe};
pub use proxy::{AllowList, Proxy};
pub use remove::remove_tree;
pub use toolchain::Toolchain;

/// Turns this process into the sandbox's supervisor, and never returns, if it was started as one.
///
/// Every `main` that links this crate calls it first, before it starts threads or an async runtime.
/// In any other process it returns at once.
pub fn reexec_main_if_requested() {
    helper::main_if_requested();
}

/// Makes a test binary usable as the sandbox's supervisor.
///
/// Write `sandbox::test_helper!();` once, in any module of a test binary whose tests spawn
/// sandboxes. It expands to one more test, which is the helper's entry when the binary is started by
/// [`Sandbox`], and otherwise checks that it is not taken for it.
#[macro_export]
macro_rules! test_helper {
    () => {
        #[test]
        fn __foreman_sandbox() {
            $crate::reexec_main_if_requested();
            assert_ne!(
                ::std::env::args().nth(2).as_deref(),
                Some("helper"),
                "a helper never comes back"
            );
        }
    };
}

/// Runs commands with one backend.
///
/// Cheap to clone; one per process is enough.
#[derive(Debug, Clone)]
pub struct Sandbox {
    backend: Backend,
    helper: PathBuf,
    probe: Arc<Probe>,
    cgroups: bool,
    landlock_at_most: u32,
}

impl Sandbox {
    /// Picks the best backend that works on this machine, by trying them.
    ///
    /// The result of the trial is kept for the life of the process. [`Backend::Unsafe`] is never
    /// picked: see [`Sandbox::without_confinement`].
    pub fn detect() -> Result<Sandbox, Error> {
        Sandbox::detect_with_helper(default_helper())
    }

    /// Picks like [`Sandbox::detect`], with another executable as the supervisor.
    ///
    /// `helper` is a program that calls [`reexec_main_if_requested`] first thing.
    pub fn detect_with_helper(helper: impl Into<PathBuf>) -> Result<Sandbox, Error> {
        let helper = helper.into();
        let probe = probe::cached(&helper);
        let backend = probe.best().ok_or_else(|| Error::NoBackend {
            namespaces: probe.namespaces.explain(),
            landlock: probe.landlock.explain(),
        })?;
        Ok(Sandbox::of(backend, helper, probe))
    }

    /// Uses the backend that is named, or says why it does not work here.
    ///
    /// [`Backend::Unsafe`] is granted: naming it is the explicit permission.
    pub fn with_backend(backend: Backend) -> Result<Sandbox, Error> {
        let helper = default_helper();
        let probe = probe::cached(&helper);
        if let Availability::Missing(why) = probe.availability(backend) {
            return Err(Error::BackendUnavailable { backend, why });
        }
        Ok(Sandbox::of(backend, helper, probe))
    }

    /// Uses no confinement at all: limits and clean-up only.
    ///
    /// For `--unsafe-no-sandbox`; the caller has asked the person for it.
    pub fn without_confinement() -> Sandbox {
        let helper = default_helper();
        let probe = probe::cached(&helper);
        Sandbox::of(Backend::Unsafe, helper, probe)
    }

    fn of(backend: Backend, helper: PathBuf, probe: Arc<Probe>) -> Sandbox {
        Sandbox {
            backend,
            helper,
            probe,
            cgroups: true,
            landlock_at_most: u32::MAX,
        }
    }

    /// Uses another executable as the supervisor; it calls [`reexec_main_if_requested`] first thing.
    #[must_use]
    pub fn with_helper(mut self, helper: impl Into<PathBuf>) -> Sandbox {
        self.helper = helper.into();
        self
    }

    /// Keeps memory, processes and processors within limits without control groups.
    ///
    /// That is what happens anyway where none can be made: a monitor counts, and kills at the limit.
    #[must_use]
    pub fn without_cgroups(mut self) -> Sandbox {
        self.cgroups = false;
        self
    }

    /// Uses no more of Landlock than a kernel with this ABI has, so that newer ones can stand for it.
    #[must_use]
    pub fn with_landlock_at_most(mut self, abi: u32) -> Sandbox {
        self.landlock_at_most = abi;
        self
    }

    /// Returns the backend that commands run with.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Returns what was found out about this machine.
    pub fn probe(&self) -> &Probe {
        &self.probe
    }

    /// Starts a command and returns a handle to it.
    ///
    /// What goes wrong after the supervisor's start (a missing program, a mount that does not exist)
    /// is an [`Outcome`] with [`Reason::StartError`].
    pub fn spawn(&self, mut command: Command, output: Output) -> Result<Child, Error> {
        let (proxy, server) = match &command.network {
            Network::None | Network::Host => (None, None),
            Network::AllowList(proxy) => {
                let server = (self.backend != Backend::Namespaces)
                    .then(|| proxy.serve_on_loopback())
                    .transpose()
                    .map_err(|source| Error::Prepare {
                        what: "the proxy's port on loopback".into(),
                        source,
                    })?;
                (Some(proxy.clone()), server)
            }
        };
        let stdin = command.stdin.take();
        let address = server.as_ref().map(ProxyServer::address);
        let prepared = resolve::prepare(self.backend, command, address).map(|mut prepared| {
            prepared.request.stdin = stdin.is_some();
            prepared.request.cgroups = self.cgroups;
            prepared.request.landlock_at_most = self.landlock_at_most;
            prepared
        });
        child::start(Start {
            helper: &self.helper,
            backend: self.backend,
            prepared,
            stdin: stdin.unwrap_or_default(),
            output,
            proxy,
            server,
        })
    }

    /// Runs a command to its end. The command is killed when the future is dropped.
    ///
    /// Errors of the start are reported as [`Reason::StartError`].
    pub async fn run(&self, command: Command, output: Output) -> Outcome {
        match self.spawn(command, output) {
            Ok(mut child) => child.wait().await,
            Err(error) => Outcome::start_error(self.backend, &error),
        }
    }

    /// Runs a command to its end on this thread; not for use on an async executor's threads.
    pub fn run_blocking(&self, command: Command, output: Output) -> Outcome {
        match self.spawn(command, output) {
            Ok(child) => child.wait_blocking(),
            Err(error) => Outcome::start_error(self.backend, &error),
        }
    }
}

/// Tries every backend with this executable as the supervisor; the result is kept.
pub fn probe() -> Arc<Probe> {
    probe::cached(&default_helper())
}

/// Tells whether programs that lie in `folder` cannot be run, because its file system is mounted so (`noexec`).
///
/// No backend changes that: a bind keeps it.
pub fn forbids_programs(folder: &std::path::Path) -> bool {
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
}

/// Returns a path that starts the running executable again, even when its file was replaced.
fn default_helper() -> PathBuf {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() {
        own
    } else {
        std::env::current_exe().unwrap_or(own)
    }
}
