//! `foreman validate`: checks files offline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use kube::ResourceExt;
use schemas::Agent;
use schemas::agent::AgentRole;
use schemas::file_error::FileError;
use schemas::task_file::{self, TaskContent, TaskDocument};

use crate::cli::{Global, ReportFormat, ValidateArgs};
use crate::connect::root;
use crate::project::FOLDER;

/// Checks files and reports every error with file, line and column.
pub fn run(global: &Global, args: &ValidateArgs) -> Result<ExitCode> {
    let root = root(global)?;
    let files = if args.files.is_empty() {
        everything(&root)?
    } else {
        named(&root, global, &args.files)?
    };
    if files.is_empty() {
        bail!(
            "there is nothing to check: {} has no {FOLDER}/; run `foreman init`, or name the files",
            root.display()
        );
    }
    let (checked, errors) = check(&files, &tasks_folder(&root), args.files.is_empty());
    match args.output {
        ReportFormat::Json => println!("{}", serde_json::to_string_pretty(&errors)?),
        ReportFormat::Text => {
            for error in &errors {
                println!("{error}");
            }
            if errors.is_empty() {
                println!("{} valid", count(checked, "file is", "files are"));
            } else {
                println!(
                    "{} in {}",
                    count(errors.len(), "error", "errors"),
                    count(checked, "file", "files")
                );
            }
        }
    }
    Ok(if errors.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// A file by the name that errors show.
type Files = BTreeMap<String, PathBuf>;

/// Returns the folder of task files that the queue names, where it is in this repository.
fn tasks_folder(root: &Path) -> String {
    let read = std::fs::read(root.join(FOLDER).join("queue.yaml")).ok();
    let queue = read.and_then(|bytes| schemas::config::parse_queue("queue.yaml", &bytes).ok());
    let git = queue.and_then(|queue| queue.spec.git).filter(|git| git.url == ".");
    git.map_or_else(|| format!("{FOLDER}/tasks"), |git| git.path)
}

fn everything(root: &Path) -> Result<Files> {
    let mut files = Files::new();
    for name in ["queue.yaml", "agents.yaml", "gate.yaml"] {
        let path = root.join(FOLDER).join(name);
        if path.exists() {
            files.insert(format!("{FOLDER}/{name}"), path);
        }
    }
    let folder = tasks_folder(root);
    walk(&root.join(&folder), &folder, &mut files)?;
    Ok(files)
}

fn walk(folder: &Path, shown: &str, files: &mut Files) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).with_context(|| format!("failed to read {}", folder.display())),
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("failed to read {}", folder.display()))?;
        let name = format!("{shown}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), &name, files)?;
        } else if task_file::is_task_file(&name) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

fn named(root: &Path, global: &Global, given: &[PathBuf]) -> Result<Files> {
    let here = match &global.directory {
        Some(folder) => folder.clone(),
        None => std::env::current_dir()?,
    };
    let mut files = Files::new();
    for path in given {
        let whole = here.join(path);
        let absolute = whole
            .canonicalize()
            .with_context(|| format!("failed to find {}", path.display()))?;
        let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let shown = absolute.strip_prefix(&root).unwrap_or(path).display().to_string();
        if absolute.is_dir() {
            walk(&absolute, &shown, &mut files)?;
        } else {
            files.insert(shown, whole);
        }
    }
    Ok(files)
}

fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// Checks files; of all of them (`whole`) also that what they depend on is there.
fn check(files: &Files, folder: &str, whole: bool) -> (usize, Vec<FileError>) {
    let mut errors = Vec::new();
    let mut tasks: BTreeMap<String, Vec<TaskDocument>> = BTreeMap::new();
    let mut agents = None;
    for (shown, path) in files {
        let link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        let start = schemas::document::Place { line: 1, column: 1 };
        if link {
            let error = FileError::new(shown, start, "a symbolic link").expected("a file; links are not followed");
            errors.push(error);
            continue;
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                errors.push(FileError::new(
                    shown,
                    start,
                    format!("the file cannot be read: {error}"),
                ));
                continue;
            }
        };
        match path.file_name().and_then(|name| name.to_str()) {
            Some("queue.yaml") => {
                errors.extend(schemas::config::parse_queue(shown, &bytes).err().into_iter().flatten())
            }
            Some("agents.yaml") => match schemas::config::parse_agents(shown, &bytes) {
                Ok(read) => agents = Some(read.agents),
                Err(found) => errors.extend(found),
            },
            Some("gate.yaml") => errors.extend(schemas::config::parse_gate(shown, &bytes).err().into_iter().flatten()),
            _ => match task_file::parse(shown, &bytes) {
                Ok(documents) => {
                    tasks.insert(shown.clone(), documents);
                }
                Err(found) => errors.extend(found),
            },
        }
    }
    let set = schemas::queue_set::check(&tasks, folder, "offline");
    errors.extend(set.errors);
    if whole {
        for (path, others) in &set.missing {
            let absent = others.iter().filter(|other| !files.contains_key(*other));
            errors.extend(absent.map(|other| no_such_file(path, other, &tasks)));
        }
        if let Some(agents) = agents {
            let documents = tasks.values().flatten();
            errors.extend(documents.flat_map(|document| unknown_agents(document, &agents)));
        }
    }
    errors.sort_by(|a, b| (&a.path, a.line, a.column).cmp(&(&b.path, b.line, b.column)));
    (files.len(), errors)
}

fn no_such_file(path: &str, other: &str, tasks: &BTreeMap<String, Vec<TaskDocument>>) -> FileError {
    let message = format!("`depends` names {other}, and there is no such task file: the work would wait for it");
    let error = FileError::new(path, schemas::document::START, message).expected("a task file of this queue");
    match schemas::file_error::closest(other, tasks.keys().filter(|known| *known != path).map(String::as_str)) {
        Some(known) => error.suggestion(known),
        None => error,
    }
}

