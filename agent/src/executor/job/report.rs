//! A run's result as a Pod's last message: at most 4 KiB, and believed only for the claim that it names.

use schemas::agentic_task::FailureReason;
use schemas::shared::{DiffStat, EvidenceRef, FreeForm, Usage, Verdict};
use serde::{Deserialize, Serialize};

use crate::daemon::claim::Held;
use crate::outcome::{Outcome, shorten};

/// Bytes of a termination message.
pub const MESSAGE_MAX: usize = 4096;

/// A run's result as a Pod's last message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    task: String,
    epoch: i64,
    verdict: Option<Verdict>,
    failure: Option<FailureReason>,
    summary: String,
    head: Option<String>,
    base: Option<String>,
    branch: Option<String>,
    usage: Option<Usage>,
    diff: Option<DiffStat>,
    replay: bool,
    result: FreeForm,
    evidence: Vec<EvidenceRef>,
    evidence_error: Option<String>,
}

impl Report {
    /// Reports an outcome of a claim.
    pub fn of(outcome: Outcome, held: &Held) -> Self {
        Self {
            task: held.uid.clone(),
            epoch: held.claim.epoch,
            verdict: outcome.verdict,
            failure: outcome.failure,
            summary: shorten(&outcome.summary, 280),
            head: outcome.head_sha,
            base: outcome.base_sha,
            branch: outcome.branch,
            usage: outcome.usage,
            diff: outcome.diff_stat,
            replay: outcome.replay,
            result: outcome.result,
            evidence: outcome.evidence,
            evidence_error: outcome.evidence_error.map(|error| shorten(&error, 300)),
        }
    }

    /// Renders the message; what does not fit is left out, the least needed first.
    pub fn text(mut self) -> String {
        let fits = |report: &Self| {
            serde_json::to_string(report)
                .ok()
                .filter(|text| text.len() <= MESSAGE_MAX)
        };
        if let Some(text) = fits(&self) {
            return text;
        }
        self.result = FreeForm::new();
        if let Some(text) = fits(&self) {
            return text;
        }
        self.evidence.clear();
        self.evidence_error = Some("the list of the evidence did not fit the Pod's last message".into());
        fits(&self).unwrap_or_default()
    }

    /// Reads the message of a Pod that ran under this claim; the error says why it is none.
    pub fn parse(text: &str, held: &Held) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("its last message is empty".into());
        }
        let report: Self = serde_json::from_str(text)
            .map_err(|error| format!("its last message is no report ({error}): {}", shorten(text, 120)))?;
        if report.task != held.uid || report.epoch != held.claim.epoch {
            return Err("its last message is about another claim".into());
        }
        // What a gate says is never a coder's to say.
        if !matches!(
            report.verdict,
            None | Some(Verdict::Go | Verdict::NoGo | Verdict::Incomplete)
        ) {
            return Err("its last message holds a verdict that is not a coder's".into());
        }
        if report.verdict.is_none() && report.failure.is_none() {
            return Err("its last message holds neither verdict nor reason".into());
        }
        let commit = |sha: &Option<String>| {
            sha.as_ref()
                .is_none_or(|sha| sha.len() == 40 && sha.bytes().all(|b| b.is_ascii_hexdigit()))
        };
        if !commit(&report.head) || !commit(&report.base) {
            return Err("its last message names what is no commit".into());
        }
        Ok(report)
    }

    /// Turns the report into the outcome that it tells of.
    pub fn into_outcome(self) -> Outcome {
        Outcome {
            verdict: self.verdict,
            failure: self.failure,
            summary: shorten(&self.summary, 280),
            head_sha: self.head,
            base_sha: self.base,
            branch: self.branch.map(|branch| shorten(&branch, 255)),
            usage: self.usage,
            diff_stat: self.diff,
            replay: self.replay,
            result: self.result,
            evidence: self.evidence,
            evidence_error: self.evidence_error.map(|error| shorten(&error, 300)),
            ..Outcome::default()
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::daemon::claim::ClaimSecret;
    use schemas::agentic_task::Claim;
    use serde_json::json;

    fn held(epoch: i64) -> Held {
        let secret = ClaimSecret::new([1; 32]);
        Held {
            namespace: "n".into(),
            name: "t".into(),
            uid: "u".into(),
            claim: Claim {
                node: "a".into(),
                agent: "p".into(),
                epoch,
                secret_sha256: secret.sha256(),
            },
            secret,
        }
    }

    fn outcome() -> Outcome {
        let mut outcome = Outcome::ended(Verdict::Go, "done");
        outcome.head_sha = Some("a".repeat(40));
        outcome.branch = Some("foreman/x".into());
        outcome.extra("ending", json!("submitted"));
        outcome
    }

    #[test]
    fn a_report_comes_out_as_it_went_in() {
        let text = Report::of(outcome(), &held(2)).text();
        let back = Report::parse(&text, &held(2)).unwrap().into_outcome();
        assert_eq!(format!("{back:?}"), format!("{:?}", outcome()));
    }

    #[test]
    fn only_a_coders_own_words_under_this_very_claim_count() {
        let good = serde_json::to_value(Report::of(outcome(), &held(2))).unwrap();
        let with = |key: &str, value: serde_json::Value| {
            let mut changed = good.clone();
            changed[key] = value;
            Report::parse(&changed.to_string(), &held(2))
        };
        assert!(with("summary", json!("other words")).is_ok());
        for (key, value, said) in [
            ("epoch", json!(1), "another claim"),
            ("task", json!("v"), "another claim"),
            ("verdict", json!("GATE-PASS"), "not a coder's"),
            ("verdict", json!(null), "neither"),
            ("verdict", json!("BEST"), "no report"),
            ("head", json!("main"), "no commit"),
        ] {
            let error = with(key, value).unwrap_err();
            assert!(error.contains(said), "{key}: {error}");
        }
        assert!(Report::parse("", &held(2)).unwrap_err().contains("empty"));
        assert!(Report::parse("panicked at\u{1b}[2J", &held(2)).is_err());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_verdict_stays() {
        let mut large = outcome();
        large.extra("notes", json!("x".repeat(MESSAGE_MAX)));
        for number in 0..40 {
            large.evidence.push(EvidenceRef {
                name: format!("file-{number}"),
                url: format!("http://operator.example/evidence/{}", "y".repeat(100)),
                bytes: 1,
            });
        }
        let text = Report::of(large, &held(2)).text();
        assert!(text.len() <= MESSAGE_MAX);
        let back = Report::parse(&text, &held(2)).unwrap().into_outcome();
        assert_eq!((back.verdict, back.head_sha), (Some(Verdict::Go), Some("a".repeat(40))));
        assert!(back.evidence_error.unwrap().contains("did not fit"));
    }
}
