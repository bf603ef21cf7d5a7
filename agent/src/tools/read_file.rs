//! `read_file`: the lines of a file, numbered.

use super::output::{SPILL_PREFIX, printable, truncate};
use super::pointer::Pointer;
use super::root::{Found, Root, RootError};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::{Inner, ToolResult, integer, text};

/// Largest file that is read.
pub(super) const FILE_LIMIT: u64 = 8 * 1024 * 1024;
const DEFAULT_LINES: usize = 400;
const MOST_LINES: usize = 2000;
const LINE_LIMIT: usize = 1000;

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "read_file",
        description: "Shows a text file of the work tree with line numbers, or lists a folder. Reads 400 lines unless `limit` says otherwise; go on with `offset`.",
        params: vec![
            Param::required("path", Kind::Text, "path from the top of the work tree").also(&[
                "file_path",
                "file",
                "filename",
            ]),
            Param::optional("offset", Kind::Integer { min: 0 }, "first line, counted from 1")
                .also(&["start_line", "line"]),
            Param::optional("limit", Kind::Integer { min: 1 }, "number of lines, at most 2000").also(&["max_lines"]),
        ],
    }
}

pub(super) fn run(inner: &Inner, arguments: &Arguments) -> ToolResult {
    let path = text(arguments, "path");
    let offset = integer(arguments, "offset").unwrap_or(1).max(1);
    let limit = integer(arguments, "limit").unwrap_or(DEFAULT_LINES).min(MOST_LINES);
    let bytes = if path.starts_with(SPILL_PREFIX) {
        match inner.spill.find(path).map(std::fs::read) {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => {
                return ToolResult::failed(format!("failed to read {path:?}: {error}"));
            }
            None => {
                return ToolResult::refused(format!("failed to find {path:?}: no output of that number is kept"));
            }
        }
    } else {
        match inner.root.read(path, FILE_LIMIT) {
            Ok(Found::File(bytes)) => bytes,
            Ok(Found::Folder(names)) => return ToolResult::done(listing(path, &names)),
            Err(error @ RootError::Missing { .. }) => {
                return ToolResult::refused(format!("{error}{}", neighbours(&inner.root, path)));
            }
            Err(error) => return error.into(),
        }
    };
    if is_binary(&bytes) {
        return ToolResult::done(format!(
            "{path} is a binary file of {} bytes; it cannot be shown as text",
            bytes.len()
        ));
    }
    let content = String::from_utf8_lossy(&bytes);
    let note = if matches!(content, std::borrow::Cow::Owned(_)) {
        " (not valid UTF-8; replaced characters are shown as \u{fffd})"
    } else {
        ""
    };
    let shown = show(path, &content, offset, limit, inner.caps.read_bytes, note);
    ToolResult::done(match Pointer::of(&bytes) {
        Some(Pointer { size }) => format!(
            "{path} is a Git LFS pointer: it stands for a file of {size} bytes that is not here, and tells nothing of its content. The pointer itself:\n{shown}"
        ),
        None => shown,
    })
}

fn show(path: &str, content: &str, offset: usize, limit: usize, cap: usize, note: &str) -> String {
    let total = content.lines().count();
    if total == 0 {
        return format!("{path} is empty");
    }
    if offset > total {
        return format!("{path} has {total} lines; line {offset} is beyond its end");
    }
    let mut body = String::new();
    let mut last = offset - 1;
    for (at, line) in content.lines().enumerate().skip(offset - 1).take(limit) {
        let line = format!("{:>6}| {}\n", at + 1, truncate(&printable(line), LINE_LIMIT));
        if body.len() + line.len() > cap && !body.is_empty() {
            break;
        }
        body.push_str(&line);
        last = at + 1;
    }
    let more = if last < total {
        format!("\n[{} more lines; go on with offset {}]", total - last, last + 1)
    } else {
        String::new()
    };
    format!("{path}, lines {offset}-{last} of {total}{note}\n{body}{more}")
}

fn listing(path: &str, names: &[String]) -> String {
    const SHOWN: usize = 200;
    let more = if names.len() > SHOWN {
        format!("\n[{} more]", names.len() - SHOWN)
    } else {
        String::new()
    };
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| printable(name)).collect();
    format!(
        "{path} is a folder with {} entries:\n{}{more}",
        names.len(),
        shown.join("\n")
    )
}

/// Says what lies where the file was looked for.
fn neighbours(root: &Root, path: &str) -> String {
    let folder = root.relative(path).rsplit_once('/').map_or(".", |(folder, _)| folder);
    match root.read(folder, 0) {
        Ok(Found::Folder(names)) => format!("\n{}", listing(folder, &names)),
        _ => "; use glob to find files by name".into(),
    }
}

/// Tells whether bytes are no text.
pub(super) fn is_binary(bytes: &[u8]) -> bool {
    bytes.iter().take(8192).any(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_numbered_paged_and_capped() {
        let content = "a\nb\nc\nd\n";
        assert_eq!(
            show("f", content, 2, 2, 1000, ""),
            "f, lines 2-3 of 4\n     2| b\n     3| c\n\n[1 more lines; go on with offset 4]"
        );
        assert_eq!(
            show("f", content, 9, 2, 1000, ""),
            "f has 4 lines; line 9 is beyond its end"
        );
        assert_eq!(show("f", "", 1, 2, 1000, ""), "f is empty");
        assert!(show("f", content, 1, 400, 20, "").contains("lines 1-2 of 4"));
        assert_eq!(show("f", "\u{1b}[2Jx", 1, 1, 100, ""), "f, lines 1-1 of 1\n     1| x\n");
    }
}
