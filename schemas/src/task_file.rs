//! Task files: YAML manifests, or Markdown with front matter.
//!
//! [`parse`] reads a file as it is, without defaults; [`resolve`] makes the object that a queue
//! applies. Between them lies the [run key](run_key), which a reformatted file does not change.

use serde_json::{Value, json};

use crate::agentic_task::{Dependency, TaskKind};
use crate::document::{self, Node};
use crate::file_error::{FileError, MAX_ERRORS, Place, START, quote};
use crate::front_matter::{self, FrontMatter};
use crate::manifest;
use crate::names;
use crate::pipeline::{self, PipelineError};
use crate::structural::Checker;
use crate::{AgenticTask, Workload};

mod resolve;

pub use resolve::{QueueContext, TaskObject, resolve};

/// Most bytes of a task's text: a Markdown body, or the spec of a manifest.
pub const MAX_TEXT: usize = 64 * 1024;
/// Most bytes of a file, whatever it holds.
pub const MAX_FILE: usize = 1024 * 1024;

/// One task of a file, as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskDocument {
    /// Path of the file.
    pub path: String,
    /// Where the task begins.
    pub at: Place,
    /// What it is.
    pub content: TaskContent,
    /// Where `metadata.name` or, without one, the task stands.
    name_at: Place,
    /// Where `metadata.namespace` or, without one, the task stands.
    namespace_at: Place,
    /// Where its dependencies or, without any, the task stands.
    depends_at: Place,
    /// What was parsed, without defaults: the run key is its hash.
    parsed: Value,
}

/// What a task of a file is.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskContent {
    /// A Workload manifest.
    Workload(Box<Workload>),
    /// An AgenticTask manifest.
    AgenticTask(Box<AgenticTask>),
    /// Markdown: it becomes a Workload.
    Markdown(Box<MarkdownTask>),
}

/// A Markdown task.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MarkdownTask {
    /// Title: of the front matter, else the first heading, else the file's name.
    pub title: String,
    /// Front matter.
    pub front: FrontMatter,
    /// Body: the prompt.
    pub body: String,
}

impl TaskDocument {
    /// Returns the kind of the object that it becomes.
    pub fn kind(&self) -> &'static str {
        match self.content {
            TaskContent::AgenticTask(_) => "AgenticTask",
            TaskContent::Workload(_) | TaskContent::Markdown(_) => "Workload",
        }
    }

    /// Returns the name of the object that it becomes, in a queue of this UID.
    pub fn object_name(&self, queue_uid: &str) -> String {
        match &self.content {
            TaskContent::Workload(workload) => workload.metadata.name.clone().unwrap_or_default(),
            TaskContent::AgenticTask(task) => task.metadata.name.clone().unwrap_or_default(),
            TaskContent::Markdown(_) => names::file_object_name(queue_uid, &self.path),
        }
    }

    /// Returns where its name stands.
    pub fn name_at(&self) -> Place {
        self.name_at
    }

    /// Returns where its dependencies stand.
    pub fn depends_at(&self) -> Place {
        self.depends_at
    }

    /// Returns the paths that `depends` of the front matter names, as written.
    pub fn depends(&self) -> Vec<&str> {
        match &self.content {
            TaskContent::Markdown(task) => task.front.depends.iter().flat_map(|depends| depends.items()).collect(),
            _ => Vec::new(),
        }
    }

    /// Returns the object names that a manifest's dependsOn names; bad entries are left out.
    pub fn depends_on(&self) -> Vec<String> {
        match &self.content {
            TaskContent::Workload(workload) => workload.spec.depends_on.clone().unwrap_or_default(),
            TaskContent::AgenticTask(task) => {
                let name = |dependency: &Dependency| match dependency {
                    Dependency::Name(name) | Dependency::Object { name, .. } => Some(name.clone()),
                    Dependency::Other(_) => None,
                };
                task.spec.depends_on.iter().filter_map(name).collect()
            }
            TaskContent::Markdown(_) => Vec::new(),
        }
    }
}

/// Hashes what was parsed, without defaults: 64 hex digits. Comments, order of keys and layout do not count.
pub fn run_key(document: &TaskDocument) -> String {
    names::sha256_hex(canonical(&document.parsed))
}

/// Writes a value with its keys sorted.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let fields = keys
                .iter()
                .map(|key| format!("{}:{}", json!(key), canonical(&map[key.as_str()])));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

