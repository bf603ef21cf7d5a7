//! The shell of the `bash` tool: each command in a sandbox of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::BoxFuture;
use sandbox::{Backend, Command, Exit, KeepFree, Limits, Mount, Output, Reason, Sandbox, Sink, Toolchain};
use tokio_util::sync::CancellationToken;

use super::bash::{Shell, ShellError, ShellExit, ShellOutput};

/// Where the work tree lies inside the sandbox.
pub const WORKSPACE: &str = "/workspace";
/// Bytes of a command's output that are kept, half from its beginning and half from its end.
const KEPT: usize = 8 * 1024 * 1024;
/// Size of the private `/tmp`, in bytes.
const TMP_BYTES: u64 = 1 << 30;

/// Says what a command may see and use.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// The work tree, shown at [`WORKSPACE`].
    pub work_tree: PathBuf,
    /// Folders of the host that commands may read at their own path, such as the repository's admin folder.
    pub read_only: Vec<PathBuf>,
    /// Further mounts, such as caches.
    pub mounts: Vec<Mount>,
    /// Variables to set in addition.
    pub env: BTreeMap<String, String>,
    /// Most memory of all processes together, in bytes.
    pub memory_bytes: u64,
    /// Most processes and threads.
    pub pids: u32,
    /// Most processors.
    pub cpus: Option<f64>,
    /// Largest file that may be written, in bytes.
    pub file_size_bytes: u64,
    /// What stays free on the disk of the work tree.
    pub keep_free: KeepFree,
}

impl SandboxSettings {
    /// Describes a work tree with default limits: 4 GiB of memory, 1024 processes, files of 4 GiB, and a disk on which
    /// 2 GiB stay free, or a twentieth of it where that is less.
    pub fn new(work_tree: impl Into<PathBuf>) -> Self {
        Self {
            work_tree: work_tree.into(),
            read_only: Vec::new(),
            mounts: Vec::new(),
            env: BTreeMap::new(),
            memory_bytes: 4 << 30,
            pids: 1024,
            cpus: None,
            file_size_bytes: 4 << 30,
            keep_free: KeepFree {
                bytes: 2 << 30,
                percent: 5,
            },
        }
    }
}

/// Runs commands in the sandbox of this machine.
#[derive(Clone, Debug)]
pub struct SandboxShell {
    sandbox: Sandbox,
    toolchain: Toolchain,
    settings: SandboxSettings,
}

impl SandboxShell {
    /// Prepares a shell; starts nothing.
    pub fn new(sandbox: Sandbox, toolchain: Toolchain, settings: SandboxSettings) -> Self {
        Self {
            sandbox,
            toolchain,
            settings,
        }
    }

