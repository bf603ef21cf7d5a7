//! `apply_patch`: several changes in one call, in the patch envelope or as a unified diff. All of it or nothing.

use std::collections::BTreeMap;
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::matching;
use super::output::one_line;
use super::root::{Root, RootError, components};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::str_replace::TextFile;
use super::{Inner, ToolResult, text};

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "apply_patch",
        description: "Applies a patch to several files: either `*** Begin Patch` … `*** Update File: path` / `*** Add File: path` / `*** Delete File: path` … `*** End Patch`, or a unified diff. Nothing is changed unless all of it fits.",
        params: vec![Param::required("patch", Kind::Body, "the patch").also(&["diff", "input"])],
    }
}

/// Holds one file's part of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Change {
    Add {
        path: String,
        content: String,
    },
    Delete {
        path: String,
    },
    Update {
        path: String,
        to: Option<String>,
        hunks: Vec<Hunk>,
    },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Hunk {
    /// A line near which the hunk belongs, from `@@ …`.
    near: Option<String>,
    old: Vec<String>,
    new: Vec<String>,
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

fn apply(text: &str, hunks: &[Hunk], stop: &dyn Fn() -> bool) -> Result<String, String> {
    let mut result = text.to_owned();
    let mut from = 0; // hunks follow each other
    for (number, hunk) in hunks.iter().enumerate() {
        let fail = |reason: String| format!("hunk {} of {} does not fit: {reason}", number + 1, hunks.len());
        if let Some(near) = &hunk.near {
            // Each line with its own end: a file may mix the kinds, and the last line may have none.
            let mut lines = result[from..].split_inclusive('\n').scan(from, |at, line| {
                let start = *at;
                *at += line.len();
                Some((start, line))
            });
            if let Some((start, line)) =
                lines.find(|(_, line)| line.trim() == near.trim() || line.trim_start().starts_with(near.trim()))
            {
                // The hunk may begin with that line or after it.
                from = if hunk.old.first().is_some_and(|first| first.trim() == line.trim()) {
                    start
                } else {
                    start + line.len()
                };
            }
        }
        let lines = |lines: &[String]| {
            if lines.is_empty() {
                String::new()
            } else {
                format!("{}\n", lines.join("\n"))
            }
        };
        let (old, new) = (lines(&hunk.old), lines(&hunk.new));
        if old.is_empty() {
            // Only added lines: after the named place, or at the end.
            let at = if hunk.near.is_some() { from } else { result.len() };
            let glue = if at > 0 && !result[..at].ends_with('\n') {
                "\n"
            } else {
                ""
            };
            result.insert_str(at, &format!("{glue}{new}"));
            from = at + glue.len() + new.len();
            continue;
        }
        let find = |text: &str| matching::find(text, &old, &new, stop).map_err(|error| fail(error.to_string()));
        let mut found = find(&result[from..])?.map(|(_, matches)| (from, matches));
        if found.is_none() {
            found = find(&result)?
                .filter(|(_, matches)| matches.len() == 1)
                .map(|(_, matches)| (0, matches));
        }
        // An exact match may begin in the middle of a line; such a one is no place for whole lines.
        let place = found.and_then(|(base, matches)| {
            let at_line = |at: usize| at == 0 || result.as_bytes().get(at - 1) == Some(&b'\n');
            matches
                .into_iter()
                .find(|found| at_line(base + found.start))
                .map(|found| (base, found))
        });
        let Some((base, found)) = place else {
            let near = matching::nearest(&result, &old).unwrap_or_else(|| "nothing in the file is like it".into());
            return Err(fail(super::output::printable(&near)));
        };
        result.replace_range(base + found.start..base + found.end, &found.replacement);
        from = base + found.start + found.replacement.len();
    }
    Ok(result)
}

fn parse(patch: &str) -> Result<Vec<Change>, String> {
    let patch = patch.replace("\r\n", "\n");
    let lines: Vec<&str> = patch.trim_matches('\n').lines().collect();
    let changes = if lines
        .iter()
        .any(|line| line.starts_with("*** ") && line.contains(" File:"))
    {
        parse_envelope(&lines)?
    } else if lines.iter().any(|line| line.starts_with("+++ ")) {
        parse_unified(&lines)?
    } else {
        return Err("it has neither `*** Update File: …` nor `--- a/…` / `+++ b/…` lines".into());
    };
    if changes.is_empty() {
        Err("it changes nothing".into())
    } else {
        Ok(changes)
    }
}

fn parse_envelope(lines: &[&str]) -> Result<Vec<Change>, String> {
    let mut changes: Vec<Change> = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let problem = |reason: &str| Err(format!("line {}: {reason}, found {:?}", number + 1, one_line(line, 60)));
        if let Some(rest) = line.strip_prefix("*** ") {
            let (word, path) = rest.split_once(':').unwrap_or((rest, ""));
            let path = path.trim().to_owned();
            match word.trim() {
                "Begin Patch" | "End Patch" | "End of File" => {}
                "Add File" => changes.push(Change::Add {
                    path,
                    content: String::new(),
                }),
                "Delete File" => changes.push(Change::Delete { path }),
                "Update File" => changes.push(Change::Update {
                    path,
                    to: None,
                    hunks: Vec::new(),
                }),
                "Move to" => match changes.last_mut() {
                    Some(Change::Update { to, .. }) => *to = Some(path),
                    _ => return problem("`Move to` belongs after `Update File`"),
                },
                _ => {
                    return problem("expected Begin Patch, Add File, Update File, Delete File, Move to or End Patch");
                }
            }
            continue;
        }
        match changes.last_mut() {
            Some(Change::Add { content, .. }) => {
                content.push_str(line.strip_prefix('+').unwrap_or(line));
                content.push('\n');
            }
            Some(Change::Update { hunks, .. }) => {
                if let Some(near) = line.strip_prefix("@@") {
                    let near = near.trim().trim_end_matches("@@").trim();
                    hunks.push(Hunk {
                        near: (!near.is_empty() && !near.starts_with('-')).then(|| near.to_owned()),
                        ..Hunk::default()
                    });
                } else {
                    push_line(hunks, line);
                }
            }
            Some(Change::Delete { .. }) if line.trim().is_empty() => {}
            Some(Change::Delete { .. }) => return problem("`Delete File` takes no lines"),
            None if line.trim().is_empty() => {}
            None => {
                return problem("expected `*** Update File: path`, `*** Add File: path` or `*** Delete File: path`");
            }
        }
    }
    finish(changes)
}

