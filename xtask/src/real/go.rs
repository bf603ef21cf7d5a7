//! The Go that real programs are built with: the one on PATH if it is new enough, else a pinned one that an older Go
//! downloads as a module.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::program::required_version;

/// The oldest Go that builds every module below `tests/real`.
const OLDEST: (u32, u32) = (1, 26);
/// The module that carries Go itself.
const TOOLCHAIN: &str = "golang.org/toolchain";

/// Returns the `go` to build with.
pub fn find(root: &Path) -> Result<PathBuf> {
    let answer = Command::new("go")
        .arg("version")
        // Asked in a folder without a go.mod, Go tells its own version and not the one that a module would make it fetch.
        .current_dir("/")
        .output()
        .context(
            "failed to start `go`: install Go, of any version since 1.19; a newer one is fetched where it must be",
        )?;
    let told = String::from_utf8_lossy(&answer.stdout).into_owned();
    match version(&told) {
        Some(version) if version >= OLDEST => Ok("go".into()),
        Some(_) => pinned(root, &told),
        None => bail!("failed to understand what `go version` says: {told:?}"),
    }
}

/// Reads major and minor version.
fn version(told: &str) -> Option<(u32, u32)> {
    let numbers = told.strip_prefix("go version go")?;
    let mut numbers = numbers.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Downloads the Go that `tests/real/go/go.mod` pins, checked against its `go.sum`, and makes its programs executable:
/// a module's files have no modes.
fn pinned(root: &Path, told: &str) -> Result<PathBuf> {
    let module = root.join("tests/real/go");
    let go_mod = std::fs::read_to_string(module.join("go.mod")).context("failed to read tests/real/go/go.mod")?;
    let version = required_version(&go_mod, TOOLCHAIN).context("tests/real/go/go.mod pins no Go")?;
    if !version.ends_with(&format!("linux-{}", architecture())) {
        bail!(
            "{} is too old, and tests/real/go/go.mod pins Go for another machine: install Go {}.{} or newer",
            told.trim(),
            OLDEST.0,
            OLDEST.1
        );
    }
    let target = super::cache()?.join(format!("go-{version}"));
    let go = target.join("bin/go");
    if go.exists() {
        return Ok(go);
    }
    eprintln!(
        "{}: too old for what is to be built; fetching Go {version}",
        told.trim()
    );
    let answer = Command::new("go")
        .args(["mod", "download", "-json", TOOLCHAIN])
        .current_dir(&module)
        .output()
        .context("failed to start `go mod download`")?;
    let said: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
    let Some(folder) = said["Dir"].as_str().filter(|_| answer.status.success()) else {
        bail!(
            "failed to fetch Go {version}: {}{}",
            said["Error"].as_str().unwrap_or_default(),
            String::from_utf8_lossy(&answer.stderr)
        );
    };
    let fresh = target.with_extension(format!("new-{}", std::process::id()));
    copy(Path::new(folder), &fresh)?;
    std::fs::rename(&fresh, &target).with_context(|| format!("failed to write {}", target.display()))?;
    Ok(go)
}

/// Returns Go's name of this machine's processor.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Copies a folder, with what lies in `bin` and `pkg/tool` executable.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = |path: &Path| format!("failed to copy {}", path.display());
    std::fs::create_dir_all(to).with_context(|| failed(from))?;
    for entry in std::fs::read_dir(from).with_context(|| failed(from))? {
        let path = entry?.path();
        let Some(name) = path.file_name() else { continue };
        let target = to.join(name);
        if path.is_dir() {
            copy(&path, &target)?;
            continue;
        }
        std::fs::copy(&path, &target).with_context(|| failed(&path))?;
        let program = path
            .components()
            .any(|part| part.as_os_str() == "bin" || part.as_os_str() == "tool");
        let mode = if program { 0o755 } else { 0o644 };
        std::fs::set_permissions(&target, std::fs::Permissions::from_mode(mode)).with_context(|| failed(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_go_is_read_and_compared_by_number() {
        assert_eq!(version("go version go1.26.8 linux/amd64\n"), Some((1, 26)));
        assert_eq!(version("go version go1.27rc1 linux/amd64"), Some((1, 27)));
        assert_eq!(version("gccgo 12"), None);
        assert!(version("go version go1.9.1 linux/amd64") < Some(OLDEST));
    }
}
