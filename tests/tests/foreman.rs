//! The `foreman` command as a process.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longest time that anything here may take.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Returns the built command; it lies in the folder above that of the test binary.
pub fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().unwrap().parent().unwrap().join("foreman");
    assert!(
        path.exists(),
        "{} is not built; run the tests by `cargo xtask test`",
        path.display()
    );
    path
}

/// Builds a call of the command in `folder`, with no model server and no settings of the person who runs the tests.
pub fn command(folder: &Path) -> Command {
    command_of(&program(), folder)
}

fn command_of(program: &Path, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null());
    for name in [
        "FOREMAN_MODEL",
        "FOREMAN_MODEL_API_KEY",
        "FOREMAN_STATE",
        "FOREMAN_CA_BUNDLE",
        "RUST_LOG",
    ] {
        command.env_remove(name);
    }
    // Port 9 is discard: nothing answers there, so that a model server of this machine is not asked.
    command.env("FOREMAN_MODEL_URL", "http://127.0.0.1:9/v1");
    command
}

/// What a call printed, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

/// Calls the command in `folder` and waits for its end.
pub fn call<A: AsRef<OsStr>>(folder: &Path, arguments: &[A]) -> Said {
    command(folder).args(arguments).output().unwrap().into()
}

/// A running `foreman up`; killed when dropped.
pub struct Up {
    child: Child,
    pub state: PathBuf,
    /// Base URL of evidence and metrics.
    pub evidence: String,
    lines: mpsc::Receiver<String>,
    errors: PathBuf,
}

impl Up {
    /// Starts `up` of this program on a repository and returns once it says that it is ready.
    pub fn start(program: &Path, repository: &Path, state: &Path, arguments: &[&str]) -> Self {
        let errors = state.with_extension("stderr");
        let mut child = command_of(program, repository)
            .arg("--state")
            .arg(state)
            .arg("up")
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors).unwrap())
            .spawn()
            .unwrap();
        let output = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut up = Self {
            child,
            state: state.to_owned(),
            evidence: String::new(),
            lines,
            errors,
        };
        let line = up.line("Evidence ");
        up.evidence = line.trim_start_matches("Evidence ").trim().to_owned();
        up.line("Ready.");
        up
    }

    /// Waits for a line that begins with `start` and returns it.
    pub fn line(&self, start: &str) -> String {
        self.line_where(start, |line| line.starts_with(start))
    }

    /// Waits until each entry of `wanted` was met, in any order, by a line that has all of its words.
    pub fn lines_with(&self, wanted: &[&[&str]]) {
        let mut missing = wanted.to_vec();
        while !missing.is_empty() {
            let line = self.line_where(&format!("{missing:?}"), |line| {
                missing.iter().any(|words| words.iter().all(|word| line.contains(word)))
            });
            missing.retain(|words| !words.iter().all(|word| line.contains(word)));
        }
    }

    fn line_where(&self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(line) if is_it(&line) => return line,
                Ok(_) => {}
                Err(error) => {
                    panic!(
                        "no line {what:?}: {error}; errors: {}",
                        std::fs::read_to_string(&self.errors).unwrap()
                    )
                }
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Reads the operator's counters, which the benchmarks count.
    #[cfg_attr(
        test,
        allow(dead_code, reason = "the benchmarks count, the tests read what is shown")
    )]
    pub async fn metrics(&self) -> String {
        let answer = reqwest::get(format!("{}/metrics", self.evidence)).await.unwrap();
        answer.text().await.unwrap()
    }

    /// Returns a client of the API that it serves.
    pub async fn client(&self) -> kube::Client {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let file = kube::config::Kubeconfig::read_from(self.kubeconfig()).unwrap();
        let config = kube::Config::from_custom_kubeconfig(file, &Default::default())
            .await
            .unwrap();
        kube::Client::try_from(config).unwrap()
    }

    /// Sends a signal and waits for the end; returns the exit code.
    pub fn signal(mut self, signal: &str) -> Option<i32> {
        let sent = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
