//! kubectl as a process, and the script of what a person types at it, `kubectl/verbs.yaml`.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use regex::Regex;
use serde::Deserialize;

use crate::foreman::Said;

/// kubectl on one kubeconfig, with a home of its own.
pub struct Kubectl {
    kubeconfig: PathBuf,
    home: tempfile::TempDir,
}

impl Kubectl {
    pub fn new(kubeconfig: PathBuf) -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { kubeconfig, home }
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn command<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A]) -> Command {
        let program = std::env::var_os("FOREMAN_KUBECTL").unwrap_or_else(|| "kubectl".into());
        let mut command = Command::new(program);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .env("HOME", self.home())
            .env("TZ", "UTC")
            .env_remove("KUBECONFIG");
        command
    }

    /// Calls it with an input and an editor.
    pub fn call_in<A: AsRef<std::ffi::OsStr>>(&self, arguments: &[A], input: &str, editor: &str) -> Said {
        let mut child = self
            .command(arguments)
            .env("KUBE_EDITOR", editor)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is needed: `cargo xtask test --tools` finds or builds one");
        // A call that reads nothing may be over by now.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    /// Runs what must work, and returns what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        self.run_with(arguments, "")
    }

    pub fn run_with(&self, arguments: &[&str], input: &str) -> String {
        let said = self.call_in(arguments, input, "false");
        assert_eq!(said.code, Some(0), "kubectl {arguments:?}: {said:#?}");
        said.out
    }

    /// Runs what must fail, and returns the error.
    pub fn refused(&self, arguments: &[&str], input: &str) -> String {
        let said = self.call_in(arguments, input, "false");
        assert_ne!(said.code, Some(0), "kubectl {arguments:?}: {said:#?}");
        said.err
    }

    /// Edits an object by a sed script.
    pub fn edit(&self, arguments: &[&str], script: &str) -> String {
        let said = self.call_in(arguments, "", &format!("sed -i {script}"));
        assert_eq!(said.code, Some(0), "kubectl {arguments:?}: {said:#?}");
        said.out
    }

    /// Starts a watch, does things one after the other, each when a line has told of the one before, and returns the
    /// lines.
    pub fn watched(&self, arguments: &[&str], things: &[&[&str]]) -> Vec<String> {
        let mut child = self.command(arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Two lines are the heads and what there is.
        let mut seen: Vec<String> = lines.by_ref().take(2).map(Result::unwrap).collect();
        for thing in things {
            self.run(thing);
            seen.push(lines.next().unwrap().unwrap());
        }
        child.kill().unwrap();
        child.wait().unwrap();
        seen.iter().map(|line| plain(line)).collect()
    }
}

/// One step of the script.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// What is typed.
    #[serde(default)]
    run: String,
    #[serde(default)]
    input: String,
    #[serde(default)]
    edit: String,
    #[serde(default)]
    fails: bool,
    #[serde(default)]
    says: Vec<String>,
    /// Why kube-apiserver prints something else.
    other: Option<String>,
    /// What a plane says, which cannot do it.
    limit: Option<String>,
    /// What is done before.
    #[serde(default)]
    before: Vec<Step>,
    /// Config maps that get one that they own.
    #[serde(default)]
    owned: Vec<String>,
}

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// A plane.
    Plane,
    /// The real one.
    KubeApiserver,
}

/// What a step printed.
pub struct Printed {
    pub typed: String,
    pub code: Option<i32>,
    /// Without what differs from run to run.
    pub text: String,
    /// Whether both servers print the same.
    pub same: bool,
    /// What it should have said and did not.
    pub missing: Vec<String>,
}