    fn build_command(&self, script: &str, limit: Duration) -> Result<Command, ShellError> {
        let settings = &self.settings;
        let mut command = Command::new("sh")
            .args(["-c", script])
            .toolchain(&self.toolchain)
            .tmpfs("/tmp", TMP_BYTES)
            .rw(&settings.work_tree, WORKSPACE)
            .cwd(WORKSPACE);
        for folder in &settings.read_only {
            command = command.ro(folder, folder);
        }
        let git = settings.work_tree.join(".git");
        match (std::fs::symlink_metadata(&git), self.sandbox.backend()) {
            (Ok(_), Backend::Namespaces) => command = command.ro(&git, format!("{WORKSPACE}/.git")),
            // Without namespaces nothing inside a writable folder can be kept read-only. A file that only
            // names the admin folder is believed by nobody outside; a whole repository must not lie there.
            (Ok(metadata), _) if metadata.is_dir() => {
                return Err(ShellError::Sandbox(format!(
                    "the backend {} cannot keep {} read-only; keep the repository's admin folder outside of the work tree",
                    self.sandbox.backend(),
                    git.display()
                )));
            }
            _ => {}
        }
        for mount in &settings.mounts {
            command = command.mount(mount.clone());
        }
        let quiet = [
            ("CI", "1"),
            ("TERM", "dumb"),
            ("NO_COLOR", "1"),
            ("PAGER", "cat"),
            ("GIT_PAGER", "cat"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_CONFIG_COUNT", "1"),
            ("GIT_CONFIG_KEY_0", "safe.directory"),
            ("GIT_CONFIG_VALUE_0", "*"),
            ("DEBIAN_FRONTEND", "noninteractive"),
            ("CARGO_NET_OFFLINE", "true"),
            ("PYTHONDONTWRITEBYTECODE", "1"),
        ];
        Ok(command.envs(quiet).envs(settings.env.clone()).limits(Limits {
            wall: Some(limit),
            memory_bytes: Some(settings.memory_bytes),
            pids: Some(settings.pids),
            cpus: settings.cpus,
            file_size_bytes: Some(settings.file_size_bytes),
            keep_free: Some(settings.keep_free),
            ..Limits::default()
        }))
    }
}

impl Shell for SandboxShell {
    fn run<'a>(
        &'a self,
        command: &'a str,
        limit: Duration,
        cancel: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<ShellOutput, ShellError>> {
        Box::pin(async move {
            let command = self.build_command(command, limit)?;
            let output = Output::default().together(Sink::Capture {
                head: KEPT / 2,
                tail: KEPT / 2,
            });
            let mut child = self
                .sandbox
                .spawn(command, output)
                .map_err(|error| ShellError::Sandbox(crate::model::http::chain(&error)))?;
            let outcome = tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    child.kill();
                    // Only when everything is dead may the work tree be touched by others.
                    child.wait().await;
                    return Err(ShellError::Cancelled);
                }
                outcome = child.wait() => outcome,
            };
            let exit = match (&outcome.reason, outcome.exit) {
                (Reason::StartError(why), _) => return Err(ShellError::Sandbox(why.clone())),
                (Reason::Cancelled, _) => return Err(ShellError::Cancelled),
                (Reason::TimedOut, _) => ShellExit::TimedOut,
                (Reason::OOMKilled, _) => ShellExit::OutOfMemory,
                (_, Exit::Code(code)) => ShellExit::Code(code),
                (_, Exit::Signal(signal)) => ShellExit::Signal(signal),
            };
            let mut notes: Vec<String> = outcome.message.into_iter().collect();
            if outcome.output_error.is_some() {
                notes.push("part of the output was lost".into());
            }
            Ok(ShellOutput {
                exit,
                output: outcome.stdout.text(),
                notes,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    sandbox::test_helper!();

    fn shell(work_tree: &std::path::Path) -> SandboxShell {
        let sandbox = Sandbox::detect().expect("this machine has a working sandbox");
        SandboxShell::new(sandbox, Toolchain::host(), SandboxSettings::new(work_tree))
    }

    async fn run(shell: &SandboxShell, script: &str, seconds: u64) -> ShellOutput {
        shell
            .run(script, Duration::from_secs(seconds), &CancellationToken::new())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn commands_work_in_the_tree_and_reach_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir_all(&tree).unwrap();
        std::fs::write(folder.path().join("secret"), "s3cret").unwrap();
        let shell = shell(&tree);
        let made = run(
            &shell,
            "echo hello > /tmp/x && cp /tmp/x made && cat made && echo oops >&2; exit 3",
            20,
        )
        .await;
        assert_eq!((made.exit, made.output.as_str()), (ShellExit::Code(3), "hello\noops\n"));
        assert_eq!(std::fs::read_to_string(tree.join("made")).unwrap(), "hello\n");
        let secret = folder.path().join("secret").display().to_string();
        let reach = run(
            &shell,
            &format!("cat {secret}; cat ../secret; ls ~/.ssh; echo x > {secret}"),
            20,
        )
        .await;
        assert!(!reach.output.contains("s3cret"), "{}", reach.output);
        assert_eq!(std::fs::read_to_string(folder.path().join("secret")).unwrap(), "s3cret");
    }

    #[tokio::test]
    async fn a_command_that_fills_the_disk_is_ended_and_the_model_reads_why() {
        let folder = tempfile::tempdir().unwrap();
        let mut shell = shell(folder.path());
        shell.settings.keep_free = KeepFree {
            bytes: u64::MAX,
            percent: 100,
        };
        let filled = run(&shell, "head -c 157286400 /dev/urandom > f; sync; sleep 100", 60).await;
        assert!(matches!(filled.exit, ShellExit::Signal(_)), "{filled:?}");
        assert!(
            filled.notes.iter().any(|note| note.contains("disk is nearly full")),
            "{filled:?}"
        );
        // What it left is there to be removed.
        assert_eq!(run(&shell, "rm f", 60).await.exit, ShellExit::Code(0));
    }

    #[tokio::test]
    async fn a_command_that_waits_is_ended_and_cancelling_ends_it_too() {
        let folder = tempfile::tempdir().unwrap();
        let shell = shell(folder.path());
        assert_eq!(run(&shell, "echo begun; sleep 1000", 1).await.exit, ShellExit::TimedOut);
        let cancel = CancellationToken::new();
        let script = "echo begun > begun; sleep 1000";
        let running = shell.run(script, Duration::from_secs(100), &cancel);
        let cancelling = async {
            while !folder.path().join("begun").exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            cancel.cancel();
        };
        let (outcome, ()) = tokio::join!(running, cancelling);
        assert!(matches!(outcome, Err(ShellError::Cancelled)));
    }
}
