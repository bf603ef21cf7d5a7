//! `submit_result`: how a run is meant to end. The loop itself answers it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::output::{one_line, printable};
use super::schema::{Arguments, Kind, Param, ToolSpec};
use super::{optional_text, text};

/// The name of the tool.
pub const NAME: &str = "submit_result";
/// Longest summary, in characters.
pub const SUMMARY_CHARS: usize = 280;
const MESSAGE_CHARS: usize = 4000;

/// Names what the model says of its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// It is done, or good.
    #[serde(rename = "GO")]
    Go,
    /// It should not be done, is done already, or is not good enough.
    #[serde(rename = "NO-GO")]
    NoGo,
    /// It could not be done.
    #[serde(rename = "ERROR")]
    Error,
}

/// Holds what the model hands in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    /// What it says of the work.
    pub verdict: Claim,
    /// One printable line.
    pub summary: String,
    /// The message of the commit, printable.
    pub commit_message: String,
    /// Whatever else it hands in.
    pub extra: Map<String, Value>,
}

pub(crate) fn spec() -> ToolSpec {
    ToolSpec {
        name: NAME,
        description: "Ends the work. GO: it is done. NO-GO: it should not be done or is done already (say why). ERROR: it cannot be done here. Call it alone, after the last change was checked.",
        params: vec![
            Param::required("verdict", Kind::Word(&["GO", "NO-GO", "ERROR"]), "GO, NO-GO or ERROR")
                .also(&["status", "result"]),
            Param::required("summary", Kind::Text, "what was done or found, at most 280 characters")
                .also(&["message", "description"]),
            Param::optional(
                "commit_message",
                Kind::Body,
                "message of the commit: a short first line that says what changes and why",
            )
            .also(&["commit"]),
            Param::optional("extra", Kind::Object, "further findings"),
        ],
    }
}

/// Reads checked arguments.
pub(crate) fn read(arguments: &Arguments) -> Submission {
    let summary = one_line(text(arguments, "summary"), SUMMARY_CHARS);
    let message = printable(optional_text(arguments, "commit_message").unwrap_or_default());
    let message: String = message.trim().chars().take(MESSAGE_CHARS).collect();
    let verdict = match text(arguments, "verdict") {
        "GO" => Claim::Go,
        "ERROR" => Claim::Error,
        _ => Claim::NoGo,
    };
    let extra = arguments
        .get("extra")
        .and_then(Value::as_object)
        .cloned()
        .unwrap_or_default();
    // The extra goes into an object's status: what is too long for that is dropped, not cut into nonsense.
    let extra = if Value::Object(extra.clone()).to_string().len() <= 4096 {
        extra
    } else {
        Map::new()
    };
    let commit_message = if message.is_empty() { summary.clone() } else { message };
    Submission {
        verdict,
        summary,
        commit_message,
        extra,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn submit(value: Value) -> Submission {
        read(&spec().check(value.as_object().unwrap()).unwrap())
    }

    #[test]
    fn summaries_are_one_line_of_280_characters_cut_between_characters() {
        let long = "é\u{1b}[31m\n".repeat(400);
        let submission = submit(json!({"verdict": "go", "summary": long, "extra": {"a": 1}}));
        assert_eq!(submission.summary.chars().count(), SUMMARY_CHARS);
        assert!(!submission.summary.contains(['\n', '\u{1b}']));
        assert_eq!(submission.verdict, Claim::Go);
        assert_eq!(submission.commit_message, submission.summary);
        assert_eq!(submission.extra.get("a"), Some(&json!(1)));
    }

    #[test]
    fn an_oversized_extra_is_dropped() {
        let submission = submit(
            json!({"verdict": "NO_GO", "summary": "x", "commit_message": "a\n\nb", "extra": {"a": "x".repeat(5000)}}),
        );
        assert!(submission.extra.is_empty());
        assert_eq!(
            (submission.verdict, submission.commit_message.as_str()),
            (Claim::NoGo, "a\n\nb")
        );
    }
}