fn parse_unified(lines: &[&str]) -> Result<Vec<Change>, String> {
    let mut changes: Vec<Change> = Vec::new();
    let mut from: Option<String> = None;
    let mut left = (0usize, 0usize); // lines of the hunk still to come
    for (number, line) in lines.iter().enumerate() {
        if left != (0, 0) {
            let hunks = match changes.last_mut() {
                Some(Change::Update { hunks, .. }) => hunks,
                _ => return Err(format!("line {}: a hunk without a file", number + 1)),
            };
            match line.chars().next() {
                Some('+') => left.1 = left.1.saturating_sub(1),
                Some('-') => left.0 = left.0.saturating_sub(1),
                Some('\\') => continue,
                _ => left = (left.0.saturating_sub(1), left.1.saturating_sub(1)),
            }
            push_line(hunks, line);
        } else if let Some(path) = line.strip_prefix("--- ") {
            from = Some(diff_path(path));
        } else if let Some(path) = line.strip_prefix("+++ ") {
            let to = diff_path(path);
            let old = from.take().unwrap_or_else(|| to.clone());
            changes.push(match (old.as_str(), to.as_str()) {
                (_, "/dev/null") => Change::Delete { path: old },
                ("/dev/null", _) => Change::Update {
                    path: to,
                    to: Some("/dev/null".into()),
                    hunks: Vec::new(),
                },
                _ if old == to => Change::Update {
                    path: to,
                    to: None,
                    hunks: Vec::new(),
                },
                _ => Change::Update {
                    path: old,
                    to: Some(to),
                    hunks: Vec::new(),
                },
            });
        } else if let Some(range) = line.strip_prefix("@@ ") {
            left = hunk_size(range).ok_or_else(|| {
                format!(
                    "line {}: expected @@ -start,count +start,count @@, found {:?}",
                    number + 1,
                    one_line(line, 60)
                )
            })?;
            match changes.last_mut() {
                Some(Change::Update { hunks, .. }) => hunks.push(Hunk::default()),
                Some(Change::Delete { .. }) => left = (0, 0),
                _ => return Err(format!("line {}: a hunk without a file", number + 1)),
            }
        }
    }
    // A file made from /dev/null has its lines in one hunk.
    let changes = changes
        .into_iter()
        .map(|change| match change {
            Change::Update {
                path,
                to: Some(to),
                hunks,
            } if to == "/dev/null" => {
                let lines: Vec<String> = hunks.into_iter().flat_map(|hunk| hunk.new).collect();
                Change::Add {
                    path,
                    content: lines.iter().map(|line| format!("{line}\n")).collect(),
                }
            }
            other => other,
        })
        .collect();
    finish(changes)
}

fn hunk_size(range: &str) -> Option<(usize, usize)> {
    let mut parts = range.split(' ');
    let count = |part: &str, sign: char| {
        let part = part.strip_prefix(sign)?;
        match part.split_once(',') {
            Some((_, count)) => count.parse().ok(),
            None => part.parse::<usize>().ok().map(|_| 1),
        }
    };
    Some((count(parts.next()?, '-')?, count(parts.next()?, '+')?))
}

fn diff_path(path: &str) -> String {
    let path = path.split('\t').next().unwrap_or(path).trim();
    path.strip_prefix("a/")
        .or_else(|| path.strip_prefix("b/"))
        .unwrap_or(path)
        .to_owned()
}

fn push_line(hunks: &mut Vec<Hunk>, line: &str) {
    if hunks.is_empty() {
        hunks.push(Hunk::default());
    }
    let Some(hunk) = hunks.last_mut() else { return };
    if let Some(added) = line.strip_prefix('+') {
        hunk.new.push(added.to_owned());
    } else if let Some(removed) = line.strip_prefix('-') {
        hunk.old.push(removed.to_owned());
    } else {
        let kept = line.strip_prefix(' ').unwrap_or(line).to_owned();
        hunk.old.push(kept.clone());
        hunk.new.push(kept);
    }
}

fn finish(changes: Vec<Change>) -> Result<Vec<Change>, String> {
    let mut kept = Vec::new();
    for mut change in changes {
        if let Change::Update { path, to, hunks } = &mut change {
            hunks.retain(|hunk| !(hunk.old.is_empty() && hunk.new.is_empty()));
            if hunks.is_empty() && to.is_none() {
                return Err(format!("the part for {path:?} has no changed lines"));
            }
        }
        let path = match &change {
            Change::Add { path, .. } | Change::Delete { path } | Change::Update { path, .. } => path,
        };
        if path.is_empty() {
            return Err("a part names no file".into());
        }
        kept.push(change);
    }
    Ok(kept)
}

#[cfg(test)]
mod tests;
