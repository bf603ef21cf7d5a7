//! kubectl, from PATH or built from its Go module.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The version that `tests/real/kubectl/go.mod` pins.
const VERSION: &str = "1.34.4";
/// The oldest minor version that is taken from PATH.
const OLDEST_MINOR: u32 = 31;

/// Returns where a kubectl is.
pub fn path(root: &Path) -> Result<PathBuf> {
    if minor(Path::new("kubectl")).is_some_and(|minor| minor >= OLDEST_MINOR) {
        return Ok("kubectl".into());
    }
    let built = super::cache()?.join(format!("kubectl-{VERSION}"));
    if minor(&built).is_none() {
        build(root, &built)?;
    }
    Ok(built)
}

/// Asks a kubectl for its minor version; nothing where it is not there or does not answer.
fn minor(kubectl: &Path) -> Option<u32> {
    let output = Command::new(kubectl)
        .args(["version", "--client", "--output", "json"])
        .output()
        .ok()?;
    parse_minor(&output.stdout)
}

fn parse_minor(answer: &[u8]) -> Option<u32> {
    let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let version = answer.pointer("/clientVersion/gitVersion")?.as_str()?;
    version.strip_prefix("v1.")?.split('.').next()?.parse().ok()
}

fn build(root: &Path, target: &Path) -> Result<()> {
    eprintln!("building kubectl {VERSION} from its Go module");
    let version = "k8s.io/component-base/version";
    let flags = format!("-s -w -X {version}.gitVersion=v{VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=34");
    // Built beside its place and renamed, so that a build that was cut off is not taken for a kubectl.
    let fresh = target.with_extension(format!("new-{}", std::process::id()));
    let mut go = process::command(&root.join("tests/real/kubectl"), "go");
    go.args(["build", "-mod=readonly", "-trimpath", "-ldflags", &flags, "-o"])
        .arg(&fresh)
        .arg(".")
        .env("CGO_ENABLED", "0");
    process::run(go)
        .context("failed to build kubectl; it needs Go 1.24 or newer, or have a kubectl 1.31 or newer on PATH")?;
    std::fs::rename(&fresh, target).with_context(|| format!("failed to write {}", target.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minor_version_is_read_from_what_kubectl_says() {
        let answer = br#"{"clientVersion": {"major": "1", "minor": "32", "gitVersion": "v1.32.4-dispatcher"}}"#;
        assert_eq!(parse_minor(answer), Some(32));
        assert_eq!(
            parse_minor(br#"{"clientVersion": {"gitVersion": "v0.0.0-master"}}"#),
            None
        );
        assert_eq!(parse_minor(b"no json"), None);
    }
}
