//! A cluster's surroundings: a folder to type in, a Git server and a model server that pods reach.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use kube::Client;
use kube::config::Kubeconfig;
use tokio::sync::{Mutex, MutexGuard};

use super::page::{self, Part};
use crate::git_server::GitServer;
use crate::real::chart::helm::needed;
use crate::stage;

/// How long a command of the runbook may take; pods start meanwhile.
const LIMIT: Duration = Duration::from_secs(300);
/// Who may fetch and push.
const USER: &str = "robot";
const PASSWORD: &str = "let-me-in";

/// Whoever holds it has the cluster to itself.
static ALONE: Mutex<()> = Mutex::const_new(());

/// The surroundings of a cluster, which holds nothing of Foreman.
pub struct Site {
    _alone: MutexGuard<'static, ()>,
    folder: tempfile::TempDir,
    pub client: Client,
    git: GitServer,
    model: String,
}

impl Site {
    /// Sets it up, and takes away what another test left.
    pub async fn open() -> Self {
        let alone = ALONE.lock().await;
        let folder = tempfile::Builder::new().prefix("foreman-node-").tempdir().unwrap();
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts").canonicalize();
        std::os::unix::fs::symlink(chart.unwrap(), folder.path().join("charts")).unwrap();
        let bin = folder.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        for (name, variable) in [("kubectl", "FOREMAN_KUBECTL"), ("helm", "FOREMAN_HELM")] {
            std::os::unix::fs::symlink(needed(variable), bin.join(name)).unwrap();
        }
        let address = address_of_the_machine();
        // base64 of "robot:let-me-in"
        let authorization = "Basic cm9ib3Q6bGV0LW1lLWlu";
        let git = GitServer::start_at(&address, folder.path().join("git"), Some(authorization)).await;
        let client = crate::real::client().await;
        let site = Self {
            _alone: alone,
            client,
            git,
            model: super::model::serve(&address).await,
            folder,
        };
        tokio::task::block_in_place(|| site.clear());
        site
    }

    fn clear(&self) {
        self.shell("helm uninstall foreman -n foreman-system --ignore-not-found --wait");
        self.shell(
            "kubectl get crds -o name | { grep foreman.llmkube.dev || true; } | xargs -r kubectl delete --timeout=120s",
        );
        self.shell("kubectl delete namespace foreman-system foreman-system-jobs --ignore-not-found --timeout=120s");
        self.shell(
            "kubectl get namespaces -o name | { grep /test- || true; } | xargs -r kubectl delete --timeout=120s",
        );
    }

    /// Returns the folder in which everything of the test lies.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the address at which pods reach this machine.
    pub fn address(&self) -> &str {
        let host = self.git.url.strip_prefix("http://").unwrap();
        host.split(':').next().unwrap()
    }

    /// Returns the URL of the Git server.
    pub fn git_url(&self) -> &str {
        &self.git.url
    }

    /// Writes what the Git server asks for into a file of credentials, and returns its path.
    pub fn git_credentials(&self) -> PathBuf {
        let path = self.folder.path().join("git-credentials");
        let host = self.git.url.strip_prefix("http://").unwrap();
        std::fs::write(&path, format!("http://{USER}:{PASSWORD}@{host}\n")).unwrap();
        path
    }

    /// Makes a repository on the server with files on `main` and with branches that each have other files besides.
    pub fn repository(&self, name: &str, main: &[(&str, &str)], branches: &[(&str, &[(&str, &str)])]) -> PathBuf {
        let bare = self.folder.path().join("git").join(format!("{name}.git"));
        std::fs::create_dir_all(&bare).unwrap();
        stage::git(&bare, &["init", "-q", "--bare", "."]);
        // Only whoever sends the password comes as far as this.
        stage::git(&bare, &["config", "http.receivepack", "true"]);
        let clone = self.clone_of(name);
        stage::commit(&clone, &bare, main);
        for (branch, files) in branches {
            stage::git(&clone, &["checkout", "-q", "-b", branch, "main"]);
            for (path, text) in *files {
                std::fs::write(clone.join(path), text).unwrap();
            }
            stage::git(&clone, &["add", "-A"]);
            stage::git(&clone, &["commit", "-qm", branch]);
            stage::git(&clone, &["push", "-q", "origin", branch]);
        }
        bare
    }