/// Finds the Agents that a task names and `agents.yaml` does not have, or has with another role.
fn unknown_agents(document: &TaskDocument, agents: &[Agent]) -> Vec<FileError> {
    let mut wanted: Vec<(&str, Option<AgentRole>)> = Vec::new();
    match &document.content {
        TaskContent::Markdown(task) => {
            let front = &task.front;
            wanted.extend(front.agent.iter().map(|name| (name.as_str(), Some(AgentRole::Coder))));
            wanted.extend(
                front
                    .verifier
                    .iter()
                    .map(|name| (name.as_str(), Some(AgentRole::Verifier))),
            );
            let reviewers = front.reviewers.iter().flat_map(|names| names.items());
            wanted.extend(reviewers.map(|name| (name, Some(AgentRole::Reviewer))));
        }
        TaskContent::Workload(workload) => {
            let spec = &workload.spec;
            let roles = [
                (&spec.coder_agent_ref, AgentRole::Coder),
                (&spec.verifier_agent_ref, AgentRole::Verifier),
            ];
            for (agent, role) in roles {
                wanted.extend(agent.iter().map(|agent| (agent.name.as_str(), Some(role))));
            }
            let steps = spec.pipeline.iter().flatten();
            wanted.extend(steps.map(|step| (step.agent_ref.name.as_str(), None)));
        }
        TaskContent::AgenticTask(task) => {
            wanted.extend(task.spec.agent_ref.iter().map(|agent| (agent.name.as_str(), None)));
        }
    }
    let error = |message: String| FileError::new(&document.path, document.at, message);
    let found = wanted.into_iter().filter_map(|(name, role)| {
        let Some(agent) = agents.iter().find(|agent| agent.name_any() == name) else {
            let names: Vec<String> = agents.iter().map(ResourceExt::name_any).collect();
            let message = format!("the Agent {name:?} is not in {FOLDER}/agents.yaml: the work would wait for it");
            let error = error(message).expected("an Agent of that file");
            return Some(
                match schemas::file_error::closest(name, names.iter().map(String::as_str)) {
                    Some(known) => error.suggestion(known),
                    None => error,
                },
            );
        };
        let wrong = role.filter(|role| agent.spec.role != *role)?;
        let is = agent.spec.role.as_str();
        Some(error(format!("the Agent {name:?} has the role {is}")).expected(format!("a {}", wrong.as_str())))
    });
    found.collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn every_error_names_its_file_line_and_column() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join(".foreman/tasks")).unwrap();
        std::fs::write(
            root.join(".foreman/gate.yaml"),
            "steps:\n  - name: test\n    comand: x\n",
        )
        .unwrap();
        std::fs::write(root.join(".foreman/tasks/good.md"), "Do it.\n").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", root.join(".foreman/tasks/link.md")).unwrap();
        let (checked, errors) = check(&everything(root).unwrap(), ".foreman/tasks", true);
        assert_eq!(checked, 3);
        let gate: Vec<&FileError> = errors
            .iter()
            .filter(|error| error.path.ends_with("gate.yaml"))
            .collect();
        assert!(
            gate.iter()
                .any(|error| error.line == 3 && error.to_string().contains("command")),
            "{gate:?}"
        );
        assert!(
            errors
                .iter()
                .any(|error| error.path.ends_with("link.md") && error.message.contains("link"))
        );
        assert!(errors.iter().all(|error| !error.path.ends_with("good.md")));
    }

    #[test]
    fn a_dependency_without_a_file_is_told_when_all_files_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join(".foreman/tasks")).unwrap();
        std::fs::write(root.join(".foreman/tasks/parser.md"), "Do it.\n").unwrap();
        std::fs::write(
            root.join(".foreman/tasks/tests.md"),
            "---\ndepends: [parsr.md]\n---\nTest it.\n",
        )
        .unwrap();
        let files = everything(root).unwrap();
        let (_, errors) = check(&files, ".foreman/tasks", true);
        assert_eq!(errors.len(), 1, "{errors:?}");
        let text = errors[0].to_string();
        assert!(
            text.contains("parsr.md") && text.contains(".foreman/tasks/parser.md"),
            "{text}"
        );
        assert_eq!(check(&files, ".foreman/tasks", false).1, Vec::new());
    }

    #[test]
    fn an_agent_that_is_not_there_or_cannot_do_it_is_told_when_all_files_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join(".foreman/tasks")).unwrap();
        let agent = |name: &str, role: &str| {
            format!(
                "---\napiVersion: foreman.llmkube.dev/v1alpha1\nkind: Agent\nmetadata: {{ name: {name} }}\n\
                 spec: {{ role: {role}, tools: [read_file] }}\n"
            )
        };
        let agents = agent("coder", "coder") + &agent("gate", "verifier");
        std::fs::write(root.join(".foreman/agents.yaml"), agents).unwrap();
        std::fs::write(root.join(".foreman/tasks/good.md"), "---\nagent: coder\n---\nDo it.\n").unwrap();
        std::fs::write(root.join(".foreman/tasks/gone.md"), "---\nagent: codr\n---\nDo it.\n").unwrap();
        std::fs::write(root.join(".foreman/tasks/wrong.md"), "---\nagent: gate\n---\nDo it.\n").unwrap();
        let (_, errors) = check(&everything(root).unwrap(), ".foreman/tasks", true);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].contains("gone.md") && texts[0].contains("\"codr\"") && texts[0].contains("coder"));
        assert!(
            texts[1].contains("wrong.md") && texts[1].contains("verifier"),
            "{texts:?}"
        );
    }
}
