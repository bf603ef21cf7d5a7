//! Reads a patch: the envelope, or a unified diff.

use crate::tools::output::one_line;

/// Holds one file's part of a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
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

/// Holds one place's part of a file's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hunk {
    /// A line near which the hunk belongs, from `@@ …`.
    pub(super) near: Option<String>,
    /// The line of the file at which the hunk begins, from `@@ -start,count …`; lines that are only added follow it.
    pub(super) start: Option<usize>,
    pub(super) old: Vec<String>,
    pub(super) new: Vec<String>,
}

impl Hunk {
    /// Reads what stands after `@@`.
    fn headed(header: &str) -> Self {
        let header = header.trim();
        let near = header.trim_end_matches("@@").trim();
        Self {
            near: (!near.is_empty() && !near.starts_with('-')).then(|| near.to_owned()),
            start: range(header).map(|range| range.start),
            ..Self::default()
        }
    }
}

pub(super) fn parse(patch: &str) -> Result<Vec<Change>, String> {
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
                if let Some(header) = line.strip_prefix("@@") {
                    hunks.push(Hunk::headed(header));
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

/// Says what the next line of a unified diff may belong to.
enum At {
    /// Nothing yet.
    Preamble,
    /// The file that was named last.
    File,
    /// A hunk that lacks so many old and new lines yet by its header, and that an empty line or several may belong to.
    /// A model counts badly: more lines may come, or fewer.
    Hunk { left: (usize, usize), empty: usize },
    /// Something else, after a hunk.
    Aside,
}

fn parse_unified(lines: &[&str]) -> Result<Vec<Change>, String> {
    let mut changes: Vec<Change> = Vec::new();
    let mut from: Option<String> = None;
    let mut at = At::Preamble;
    for (number, line) in lines.iter().enumerate() {
        let expected = |what: &str| format!("line {}: expected {what}, found {:?}", number + 1, one_line(line, 60));
        let counted = matches!(at, At::Hunk { left, .. } if left != (0, 0));
        if names_old_file(lines, number, counted) {
            from = line.strip_prefix("--- ").map(diff_path);
            at = At::File;
        } else if names_new_file(lines, number, from.is_some(), matches!(at, At::Hunk { .. }), counted) {
            let to = line.strip_prefix("+++ ").map(diff_path).unwrap_or_default();
            changes.push(file_change(from.take(), to));
            at = At::File;
        } else if let Some(header) = line.strip_prefix("@@") {
            let left = match range(header.trim()) {
                Some(range) => range.lines,
                None if header.trim().starts_with('-') => return Err(expected("@@ -start,count +start,count @@")),
                None => (0, 0),
            };
            match changes.last_mut() {
                Some(Change::Update { hunks, .. }) => hunks.push(Hunk::headed(header)),
                Some(Change::Delete { .. }) => {}
                _ => return Err(format!("line {}: a hunk without a file", number + 1)),
            }
            at = At::Hunk { left, empty: 0 };
        } else if line.starts_with("diff --git ") {
            at = At::Aside;
        } else if is_signature(lines, number) && !counted {
            at = At::Preamble;
        } else {
            at = take_line(&mut changes, at, line)
                .map_err(|()| expected("`@@ -start,count +start,count @@` before changed lines"))?;
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

/// Takes a line that is no header; an error where it changes something and belongs to no hunk.
fn take_line(changes: &mut [Change], at: At, line: &str) -> Result<At, ()> {
    let first = line.chars().next();
    let At::Hunk { left, empty } = at else {
        return match (at, first) {
            (At::File | At::Aside, Some('+' | '-')) => Err(()),
            (at, _) => Ok(at),
        };
    };
    let more = left == (0, 0);
    let left = match first {
        Some('\\') => return Ok(At::Hunk { left, empty }),
        // Whether it belongs to the hunk is known when another line of it follows.
        None if more => return Ok(At::Hunk { left, empty: empty + 1 }),
        // After an empty line that nothing counted, a mark may be a list's: what nobody can tell apart is not written.
        Some('+' | '-') if more && empty > 0 => return Err(()),
        _ if more && empty > 0 => return Ok(At::Aside),
        Some('+') => (left.0, left.1.saturating_sub(1)),
        Some('-') => (left.0.saturating_sub(1), left.1),
        Some(' ') => (left.0.saturating_sub(1), left.1.saturating_sub(1)),
        _ if more => return Ok(At::Aside),
        _ => (left.0.saturating_sub(1), left.1.saturating_sub(1)),
    };
    if let Some(Change::Update { hunks, .. }) = changes.last_mut() {
        for _ in 0..empty {
            push_line(hunks, "");
        }
        push_line(hunks, line);
    }
    Ok(At::Hunk { left, empty: 0 })
}

/// Tells whether a line is `--- path`, and no removed line that begins with `--`: in a hunk that lacks lines yet only
/// where a whole header follows.
fn names_old_file(lines: &[&str], number: usize, counted: bool) -> bool {
    let follows = |ahead: usize, mark: &str| lines.get(number + ahead).is_some_and(|line| line.starts_with(mark));
    lines[number].starts_with("--- ") && follows(1, "+++ ") && (!counted || follows(2, "@@"))
}

/// Tells whether a line is `+++ path`, and no added line that begins with `++`.
fn names_new_file(lines: &[&str], number: usize, after_old: bool, in_hunk: bool, counted: bool) -> bool {
    let hunk_follows = || lines.get(number + 1).is_some_and(|line| line.starts_with("@@"));
    lines[number].starts_with("+++ ") && (after_old || !in_hunk || (!counted && hunk_follows()))
}

/// Tells whether a line is the `-- ` before the version at the end of a mailed patch.
fn is_signature(lines: &[&str], number: usize) -> bool {
    let version = |line: &&str| line.starts_with(|c: char| c.is_ascii_digit());
    lines[number] == "-- " && lines.get(number + 1).is_some_and(version)
}

fn file_change(old: Option<String>, to: String) -> Change {
    let old = old.unwrap_or_else(|| to.clone());
    match (old.as_str(), to.as_str()) {
        (_, "/dev/null") => Change::Delete { path: old },
        ("/dev/null", _) => Change::Update {
            path: to,
            to: Some("/dev/null".into()),
            hunks: Vec::new(),
        },
        _ => Change::Update {
            to: (old != to).then_some(to),
            path: old,
            hunks: Vec::new(),
        },
    }
}

/// The numbers of a hunk's header.
struct Range {
    /// The old file's first line.
    start: usize,
    /// Old and new lines.
    lines: (usize, usize),
}

/// Reads `-start,count +start,count`, whatever follows.
fn range(text: &str) -> Option<Range> {
    let mut parts = text.split_whitespace();
    let pair = |part: &str, sign: char| {
        let part = part.strip_prefix(sign)?;
        match part.split_once(',') {
            Some((start, count)) => Some((start.parse::<usize>().ok()?, count.parse::<usize>().ok()?)),
            None => Some((part.parse().ok()?, 1)),
        }
    };
    let (start, old) = pair(parts.next()?, '-')?;
    let (_, new) = pair(parts.next()?, '+')?;
    Some(Range {
        start,
        lines: (old, new),
    })
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
