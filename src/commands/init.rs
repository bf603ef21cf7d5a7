//! `foreman init`: writes `.foreman/` into a repository.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use gate::definition::BaseTree;

use crate::cli::{Global, InitArgs};
use crate::connect::root;
use crate::endpoint::{self, Server};
use crate::project::FOLDER;

/// Writes what is missing and says what was found.
pub async fn run(global: &Global, args: &InitArgs) -> Result<ExitCode> {
    let root = root(global)?;
    let local = git::Local::discover(&root).context("failed to look for a Git repository")?;
    match &local {
        None => println!(
            "Warning    {} is not a Git repository yet; run `git init` and commit before `foreman up`",
            root.display()
        ),
        Some(local) if local.head.is_none() => {
            println!("Warning    the repository has no commit yet; commit before `foreman up`")
        }
        Some(local) if local.bare => println!(
            "Warning    {} is a bare repository: queue and agents are read from here, gate and task files only from commits; \
             run `foreman init` in a clone as well and push what it writes",
            root.display()
        ),
        Some(_) => {}
    }
    let found = if args.no_probe {
        None
    } else {
        Some(endpoint::find(global, true).await)
    };
    match &found {
        Some(Ok(server)) => {
            println!("Model      {}", endpoint::describe(server));
            for warning in server.report.iter().flat_map(|report| &report.warnings) {
                println!("Warning    {warning}");
            }
        }
        Some(Err(missing)) => println!(
            "Warning    {missing}; {}, or write its address into {FOLDER}/agents.yaml",
            missing.advice()
        ),
        None => println!("Model      not looked for (--no-probe)"),
    }
    let server = found.and_then(Result::ok);
    let (language, gate) = build_gate(&root);
    match language {
        Some(language) => println!("Language   {language}"),
        None if root.join(gate::definition::GATE_FILE).exists() => {}
        None => println!("Warning    no language was recognised; write the steps of {FOLDER}/gate.yaml yourself"),
    }
    if root.join(".gitmodules").exists() {
        println!("Warning    submodules are not checked out: coder and gate see empty folders in their place");
    }
    let files = [
        ("queue.yaml", QUEUE.to_owned()),
        ("agents.yaml", build_agents(server.as_ref())),
        ("gate.yaml", gate),
        ("tasks/first-task.md", FIRST_TASK.to_owned()),
    ];
    for (name, text) in files {
        let path = root.join(FOLDER).join(name);
        println!(
            "{:<10} {FOLDER}/{name}",
            if write_new(&path, &text)? { "Wrote" } else { "Kept" }
        );
    }
    println!("\nNext: look at the files, `foreman validate`, commit them, and `foreman up`.");
    Ok(ExitCode::SUCCESS)
}

/// Writes a file that does not exist yet; says whether it did.
fn write_new(path: &Path, text: &str) -> Result<bool> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    match std::fs::OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            std::io::Write::write_all(&mut file, text.as_bytes())
                .with_context(|| format!("failed to write {}", path.display()))?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to write {}", path.display())),
    }
}

/// The files of a folder, as the gate's presets look at them.
struct Folder<'a>(&'a Path);

impl BaseTree for Folder<'_> {
    fn exists(&self, path: &str) -> bool {
        path != gate::definition::GATE_FILE && self.0.join(path).exists()
    }

    fn read(&self, path: &str, max: usize) -> Option<Vec<u8>> {
        if path == gate::definition::GATE_FILE {
            return None;
        }
        std::fs::read(self.0.join(path)).ok().filter(|bytes| bytes.len() <= max)
    }
}

