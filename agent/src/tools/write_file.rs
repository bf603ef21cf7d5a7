//! `write_file`: makes or replaces a whole file.

use super::form::Form;
use super::read_file::FILE_LIMIT;
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::{Inner, ToolResult, text};
use crate::tools::root::Found;

/// Largest file that is written.
pub(super) const WRITE_LIMIT: usize = 2 * 1024 * 1024;

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "write_file",
        description: "Makes a file, or replaces all of it. Folders are made as needed. For a change in a larger file use str_replace.",
        params: vec![
            Param::required("path", Kind::Text, "path from the top of the work tree").also(&[
                "file_path",
                "file",
                "filename",
            ]),
            Param::required("content", Kind::Body, "the whole new content of the file").also(&[
                "contents",
                "text",
                "file_text",
            ]),
        ],
    }
}

pub(super) fn run(inner: &Inner, arguments: &Arguments) -> ToolResult {
    let (path, content) = (text(arguments, "path"), text(arguments, "content"));
    if content.len() > WRITE_LIMIT {
        return ToolResult::refused(format!(
            "failed to write {path:?}: the content has {} bytes, at most {WRITE_LIMIT} are written",
            content.len()
        ));
    }
    let before = match inner.root.read(path, FILE_LIMIT) {
        Ok(Found::File(bytes)) => Some(bytes),
        // Whatever hinders reading is told by the attempt to write.
        _ => None,
    };
    // A model never sees how lines end and whether a byte order mark stands before them: both stay as they are.
    let text = before.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok());
    let asked = content;
    let content = text.map_or_else(Form::default, Form::of).keep(asked);
    let same = before.is_some_and(|bytes| bytes == content.as_bytes());
    match inner.root.write(path, content.as_bytes()) {
        Ok(_) if same && content != asked => ToolResult::done(format!(
            "{path} has this content, and keeps its line ends (CRLF) and its byte order mark; to change those use bash"
        )),
        Ok(_) if same => ToolResult::done(format!("{path} already has exactly this content; nothing changed")),
        Ok(replaced) => {
            let done = if replaced { "replaced" } else { "made" };
            ToolResult::mutation(format!(
                "{done} {path}: {} lines, {} bytes",
                content.lines().count(),
                content.len()
            ))
        }
        Err(error) => error.into(),
    }
}
