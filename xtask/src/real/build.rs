//! Building the real programs, once.
//!
//! A program lies at `<cache>/<name>-<version>/<key>/<name>`; the key is a digest of all that goes into its build. It is
//! built beside its place and renamed, so that a build that was cut off is not taken for a program.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::program::{Program, Release, required_version};
use super::{cache, go};

/// How often a build that goes on is told of.
const TOLD_EVERY: Duration = Duration::from_secs(15);
/// How many lines of a log are shown where a build fails.
const SHOWN_LINES: usize = 12;

/// Which build of a program will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// One on PATH, where that is as good; else the pinned one.
    Found,
    /// The pinned one; etcd from PATH all the same.
    Pinned,
    /// As [`Which::Pinned`], but Kubernetes' programs are of this release.
    Of(Release),
}

impl Which {
    /// Returns the release that Kubernetes' programs are built of.
    fn release(self) -> Release {
        match self {
            Self::Found | Self::Pinned => Release::default(),
            Self::Of(release) => release,
        }
    }
}

/// A program, and where it is to lie.
struct Plan {
    program: Program,
    version: String,
    module: PathBuf,
    target: PathBuf,
}

/// Returns where a program is; builds it where it is not.
pub fn path(root: &Path, program: Program, which: Which) -> Result<PathBuf> {
    let mut paths = paths(root, &[program], which)?;
    paths.pop().context("failed to find the program that was just built")
}

/// Returns where programs are, in their order; builds those that are not there, one after the other.
pub fn paths(root: &Path, programs: &[Program], which: Which) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for &program in programs {
        if let Some(path) = on_path(program, which) {
            found.push(path);
            continue;
        }
        let plan = plan(root, &cache()?, program, which.release())?;
        found.push(plan.target.clone());
        if !plan.target.exists() {
            missing.push(plan);
        }
    }
    if missing.is_empty() {
        return Ok(found);
    }
    let lock = cache()?.join("build.lock");
    let lock = File::create(&lock).with_context(|| format!("failed to make {}", lock.display()))?;
    if lock.try_lock().is_err() {
        eprintln!("waiting for another build of real programs");
        lock.lock().context("failed to lock the cache of real programs")?;
    }
    let go = go::find(root)?;
    let count = missing.len();
    for (index, plan) in missing.iter().enumerate() {
        // The build that was waited for may have made it.
        if !plan.target.exists() {
            build(&go, plan, &format!("[{}/{count}]", index + 1))?;
        }
    }
    Ok(found)
}

/// Returns the program on PATH that is as good as a built one.
fn on_path(program: Program, which: Which) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join(program.name()))
        .find(|path| path.is_file())?;
    let good = match (program, which) {
        (Program::Etcd, _) => {
            let told = answer(&found, &["--version"]);
            told.and_then(|told| etcd_version(&told))
                .is_some_and(|version| version.starts_with(&[3]) && version >= OLDEST_ETCD.to_vec())
        }
        (Program::Kubectl, Which::Found) => {
            let told = answer(&found, &["version", "--client", "--output", "json"]);
            told.and_then(|told| kubectl_minor(&told))
                .is_some_and(|minor| minor >= OLDEST_KUBECTL)
        }
        _ => false,
    };
    good.then_some(found)
}

/// The oldest etcd that is taken from PATH: one before it cannot tell how far a watch has come, without which
/// kube-apiserver ends no watch's initial events.
const OLDEST_ETCD: [u32; 3] = [3, 4, 31];
/// The oldest minor version of kubectl that is taken from PATH.
const OLDEST_KUBECTL: u32 = 31;

fn answer(program: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

fn etcd_version(told: &str) -> Option<Vec<u32>> {
    let version = told.lines().find_map(|line| line.strip_prefix("etcd Version: "))?;
    version.trim().split('.').map(|number| number.parse().ok()).collect()
}

fn kubectl_minor(told: &str) -> Option<u32> {
    let answer: serde_json::Value = serde_json::from_str(told).ok()?;
    let version = answer.pointer("/clientVersion/gitVersion")?.as_str()?;
    version.strip_prefix("v1.")?.split('.').next()?.parse().ok()
}

fn plan(root: &Path, cache: &Path, program: Program, release: Release) -> Result<Plan> {
    let module = root.join("tests/real").join(release.module(program));
    let read = |name: &str| {
        let path = module.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))
    };
    let (go_mod, go_sum) = (read("go.mod")?, read("go.sum")?);
    let version = required_version(&go_mod, program.versioned_by()).with_context(|| {
        format!(
            "{} requires no {}",
            module.join("go.mod").display(),
            program.versioned_by()
        )
    })?;
    let target = cache
        .join(format!("{}-{version}", program.name()))
        .join(program.key(&version, &go_mod, &go_sum))
        .join(program.name());
    Ok(Plan {
        program,
        version,
        module,
        target,
    })
}

