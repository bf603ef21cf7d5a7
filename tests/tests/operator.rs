//! `foreman-operator` as a process on an API server.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::foreman::{LIMIT, program};

/// How an operator is started.
pub struct Setup<'a> {
    pub kubeconfig: &'a Path,
    /// Namespace that it serves, and that its Lease lies in.
    pub namespace: &'a str,
    /// Folder of its own, below which local repositories may lie too.
    pub folder: &'a Path,
    /// Name of its state folder in there.
    pub name: &'a str,
    /// Further arguments.
    pub more: &'a [&'a str],
}

/// A running operator; killed when dropped.
pub struct Operator {
    child: Child,
    lines: mpsc::Receiver<String>,
    said: String,
    http: String,
}

impl Operator {
    /// Starts an operator and returns once it serves its HTTP, which it does before it leads.
    pub fn start(setup: &Setup) -> Self {
        let path = program().with_file_name("foreman-operator");
        assert!(path.exists(), "{} is not built", path.display());
        let mut command = Command::new(path);
        // Neither settings of the one who runs the tests nor those of a Pod in which they run.
        for (variable, _) in std::env::vars_os() {
            let text = variable.to_string_lossy();
            if text.starts_with("FOREMAN_") || ["KUBECONFIG", "POD_NAMESPACE", "RUST_LOG"].contains(&&*text) {
                command.env_remove(&variable);
            }
        }
        let mut child = command
            .env("NO_COLOR", "1")
            .args(["--namespace", setup.namespace, "--lease-namespace", setup.namespace])
            .args(["--evidence-listen", "127.0.0.1:0", "--kubeconfig"])
            .arg(setup.kubeconfig)
            .arg("--state-dir")
            .arg(setup.folder.join(setup.name))
            .arg("--git-file-root")
            .arg(setup.folder)
            .args(setup.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = child.stderr.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                // Also where nobody listens any more: a full pipe would stop the process.
                let _ = sender.send(line);
            }
        });
        let mut operator = Self {
            child,
            lines,
            said: String::new(),
            http: String::new(),
        };
        let line = operator.says(&["serving evidence", "address="]);
        let address = line.split("address=").nth(1).unwrap();
        operator.http = format!("http://{}", address.split_whitespace().next().unwrap());
        operator
    }

    /// Waits for a line that has all of these parts, among those that were not waited for yet.
    pub fn says(&mut self, parts: &[&str]) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                    if parts.iter().all(|part| line.contains(part)) {
                        return line;
                    }
                }
                Err(error) => panic!("the operator never said {parts:?} ({error}); it said:\n{}", self.said),
            }
        }
    }

    /// Returns all that it said until now.
    pub fn log(&mut self) -> &str {
        for line in self.lines.try_iter() {
            self.said.push_str(&line);
            self.said.push('\n');
        }
        &self.said
    }

    /// Returns the base URL of evidence, metrics and probes.
    #[allow(dead_code, reason = "the tests ask it, the benchmarks read the counters")]
    pub fn http(&self) -> &str {
        &self.http
    }

    /// Returns whether this process goes on.
    #[allow(dead_code, reason = "the tests ask it, the benchmarks read the counters")]
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Kills it as nothing can be killed harder.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Reads a figure of its memory in MiB: `VmRSS` is now, `VmHWM` the most so far.
    #[cfg_attr(test, allow(dead_code, reason = "the benchmarks measure it"))]
    pub fn memory(&self, figure: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(figure)).unwrap();
        let kib: f64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib / 1024.0
    }

    /// Reads how long processors worked for it.
    #[cfg_attr(test, allow(dead_code, reason = "the benchmarks measure it"))]
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        // What follows the name, which may have spaces: user and system time are the 12th and 13th, in hundredths.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|n| fields[*n].parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Reads its counters: series with labels, as they are printed, and counts.
    pub async fn counters(&self) -> BTreeMap<String, f64> {
        let answer = reqwest::get(format!("{}/metrics", self.http)).await.unwrap();
        let text = answer.text().await.unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                Some((series.to_owned(), value.parse().ok()?))
            })
            .collect()
    }

    /// Waits until no more requests are made but renewals and watches, and returns the counters.
    pub async fn settled(&self) -> BTreeMap<String, f64> {
        let work = |counters: &BTreeMap<String, f64>| -> f64 {
            let of_work = |series: &&String| {
                series.starts_with("foreman_api_requests")
                    && !series.contains("\"leader\"")
                    && !series.contains("watch")
            };
            counters.keys().filter(of_work).map(|series| counters[series]).sum()
        };
        let end = Instant::now() + LIMIT;
        let mut before = self.counters().await;
        loop {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            let now = self.counters().await;
            if work(&now) == work(&before) {
                return now;
            }
            assert!(Instant::now() < end, "the operator never comes to rest");
            before = now;
        }
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
