//! What a run of a task came to.

use schemas::agentic_task::FailureReason;
use schemas::shared::{DiffStat, EvidenceRef, FreeForm, Usage, Verdict};

/// What a run of a task came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Verdict.
    pub verdict: Option<Verdict>,
    /// Why there is no outcome; makes the phase Failed.
    pub failure: Option<FailureReason>,
    /// One or two sentences for people, at most 280 characters.
    pub summary: String,
    /// Commit that was pushed or tested.
    pub head_sha: Option<String>,
    /// Base commit.
    pub base_sha: Option<String>,
    /// Work branch.
    pub branch: Option<String>,
    /// SHA-256 of the gate definition.
    pub gate_digest: Option<String>,
    /// Gate Job.
    pub job_name: Option<String>,
    /// Tokens and calls.
    pub usage: Option<Usage>,
    /// Size of the change.
    pub diff_stat: Option<DiffStat>,
    /// Whether a recorded session stood in for a model.
    pub replay: bool,
    /// What was stored as evidence.
    pub evidence: Vec<EvidenceRef>,
    /// Why evidence is missing.
    pub evidence_error: Option<String>,
    /// The free-form result; verdict, summary and elapsed are filled in at the end.
    pub result: FreeForm,
}

impl Outcome {
    /// Makes the outcome of a run that could not come to one.
    pub fn failed(reason: FailureReason, summary: impl Into<String>) -> Self {
        Self {
            failure: Some(reason),
            summary: shorten(&summary.into(), 280),
            ..Self::default()
        }
    }

    /// Makes the outcome `verdict`.
    pub fn ended(verdict: Verdict, summary: impl Into<String>) -> Self {
        Self {
            verdict: Some(verdict),
            summary: shorten(&summary.into(), 280),
            ..Self::default()
        }
    }

    /// Puts `value` under `result.extra`.
    pub fn extra(&mut self, key: &str, value: serde_json::Value) {
        let extra = self.result.entry("extra").or_insert_with(|| serde_json::json!({}));
        if let Some(extra) = extra.as_object_mut() {
            extra.insert(key.to_owned(), value);
        }
    }
}

/// Makes one printable line of at most `most` characters.
pub fn shorten(text: &str, most: usize) -> String {
    schemas::inert::one_line(text, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_at_a_character_and_cleaned() {
        assert_eq!(shorten("a\né\u{1b}[31mb", 10), "a éb");
        assert_eq!(shorten("ééééé", 3), "éé…");
    }
}
