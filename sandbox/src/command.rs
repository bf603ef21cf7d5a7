//! What to run, with what in sight, within which bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::limits::Limits;
use crate::mount::{Access, Mount};
use crate::proxy::Proxy;
use crate::toolchain::Toolchain;

/// Describes one command and its sandbox.
///
/// Nothing of the caller is inherited: no environment variable, no file descriptor, no folder that is
/// not listed. Later mounts replace earlier ones with the same target.
#[derive(Debug, Clone)]
pub struct Command {
    /// The program: a name looked up on the `PATH` of `env`, or a path inside the sandbox.
    pub program: String,
    /// The arguments after the program's name.
    pub args: Vec<String>,
    /// The complete environment.
    pub env: BTreeMap<String, String>,
    /// The working directory inside the sandbox.
    pub cwd: PathBuf,
    /// What of the host's file system is visible, and where.
    pub mounts: Vec<Mount>,
    /// Sources of mounts in which no link is followed: where one is met, the command does not start.
    pub exact: BTreeSet<PathBuf>,
    /// What network the command has.
    pub network: Network,
    /// What the command may use.
    pub limits: Limits,
    /// What the command reads from its standard input; nothing (`/dev/null`) by default.
    pub stdin: Option<Vec<u8>>,
    /// Whether the command starts sandboxes of its own.
    ///
    /// It is then allowed to create namespaces and mounts inside its own.
    pub nesting: bool,
}

/// Tells what network a command has.
#[derive(Debug, Clone, Default)]
pub enum Network {
    /// None at all; a loopback device of its own where the backend has network namespaces.
    #[default]
    None,
    /// HTTP and HTTPS through a filtering proxy, and nothing else.
    AllowList(Proxy),
    /// The host's own network. For Foreman's own programs that fetch; never for what they fetched.
    Host,
}

impl Command {
    /// Describes a program with no arguments, an empty environment, no mounts and no network.
    pub fn new(program: impl Into<String>) -> Command {
        Command {
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: PathBuf::from("/"),
            mounts: Vec::new(),
            exact: BTreeSet::new(),
            network: Network::None,
            limits: Limits::default(),
            stdin: None,
            nesting: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Command {
        self.args.push(arg.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<I, S>(mut self, args: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Command {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Sets environment variables.
    #[must_use]
    pub fn envs<I, K, V>(mut self, variables: I) -> Command
    where
        I: IntoIterator<Item = (K, V)>,
        K: Into<String>,
        V: Into<String>,
    {
        self.env
            .extend(variables.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sets the working directory, a path inside the sandbox.
    #[must_use]
    pub fn cwd(mut self, cwd: impl Into<PathBuf>) -> Command {
        self.cwd = cwd.into();
        self
    }

    /// Adds a mount.
    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Command {
        self.mounts.push(mount);
        self
    }

    /// Shows a host path read-only.
    #[must_use]
    pub fn ro(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Command {
        self.mount(Mount::Bind {
            source: source.into(),
            target: target.into(),
            access: Access::ReadOnly,
        })
    }

    /// Shows a host path for reading and writing.
    #[must_use]
    pub fn rw(self, source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Command {
        self.mount(Mount::Bind {
            source: source.into(),
            target: target.into(),
            access: Access::ReadWrite,
        })
    }

    /// Adds an empty writable folder that goes away with the command.
    #[must_use]
    pub fn tmpfs(self, target: impl Into<PathBuf>, size_bytes: u64) -> Command {
        self.mount(Mount::Tmpfs {
            target: target.into(),
            size_bytes,
        })
    }

    /// Hides a path that a bind would show.
    #[must_use]
    pub fn mask(self, target: impl Into<PathBuf>) -> Command {
        self.mount(Mount::Mask { target: target.into() })
    }

    /// Sets the network.
    #[must_use]
    pub fn network(mut self, network: Network) -> Command {
        self.network = network;
        self
    }

    /// Sets the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Command {
        self.limits = limits;
        self
    }

    /// Bounds the wall-clock time.
    #[must_use]
    pub fn wall(mut self, wall: Duration) -> Command {
        self.limits.wall = Some(wall);
        self
    }

    /// Bounds the memory of all processes together.
    #[must_use]
    pub fn memory(mut self, bytes: u64) -> Command {
        self.limits.memory_bytes = Some(bytes);
        self
    }

    /// Gives the command bytes to read from its standard input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Command {
        self.stdin = Some(bytes.into());
        self
    }

    /// Lets the command start sandboxes of its own.
    #[must_use]
    pub fn nesting(mut self, nesting: bool) -> Command {
        self.nesting = nesting;
        self
    }

    /// Adds the host's tools: their mounts before the command's own, their environment where the
    /// command sets nothing itself.
    #[must_use]
    pub fn toolchain(mut self, toolchain: &Toolchain) -> Command {
        let mut mounts = toolchain.mounts.clone();
        mounts.append(&mut self.mounts);
        self.mounts = mounts;
        for (name, value) in &toolchain.env {
            self.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        self
    }
}
