//! `foreman validate`: checks files offline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use kube::ResourceExt;
use schemas::agent::AgentRole;
use schemas::config::AgentsFile;
use schemas::file_error::{FileError, Place, START};
use schemas::front_matter::Gate;
use schemas::task_file::{self, TaskContent, TaskDocument};
use schemas::{Agent, WorkloadSpec, unsupported};

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
    let Checked { files, errors, notes } = check(&files, &tasks_folder(&root), args.files.is_empty());
    match args.output {
        ReportFormat::Json => println!("{}", serde_json::to_string_pretty(&errors)?),
        ReportFormat::Text => {
            for error in &errors {
                println!("{error}");
            }
            for note in &notes {
                println!("note: {note}");
            }
            if errors.is_empty() {
                println!("{} valid", count(files, "file is", "files are"));
            } else {
                println!(
                    "{} in {}",
                    count(errors.len(), "error", "errors"),
                    count(files, "file", "files")
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
        let absolute = whole.canonicalize().with_context(|| {
            format!(
                "failed to find {}: name a file or a folder of this repository",
                path.display()
            )
        })?;
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

/// What checking files came to.
struct Checked {
    /// How many there were.
    files: usize,
    errors: Vec<FileError>,
    /// What is set and nothing acts on yet.
    notes: Vec<FileError>,
}

/// Checks files; of all of them (`whole`) also that what they depend on is there.
fn check(files: &Files, folder: &str, whole: bool) -> Checked {
    let mut errors = Vec::new();
    let mut notes = Vec::new();
    let mut tasks: BTreeMap<String, Vec<TaskDocument>> = BTreeMap::new();
    let mut agents = None;
    for (shown, path) in files {
        let link = std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink());
        if link {
            let error = FileError::new(shown, START, "a symbolic link").expected("a file; links are not followed");
            errors.push(error);
            continue;
        }
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                errors.push(FileError::new(
                    shown,
                    START,
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
                Ok(read) => {
                    let (wrong, unsupported) = check_agents(shown, &read);
                    errors.extend(wrong);
                    notes.extend(unsupported);
                    agents = Some(read.agents);
                }
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
    notes.extend(tasks.values().flatten().filter_map(unsupported_of));
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
    Checked {
        files: files.len(),
        errors,
        notes,
    }
}

/// Finds what of a document nothing acts on yet.
fn unsupported_of(document: &TaskDocument) -> Option<FileError> {
    let found = match &document.content {
        TaskContent::Markdown(task) => {
            let gate = task.front.gate.as_ref().map(Gate::profile);
            unsupported::of_workload(&WorkloadSpec {
                gate_profile: gate,
                ..WorkloadSpec::default()
            })
        }
        TaskContent::Workload(workload) => unsupported::of_workload(&workload.spec),
        TaskContent::AgenticTask(task) => unsupported::of_task(&task.spec),
    };
    no_effect(&document.path, document.at, &found)
}

fn no_effect(path: &str, at: Place, found: &[String]) -> Option<FileError> {
    let message = || format!("nothing acts on this yet: {}", found.join(", "));
    (!found.is_empty()).then(|| FileError::new(path, at, message()))
}

/// Finds what the operator would say against the Agents of a file, and what of them nothing acts on yet.
fn check_agents(path: &str, read: &AgentsFile) -> (Vec<FileError>, Vec<FileError>) {
    let known = |name: &str| read.profiles.iter().any(|profile| profile.name_any() == name);
    let (mut errors, mut notes) = (Vec::new(), Vec::new());
    for agent in &read.agents {
        let found = reconciler::agent::validate::validate(agent, &known);
        let name = agent.name_any();
        let error = |problem: &String| FileError::new(path, START, format!("Agent {name:?}: {problem}"));
        errors.extend(found.problems.iter().map(error));
        let fields: Vec<String> = found
            .unsupported
            .iter()
            .map(|field| format!("{field} of Agent {name:?}"))
            .collect();
        notes.extend(no_effect(path, START, &fields));
    }
    for profile in &read.profiles {
        let found = unsupported::of_profile(&profile.spec);
        let name = profile.name_any();
        let fields: Vec<String> = found
            .iter()
            .map(|field| format!("{field} of ModelProfile {name:?}"))
            .collect();
        notes.extend(no_effect(path, START, &fields));
    }
    (errors, notes)
}

fn no_such_file(path: &str, other: &str, tasks: &BTreeMap<String, Vec<TaskDocument>>) -> FileError {
    let message = format!("`depends` names {other}, and there is no such task file: the work would wait for it");
    let error = FileError::new(path, START, message).expected("a task file of this queue");
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
        let Checked { files, errors, .. } = check(&everything(root).unwrap(), ".foreman/tasks", true);
        assert_eq!(files, 3);
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
        let errors = check(&files, ".foreman/tasks", true).errors;
        assert_eq!(errors.len(), 1, "{errors:?}");
        let text = errors[0].to_string();
        assert!(
            text.contains("parsr.md") && text.contains(".foreman/tasks/parser.md"),
            "{text}"
        );
        assert_eq!(check(&files, ".foreman/tasks", false).errors, Vec::new());
    }

    #[test]
    fn an_agent_that_is_not_there_or_cannot_do_it_is_told_when_all_files_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join(".foreman/tasks")).unwrap();
        let agent = |name: &str, role: &str| {
            format!(
                "---\napiVersion: foreman.llmkube.dev/v1alpha1\nkind: Agent\nmetadata: {{ name: {name} }}\n\
                 spec: {{ role: {role}, tools: [run_gate_job] }}\n"
            )
        };
        let agents = agent("coder", "coder") + &agent("gate", "verifier");
        std::fs::write(root.join(".foreman/agents.yaml"), agents).unwrap();
        std::fs::write(root.join(".foreman/tasks/good.md"), "---\nagent: coder\n---\nDo it.\n").unwrap();
        std::fs::write(root.join(".foreman/tasks/gone.md"), "---\nagent: codr\n---\nDo it.\n").unwrap();
        std::fs::write(root.join(".foreman/tasks/wrong.md"), "---\nagent: gate\n---\nDo it.\n").unwrap();
        let errors = check(&everything(root).unwrap(), ".foreman/tasks", true).errors;
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].contains("gone.md") && texts[0].contains("\"codr\"") && texts[0].contains("coder"));
        assert!(
            texts[1].contains("wrong.md") && texts[1].contains("verifier"),
            "{texts:?}"
        );
    }

    #[test]
    fn what_no_agent_can_do_is_an_error_and_what_nothing_acts_on_is_a_note() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        std::fs::create_dir_all(root.join(".foreman/tasks")).unwrap();
        let agent = "apiVersion: foreman.llmkube.dev/v1alpha1\nkind: Agent\nmetadata: { name: coder }\n\
             spec: { role: coder, tools: [bsh], vision: { enabled: true }, providerConfig: { baseURL: http://127.0.0.1:1/v1, model: m } }\n";
        std::fs::write(root.join(".foreman/agents.yaml"), agent).unwrap();
        let task = "---\ngate: { test: x, sourceExtensions: [.go] }\n---\nDo it.\n";
        std::fs::write(root.join(".foreman/tasks/a.md"), task).unwrap();
        let checked = check(&everything(root).unwrap(), ".foreman/tasks", true);
        let texts = |list: &[FileError]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (errors, notes) = (texts(&checked.errors), texts(&checked.notes));
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(
            errors[0].contains("agents.yaml") && errors[0].contains("did you mean \"bash\""),
            "{errors:?}"
        );
        assert_eq!(notes.len(), 2, "{notes:?}");
        assert!(notes[0].contains("spec.vision of Agent \"coder\""), "{notes:?}");
        assert!(
            notes[1].contains("a.md") && notes[1].contains("sourceExtensions"),
            "{notes:?}"
        );
    }
}
