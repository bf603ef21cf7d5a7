//! `apply_patch`: several changes in one call, in the patch envelope or as a unified diff. All of it or nothing.

mod parse;
mod place;

use std::collections::BTreeMap;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::root::{Root, RootError, components};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::str_replace::TextFile;
use super::{Inner, ToolResult, text};
use parse::{Change, parse};
use place::apply;

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "apply_patch",
        description: "Applies a patch to several files: either `*** Begin Patch` … `*** Update File: path` / `*** Add File: path` / `*** Delete File: path` … `*** End Patch`, or a unified diff. Nothing is changed unless all of it fits.",
        params: vec![Param::required("patch", Kind::Body, "the patch").also(&["diff", "input"])],
    }
}

pub(super) fn run(inner: &Inner, arguments: &Arguments, cancel: &CancellationToken) -> ToolResult {
    let changes = match parse(text(arguments, "patch")) {
        Ok(changes) => changes,
        Err(reason) => return ToolResult::refused(format!("failed to read the patch: {reason}")),
    };
    // First everything is worked out, then everything is written.
    let until = Instant::now() + super::grep::TIME_LIMIT;
    let stop = || cancel.is_cancelled() || Instant::now() > until;
    let mut staged = Staged::new(&inner.root, &stop);
    let mut done = Vec::new();
    for change in changes {
        match staged.stage(change) {
            Ok(line) => done.push(line),
            Err(result) => return *result,
        }
    }
    match staged.write() {
        Ok(()) => ToolResult::mutation(done.join("\n")),
        Err(result) => *result,
    }
}

/// The files of a patch as they will be. Later parts of a patch see what earlier ones made of a file.
struct Staged<'a> {
    root: &'a Root,
    stop: &'a dyn Fn() -> bool,
    files: BTreeMap<String, File>,
}

struct File {
    /// Whether the work tree has it.
    on_disk: bool,
    /// What it will hold; `None` where it will be gone.
    after: Option<TextFile>,
}

type Refusal = Box<ToolResult>;

impl<'a> Staged<'a> {
    fn new(root: &'a Root, stop: &'a dyn Fn() -> bool) -> Self {
        Self {
            root,
            stop,
            files: BTreeMap::new(),
        }
    }

    /// Works one part of the patch out; returns what to tell of it.
    fn stage(&mut self, change: Change) -> Result<String, Refusal> {
        match change {
            Change::Add { path, content } => {
                let key = self.key(&path)?;
                self.refuse_existing("add", &key, "use Update File")?;
                let mut file = TextFile::plain();
                file.text = content;
                self.set(key, Some(file))?;
                Ok(format!("added {path}"))
            }
            Change::Delete { path } => {
                let key = self.key(&path)?;
                if !self.exists(&key)? {
                    return Err(refuse(format!("failed to delete {path:?}: no such file")));
                }
                self.set(key, None)?;
                Ok(format!("deleted {path}"))
            }
            Change::Update { path, to, hunks } => {
                let key = self.key(&path)?;
                let to = to.map(|to| self.key(&to)).transpose()?.filter(|to| *to != key);
                let mut file = self.read(&key)?;
                file.text = apply(&file.text, &hunks, self.stop)
                    .map_err(|reason| refuse(format!("failed to patch {path}: {reason}")))?;
                let Some(to) = to else {
                    self.set(key, Some(file))?;
                    return Ok(format!("changed {path} ({} hunks)", hunks.len()));
                };
                self.refuse_existing("move to", &to, "delete it first, or choose another name")?;
                let line = format!("moved {path} to {to}");
                self.set(to, Some(file))?;
                self.set(key, None)?;
                Ok(line)
            }
        }
    }

    /// Returns the one spelling of a path, so that two parts that name one file meet.
    fn key(&self, path: &str) -> Result<String, Refusal> {
        let parts = components(self.root.relative(path)).map_err(|error| Box::new(error.into()))?;
        let key = parts.join("/");
        match self.root.protected().covers(&key) {
            Some(pattern) => {
                let pattern = pattern.to_owned();
                Err(Box::new(RootError::Protected { path: key, pattern }.into()))
            }
            None => Ok(key),
        }
    }

    fn read(&self, key: &str) -> Result<TextFile, Refusal> {
        match self.files.get(key) {
            Some(File { after: Some(file), .. }) => Ok(file.clone()),
            Some(File { after: None, .. }) => Err(refuse(format!(
                "failed to patch {key:?}: an earlier part of the patch deletes or moves it"
            ))),
            None => TextFile::read(self.root, key),
        }
    }

    fn exists(&self, key: &str) -> Result<bool, Refusal> {
        match self.files.get(key) {
            Some(file) => Ok(file.after.is_some()),
            None => self.on_disk(key),
        }
    }

    fn on_disk(&self, key: &str) -> Result<bool, Refusal> {
        match self.root.read(key, 0) {
            Ok(_) | Err(RootError::TooLarge { .. }) => Ok(true),
            Err(RootError::Missing { .. }) => Ok(false),
            Err(error) => Err(Box::new(error.into())),
        }
    }

    fn refuse_existing(&self, action: &str, key: &str, advice: &str) -> Result<(), Refusal> {
        if self.exists(key)? {
            return Err(refuse(format!("failed to {action} {key:?}: it exists; {advice}")));
        }
        Ok(())
    }

    fn set(&mut self, key: String, after: Option<TextFile>) -> Result<(), Refusal> {
        let on_disk = match self.files.get(&key) {
            Some(file) => file.on_disk,
            None => self.on_disk(&key)?,
        };
        self.files.insert(key, File { on_disk, after });
        Ok(())
    }

    /// Writes what was worked out: first what will be there, then what will be gone, so that nothing moved is lost.
    fn write(self) -> Result<(), Refusal> {
        for (path, file) in &self.files {
            let after = file.after.as_ref().map(|file| file.bring(&file.text));
            if file.on_disk || after.is_some() {
                let checked = self.root.check(path, after.as_deref().map(str::as_bytes));
                checked.map_err(|error| Box::new(error.into()))?;
            }
        }
        let (kept, gone): (Vec<_>, Vec<_>) = self.files.into_iter().partition(|(_, file)| file.after.is_some());
        let gone = gone.into_iter().filter(|(_, file)| file.on_disk);
        for (applied, (path, file)) in kept.into_iter().chain(gone).enumerate() {
            let outcome = match file.after {
                Some(file) => file.write(self.root, &path, &file.text).map(|_| ()),
                None => self.root.remove(&path),
            };
            if let Err(error) = outcome {
                let result: ToolResult = error.into();
                let content = format!(
                    "{} ({applied} of the patch's files were changed before it)",
                    result.content
                );
                return Err(Box::new(ToolResult {
                    content,
                    mutated: applied > 0,
                    ..result
                }));
            }
        }
        Ok(())
    }
}

fn refuse(reason: String) -> Refusal {
    Box::new(ToolResult::refused(format!("{reason}. Nothing was changed.")))
}

#[cfg(test)]
mod tests;
