//! A sample repository, a tasks repository, recorded sessions, and `foreman up` as a process of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use schemas::{AgenticTask, TaskQueue, Workload};

/// What the sample's gate runs unless a test says otherwise.
pub const GATE: &str = "steps:\n  - name: check\n    command: \"true\"\n    timeoutSeconds: 30\n";

/// Runs Git and returns what it printed; fails the test where Git does.
pub fn git(folder: &Path, arguments: &[&str]) -> String {
    let out = Command::new("git")
        .current_dir(folder)
        .args([
            "-c",
            "safe.directory=*",
            "-c",
            "user.name=Tester",
            "-c",
            "user.email=tester@localhost",
        ])
        .args(["-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false"])
        .args(arguments)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// How a test's queue is set up.
pub struct Setup {
    /// The sample's `.foreman/gate.yaml`.
    pub gate: String,
    /// Address of the tasks repository, where it is not the local one.
    pub tasks_url: Option<String>,
    /// Address of the target repository, where it is not the local one.
    pub sample_url: Option<String>,
    /// Base branch.
    pub base: &'static str,
    /// Time between two looks.
    pub interval: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            gate: GATE.into(),
            tasks_url: None,
            sample_url: None,
            base: "main",
            interval: "1s",
        }
    }
}

/// The repositories and sessions of one test.
pub struct Stage {
    _folder: Option<tempfile::TempDir>,
    pub root: PathBuf,
    pub sample: PathBuf,
    pub tasks: PathBuf,
    pub state: PathBuf,
    pub sessions: PathBuf,
    home: PathBuf,
    clone: PathBuf,
    program: PathBuf,
    starts: std::cell::Cell<u32>,
}

impl Stage {
    /// Builds everything below a new temporary folder.
    pub fn build(setup: &Setup) -> Self {
        let folder = tempfile::Builder::new().prefix("foreman-test-").tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let mut stage = Self::below(&root, setup);
        // Kept for the one who looks into a failure.
        stage._folder = Some(folder);
        stage
    }

    /// Builds everything below a folder.
    pub fn below(root: &Path, setup: &Setup) -> Self {
        let stage = Self {
            _folder: None,
            root: root.to_owned(),
            sample: root.join("sample.git"),
            tasks: root.join("tasks.git"),
            state: root.join("state"),
            sessions: root.join("sessions"),
            home: root.join("home"),
            clone: root.join("tasks"),
            program: root.join("foreman-under-test"),
            starts: std::cell::Cell::new(0),
        };
        // A name of its own: processes that are left over are found by it.
        let built = crate::foreman::program();
        if std::fs::hard_link(&built, &stage.program).is_err() {
            std::fs::copy(&built, &stage.program).unwrap();
        }
        git(root, &["init", "-q", "--bare", "sample.git"]);
        git(root, &["init", "-q", "--bare", "tasks.git"]);
        commit(
            &root.join("work"),
            &stage.sample,
            &[(".foreman/gate.yaml", &setup.gate), ("notes/README", "notes\n")],
        );
        commit(
            &stage.clone,
            &stage.tasks,
            &[("README.md", "Task files lie in `tasks/`.\n")],
        );
        std::fs::create_dir_all(stage.home.join(".foreman")).unwrap();
        std::fs::create_dir_all(&stage.sessions).unwrap();
        stage.configure(setup);
        git(&stage.home, &["init", "-q"]);
        git(&stage.home, &["add", "-A"]);
        git(&stage.home, &["commit", "-qm", "Begin"]);
        stage
    }

