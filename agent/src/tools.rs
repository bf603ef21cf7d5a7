//! What a model may do: a box of tools that work inside one work tree.
//!
//! A tool never fails with a bare "invalid": a refusal says what was found, what was expected and what to do.
//! [`Outcome::Failed`] is kept for what the machine, not the model, is to blame for.

pub mod apply_patch;
pub mod bash;
pub mod fetch;
mod form;
pub mod glob;
pub mod grep;
pub mod matching;
pub mod output;
pub(crate) mod pointer;
pub mod read_file;
pub mod root;
pub mod sandboxed;
pub mod schema;
pub mod str_replace;
pub mod submit_result;
pub(crate) mod walk;
pub mod write_file;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use bash::Shell;
use fetch::Briefing;
use gate::protected::{Protected, RuleError};
use git::Tracked;
use output::Spill;
use root::pins::{Held, Pins};
use root::{Root, RootError};
use schema::{Arguments, ToolSpec};
use schemas::tools::DETERMINISTIC;

/// Says how a tool call went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The tool did its work. A command that exits non-zero did its work too.
    Done,
    /// The call cannot be done as it is; the answer says what to do instead.
    Refused,
    /// The machine failed.
    Failed,
}

/// Holds a call that fits its tool.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The server's id of the call; empty where there is none.
    pub id: String,
    /// The tool.
    pub tool: String,
    /// Its arguments, checked.
    pub arguments: Arguments,
}

/// Holds what a tool answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolResult {
    /// How it went.
    pub outcome: Outcome,
    /// What the model sees.
    pub content: String,
    /// Whether the work tree changed.
    pub mutated: bool,
    /// The protected path that was to be written.
    pub protected: Option<String>,
}

impl ToolResult {
    /// Answers without having changed anything.
    pub fn done(content: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Done,
            content: content.into(),
            mutated: false,
            protected: None,
        }
    }

    /// Answers after a change of the work tree.
    pub fn mutation(content: impl Into<String>) -> Self {
        Self {
            mutated: true,
            ..Self::done(content)
        }
    }

    /// Refuses and teaches.
    pub fn refused(content: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Refused,
            ..Self::done(content)
        }
    }

    /// Reports a failure of the machine.
    pub fn failed(content: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Failed,
            ..Self::done(content)
        }
    }
}

impl From<RootError> for ToolResult {
    fn from(error: RootError) -> Self {
        let content = error.to_string();
        match error {
            RootError::Protected { path, .. } => Self {
                protected: Some(path),
                ..Self::refused(content)
            },
            RootError::Pinned { parts, .. } => Self {
                protected: Some(parts.join(", ")),
                ..Self::refused(content)
            },
            error if error.is_infrastructure() => Self::failed(content),
            _ => Self::refused(content),
        }
    }
}

/// Limits what tools answer.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Longest answer that a model sees, in bytes.
    pub answer_bytes: usize,
    /// Longest piece of a file that one read shows, in bytes.
    pub read_bytes: usize,
    /// Longest output that is kept whole on disk, in bytes.
    pub kept_bytes: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            answer_bytes: 16 * 1024,
            read_bytes: 32 * 1024,
            kept_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Says what a box of tools is made of.
#[derive(Clone)]
pub struct ToolboxSettings {
    /// The work tree.
    pub work_tree: PathBuf,
    /// The files that it was checked out with: what is committed is found though a `.gitignore` names it.
    pub tracked: Arc<Tracked>,
    /// Where long outputs are kept; outside the work tree.
    pub kept_outputs: PathBuf,
    /// The tools on offer, by the names that Agents list.
    pub tools: Vec<String>,
    /// Patterns of paths that may not be written.
    pub protected: Vec<String>,
    /// What runs commands; `bash` fails where it is absent.
    pub shell: Option<Arc<dyn Shell>>,
    /// Limit of one command (`bashTimeoutSeconds`).
    pub bash_timeout: Duration,
    /// The task's issue and pull request.
    pub briefing: Briefing,
    /// Limits of answers.
    pub caps: Caps,
}

/// Tells why a box of tools cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ToolboxError {
    /// An Agent lists a tool that does not exist.
    #[error("failed to offer the tool {name:?}: no such tool; known are {known}")]
    Unknown {
        /// The name.
        name: String,
        /// All names.
        known: String,
    },
    /// A pattern of protected paths is broken.
    #[error(transparent)]
    Protected(#[from] RuleError),
    /// The work tree cannot be opened.
    #[error("failed to open the work tree {path}: {source}")]
    WorkTree {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What a run may not change of its work tree.
pub struct Guard<'a>(&'a Root);

impl Guard<'_> {
    /// Says why a path that was changed must be put back, if so: a rule protects it, or parts of it that the gate's steps
    /// go by are not as the base has them.
    pub fn covers(&self, path: &str) -> Option<Held> {
        self.0.refusal(path)
    }
}

/// The tools of one run.
#[derive(Clone)]
pub struct Toolbox {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    root: Root,
    specs: Vec<ToolSpec>,
    spill: Spill,
    shell: Option<Arc<dyn Shell>>,
    bash_timeout: Duration,
    briefing: Briefing,
    caps: Caps,
}

/// Returns every tool of the loop, in the order in which models always see them.
pub fn all_specs() -> Vec<ToolSpec> {
    vec![
        read_file::spec(),
        write_file::spec(),
        str_replace::spec(),
        apply_patch::spec(),
        grep::spec(),
        glob::spec(),
        bash::spec(),
        fetch::issue_spec(),
        fetch::pull_request_spec(),
        submit_result::spec(),
    ]
}

impl Toolbox {
    /// Opens the work tree and makes the tools ready. `submit_result` is always among them.
    pub fn new(settings: ToolboxSettings) -> Result<Self, ToolboxError> {
        Self::keeping(Pins::default(), settings)
    }

