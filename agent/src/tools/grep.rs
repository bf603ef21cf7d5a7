//! `grep`: lines that match a regular expression.

use std::time::{Duration, Instant};

use ignore::WalkBuilder;
use regex::RegexBuilder;
use tokio_util::sync::CancellationToken;

use super::output::{one_line, printable, truncate};
use super::root::{Found, Root, components};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::{Inner, ToolResult, integer, optional_text, text};

const FILE_LIMIT: u64 = 4 * 1024 * 1024;
const TIME_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "grep",
        description: "Finds lines that match a regular expression in files of the work tree (files that .gitignore names are left out).",
        params: vec![
            Param::required(
                "pattern",
                Kind::Text,
                "regular expression (Rust syntax, no look-around)",
            )
            .also(&["query", "regex"]),
            Param::optional("path", Kind::Text, "file or folder to search, everything unless given").also(&[
                "file",
                "dir",
                "directory",
            ]),
            Param::optional(
                "max",
                Kind::Integer { min: 1 },
                "most lines to return, 100 unless given",
            )
            .also(&["max_results", "limit"]),
            Param::optional(
                "maxLineChars",
                Kind::Integer { min: 20 },
                "longest line shown, 240 unless given",
            )
            .also(&["max_line_chars"]),
        ],
    }
}

pub(super) fn run(inner: &Inner, arguments: &Arguments, cancel: &CancellationToken) -> ToolResult {
    let pattern = text(arguments, "pattern");
    let most = integer(arguments, "max").unwrap_or(100).min(1000);
    let width = integer(arguments, "maxLineChars").unwrap_or(240).min(4000);
    let regex = match RegexBuilder::new(pattern)
        .size_limit(4 << 20)
        .dfa_size_limit(8 << 20)
        .build()
    {
        Ok(regex) => regex,
        Err(error) => {
            return ToolResult::refused(format!(
                "failed to read the pattern {:?}: {}; escape literal ( ) [ ] {{ }} . * + ? with a backslash",
                one_line(pattern, 100),
                one_line(&error.to_string(), 300)
            ));
        }
    };
    let files = match files_below(&inner.root, optional_text(arguments, "path").unwrap_or(".")) {
        Ok(files) => files,
        Err(result) => return *result,
    };
    let until = Instant::now() + TIME_LIMIT;
    let mut lines = Vec::new();
    let mut more = false;
    let mut stopped = false;
    let mut searched = 0usize;
    'files: for path in files {
        if cancel.is_cancelled() || Instant::now() > until {
            stopped = true;
            break;
        }
        let Ok(Found::File(bytes)) = inner.root.read(&path, FILE_LIMIT) else {
            continue;
        };
        if super::read_file::is_binary(&bytes) {
            continue;
        }
        searched += 1;
        for (number, line) in String::from_utf8_lossy(&bytes).lines().enumerate() {
            if regex.is_match(line) {
                if lines.len() == most {
                    more = true;
                    break 'files;
                }
                lines.push(format!(
                    "{}:{}: {}",
                    printable(&path),
                    number + 1,
                    truncate(&printable(line), width)
                ));
            }
        }
    }
    let mut answer = if lines.is_empty() {
        format!("no line matches (searched {searched} files)")
    } else {
        lines.join("\n")
    };
    if more {
        answer.push_str(&format!(
            "\n[stopped at {most} lines; narrow the pattern or the path, or raise max]"
        ));
    }
    if stopped {
        answer.push_str("\n[stopped: the search took too long; narrow the path]");
    }
    ToolResult::done(answer)
}

/// Lists the files at or below a path, as paths of the work tree, sorted.
pub(super) fn files_below(root: &Root, path: &str) -> Result<Vec<String>, Box<ToolResult>> {
    let path = root.relative(path);
    let parts = components(path).map_err(|error| Box::new(error.into()))?;
    match root.read(path, FILE_LIMIT) {
        Ok(Found::File(_)) => return Ok(vec![parts.join("/")]),
        Ok(Found::Folder(_)) => {}
        Err(error) => return Err(Box::new(error.into())),
    }
    let start = parts
        .iter()
        .fold(root.path().to_owned(), |folder, part| folder.join(part));
    let walk = WalkBuilder::new(start)
        .hidden(false)
        .parents(false)
        .git_global(false)
        .git_exclude(false)
        .require_git(false)
        .follow_links(false)
        .filter_entry(|entry| entry.file_name() != ".git")
        .sort_by_file_name(Ord::cmp)
        .build();
    let mut files = Vec::new();
    for entry in walk
        .flatten()
        .filter(|entry| entry.file_type().is_some_and(|kind| kind.is_file()))
    {
        if let Some(name) = entry
            .path()
            .strip_prefix(root.path())
            .ok()
            .and_then(|path| path.to_str())
        {
            files.push(name.to_owned());
        }
        if files.len() == 200_000 {
            break;
        }
    }
    Ok(files)
}