    /// Returns the folder in which a repository's commits are made.
    pub fn clone_of(&self, name: &str) -> PathBuf {
        self.folder.path().join("clones").join(name)
    }

    /// Carries out a page: writes its files, runs its commands in order, and compares what they show. Tells `after` of each
    /// that was run.
    pub fn carry_out(&self, page: &str, mut after: impl FnMut(&str)) {
        for part in page::read(page) {
            match part {
                Part::File { name, text } => std::fs::write(self.folder.path().join(name), text).unwrap(),
                Part::Run { line, commands, shows } => {
                    let begin = Instant::now();
                    println!("runbook, line {line}: {commands}");
                    self.run(line, &commands, &shows);
                    println!("… as it should be, after {:.1} s", begin.elapsed().as_secs_f64());
                    after(&commands);
                }
            }
        }
    }

    /// Runs commands until they show what they must; those that only look are tried again.
    pub fn run(&self, line: usize, commands: &str, shows: &[String]) {
        let end = Instant::now() + LIMIT;
        let looks = commands.lines().all(|line| {
            ["kubectl get", "kubectl -n foreman-system logs"]
                .iter()
                .any(|it| line.starts_with(it))
        });
        let follows = commands.ends_with(" -f") || commands.ends_with(" -w");
        loop {
            let mut run = Running::start(self.bash(commands));
            let mut missing: BTreeSet<&String> = shows.iter().collect();
            let mut said = String::new();
            let code = loop {
                match run.line(end) {
                    Ok(line) => {
                        missing.retain(|pattern| !page::shows(pattern, &line));
                        said.push_str(&line);
                        said.push('\n');
                        if follows && missing.is_empty() {
                            return;
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => break run.child.wait().unwrap().code(),
                    Err(RecvTimeoutError::Timeout) => break None,
                }
            };
            if code == Some(0) && missing.is_empty() {
                return;
            }
            assert!(
                looks && Instant::now() < end,
                "line {line}: {commands}\nended with {code:?}, and never showed {missing:?}; it said:\n{said}"
            );
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Runs a command that must work, and returns what it prints.
    pub fn shell(&self, commands: &str) -> String {
        let output = self.bash(commands).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{commands}: {said}{error}");
        said
    }

    fn bash(&self, commands: &str) -> Command {
        let mut bash = Command::new("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        bash.args(["-euo", "pipefail", "-c", commands])
            .current_dir(self.folder.path())
            .env("PATH", format!("{}:{path}", self.folder.path().join("bin").display()))
            .env("HOME", self.folder.path())
            .env("KUBECONFIG", needed("FOREMAN_REAL_KUBECONFIG"))
            .env("GIT_URL", &self.git.url)
            .env("GIT_USER", USER)
            .env("GIT_PASSWORD", PASSWORD)
            .env("MODEL_URL", &self.model)
            .stdin(Stdio::null());
        bash
    }
}

/// Returns the address at which pods reach this machine: the one that the API is served at.
fn address_of_the_machine() -> String {
    let kubeconfig = Kubeconfig::read_from(needed("FOREMAN_REAL_KUBECONFIG")).unwrap();
    let server = kubeconfig.clusters[0].cluster.clone().unwrap().server.unwrap();
    let rest = server.strip_prefix("https://").unwrap();
    rest.split(':').next().unwrap().to_owned()
}

/// A command that runs; it and what it started end with it.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let (reader, writer) = std::io::pipe().unwrap();
        command
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .process_group(0);
        let child = command.spawn().unwrap();
        // It holds the writing end, too.
        drop(command);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    fn line(&self, end: Instant) -> Result<String, RecvTimeoutError> {
        self.lines.recv_timeout(end.saturating_duration_since(Instant::now()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).unwrap();
        let _ = Command::new("kill")
            .args(["-KILL", "--", &format!("-{group}")])
            .stderr(Stdio::null())
            .status();
        let _ = self.child.wait();
    }
}