    /// Writes queue and agents.
    pub fn configure(&self, setup: &Setup) {
        let tasks = setup
            .tasks_url
            .clone()
            .unwrap_or_else(|| self.tasks.display().to_string());
        let sample = setup
            .sample_url
            .clone()
            .unwrap_or_else(|| self.sample.display().to_string());
        let queue = format!(
            "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: TaskQueue\nmetadata: {{name: queue}}\nspec:\n  git: {{url: \"{tasks}\", branch: main, path: tasks, interval: {}}}\n  defaults:\n    repo: \"{sample}\"\n    baseBranch: {}\n    coderAgentRef: {{name: coder}}\n    verifierAgentRef: {{name: verifier}}\n",
            setup.interval, setup.base,
        );
        std::fs::write(self.home.join(".foreman/queue.yaml"), queue).unwrap();
        let agents = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Agent\nmetadata: {name: coder}\nspec:\n  role: coder\n  providerConfig: {baseURL: \"replay:\", model: recorded}\n  tools: [read_file, write_file, bash, submit_result]\n---\napiVersion: foreman.llmkube.dev/v1alpha1\nkind: Agent\nmetadata: {name: verifier}\nspec:\n  role: verifier\n  tools: [run_gate_job]\n";
        std::fs::write(self.home.join(".foreman/agents.yaml"), agents).unwrap();
    }

    /// Records a session that writes `notes/<name>.txt`, without asking for it.
    pub fn record(&self, name: &str) {
        record(&self.sessions, name);
    }

    /// Records sessions and commits one task file for each name.
    pub fn ask(&self, names: &[String]) {
        let mut files = Vec::new();
        for name in names {
            self.record(name);
            files.push(task_file(name));
        }
        let files: Vec<(&str, &str)> = files
            .iter()
            .map(|(path, text)| (path.as_str(), text.as_str()))
            .collect();
        commit(&self.clone, &self.tasks, &files);
    }

    /// Starts `foreman up` with more arguments and waits until it is ready.
    pub fn up(&self, more: &[&str]) -> Up {
        let up = self.start(more);
        up.ready(Duration::from_secs(60));
        up
    }

    /// Starts `foreman up`.
    pub fn start(&self, more: &[&str]) -> Up {
        let number = self.starts.get() + 1;
        self.starts.set(number);
        let log = self.root.join(format!("up-{number}.log"));
        let file = std::fs::File::create(&log).unwrap();
        let mut command = self.command();
        command.args(["-v", "up", "--replay-sessions"]).arg(&self.sessions);
        command.arg("--file-root").arg(&self.root).args(more);
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file);
        Up {
            child: command.spawn().unwrap(),
            log,
            state: self.state.clone(),
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--state").arg(&self.state).arg("-C").arg(&self.home);
        command
            .env_remove("FOREMAN_MODEL_URL")
            .env_remove("FOREMAN_STATE")
            .env("HOME", &self.root);
        command
    }

    /// Runs another command of the program and returns its exit code and everything that it printed.
    pub fn foreman(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let out = self.command().args(arguments).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
        (out.status.code(), text)
    }

    /// Returns the processes that run this stage's program or carry `marker` in their command line.
    pub fn processes(&self, marker: &str) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let ours = std::fs::read_link(entry.path().join("exe")).is_ok_and(|exe| exe.starts_with(&self.root));
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let dead = std::fs::read_to_string(entry.path().join("stat")).is_ok_and(|stat| {
                stat.rsplit(')')
                    .next()
                    .is_some_and(|rest| rest.trim_start().starts_with('Z'))
            });
            if pid != std::process::id() && !dead && (ours || line.contains(marker)) {
                found.push(format!("{pid}: {line}"));
            }
        }
        found
    }

    /// Waits until none of this stage's processes is left.
    pub fn gone(&self, marker: &str) {
        let begun = Instant::now();
        loop {
            let left = self.processes(marker);
            if left.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(10),
                "processes are left over: {left:#?}"
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Records, in a folder of sessions, one that writes `notes/<name>.txt`.
pub fn record(sessions: &Path, name: &str) {
    let call = |turn: u32, tool: &str, arguments: serde_json::Value| {
        serde_json::json!({ "type": "reply", "turn": turn, "content": "", "finish": "tool-calls",
            "calls": [{ "id": format!("call-{turn}"), "name": tool, "arguments": arguments }],
            "usage": { "prompt": 1, "completion": 1, "cached": 0 } })
    };
    let folder = sessions.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    for round in 1..=3 {
        // Each round changes something, as it must.
        let content = format!("{name}\n{}", "again\n".repeat(round - 1));
        let text = format!(
            "{}\n{}\n{}\n",
            serde_json::json!({ "type": "header", "format": 1, "task": name, "round": round, "model": "written by hand", "protocol": "native" }),
            call(
                1,
                "write_file",
                serde_json::json!({ "path": format!("notes/{name}.txt"), "content": content })
            ),
            call(
                2,
                "submit_result",
                serde_json::json!({ "verdict": "GO", "summary": "wrote it", "commit_message": format!("Write {name}") })
            ),
        );
        std::fs::write(folder.join(format!("round-{round}.jsonl")), text).unwrap();
    }
}

/// Returns the file that asks for the recorded session of this name: its path and its text.
pub fn task_file(name: &str) -> (String, String) {
    (
        format!("tasks/{name}.md"),
        format!("---\ntitle: Write {name}\n---\nWrite notes/{name}.txt.\n"),
    )
}

/// Commits files on `main` of a bare repository, by way of a clone at `clone`.
pub fn commit(clone: &Path, bare: &Path, files: &[(&str, &str)]) {
    if !clone.exists() {
        std::fs::create_dir_all(clone).unwrap();
        git(clone, &["init", "-q"]);
        git(clone, &["remote", "add", "origin", &bare.display().to_string()]);
    }
    for (path, text) in files {
        let path = clone.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    git(clone, &["add", "-A"]);
    git(clone, &["commit", "-qm", "Ask"]);
    git(clone, &["push", "-q", "origin", "HEAD:refs/heads/main"]);
}

/// A running `foreman up`.
pub struct Up {
    child: Child,
    pub log: PathBuf,
    state: PathBuf,
}

impl Up {
    /// Returns what it printed so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Says whether it serves.
    pub fn is_ready(&self) -> bool {
        self.said().contains("\nReady. ")
    }

    /// Waits until it serves.
    pub fn ready(&self, limit: Duration) {
        let begun = Instant::now();
        while !self.is_ready() {
            assert!(begun.elapsed() < limit, "it does not serve:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it as nothing can be killed harder.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end and waits for that.
    pub fn stop(mut self) -> ExitStatus {
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        self.child.wait().unwrap()
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the address of evidence store and metrics.
    pub fn http(&self) -> String {
        let said = self.said();
        let line = said.lines().find_map(|line| line.strip_prefix("Evidence")).unwrap();
        line.trim().to_owned()
    }

    /// Reads the operator's counters.
    pub async fn metrics(&self) -> String {
        reqwest::get(format!("{}/metrics", self.http()))
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    /// Connects to its API.
    pub async fn client(&self) -> kube::Client {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let file = Kubeconfig::read_from(self.state.join("kubeconfig")).unwrap();
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .unwrap();
        kube::Client::try_from(config).unwrap()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Reads all Workloads.
pub async fn workloads(client: &kube::Client) -> Result<Vec<Workload>, kube::Error> {
    Ok(Api::default_namespaced(client.clone())
        .list(&ListParams::default())
        .await?
        .items)
}

/// Reads all tasks.
pub async fn tasks(client: &kube::Client) -> Result<Vec<AgenticTask>, kube::Error> {
    Ok(Api::default_namespaced(client.clone())
        .list(&ListParams::default())
        .await?
        .items)
}

/// Waits until every one of `count` Workloads has ended; fails with their state after `limit`.
pub async fn ended(client: &kube::Client, count: usize, limit: Duration) -> Vec<Workload> {
    let begun = Instant::now();
    loop {
        let all = workloads(client).await.unwrap();
        if all.len() >= count && all.iter().all(is_over) {
            return all;
        }
        if begun.elapsed() > limit {
            let mut text = String::new();
            for workload in &all {
                let status = workload.status.clone().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "{:?} {:?} {:?}",
                    workload.metadata.name, status.phase, status.message
                );
            }
            for task in tasks(client).await.unwrap() {
                let status = task.status.clone().unwrap_or_default();
                let _ = writeln!(
                    text,
                    "  {:?} {:?} epoch {:?} {:?}",
                    task.metadata.name, status.phase, status.epoch, status.waiting
                );
            }
            panic!("not all of {count} Workloads ended within {limit:?}:\n{text}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Says whether a Workload has ended.
pub fn is_over(workload: &Workload) -> bool {
    workload
        .status
        .as_ref()
        .and_then(|status| status.phase)
        .is_some_and(|phase| phase.is_terminal())
}

/// Waits until the queue's condition Ready says `wanted` in its message or reason, and returns the queue.
pub async fn queue_says(client: &kube::Client, wanted: &str, limit: Duration) -> TaskQueue {
    let api: Api<TaskQueue> = Api::default_namespaced(client.clone());
    let begun = Instant::now();
    loop {
        let queue = api.get("queue").await.unwrap();
        let text = serde_json::to_string(&queue.status).unwrap();
        if text.contains(wanted) {
            return queue;
        }
        assert!(begun.elapsed() < limit, "the queue never said {wanted:?}: {text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