/// What a file's name says that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Manifests,
    Markdown,
}

fn format_of(path: &str) -> Option<Format> {
    let file = path.rsplit('/').next().unwrap_or(path);
    let (stem, extension) = file.rsplit_once('.')?;
    if stem.is_empty() || file.starts_with(['.', '_']) || stem.eq_ignore_ascii_case("readme") {
        return None;
    }
    match extension.to_ascii_lowercase().as_str() {
        "yaml" | "yml" | "json" => Some(Format::Manifests),
        "md" | "markdown" => Some(Format::Markdown),
        _ => None,
    }
}

/// Says whether a file of this name is a task file: YAML, JSON or Markdown, but no README and nothing that begins with
/// `.` or `_`.
pub fn is_task_file(path: &str) -> bool {
    format_of(path).is_some()
}

/// Reads a task file; the error is everything that is wrong with it (at most 50 things).
pub fn parse(path: &str, bytes: &[u8]) -> Result<Vec<TaskDocument>, Vec<FileError>> {
    let text = text(path, bytes, MAX_FILE).map_err(|error| vec![error])?;
    let (documents, mut errors) = match format_of(path) {
        Some(Format::Manifests) => parse_manifests(path, text),
        Some(Format::Markdown) => parse_markdown(path, text),
        None => {
            let error = FileError::new(path, START, "the file's name does not say what it holds");
            (
                Vec::new(),
                vec![error.expected("a name that ends in .md, .yaml, .yml or .json")],
            )
        }
    };
    if errors.is_empty() {
        return Ok(documents);
    }
    errors.sort_by_key(|error| (error.line, error.column));
    errors.truncate(MAX_ERRORS);
    Err(errors)
}

/// Reads bytes as UTF-8 text of at most `limit` bytes; the error names the limit, or the place of the bad byte.
pub fn text<'a>(path: &str, bytes: &'a [u8], limit: usize) -> Result<&'a str, FileError> {
    if bytes.len() > limit {
        return Err(too_long(path, START, "the file", bytes.len(), limit));
    }
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    std::str::from_utf8(bytes).map_err(|error| {
        let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
        let line_start = good.rfind('\n').map_or(0, |end| end + 1);
        let at = Place {
            line: good.matches('\n').count() + 1,
            column: good[line_start..].chars().count() + 1,
        };
        let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
        FileError::new(path, at, format!("the byte 0x{byte:02x}"))
            .expected("UTF-8 text")
            .suggestion("save the file as UTF-8")
    })
}

fn too_long(path: &str, at: Place, what: &str, found: usize, limit: usize) -> FileError {
    FileError::new(path, at, format!("{what} has {found} bytes"))
        .expected(format!("at most {limit} bytes ({} KiB)", limit / 1024))
        .suggestion(format!(
            "a task's text may have {} KiB; put long material into files of the repository",
            MAX_TEXT / 1024
        ))
}

const ELSEWHERE: &str = "a task file makes only Workloads and AgenticTasks; agents belong in .foreman/agents.yaml, the queue in .foreman/queue.yaml";

fn parse_manifests(path: &str, text: &str) -> (Vec<TaskDocument>, Vec<FileError>) {
    let (nodes, errors) = document::read(path, text, 0);
    let broken = !errors.is_empty();
    let mut checker = Checker::new(path, &[]);
    errors.into_iter().for_each(|error| checker.push(error));
    if nodes.is_empty() && !broken {
        let error = FileError::new(path, START, "the file is empty");
        checker.push(error.expected("a Workload or an AgenticTask"));
    }
    let mut documents: Vec<TaskDocument> = Vec::new();
    for node in &nodes {
        let before = checker.count();
        let Some(manifest) = manifest::check(path, node, &["Workload", "AgenticTask"], ELSEWHERE, &mut checker) else {
            continue;
        };
        let size = manifest.value["spec"].to_string().len();
        if size > MAX_TEXT {
            checker.push(too_long(path, node.locate(&["spec"]), "the spec", size, MAX_TEXT));
        }
        let twin = documents.iter().find(|other| {
            other.kind() == manifest.kind && other.object_name("") == manifest.name && !manifest.name.is_empty()
        });
        if let Some(twin) = twin {
            let message = format!("a second {} named {}", manifest.kind, quote(&manifest.name));
            let advice = format!("the first begins on line {}; rename one of them", twin.at.line);
            checker.push(FileError::new(path, manifest.name_at, message).suggestion(advice));
        }
        if checker.count() > before {
            continue;
        }
        let content = match manifest.kind.as_str() {
            "Workload" => manifest.read(path).map(TaskContent::Workload),
            _ => manifest.read(path).map(TaskContent::AgenticTask),
        };
        match content {
            Ok(content) => {
                check_meaning(path, node, &content, &mut checker);
                documents.push(TaskDocument {
                    path: path.to_owned(),
                    at: node.at,
                    content,
                    name_at: manifest.name_at,
                    namespace_at: node.locate(&["metadata", "namespace"]),
                    depends_at: node.locate(&["spec", "dependsOn"]),
                    parsed: manifest.value,
                });
            }
            Err(error) => checker.push(error),
        }
    }
    (documents, checker.into_errors())
}

