//! A repository of a person who uses Foreman, with a coder whose words are recorded.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

const AGENTS: &str = "\
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Agent
metadata: { name: coder }
spec:
  role: coder
  providerConfig: { baseURL: 'replay:', model: recorded }
  tools: [read_file, write_file, str_replace, bash, submit_result]
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Agent
metadata: { name: verifier }
spec:
  role: verifier
  tools: [run_gate_job]
";

const QUEUE: &str = "\
apiVersion: foreman.llmkube.dev/v1alpha1
kind: TaskQueue
metadata: { name: tasks }
spec:
  git: { url: ., path: .foreman/tasks, interval: 10m }
  defaults:
    repo: .
    coderAgentRef: { name: coder }
    verifierAgentRef: { name: verifier }
";

/// A repository, its state folder and its recorded sessions, in a temporary folder.
pub struct Sample {
    folder: tempfile::TempDir,
}

impl Sample {
    /// Makes a repository with one commit, whose gate looks for `done` in `note.txt`.
    pub fn new() -> Self {
        Self::with_gate("steps:\n  - name: note\n    command: grep -q done note.txt\n")
    }

    /// Makes a repository with this gate file.
    pub fn with_gate(gate: &str) -> Self {
        let sample = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::create_dir(sample.repository()).unwrap();
        std::fs::create_dir(sample.sessions()).unwrap();
        sample.git(&["init", "--quiet", "--initial-branch", "main"]);
        sample.commit(&[
            ("README.md", "A sample.\n"),
            (".foreman/queue.yaml", QUEUE),
            (".foreman/agents.yaml", AGENTS),
            (".foreman/gate.yaml", gate),
        ]);
        sample
    }

    pub fn repository(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub fn sessions(&self) -> PathBuf {
        self.folder.path().join("sessions")
    }

    pub fn root(&self) -> &Path {
        self.folder.path()
    }

    /// Starts `foreman up` on it.
    pub fn up(&self) -> crate::foreman::Up {
        self.up_of(&crate::foreman::program())
    }

    /// Starts `foreman up` on it from this file.
    pub fn up_of(&self, program: &Path) -> crate::foreman::Up {
        let sessions = self.sessions();
        crate::foreman::Up::start(
            program,
            &self.repository(),
            &self.state(),
            &["--replay-sessions", sessions.to_str().unwrap()],
        )
    }

    /// Calls `foreman` on its state.
    pub fn call(&self, arguments: &[&str]) -> crate::foreman::Said {
        let state = self.state();
        let mut all = vec!["--state", state.to_str().unwrap()];
        all.extend(arguments);
        crate::foreman::call(&self.repository(), &all)
    }

    /// Records a coder that writes `text` to `path` and hands it in.
    pub fn record(&self, task: &str, round: u32, path: &str, text: &str) {
        let write = ("write_file", json!({ "path": path, "content": text }));
        self.record_calls(task, round, &[write]);
    }

    /// Records a coder that makes these calls, one a turn, and hands in.
    pub fn record_calls(&self, task: &str, round: u32, calls: &[(&str, serde_json::Value)]) {
        let reply = |turn: usize, name: &str, arguments: &serde_json::Value| {
            json!({
                "type": "reply", "turn": turn, "content": "", "finish": "tool-calls",
                "calls": [{ "id": format!("call-{turn}"), "name": name, "arguments": arguments }],
                "usage": { "prompt": 10, "completion": 5, "cached": 0 },
            })
        };
        let header = json!({ "type": "header", "format": 1, "task": task, "round": round, "model": "by hand", "protocol": "native" });
        let submit = ("submit_result", json!({ "verdict": "GO", "summary": "did it" }));
        let turns = calls.iter().chain([&submit]).enumerate();
        let lines = turns.map(|(index, (name, arguments))| reply(index + 1, name, arguments));
        let text: String = [header]
            .into_iter()
            .chain(lines)
            .map(|line| format!("{line}\n"))
            .collect();
        let folder = self.sessions().join(task);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("round-{round}.jsonl")), text).unwrap();
    }

    /// Writes files and commits them.
    pub fn commit(&self, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = self.repository().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "a step"]);
    }

    /// Commits the task file `.foreman/tasks/<name>.md`.
    pub fn task(&self, name: &str, text: &str) {
        self.commit(&[(&format!(".foreman/tasks/{name}.md"), text)]);
    }

    /// Runs Git in the repository and returns what it printed.
    pub fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.repository())
            .args([
                "-c",
                "user.name=Tester",
                "-c",
                "user.email=tester@localhost",
                "-c",
                "commit.gpgsign=false",
            ])
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "git {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    }
}
