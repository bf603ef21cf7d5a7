//! The root file system that images begin with: Debian's own packages, put together by Debian's `mmdebstrap` into one layer,
//! as a builder would by pulling `debian:<release>-slim` and running apt-get in it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::{process, real};

/// What a slim image of Debian leaves out.
const LEFT_OUT: [&str; 5] = [
    "/usr/share/doc/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/groff/*",
];
/// Where a machine's own sources of packages are written.
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// Returns the layer of a Debian image with packages; makes it where it is not in the cache.
pub fn layer(image: &str, packages: &[String]) -> Result<PathBuf> {
    let release = release(image)?;
    let digest = Sha256::digest(format!(
        "1\n{image}\n{}\n{}",
        std::env::consts::ARCH,
        packages.join(" ")
    ));
    let target = real::cache()?
        .join(format!("rootfs-{release}"))
        .join(hex::encode(&digest[..8]))
        .join("rootfs.tar");
    if target.exists() {
        return Ok(target);
    }
    let folder = target.parent().context("a target without a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    eprintln!("making the root file system of {image} with {}", packages.join(" "));
    let fresh = folder.join(format!("rootfs.{}.tar", std::process::id()));
    process::run(command(release, packages, &fresh)?).context(
        "failed to make a root file system; it needs the Debian package mmdebstrap and a mirror of Debian's packages",
    )?;
    std::fs::rename(&fresh, &target).with_context(|| format!("failed to write {}", target.display()))?;
    Ok(target)
}

/// Reads the release from the name of an image of Debian.
fn release(image: &str) -> Result<&str> {
    let release = image
        .rsplit_once("/debian:")
        .and_then(|(_, tag)| tag.strip_suffix("-slim"));
    match release {
        Some(release) if !release.is_empty() && release.bytes().all(|byte| byte.is_ascii_lowercase()) => Ok(release),
        _ => bail!("failed to make {image} without a registry: expected an image like debian:bookworm-slim"),
    }
}

fn command(release: &str, packages: &[String], target: &Path) -> Result<Command> {
    let mut command = Command::new("mmdebstrap");
    command
        .args(["--quiet", "--variant=minbase", "--format=tar"])
        .arg(format!("--include={}", packages.join(",")))
        // The same packages make the same layer.
        .env("SOURCE_DATE_EPOCH", "0");
    for path in LEFT_OUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    for option in proxies() {
        command.arg(format!("--aptopt={option}"));
    }
    command.arg(release).arg(target);
    command.args(sources(release));
    Ok(command)
}

/// Returns how this machine's apt reaches mirrors, which a root of its own does not inherit.
fn proxies() -> Vec<String> {
    let mut config = Command::new("apt-config");
    config.args(["dump", "--format", "%f \"%v\";%n", "Acquire"]);
    let told = config.output().map(|output| output.stdout).unwrap_or_default();
    let told = String::from_utf8_lossy(&told);
    let lines = told
        .lines()
        .filter(|line| line.contains("::Proxy \"") && !line.ends_with("\"\";"));
    lines.map(str::to_owned).collect()
}

/// Returns this machine's own sources of the release's packages; where it has none, Debian's own mirror is asked.
fn sources(release: &str) -> Option<&'static str> {
    SOURCES.into_iter().find(|path| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines()
            .any(|line| !line.trim_start().starts_with('#') && line.split_whitespace().any(|word| word == release))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_release_is_read_from_the_image_and_others_are_refused() {
        assert_eq!(release("docker.io/library/debian:bookworm-slim").unwrap(), "bookworm");
        for image in [
            "alpine:3",
            "docker.io/library/debian:latest",
            "docker.io/library/debian:../x-slim",
        ] {
            assert!(release(image).is_err(), "{image}");
        }
    }
}