/// Checks what a schema cannot say. What a queue's defaults may still supply is left to conditions.
fn check_meaning(path: &str, node: &Node, content: &TaskContent, checker: &mut Checker<'_>) {
    match content {
        TaskContent::AgenticTask(task) => {
            let namespace = task.metadata.namespace.as_deref();
            for (at, dependency) in task.spec.depends_on.iter().enumerate() {
                let own = match dependency {
                    Dependency::Object {
                        namespace: Some(other), ..
                    } => namespace.unwrap_or(other),
                    _ => namespace.unwrap_or_default(),
                };
                if let Err(reason) = dependency.resolve(own) {
                    let place = node.locate(&["spec", "dependsOn", &at.to_string()]);
                    checker.push(FileError::new(path, place, format!("spec.dependsOn[{at}]: {reason}")));
                }
            }
            if task.spec.kind == TaskKind::Verify && task.spec.payload.branch.as_deref().is_none_or(str::is_empty) {
                let error = FileError::new(
                    path,
                    node.locate(&["spec", "payload"]),
                    "a verify task without a branch",
                );
                checker.push(error.expected("spec.payload.branch: the branch that the gate tests"));
            }
            check_payload(path, node, &["spec", "payload"], &task.spec.payload, checker);
        }
        TaskContent::Workload(workload) => {
            let namespace = workload.metadata.namespace.as_deref().unwrap_or_default();
            let name = workload.metadata.name.as_deref().unwrap_or_default();
            for (at, step) in workload.spec.pipeline.iter().flatten().enumerate() {
                let at = at.to_string();
                check_payload(
                    path,
                    node,
                    &["spec", "pipeline", &at, "payload"],
                    &step.payload,
                    checker,
                );
            }
            match pipeline::expand(name, namespace, &workload.spec) {
                Ok(_) | Err(PipelineError::NoCoder | PipelineError::NotSupportedYet(_)) => {}
                Err(PipelineError::BadDependency { .. }) if namespace.is_empty() => {}
                Err(error) => {
                    let message = error.to_string();
                    let message = message.strip_prefix("failed to plan: ").unwrap_or(&message);
                    checker.push(FileError::new(path, node.locate(&["spec", "pipeline"]), message));
                }
            }
            check_repo(
                path,
                node.locate(&["spec", "repo"]),
                workload.spec.repo.as_deref(),
                checker,
            );
            check_branch(
                path,
                node.locate(&["spec", "baseBranch"]),
                workload.spec.base_branch.as_deref(),
                checker,
            );
        }
        TaskContent::Markdown(_) => {}
    }
}

fn check_payload(
    path: &str,
    node: &Node,
    at: &[&str],
    payload: &crate::agentic_task::Payload,
    checker: &mut Checker<'_>,
) {
    let place = |key: &str| node.locate(&[at, &[key]].concat());
    check_repo(path, place("repo"), payload.repo.as_deref(), checker);
    check_branch(path, place("branch"), payload.branch.as_deref(), checker);
    check_branch(path, place("baseBranch"), payload.base_branch.as_deref(), checker);
    check_branch(
        path,
        place("reviseFromBranch"),
        payload.revise_from_branch.as_deref(),
        checker,
    );
}

fn check_branch(path: &str, at: Place, branch: Option<&str>, checker: &mut Checker<'_>) {
    if let Some(branch) = branch.filter(|branch| !branch.is_empty())
        && let Err(reason) = names::check_branch(branch)
    {
        let error = FileError::new(
            path,
            at,
            format!("the branch {} cannot be used: {reason}", quote(branch)),
        );
        checker.push(error.expected("a branch name that Git takes"));
    }
}

