//! `grep`: lines that match a regular expression.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use regex::RegexBuilder;
use rustix::fs::FileType;
use tokio_util::sync::CancellationToken;

use super::output::{one_line, printable, truncate};
use super::root::{Found, Root, components};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::walk::{Kept, walk};
use super::{Inner, ToolResult, integer, optional_text, text};

const FILE_LIMIT: u64 = 4 * 1024 * 1024;
const MOST_FILES: usize = 200_000;
/// Longest search, the listing of files included.
pub(super) const TIME_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "grep",
        description: "Finds lines that match a regular expression in files of the work tree (files that .gitignore names and that are not committed are left out).",
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
    let until = Instant::now() + TIME_LIMIT;
    let stop = || cancel.is_cancelled() || Instant::now() > until;
    let path = optional_text(arguments, "path").unwrap_or(".");
    let files = match files_below(&inner.root, path, &stop) {
        Ok(files) => files,
        Err(result) => return *result,
    };
    let mut lines = Vec::new();
    let mut more = false;
    let mut stopped = stop();
    let mut searched = 0usize;
    'files: for path in files {
        if stop() {
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

/// Lists the files at or below a path, as paths of the work tree, sorted. What is found until `stop` says so.
pub(super) fn files_below(root: &Root, path: &str, stop: &dyn Fn() -> bool) -> Result<Vec<String>, Box<ToolResult>> {
    let path = root.relative(path);
    let parts = components(path).map_err(|error| Box::new(error.into()))?;
    match root.read(path, FILE_LIMIT) {
        Ok(Found::File(_)) => return Ok(vec![parts.join("/")]),
        Ok(Found::Folder(_)) => {}
        Err(error) => return Err(Box::new(error.into())),
    }
    let folder = root.folder(path).map_err(|error| Box::new(error.into()))?;
    let mut prefix = parts.join("/");
    if !prefix.is_empty() {
        prefix.push('/');
    }
    let mut files = Vec::new();
    let kept = Kept {
        tracked: root.tracked(),
        below: &prefix,
    };
    // A list that the limit cut short is as good as any list.
    let (ControlFlow::Continue(()) | ControlFlow::Break(())) = walk(folder, kept, stop, |entry| {
        // A folder that may not be listed hides only itself.
        let Ok(entry) = entry else {
            return ControlFlow::Continue(());
        };
        if let (FileType::RegularFile, Ok(name)) = (entry.kind(), std::str::from_utf8(entry.path)) {
            files.push(format!("{prefix}{name}"));
        }
        if files.len() < MOST_FILES {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        }
    });
    Ok(files)
}