/// Types the script in a namespace that is not there yet, and tells what was printed.
pub fn play(kubectl: &Kubectl, server: Server, namespace: &str) -> Vec<Printed> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubectl/verbs.yaml");
    let value = schemas::yaml::parse_value(&std::fs::read_to_string(path).unwrap()).unwrap();
    let steps: Vec<Step> = serde_json::from_value(value).unwrap();
    let mut printed = Vec::new();
    for step in steps.iter().flat_map(|step| step.before.iter().chain([step])) {
        step.owned.iter().for_each(|owner| own(kubectl, namespace, owner));
        if !step.run.is_empty() {
            printed.push(one(kubectl, server, namespace, step));
        }
    }
    printed
}

fn one(kubectl: &Kubectl, server: Server, namespace: &str, step: &Step) -> Printed {
    let fill = |text: &str| text.replace("$ns", namespace);
    let mut words = vec!["--namespace".to_owned(), namespace.to_owned()];
    words.extend(split(&fill(&step.run)));
    let said = kubectl.call_in(&words, &fill(&step.input), &step.edit);
    let text = plain(&format!("{}{}", said.out, said.err));
    let (fails, says) = match &step.limit {
        Some(limit) if server == Server::Plane => (true, std::slice::from_ref(limit)),
        _ => (step.fails, step.says.as_slice()),
    };
    let mut missing: Vec<String> = says.iter().map(|part| fill(part)).collect();
    missing.retain(|part| !text.contains(&plain(part)));
    if fails == (said.code == Some(0)) {
        missing.push(format!("an exit code that {} 0", if fails { "is not" } else { "is" }));
    }
    Printed {
        typed: step.run.clone(),
        code: said.code,
        text,
        same: step.other.is_none() && step.limit.is_none(),
        missing,
    }
}

/// Makes a config map that belongs to another, whose end waits for it where it is to wait.
fn own(kubectl: &Kubectl, namespace: &str, owner: &str) {
    let uid = kubectl.run(&["-n", namespace, "get", "cm", owner, "-o", "jsonpath={.metadata.uid}"]);
    let object = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": format!("of-{owner}"), "ownerReferences": [{
            "apiVersion": "v1", "kind": "ConfigMap", "name": owner, "uid": uid, "blockOwnerDeletion": true
        }] },
    });
    kubectl.run_with(&["-n", namespace, "create", "-f", "-"], &object.to_string());
}

/// Splits at spaces; what stands between single quotes is not split.
fn split(text: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(std::mem::take(&mut word)),
            other => word.push(other),
        }
    }
    words.push(word);
    words.retain(|word| !word.is_empty());
    words
}

/// Takes out what no two runs print alike: times, ages, identities, versions, addresses, widths of columns.
fn plain(text: &str) -> String {
    static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        [
            (
                r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?(Z| \+0000( UTC)?)?",
                "<time>",
            ),
            (r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000", "<time>"),
            (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<uid>"),
            (r#"(?i)(resource ?version"?:\s*"?)\d+"#, "$1<version>"),
            (r"\b(\d+m)?\d+m?s\b", "<age>"),
            (r"https://[0-9.]+:\d+", "<server>"),
            (r"/tmp/\S*?(LIVE|MERGED|edit)-\d+", "<folder>"),
            (r"[ \t]+", " "),
            (r"(?m) $", ""),
        ]
        .map(|(pattern, by)| (Regex::new(pattern).unwrap(), by))
        .into()
    });
    let mask = |text: String, (pattern, by): &(Regex, &str)| pattern.replace_all(&text, *by).into_owned();
    MASKS.iter().fold(text.to_owned(), mask)
}

#[test]
fn what_is_typed_is_split_as_a_shell_would() {
    assert_eq!(split("get a  -o 'x y=z'"), ["get", "a", "-o", "x y=z"]);
}

#[test]
fn only_what_differs_from_run_to_run_is_taken_out() {
    let text = "one   2026-01-01T00:00:00Z 3m5s\nresourceVersion: \"17\" model: x17";
    assert_eq!(
        plain(text),
        "one <time> <age>\nresourceVersion: \"<version>\" model: x17"
    );
}
