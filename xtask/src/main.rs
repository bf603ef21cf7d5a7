//! What a person repeats while working on Foreman.

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

mod r#gen;

/// What a person repeats while working on Foreman.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes the CRDs and JSON Schemas that the types say.
    Gen {
        /// Writes nothing and fails where a file differs.
        #[arg(long)]
        check: bool,
    },
}

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("failed to find the repository's root")?;
    match Arguments::parse().command {
        Command::Gen { check } => r#gen::run(root, check),
    }
}