fn build_gate(root: &Path) -> (Option<String>, String) {
    let parse = |_: &[u8]| Err("not read".to_owned());
    let found = gate::definition::resolve(None, &Folder(root), &parse, &[]).ok();
    let Some(gate) = found else {
        return by_make(root);
    };
    let language = match &gate.source {
        gate::definition::Source::Preset(language) => language.clone(),
        other => format!("{other:?}"),
    };
    let mut steps = gate.steps;
    for step in &mut steps {
        if step.command.contains("unittest") && has_pytest_functions(root) {
            // unittest finds none of them, and some versions call that a success.
            step.command = "python3 -m pytest -q".into();
        }
    }
    let mut text = GATE_HEAD.to_owned();
    if let Some(prepare) = &gate.prepare {
        text.push_str(
            "# Fills the caches before the steps run; the only part with network, and only to these hosts.\nprepare:\n",
        );
        text.push_str(&format!("  command: {}\n  allowHosts:\n", quoted(&prepare.command)));
        for host in &prepare.allow_hosts {
            text.push_str(&format!("    - {}\n", quoted(host)));
        }
    }
    text.push_str(
        "# Each step runs as `sh -c` in the work tree, without network; all run, even after a failure.\nsteps:\n",
    );
    for step in &steps {
        text.push_str(&format!(
            "  - name: {}\n    command: {}\n",
            step.name,
            quoted(&step.command)
        ));
        if step.advisory {
            text.push_str("    advisory: true\n");
        }
    }
    text.push_str("# Paths that a change must not touch, beside .foreman/**.\n");
    let always = |rule: &String| rule == gate::protected::ALWAYS;
    let protected: Vec<&String> = gate.protected.iter().filter(|rule| !always(rule)).collect();
    if protected.is_empty() {
        text.push_str("# protectedPaths:\n#   - .github/**\n");
    } else {
        text.push_str("protectedPaths:\n");
    }
    for rule in protected {
        text.push_str(&format!("  - {}\n", quoted(rule.trim_start_matches('/'))));
    }
    if !gate.pinned.is_empty() {
        // A file's gate is no preset's: it compares no part of a file with the base.
        text.push_str(
            "  # The branch may change the scripts that the steps run, unless this is protected; then no task adds packages.\n  # - package.json\n",
        );
    }
    (Some(language), text)
}

/// Builds the gate of a repository whose language is not known: what its Makefile says, else a step that fails.
fn by_make(root: &Path) -> (Option<String>, String) {
    // As `make` looks for them.
    for file in ["GNUmakefile", "makefile", "Makefile"] {
        let Ok(text) = std::fs::read_to_string(root.join(file)) else {
            continue;
        };
        let targets = ["test", "check"].into_iter();
        let mut known = targets.filter(|target| text.lines().any(|line| is_rule_of(line, target)));
        if let Some(target) = known.next() {
            let gate = format!(
                "{GATE_HEAD}steps:\n  - name: test\n    command: make {target}\n\
                 # A change must not touch what says how the tests are run, beside .foreman/**.\n\
                 protectedPaths:\n  - {file}\n"
            );
            return (Some(format!("unknown; {file} has the target {target}")), gate);
        }
        break;
    }
    let gate = format!(
        "{GATE_HEAD}steps:\n  - name: test\n    # Replace this by the command that runs your tests.\n    command: \"false\"\n"
    );
    (None, gate)
}

/// Says whether a line of a Makefile begins the rule of a target.
fn is_rule_of(line: &str, target: &str) -> bool {
    let Some((names, rest)) = line.split_once(':') else {
        return false;
    };
    // `test := x` sets a variable.
    !rest.starts_with('=') && !line.starts_with(['\t', '#', '.']) && names.split_whitespace().any(|name| name == target)
}

/// Most Python files that are looked at.
const MAX_LOOKED_AT: usize = 500;

/// Says whether test files of a Python repository hold test functions outside of classes, which only pytest finds.
fn has_pytest_functions(root: &Path) -> bool {
    let files = ["", "tests", "test"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten());
    files.take(MAX_LOOKED_AT).any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_test = name.ends_with("_test.py") || name.starts_with("test_") && name.ends_with(".py");
        is_test
            && entry.file_type().is_ok_and(|kind| kind.is_file())
            && std::fs::read_to_string(entry.path()).is_ok_and(|text| {
                text.lines()
                    .any(|line| line.starts_with("def test") || line.starts_with("async def test"))
            })
    })
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn build_agents(server: Option<&Server>) -> String {
    let url = server.map_or("http://127.0.0.1:8080/v1", |server| server.base_url.as_str());
    let model = match server.and_then(|server| server.model.as_ref()) {
        Some(model) => format!("    model: {}\n", quoted(model)),
        None => "    # model: the name that the server knows; unset takes the only one it serves\n".into(),
    };
    AGENTS.replace("@URL@", &quoted(url)).replace("    @MODEL@\n", &model)
}

const QUEUE: &str = "\
# Where work comes from. `foreman up` serves it; on a cluster `kubectl apply` takes the same file.
apiVersion: foreman.llmkube.dev/v1alpha1
kind: TaskQueue
metadata:
  name: tasks
