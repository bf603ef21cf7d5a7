//! What is wrong with a file that a person wrote, and where.

use std::fmt;

use serde::Serialize;

use crate::task_queue::InvalidFile;

/// Most errors that are reported of one file.
pub const MAX_ERRORS: usize = 50;
/// Most characters of a found text that an error repeats.
const MAX_QUOTE: usize = 60;

/// A place in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
}

/// The beginning of a file.
pub const START: Place = Place { line: 1, column: 1 };

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FileError {
    /// Path of the file.
    pub path: String,
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub column: usize,
    /// What was found.
    pub message: String,
    /// What was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What may have been meant, or what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
}

impl FileError {
    /// Makes an error about a place in a file.
    pub fn new(path: &str, at: Place, message: impl Into<String>) -> Self {
        Self {
            path: path.to_owned(),
            line: at.line,
            column: at.column,
            message: message.into(),
            expected: None,
            suggestion: None,
        }
    }

    /// Adds what was expected.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Adds what may have been meant, or what to do.
    #[must_use]
    pub fn suggestion(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Returns the error without its place: found, expected, suggestion.
    pub fn text(&self) -> String {
        let mut text = self.message.clone();
        if let Some(expected) = &self.expected {
            text.push_str(&format!("; expected {expected}"));
        }
        if let Some(suggestion) = &self.suggestion {
            text.push_str(&format!("; {suggestion}"));
        }
        text
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path, self.line, self.column, self.text())
    }
}

impl std::error::Error for FileError {}

impl From<&FileError> for InvalidFile {
    fn from(error: &FileError) -> Self {
        Self {
            path: error.path.clone(),
            line: i64::try_from(error.line).ok(),
            column: i64::try_from(error.column).ok(),
            message: shorten(&error.text(), 500),
        }
    }
}

/// Quotes a text that was found, shortened and with control characters escaped.
pub fn quote(text: &str) -> String {
    format!("{:?}", shorten(text, MAX_QUOTE))
}

/// Cuts a text to a number of characters, with an ellipsis where something was lost.
pub fn shorten(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Returns the candidate that `word` may be a misspelling of.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| -> String {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .collect()
    };
    let wanted = plain(word);
    if wanted.is_empty() || wanted.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(3) / 3).min(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_place_found_expected_and_advice() {
        let error = FileError::new("a.yaml", Place { line: 3, column: 5 }, "found a list")
            .expected("a string")
            .suggestion("did you mean \"x\"?");
        assert_eq!(
            error.to_string(),
            "a.yaml:3:5: found a list; expected a string; did you mean \"x\"?"
        );
    }

    #[test]
    fn misspellings_find_their_word_and_strangers_find_none() {
        let keys = ["dependsOn", "priority", "payload"];
        assert_eq!(closest("depends_on", keys), Some("dependsOn"));
        assert_eq!(closest("dependOn", keys), Some("dependsOn"));
        assert_eq!(closest("Priority", keys), Some("priority"));
        assert_eq!(closest("payloda", keys), Some("payload"));
        assert_eq!(closest("colour", keys), None);
        assert_eq!(closest("", keys), None);
    }

    #[test]
    fn quotes_are_short_and_hold_no_control_characters() {
        let quoted = quote(&format!("\u{1b}[31m{}", "x".repeat(200)));
        assert!(!quoted.contains('\u{1b}') && quoted.chars().count() < 80, "{quoted}");
    }
}
