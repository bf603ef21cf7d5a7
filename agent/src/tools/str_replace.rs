//! `str_replace`: changes one place of a file, or a stated number of places.

use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::form::{BYTE_ORDER_MARK, Form};
use super::matching::{self, Stage};
use super::output::printable;
use super::root::{Found, Root, RootError};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::{Inner, ToolResult, integer, text};

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "str_replace",
        description: "Replaces text in a file. `old_string` must be copied from the file without line numbers and occur exactly once, or exactly `expected_replacements` times.",
        params: vec![
            Param::required("path", Kind::Text, "path from the top of the work tree").also(&[
                "file_path",
                "file",
                "filename",
            ]),
            Param::required(
                "old_string",
                Kind::Body,
                "the lines to replace, as they stand in the file",
            )
            .also(&["old_str", "old", "search"]),
            Param::required("new_string", Kind::Body, "the lines to put there; empty to remove")
                .also(&["new_str", "new", "replace"]),
            Param::optional(
                "expected_replacements",
                Kind::Integer { min: 1 },
                "how often old_string occurs, 1 unless given",
            )
            .also(&["count"]),
        ],
    }
}

pub(super) fn run(inner: &Inner, arguments: &Arguments, cancel: &CancellationToken) -> ToolResult {
    let path = text(arguments, "path");
    let expected = integer(arguments, "expected_replacements").unwrap_or(1);
    let file = match TextFile::read(&inner.root, path) {
        Ok(file) => file,
        Err(result) => return *result,
    };
    let old = text(arguments, "old_string").replace("\r\n", "\n");
    let new = text(arguments, "new_string").replace("\r\n", "\n");
    let until = Instant::now() + super::grep::TIME_LIMIT;
    let stop = || cancel.is_cancelled() || Instant::now() > until;
    let (content, stage, lines) = match replace(&file.text, &old, &new, expected, &stop) {
        Ok(replaced) => replaced,
        Err(reason) => return ToolResult::refused(format!("failed to change {path}: {reason}")),
    };
    if let Err(error) = file.write(&inner.root, path, &content) {
        return error.into();
    }
    let places = lines.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let note = stage.note().map(|note| format!(" ({note})")).unwrap_or_default();
    ToolResult::mutation(format!("changed {path} at line {places}{note}"))
}

/// Replaces text; an error says what to do about it.
pub(super) fn replace(
    text: &str,
    old: &str,
    new: &str,
    expected: usize,
    stop: &dyn Fn() -> bool,
) -> Result<(String, Stage, Vec<usize>), String> {
    if old.is_empty() {
        return Err(
            "`old_string` is empty; copy the lines that are to be replaced, or use write_file for a whole file".into(),
        );
    }
    if old == new {
        return Err("`old_string` and `new_string` are the same; nothing would change".into());
    }
    let stripped = strip_numbers(old).map(|old| (old, strip_numbers(new).unwrap_or_else(|| new.to_owned())));
    let given_up = |error: matching::GivenUp| format!("`old_string` was not looked for to the end: {error}");
    let mut found = matching::find(text, old, new, stop).map_err(given_up)?;
    if let (None, Some((old, new))) = (&found, stripped) {
        found = matching::find(text, &old, &new, stop).map_err(given_up)?;
    }
    let Some((stage, matches)) = found else {
        let mut reason = "`old_string` was not found".to_owned();
        if !new.trim().is_empty() && text.contains(new) {
            let line = matching::lines_of(text, text.find(new));
            let line = line.first().copied().unwrap_or_default();
            reason.push_str(&format!(
                "; the file already has `new_string` at line {line}: the change may be made already"
            ));
        } else if let Some(near) = matching::nearest(text, old) {
            reason.push_str(&format!(
                "; {}\nCopy the text exactly as it stands in the file, without line numbers.",
                printable(&near)
            ));
        } else {
            reason.push_str(", and nothing in the file is like it; read the file again");
        }
        return Err(reason);
    };
    let lines = matching::lines_of(text, matches.iter().map(|found| found.start));
    if matches.len() != expected {
        let places = lines
            .iter()
            .take(20)
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        return Err(format!(
            "`old_string` occurs {} times (at line {places}), expected {expected}; add surrounding lines until it is unique, or set expected_replacements to {}",
            matches.len(),
            matches.len()
        ));
    }
    let size = matching::size_after(text, &matches);
    if size > super::write_file::WRITE_LIMIT {
        return Err(format!("it would have {size} bytes"));
    }
    Ok((matching::apply(text, &matches), stage, lines))
}