spec:
  git:
    # `.` is this repository; a URL names a separate tasks repository.
    url: .
    # branch: main        # unset: the branch that is checked out
    path: .foreman/tasks
    interval: 60s         # local repositories are watched as well
  # What a task gets unless its front matter says otherwise.
  defaults:
    repo: .
    coderAgentRef:
      name: coder
    verifierAgentRef:
      name: verifier
    budget:
      rounds: 3           # a failed gate goes back to the coder this often
";

const AGENTS: &str = "\
# Who works. The coder asks a model; the verifier has none and runs the gate.
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Agent
metadata:
  name: coder
spec:
  role: coder
  providerConfig:
    # Any OpenAI-compatible server: llama.cpp, Ollama, vLLM, LM Studio, LiteLLM.
    baseURL: @URL@
    @MODEL@
    # The key is taken from FOREMAN_MODEL_API_KEY when `foreman up` starts.
    apiKeySecretRef:
      name: foreman-model
      key: api-key
      optional: true
  tools: [read_file, write_file, str_replace, apply_patch, grep, glob, bash, submit_result]
  bashTimeoutSeconds: 120
  # How long one reply may take; a slow machine with a long prompt needs more.
  requestTurnTimeoutSeconds: 600
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Agent
metadata:
  name: verifier
spec:
  role: verifier
  tools: [run_gate_job]
";

const GATE_HEAD: &str = "\
# What proves or refutes a change. It is read at the base commit, never from the branch under test.
";

const FIRST_TASK: &str = "\
---
# Commit this file and Foreman works on it. Edit it and it works on it again; remove it and it forgets it.
title: Say how to run the tests
# base: main              # unset: the queue's default
# priority: 0             # higher first
# depends: [other.md]     # order only
# budget: { rounds: 3 }
---
The README does not say how the tests of this repository are run. Add a short section `Tests` that names the command.
Change nothing else.
";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_init_writes_is_valid() {
        schemas::config::parse_queue("queue.yaml", QUEUE.as_bytes()).unwrap();
        schemas::config::parse_agents("agents.yaml", build_agents(None).as_bytes()).unwrap();
        schemas::task_file::parse(".foreman/tasks/first-task.md", FIRST_TASK.as_bytes()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for file in ["", "Cargo.toml", "go.mod", "package.json", "pyproject.toml"] {
            if !file.is_empty() {
                std::fs::write(folder.path().join(file), "").unwrap();
            }
            let (_, gate) = build_gate(folder.path());
            let written = schemas::config::parse_gate("gate.yaml", gate.as_bytes()).unwrap();
            let preset = gate::definition::resolve(None, &Folder(folder.path()), &|_| Err(String::new()), &[]);
            let protected = preset.map(|preset| preset.protected.len() - 1).unwrap_or_default();
            assert_eq!(written.protected_paths.len(), protected, "all but .foreman/**: {gate}");
            assert!(!gate.contains("- \".foreman/**"), "{gate}");
        }
    }

    #[test]
    fn a_makefile_that_has_a_target_for_tests_is_the_gate() {
        let folder = tempfile::tempdir().unwrap();
        let cases = [
            ("all:\n\tcc x.c\n", None),
            ("test := 1\n.PHONY: test\n\ttest: x\n# test: y\n", None),
            ("all test: x\n\t./x\n", Some("make test")),
            ("check:: x\n\t./x\n", Some("make check")),
        ];
        for (makefile, command) in cases {
            std::fs::write(folder.path().join("Makefile"), makefile).unwrap();
            let (found, gate) = build_gate(folder.path());
            let written = schemas::config::parse_gate("gate.yaml", gate.as_bytes()).unwrap();
            assert_eq!(found.is_some(), command.is_some(), "{makefile}");
            assert_eq!(written.steps[0].command, command.unwrap_or("false"), "{makefile}");
            let protected: &[&str] = if command.is_some() { &["Makefile"] } else { &[] };
            assert_eq!(written.protected_paths, protected, "{makefile}");
        }
    }

    #[test]
    fn a_file_that_exists_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        assert!(write_new(&path, "one").unwrap());
        assert!(!write_new(&path, "two").unwrap());
        assert_eq!(std::fs::read_to_string(path).unwrap(), "one");
    }
}
