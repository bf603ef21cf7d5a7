//! `cargo xtask real`: real programs that tests speak to, found or built from pinned sources, and a real control plane of
//! them that is started and stopped again.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use state::State;

mod api;
mod argocd;
mod build;
mod go;
mod halt;
mod ledger;
mod node;
mod pki;
mod ports;
mod program;
mod server;
mod state;
mod tier;

pub use build::{Which, path, paths};
pub use program::Program;
pub use state::Tier;

/// What to do with the real programs.
#[derive(Subcommand)]
pub enum Real {
    /// Starts a real control plane of its own; builds what it needs the first time.
    Up {
        /// How much of a cluster.
        #[arg(long, value_enum, default_value_t = Tier::Api)]
        tier: Tier,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        at: At,
    },
    /// Stops what `up` started, also after a crash, and deletes its data; logs stay.
    Down {
        #[command(flatten)]
        at: At,
    },
    /// Stops single processes of what is up, as a fault would, and leaves their data.
    Stop {
        /// The processes, as `status` names them.
        #[arg(required = true)]
        processes: Vec<String>,
        /// How they are stopped.
        #[arg(long, value_enum, default_value_t)]
        by: halt::By,
        #[command(flatten)]
        at: At,
    },
    /// Starts processes again that `stop` stopped, with the data that they left, and waits until the API answers.
    Start {
        /// The processes.
        #[arg(required = true)]
        processes: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Says of each process whether it runs; fails where one does not.
    Status {
        #[command(flatten)]
        at: At,
    },
    /// Prints the path of the administrator's kubeconfig.
    Kubeconfig {
        #[command(flatten)]
        at: At,
    },
    /// Gives archives of images to the node of tier node, as a pull from a registry would.
    Load {
        /// The archives.
        #[arg(required = true)]
        archives: Vec<PathBuf>,
        #[command(flatten)]
        at: At,
    },
    /// Answers questions for the names of Services, for the pods of tier node, which `up` starts.
    #[command(hide = true)]
    Names(node::names::Names),
    /// Builds programs without starting them: those named, or all.
    Build {
        /// The programs.
        programs: Vec<Program>,
    },
    /// Prints the path of kubectl: the one on PATH if it is new enough, else built.
    Kubectl,
    /// Prints the path of Helm, built at the pinned version.
    Helm,
    /// Prints the path of kubeconform, built at the pinned version.
    Kubeconform,
}

/// How the servers run.
#[derive(Args, Clone, Copy, Default)]
pub struct How {
    /// Lets etcd wait for the disk at every write, as in production; without it etcd runs with `--unsafe-no-fsync`, which
    /// is for tests only.
    #[arg(long)]
    pub durable: bool,
    /// The release of Kubernetes, by default 1.34; where servers are up and none is named, whatever they are of.
    #[arg(long, value_enum)]
    pub kubernetes: Option<program::Release>,
    /// Installs the Debian packages that tier node needs and that are missing.
    #[arg(long)]
    pub install: bool,
}

/// Where the state of the servers is.
#[derive(Args)]
pub struct At {
    /// The folder of the servers' state; by default one of this checkout's own, in the cache.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// Does what the command line says.
pub fn run(root: &Path, command: Real) -> Result<()> {
    let state = |at: At| State::open(root, at.state.as_deref());
    match command {
        Real::Up { tier, how, at } => {
            let state = state(at)?;
            if tier::up(root, &state, tier, how)? == tier::Up::Already {
                println!("tier {tier} is up already, in {}", state.folder().display());
            }
            println!("kubeconfig: {}", state.kubeconfig()?.display());
            Ok(())
        }
        Real::Down { at } => tier::down(&state(at)?),
        Real::Stop { processes, by, at } => halt::stop(&state(at)?, &processes, by),
        Real::Start { processes, at } => halt::start(&state(at)?, &processes),
        Real::Status { at } => tier::status(&state(at)?),
        Real::Kubeconfig { at } => {
            println!("{}", state(at)?.kubeconfig()?.display());
            Ok(())
        }
        Real::Load { archives, at } => {
            let state = state(at)?;
            archives.iter().try_for_each(|archive| node::import(&state, archive))
        }
        Real::Names(names) => names.serve(),
        Real::Build { programs } => {
            let programs = if programs.is_empty() { Program::all() } else { programs };
            for path in build::paths(root, &programs, Which::Pinned)? {
                println!("{}", path.display());
            }
            Ok(())
        }
        Real::Kubectl => print_path(root, Program::Kubectl),
        Real::Helm => print_path(root, Program::Helm),
        Real::Kubeconform => print_path(root, Program::Kubeconform),
    }
}

fn print_path(root: &Path, program: Program) -> Result<()> {
    println!("{}", path(root, program, Which::Found)?.display());
    Ok(())
}

/// Servers that run while tests do.
pub struct Servers {
    state: State,
    started: tier::Up,
}

impl Servers {
    /// Starts a tier in this checkout's own folder, where it does not run.
    pub fn up(root: &Path, tier: Tier) -> Result<Servers> {
        let state = State::open(root, None)?;
        let started = tier::up(root, &state, tier, How::default())?;
        if started == tier::Up::Already {
            println!("tier {tier} was up before, and stays so");
        }
        Ok(Servers { state, started })
    }

    /// Starts tier api in a folder of that name beside this checkout's own, with an etcd that waits for the disk.
    pub fn up_durable(root: &Path, name: &str) -> Result<Servers> {
        let folder = State::open(root, None)?.folder().with_extension(name);
        let state = State::open(root, Some(&folder))?;
        // What was written before must not count.
        tier::down(&state)?;
        let how = How {
            durable: true,
            ..How::default()
        };
        let started = tier::up(root, &state, Tier::Api, how)?;
        Ok(Servers { state, started })
    }

    /// Returns the ids of processes, with commas between them.
    pub fn processes(&self, names: &[&str]) -> Result<String> {
        let recorded = ledger::read(&self.state)?;
        let id = |name: &&str| {
            let found = recorded.iter().find(|recorded| recorded.name == *name);
            Ok(found
                .with_context(|| format!("{name} was not started"))?
                .pid
                .to_string())
        };
        Ok(names.iter().map(id).collect::<Result<Vec<_>>>()?.join(","))
    }

    /// Returns the administrator's kubeconfig.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        self.state.kubeconfig()
    }

    /// Gives images to the node.
    pub fn load(&self, archive: &Path) -> Result<()> {
        node::import(&self.state, archive)
    }

    /// Stops the servers, where they were started for the tests.
    pub fn down(self) -> Result<()> {
        match self.started {
            tier::Up::Started => tier::down(&self.state),
            tier::Up::Already => Ok(()),
        }
    }
}

/// Returns the folder of built programs and of servers' state, outside the repository.
pub fn cache() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
    {
        Some(base) => base,
        None => {
            PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?).join(".cache")
        }
    };
    let folder = base.join("foreman/real");
    std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    Ok(folder)
}
