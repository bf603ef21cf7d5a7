//! `cargo xtask real`: real programs that tests speak to, found or built from pinned sources.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;

mod kubectl;

/// A real program.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum Program {
    /// The Kubernetes command line: the one on PATH if it is new enough, else built from its Go module.
    Kubectl,
}

/// Returns where the program is; builds it where it is not.
pub fn path(root: &Path, program: Program) -> Result<PathBuf> {
    match program {
        Program::Kubectl => kubectl::path(root),
    }
}

/// Returns the folder that built programs are kept in, outside the repository.
fn cache() -> Result<PathBuf> {
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