fn check_repo(path: &str, at: Place, repo: Option<&str>, checker: &mut Checker<'_>) {
    if let Some(repo) = repo.filter(|repo| !repo.is_empty())
        && (repo.starts_with('-') || repo.chars().any(|c| c.is_control() || c.is_whitespace()))
    {
        let error = FileError::new(path, at, format!("the repository {} cannot be used", quote(repo)));
        checker.push(error.expected("owner/name or a URL"));
    }
}

fn parse_markdown(path: &str, text: &str) -> (Vec<TaskDocument>, Vec<FileError>) {
    let Some(parts) = front_matter::split(text) else {
        let error = FileError::new(path, START, "the front matter does not end");
        return (
            Vec::new(),
            vec![error.expected("a line --- between front matter and body")],
        );
    };
    let (nodes, errors) = document::read(path, parts.front, parts.front_line);
    let mut checker = Checker::new(path, front_matter::SYNONYMS);
    let broken = !errors.is_empty();
    errors.into_iter().for_each(|error| checker.push(error));
    let body_at = Place {
        line: parts.body_line + 1,
        column: 1,
    };
    let body = parts.body.replace("\r\n", "\n");
    let body = body.trim();
    if body.len() > MAX_TEXT {
        checker.push(too_long(path, body_at, "the body", body.len(), MAX_TEXT));
    } else if body.is_empty() {
        let error = FileError::new(path, body_at, "the body is empty");
        checker.push(error.expected("the prompt: what is to be done, in words"));
    }
    let empty = Node {
        at: START,
        content: document::Content::Map(Vec::new()),
    };
    let node = nodes.first().unwrap_or(&empty);
    let value = if broken {
        json!({})
    } else {
        checker.check(node, FrontMatter::schema(), "")
    };
    if checker.count() > 0 {
        return (Vec::new(), checker.into_errors());
    }
    let front: FrontMatter = match serde_json::from_value(value.clone()) {
        Ok(front) => front,
        Err(error) => {
            checker.push(FileError::new(
                path,
                node.at,
                format!("the front matter cannot be read: {error}"),
            ));
            return (Vec::new(), checker.into_errors());
        }
    };
    check_front(path, node, &front, &mut checker);
    let title = front
        .title
        .clone()
        .or_else(|| front_matter::first_heading(body))
        .unwrap_or_else(|| file_title(path));
    let document = TaskDocument {
        path: path.to_owned(),
        at: START,
        name_at: START,
        namespace_at: START,
        depends_at: node.locate(&["depends"]),
        parsed: json!({ "front": value, "body": body }),
        content: TaskContent::Markdown(Box::new(MarkdownTask {
            title: crate::file_error::shorten(&title, 200),
            front,
            body: body.to_owned(),
        })),
    };
    (vec![document], checker.into_errors())
}

fn check_front(path: &str, node: &Node, front: &FrontMatter, checker: &mut Checker<'_>) {
    check_repo(path, node.locate(&["repo"]), front.repo.as_deref(), checker);
    check_branch(path, node.locate(&["base"]), front.base.as_deref(), checker);
    check_branch(path, node.locate(&["branch"]), front.branch.as_deref(), checker);
    let reviewers = front
        .reviewers
        .iter()
        .flat_map(|reviewers| reviewers.items())
        .map(|name| ("reviewers", name));
    let agents = [
        ("agent", front.agent.as_deref()),
        ("verifier", front.verifier.as_deref()),
    ];
    for (key, name) in agents
        .into_iter()
        .filter_map(|(key, name)| Some((key, name?)))
        .chain(reviewers)
    {
        if !names::is_object_name(name) {
            let error = FileError::new(path, node.locate(&[key]), format!("{key} is {}", quote(name)));
            checker.push(error.expected("the name of an Agent: lower-case letters, digits and hyphens"));
        }
    }
    for (at, depends) in front.depends.iter().flat_map(|depends| depends.items()).enumerate() {
        if names::joined_path(path, depends).is_none() {
            let place = node.locate(&["depends", &at.to_string()]);
            let error = FileError::new(path, place, format!("depends names {}", quote(depends)));
            checker.push(error.expected("the path of another task file of this repository, such as tasks/first.md"));
        }
    }
}

fn file_title(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.rsplit_once('.')
        .map_or(file, |(stem, _)| stem)
        .replace(['-', '_'], " ")
}

#[cfg(test)]
mod tests;
