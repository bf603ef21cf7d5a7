//! What a person repeats while working on Foreman.

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod bench;
mod r#gen;
mod images;
mod kustomize;
mod process;
mod real;
mod static_gate;
mod test;

/// What a person repeats while working on Foreman.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the CRDs and JSON Schemas that the types say, and Argo CD's checks of their health.
    Gen {
        /// Writes nothing and fails where a file differs.
        #[arg(long)]
        check: bool,
    },
    /// Writes the kustomize base, which is what the chart renders by default.
    Kustomize {
        /// Writes nothing and fails where a file differs.
        #[arg(long)]
        check: bool,
    },
    /// Runs the tests; without flags those that need only Rust, Git and a C compiler.
    Test {
        /// Runs the tier that needs tools instead (kubectl, sshd, Go, Node.js, Python); a missing tool is a failure.
        #[arg(long)]
        tools: bool,
        /// Runs the tier that needs a real control plane instead: builds, starts and stops one.
        #[arg(long, conflicts_with = "tools")]
        real: bool,
        /// Runs only tests whose name contains this.
        filter: Option<String>,
    },
    /// Runs every check that a change must pass, as `.ci/run` does.
    Ci,
    /// Finds or builds real programs that tests speak to, and starts and stops a real control plane of them.
    #[command(subcommand)]
    Real(real::Real),
    /// Builds `foreman-gate` so that it runs in any image, checks that it does not ask for a library, and prints its path.
    StaticGate(static_gate::Build),
    /// Builds the programs and packs them as images, without a registry and without a builder; prints the archive.
    Images(images::Build),
    /// Measures speed and memory beside a peer in the same run, in a release build.
    Bench {
        /// Measures only what carries one of these names: `plane`, `worktree`, `queue`, `idle`, `verdict`. With `operator` first,
        /// the operator is measured on a real control plane instead: `index`, `files`, `repository`, `schedule`.
        names: Vec<String>,
    },
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("failed to find the repository's root")?;
    match Arguments::parse().command {
        Command::Gen { check } => r#gen::run(root, check),
        Command::Kustomize { check } => kustomize::run(root, check),
        Command::Test { tools, real, filter } => match (tools, real) {
            (false, false) => test::run(root, filter.as_deref()),
            (true, _) => test::run_tools(root, filter.as_deref()),
            (false, true) => test::run_real(root, filter.as_deref()),
        },
        Command::Ci => process::run(process::command(root, root.join(".ci/run"))),
        Command::Real(what) => real::run(root, what),
        Command::StaticGate(how) => {
            let built = static_gate::build(root, &how)?;
            println!("{} ({:.1} MB)", built.path.display(), built.bytes as f64 / 1e6);
            Ok(())
        }
        Command::Images(how) => {
            println!("{}", images::build(root, &how)?.display());
            Ok(())
        }
        Command::Bench { names } => bench::run(root, &names),
    }
}