/// Takes off the line numbers of `read_file`, where every line has one.
fn strip_numbers(text: &str) -> Option<String> {
    let lines: Option<Vec<&str>> = text
        .lines()
        .map(|line| {
            let (number, rest) = line.split_once('|')?;
            number.trim().parse::<u32>().ok()?;
            Some(rest.strip_prefix(' ').unwrap_or(rest))
        })
        .collect();
    let mut stripped = lines.filter(|lines| !lines.is_empty())?.join("\n");
    if text.ends_with('\n') {
        stripped.push('\n');
    }
    Some(stripped)
}

/// A text file with its form known.
#[derive(Clone)]
pub(super) struct TextFile {
    /// The text without a byte order mark, lines ended by `\n`.
    pub(super) text: String,
    form: Form,
}

impl TextFile {
    /// A file that is not there yet.
    pub(super) fn plain() -> Self {
        Self {
            text: String::new(),
            form: Form::default(),
        }
    }

    pub(super) fn read(root: &Root, path: &str) -> Result<Self, Box<ToolResult>> {
        let bytes = match root.read(path, super::read_file::FILE_LIMIT) {
            Ok(Found::File(bytes)) => bytes,
            Ok(Found::Folder(_)) => {
                return Err(Box::new(ToolResult::refused(format!(
                    "failed to change {path:?}: it is a folder"
                ))));
            }
            Err(RootError::Missing { path }) => {
                return Err(Box::new(ToolResult::refused(format!(
                    "failed to find {path:?}: no such file in the work tree; make it with write_file, or find it with glob"
                ))));
            }
            Err(error) => return Err(Box::new(error.into())),
        };
        let text = String::from_utf8(bytes).map_err(|_| {
            Box::new(ToolResult::refused(format!(
                "failed to change {path}: it is not UTF-8 text"
            )))
        })?;
        let form = Form::of(&text);
        let plain = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&text);
        Ok(Self {
            text: if form.crlf {
                plain.replace("\r\n", "\n")
            } else {
                plain.to_owned()
            },
            form,
        })
    }

    pub(super) fn write(&self, root: &Root, path: &str, content: &str) -> Result<bool, RootError> {
        root.write(path, self.bring(content).as_bytes())
    }

    /// Brings a text whose lines end by `\n` to the form of this file.
    pub(super) fn bring(&self, content: &str) -> String {
        self.form.bring(content)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn replace(text: &str, old: &str, new: &str, expected: usize) -> Result<(String, Stage, Vec<usize>), String> {
        super::replace(text, old, new, expected, &|| false)
    }

    #[test]
    fn an_ambiguous_text_is_refused_with_its_places() {
        let error = replace("a\nb\na\n", "a", "c", 1).unwrap_err();
        assert!(
            error.contains("occurs 2 times (at line 1, 3)") && error.contains("expected_replacements to 2"),
            "{error}"
        );
        assert_eq!(replace("a\nb\na\n", "a", "c", 2).unwrap().0, "c\nb\nc\n");
        assert!(replace("a\n", "a", "c", 2).is_err());
    }

    #[test]
    fn a_text_that_is_not_there_teaches() {
        let text = "fn total() {\n    sum()\n}\n";
        let error = replace(text, "fn totals() {\n    sum(1)\n", "x", 1).unwrap_err();
        assert!(error.contains("1| fn total() {"), "{error}");
        let error = replace(text, "absent", "fn total()", 1).unwrap_err();
        assert!(error.contains("already has `new_string` at line 1"), "{error}");
        assert!(replace(text, "", "x", 1).unwrap_err().contains("empty"));
        assert!(replace(text, "x", "x", 1).unwrap_err().contains("same"));
    }

    #[test]
    fn a_replacement_that_would_fill_the_memory_is_refused_by_its_size() {
        let text = "a".repeat(1_000_000);
        let error = replace(&text, "a", &"b".repeat(1_000_000), 1_000_000).unwrap_err();
        assert!(error.contains("1000000000000 bytes"), "{error}");
        assert_eq!(
            replace(&"a\n".repeat(300_000), "a", "b", 300_000).unwrap().2.len(),
            300_000
        );
    }

    #[test]
    fn copied_line_numbers_are_taken_off() {
        let replaced = replace("a\nb\n", "     2| b\n", "     2| c\n", 1).unwrap();
        assert_eq!(replaced.0, "a\nc\n");
    }
}