    /// Makes tools as [`Toolbox::new`] does, that leave pinned parts of manifests as the base has them.
    pub fn keeping(pins: Pins, settings: ToolboxSettings) -> Result<Self, ToolboxError> {
        let all = all_specs();
        for name in &settings.tools {
            let known = all.iter().any(|spec| spec.name == name)
                || DETERMINISTIC.contains(&name.as_str())
                || name.starts_with("mcp__");
            if !known {
                let known = all
                    .iter()
                    .map(|spec| spec.name)
                    .chain(DETERMINISTIC)
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(ToolboxError::Unknown {
                    name: output::one_line(name, 60),
                    known,
                });
            }
        }
        let specs = all
            .into_iter()
            .filter(|spec| spec.name == submit_result::NAME || settings.tools.iter().any(|name| name == spec.name))
            .collect();
        let protected = Protected::new(settings.protected.iter().map(String::as_str))?;
        let root = Root::open(&settings.work_tree, protected).map_err(|source| ToolboxError::WorkTree {
            path: settings.work_tree.clone(),
            source,
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                root: root.keeping(pins).tracking(settings.tracked),
                specs,
                spill: Spill::new(settings.kept_outputs, settings.caps.kept_bytes),
                shell: settings.shell,
                bash_timeout: settings.bash_timeout,
                briefing: settings.briefing,
                caps: settings.caps,
            }),
        })
    }

    /// Returns the tools on offer.
    pub fn specs(&self) -> &[ToolSpec] {
        &self.inner.specs
    }

    /// Returns what may not be changed.
    pub fn protected(&self) -> Guard<'_> {
        Guard(&self.inner.root)
    }

    /// Returns the pinned parts of manifests that differ from the base now, as `path (part)`.
    pub(crate) async fn pinned_changes(&self) -> Vec<String> {
        let inner = Arc::clone(&self.inner);
        let look = tokio::task::spawn_blocking(move || inner.root.pinned_changes());
        look.await.unwrap_or_default()
    }

    /// Returns the names at the top of the work tree.
    pub fn top_level(&self) -> Vec<String> {
        match self.inner.root.read(".", 0) {
            Ok(root::Found::Folder(names)) => names,
            _ => Vec::new(),
        }
    }

    /// Runs one checked call. Long answers are capped, the whole is kept.
    pub async fn run(&self, call: &Call, cancel: &CancellationToken) -> ToolResult {
        let mut result = if call.tool == "bash" {
            bash::run(self, &self.inner, &call.arguments, cancel).await
        } else {
            let (inner, call, cancel) = (Arc::clone(&self.inner), call.clone(), cancel.clone());
            let work = tokio::task::spawn_blocking(move || run_blocking(&inner, &call, &cancel));
            work.await
                .unwrap_or_else(|error| ToolResult::failed(format!("failed to run the tool: {error}")))
        };
        // A read pages by itself; cutting its middle out would break the numbers.
        if call.tool != "read_file" {
            let inner = Arc::clone(&self.inner);
            let content = std::mem::take(&mut result.content);
            let capped = tokio::task::spawn_blocking(move || inner.spill.cap(content, inner.caps.answer_bytes));
            result.content = capped
                .await
                .unwrap_or_else(|error| format!("[the answer was lost: {error}]"));
        }
        result
    }

    /// Returns a mark that changes when a file of the work tree does; build output that .gitignore names does not count,
    /// unless it is committed.
    pub async fn fingerprint(&self) -> u64 {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || fingerprint(&inner.root))
            .await
            .unwrap_or(0)
    }
}

fn run_blocking(inner: &Inner, call: &Call, cancel: &CancellationToken) -> ToolResult {
    if cancel.is_cancelled() {
        return ToolResult::failed("failed to run the tool: the run was cancelled");
    }
    let arguments = &call.arguments;
    match call.tool.as_str() {
        "read_file" => read_file::run(inner, arguments),
        "write_file" => write_file::run(inner, arguments),
        "str_replace" => str_replace::run(inner, arguments, cancel),
        "apply_patch" => apply_patch::run(inner, arguments, cancel),
        "grep" => grep::run(inner, arguments, cancel),
        "glob" => glob::run(inner, arguments, cancel),
        "fetch_issue" => fetch::issue(inner, arguments),
        "fetch_pull_request" => fetch::pull_request(inner, arguments),
        other => ToolResult::refused(format!("there is no tool {other:?}")),
    }
}

fn fingerprint(root: &Root) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Ok(folder) = root.folder(".") else {
        return 0;
    };
    let kept = walk::Kept {
        tracked: root.tracked(),
        below: "",
    };
    let walked = walk::walk(folder, kept, &|| false, |entry| {
        // What cannot be listed cannot tell of a change; the rest still does.
        if let Ok(entry) = entry {
            let stat = entry.stat;
            entry.path.hash(&mut hasher);
            (stat.st_size, stat.st_mode, stat.st_mtime, stat.st_mtime_nsec).hash(&mut hasher);
        }
        ControlFlow::<()>::Continue(())
    });
    debug_assert!(walked.is_continue());
    hasher.finish()
}

fn text<'a>(arguments: &'a Arguments, name: &str) -> &'a str {
    arguments.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn optional_text<'a>(arguments: &'a Arguments, name: &str) -> Option<&'a str> {
    arguments
        .get(name)
        .and_then(Value::as_str)
        .filter(|text| !text.trim().is_empty())
}

fn integer(arguments: &Arguments, name: &str) -> Option<usize> {
    arguments
        .get(name)
        .and_then(Value::as_i64)
        .and_then(|number| usize::try_from(number).ok())
}

#[cfg(test)]
mod tests;
