//! `glob`: files by name.

use std::time::Instant;

use globset::GlobBuilder;
use tokio_util::sync::CancellationToken;

use super::grep::{TIME_LIMIT, files_below};
use super::output::{one_line, printable};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::{Inner, ToolResult, optional_text, text};

const MOST: usize = 300;

pub(super) fn spec() -> ToolSpec {
    ToolSpec {
        name: "glob",
        description: "Finds files by name pattern, such as `*.rs` (anywhere) or `src/**/mod_*.rs`.",
        params: vec![
            Param::required(
                "pattern",
                Kind::Text,
                "pattern; one without a slash matches file names anywhere",
            ),
            Param::optional("path", Kind::Text, "folder to search, everything unless given")
                .also(&["dir", "directory"]),
        ],
    }
}

pub(super) fn run(inner: &Inner, arguments: &Arguments, cancel: &CancellationToken) -> ToolResult {
    let pattern = text(arguments, "pattern").trim_start_matches("./");
    let full = if pattern.contains('/') {
        pattern.to_owned()
    } else {
        format!("**/{pattern}")
    };
    let matcher = match GlobBuilder::new(&full).literal_separator(true).build() {
        Ok(glob) => glob.compile_matcher(),
        Err(error) => {
            return ToolResult::refused(format!(
                "failed to read the pattern {:?}: {}",
                one_line(pattern, 100),
                one_line(&error.to_string(), 200)
            ));
        }
    };
    let folder = optional_text(arguments, "path").unwrap_or(".");
    let until = Instant::now() + TIME_LIMIT;
    let stop = || cancel.is_cancelled() || Instant::now() > until;
    let files = match files_below(&inner.root, folder, &stop) {
        Ok(files) => files,
        Err(result) => return *result,
    };
    let stopped = if stop() {
        "\n[stopped: the search took too long; narrow the path]"
    } else {
        ""
    };
    let base = inner.root.relative(folder).trim_start_matches("./").trim_matches('/');
    let prefix = if base.is_empty() || base == "." {
        String::new()
    } else {
        format!("{base}/")
    };
    // A pattern counts from the folder that was given, and from the top of the work tree as well.
    let found: Vec<String> = files
        .into_iter()
        .filter(|file| {
            matcher.is_match(file)
                || file
                    .strip_prefix(&prefix)
                    .is_some_and(|inside| matcher.is_match(inside))
        })
        .collect();
    if found.is_empty() {
        return ToolResult::done(format!("no file matches{stopped}"));
    }
    let shown: Vec<String> = found.iter().take(MOST).map(|file| printable(file)).collect();
    let more = if found.len() > MOST {
        format!("\n[{} more; narrow the pattern]", found.len() - MOST)
    } else {
        String::new()
    };
    ToolResult::done(format!("{}{more}{stopped}", shown.join("\n")))
}