fn build(go: &Path, plan: &Plan, place: &str) -> Result<()> {
    let shown = format!("{} {}", plan.program.name(), plan.version);
    let folder = plan.target.parent().context("a target without a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    // What is left of builds that were cut off; nobody else builds while the lock is held.
    for entry in std::fs::read_dir(folder).with_context(|| format!("failed to list {}", folder.display()))? {
        let stale = entry?.path();
        if stale.extension().is_some_and(|extension| extension == "part") {
            std::fs::remove_file(&stale).with_context(|| format!("failed to delete {}", stale.display()))?;
        }
    }
    let fresh = folder.join(format!("{}.part", plan.program.name()));
    let log = folder.join("build.log");
    let output = File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
    eprintln!("{place} {shown}: building; log {}", log.display());
    let begin = Instant::now();
    let mut command = command(go, plan, &fresh);
    command.stdout(output.try_clone()?).stderr(output).stdin(Stdio::null());
    let child = command
        .spawn()
        .with_context(|| format!("failed to start {}", go.display()))?;
    let status = wait(child, || {
        let packages = std::fs::read_to_string(&log).map_or(0, |text| text.lines().count());
        eprintln!(
            "{place} {shown}: {} s, {packages} packages compiled or fetched",
            begin.elapsed().as_secs()
        );
    })?;
    if !status.success() {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        bail!(
            "failed to build {shown} ({status}); {} ends with:\n{}",
            log.display(),
            tail(&text, SHOWN_LINES)
        );
    }
    std::fs::rename(&fresh, &plan.target).with_context(|| format!("failed to write {}", plan.target.display()))?;
    let size = plan.target.metadata().map_or(0, |metadata| metadata.len());
    eprintln!(
        "{place} {shown}: built in {} s, {:.0} MB",
        begin.elapsed().as_secs(),
        size as f64 / 1e6
    );
    Ok(())
}

fn command(go: &Path, plan: &Plan, target: &Path) -> Command {
    let mut command = Command::new(go);
    command
        .current_dir(&plan.module)
        .args([
            "build",
            "-v",
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-ldflags",
        ])
        .arg(plan.program.linker_flags(&plan.version))
        .arg("-o")
        .arg(target)
        .arg(plan.program.package())
        .env("CGO_ENABLED", if plan.program.cgo() { "1" } else { "0" })
        .env("GOWORK", "off");
    command
}

/// Waits for a process to end, and tells of it now and then.
fn wait(mut child: Child, told: impl Fn()) -> Result<ExitStatus> {
    let (done, ended) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        let status = child.wait();
        // Nobody listens any more where this process ends first.
        let _ = done.send(());
        status
    });
    while ended.recv_timeout(TOLD_EVERY) == Err(mpsc::RecvTimeoutError::Timeout) {
        told();
    }
    match waiting.join() {
        Ok(status) => status.context("failed to wait for the build"),
        Err(_) => bail!("failed to wait for the build"),
    }
}

/// Returns the last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    #[test]
    fn a_program_lies_below_its_version_and_the_digest_of_what_it_is_built_from() {
        let plan = plan(&root(), Path::new("/cache"), Program::KubeApiserver, Release::Usual).unwrap();
        let shown = plan.target.to_str().unwrap();
        let key = shown.strip_prefix("/cache/kube-apiserver-1.34.4/").unwrap();
        let key = key.strip_suffix("/kube-apiserver").unwrap();
        assert!(
            key.len() == 16 && key.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{shown}"
        );
    }

    #[test]
    fn only_the_kubelet_is_linked_with_c() {
        for program in Program::all() {
            let plan = plan(&root(), Path::new("/cache"), program, Release::Usual).unwrap();
            let command = command(Path::new("go"), &plan, Path::new("/t"));
            let cgo = command.get_envs().find(|(name, _)| *name == "CGO_ENABLED").unwrap().1;
            let expected = if program == Program::Kubelet { "1" } else { "0" };
            assert_eq!(cgo.unwrap(), expected, "{}", program.name());
        }
    }

    #[test]
    fn a_build_that_fails_leaves_no_program_and_names_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            program: Program::Kubeconform,
            version: "0.8.0".to_owned(),
            module: folder.path().to_owned(),
            target: folder.path().join("key/kubeconform"),
        };
        let error = build(Path::new("false"), &plan, "[1/1]").unwrap_err().to_string();
        assert!(error.contains("key/build.log"), "{error}");
        assert!(!plan.target.exists());
    }

    #[test]
    fn the_version_of_etcd_is_read_and_compared_by_number() {
        let told = |version: &str| etcd_version(&format!("etcd Version: {version}\nGit SHA: Not provided\n"));
        assert!(told("3.4.23").unwrap() < OLDEST_ETCD.to_vec());
        assert!(told("3.5.0").unwrap() >= OLDEST_ETCD.to_vec());
        assert_eq!(etcd_version("no version"), None);
    }

    #[test]
    fn the_minor_version_is_read_from_what_kubectl_says() {
        let answer = r#"{"clientVersion": {"major": "1", "minor": "32", "gitVersion": "v1.32.4-dispatcher"}}"#;
        assert_eq!(kubectl_minor(answer), Some(32));
        assert_eq!(
            kubectl_minor(r#"{"clientVersion": {"gitVersion": "v0.0.0-master"}}"#),
            None
        );
        assert_eq!(kubectl_minor("no json"), None);
    }

    #[test]
    fn the_tail_of_a_short_text_is_all_of_it() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc");
        assert_eq!(tail("a", 5), "a");
    }
}
