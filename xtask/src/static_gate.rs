//! `cargo xtask static-gate`: `foreman-gate` as a program that needs nothing of the image it runs in.
//!
//! A gate's Job copies the program out of Foreman's own image into a Pod whose image is somebody else's: it may have
//! another C library, or none. So it is linked statically, against the C library of the machine that builds it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::process;

/// How the program is built.
#[derive(Args)]
pub struct Build {
    /// Builds without optimisation, as the tests of the tools tier do: a tenth of the time, several times the size.
    #[arg(long)]
    pub dev: bool,
}

/// A program that was built and looked into.
pub struct Built {
    pub path: PathBuf,
    pub bytes: u64,
}

/// Builds the program, and fails where it would need an interpreter or a library.
pub fn build(root: &Path, build: &Build) -> Result<Built> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // Cargo gives RUSTFLAGS to the target's crates alone once a target is named: build scripts and procedural macros
    // stay as they are, and are shared with other builds of this folder.
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = process::cargo(root, &["build", "--package", "gate", "--bin", "foreman-gate"]);
    command
        .args(["--target", &target])
        .env("RUSTFLAGS", format!("{flags} -C target-feature=+crt-static"));
    let profile = if build.dev {
        // Nobody debugs it, and debug information is most of its size.
        command
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_PROFILE_DEV_STRIP", "true");
        "debug"
    } else {
        command.arg("--release");
        "release"
    };
    process::run(command)?;
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder));
    let path = folder.join(&target).join(profile).join("foreman-gate");
    let bytes = std::fs::read(&path).with_context(|| format!("failed to read {}", path.display()))?;
    match interpreter(&bytes) {
        None => bail!("failed to read {}: it is no 64-bit ELF program", path.display()),
        Some(Some(name)) => bail!("{} is not static: it asks for {name}", path.display()),
        Some(None) => Ok(Built {
            path,
            bytes: bytes.len() as u64,
        }),
    }
}

/// Reads which program loader a little-endian 64-bit ELF program asks for; a static one asks for none. The outer `None`
/// is for what is no such program.
fn interpreter(program: &[u8]) -> Option<Option<String>> {
    /// Kind of the program header that names the loader.
    const PT_INTERP: u64 = 3;
    let number = |at: usize, length: usize| {
        let bytes = program.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    };
    if !program.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(number(32, 8)?).ok()?;
    let (size, count) = (
        usize::try_from(number(54, 2)?).ok()?,
        usize::try_from(number(56, 2)?).ok()?,
    );
    for index in 0..count {
        let header = table.checked_add(index.checked_mul(size)?)?;
        if number(header, 4)? == PT_INTERP {
            let from = usize::try_from(number(header + 8, 8)?).ok()?;
            let length = usize::try_from(number(header + 32, 8)?).ok()?;
            let name = program.get(from..from.checked_add(length)?)?;
            return Some(Some(String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_that_needs_a_loader_is_told_from_one_that_needs_none() {
        let mut own = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let name = interpreter(&own).unwrap().unwrap();
        assert!(name.starts_with("/lib"), "{name}");
        // Without program headers there is nothing that could name a loader.
        own[56] = 0;
        own[57] = 0;
        assert_eq!(interpreter(&own), Some(None));
        assert_eq!(interpreter(&own[..57]), None);
        assert_eq!(interpreter(b"#!/bin/sh\n"), None);
    }
}
