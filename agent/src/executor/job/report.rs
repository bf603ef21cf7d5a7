//! A run's result as a Pod's last message: at most 4 KiB, and believed only for the claim that it names.
//!
//! What decides over a gate is not the Pod's to say: base, branch and whether a session was replayed are known to the node
//! agent, which also makes the addresses of the evidence and looks whether the branch is at the head.

use schemas::agentic_task::FailureReason;
use schemas::shared::{DiffStat, EvidenceRef, FreeForm, Usage, Verdict};
use serde::{Deserialize, Serialize};

use crate::daemon::claim::Held;
use crate::evidence;
use crate::outcome::{Outcome, shorten};

/// Bytes of a termination message.
pub const MESSAGE_MAX: usize = 4096;
/// Files of evidence that are believed to be there.
const EVIDENCE_MAX: usize = 16;

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
    usage: Option<Usage>,
    diff: Option<DiffStat>,
    result: FreeForm,
    evidence: Vec<Stored>,
    evidence_error: Option<String>,
}

/// A file that was stored as evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    name: String,
    bytes: i64,
}

/// The claim that a Pod ran under, and where its evidence lies.
#[derive(Clone, Copy, Debug)]
pub struct Under<'a> {
    /// UID of the task.
    pub task: &'a str,
    /// Epoch of the claim that the Job was made for.
    pub epoch: i64,
    /// Base URL of the evidence store, where there is one.
    pub store: Option<&'a str>,
}

impl Report {
    /// Reports an outcome of a claim.
    pub fn of(outcome: Outcome, held: &Held) -> Self {
        let stored = |item: EvidenceRef| Stored {
            name: item.name,
            bytes: item.bytes,
        };
        Self {
            task: held.uid.clone(),
            epoch: held.claim.epoch,
            verdict: outcome.verdict,
            failure: outcome.failure,
            summary: shorten(&outcome.summary, 280),
            head: outcome.head_sha,
            usage: outcome.usage,
            diff: outcome.diff_stat,
            result: outcome.result,
            evidence: outcome.evidence.into_iter().take(EVIDENCE_MAX).map(stored).collect(),
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

    /// Reads the message of a Pod that ran under a claim; the error says why it is none.
    pub fn parse(text: &str, under: Under<'_>) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("its last message is empty".into());
        }
        let report: Self = serde_json::from_str(text)
            .map_err(|error| format!("its last message is no report ({error}): {}", shorten(text, 120)))?;
        if report.task != under.task || report.epoch != under.epoch {
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
        let is_commit = |sha: &String| sha.len() == 40 && sha.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !report.head.iter().all(is_commit) {
            return Err("its last message names what is no commit".into());
        }
        let is_name = |name: &str| {
            (1..=64).contains(&name.len())
                && name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if report.evidence.len() > EVIDENCE_MAX || !report.evidence.iter().all(|item| is_name(&item.name)) {
            return Err("its last message names evidence that no run stores".into());
        }
        Ok(report)
    }

    /// Turns the report into the outcome that it tells of.
    pub fn into_outcome(self, under: Under<'_>) -> Outcome {
        // Where there is no store, what a Pod kept is gone with it.
        let evidence = under.store.into_iter().flat_map(|store| {
            self.evidence.iter().map(move |item| EvidenceRef {
                url: evidence::address(store, under.task, under.epoch, &item.name),
                name: item.name.clone(),
                bytes: item.bytes.max(0),
            })
        });
        Outcome {
            verdict: self.verdict,
            failure: self.failure,
            summary: shorten(&self.summary, 280),
            head_sha: self.head,
            usage: self.usage.map(counted),
            diff_stat: self.diff.map(measured),
            evidence: evidence.collect(),
            evidence_error: self.evidence_error.map(|error| shorten(&error, 300)),
            result: self.result,
            ..Outcome::default()
        }
    }
}

/// Makes a count of a Pod's word: none takes away from another, and sums of them fit.
fn figure(said: i64) -> i64 {
    said.clamp(0, 1 << 40)
}

fn measured(said: DiffStat) -> DiffStat {
    DiffStat {
        files: figure(said.files),
        insertions: figure(said.insertions),
        deletions: figure(said.deletions),
    }
}

fn counted(said: Usage) -> Usage {
    Usage {
        prompt_tokens: figure(said.prompt_tokens),
        cached_prompt_tokens: figure(said.cached_prompt_tokens),
        completion_tokens: figure(said.completion_tokens),
        turns: figure(said.turns),
        tool_calls: figure(said.tool_calls),
        estimated: said.estimated,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    const STORE: &str = "http://operator.example";

    fn under(epoch: i64) -> Under<'static> {
        Under {
            task: "u",
            epoch,
            store: Some(STORE),
        }
    }

    fn outcome() -> Outcome {
        let mut outcome = Outcome::ended(Verdict::Go, "done");
        outcome.head_sha = Some("a".repeat(40));
        outcome.evidence.push(EvidenceRef {
            name: "transcript".into(),
            url: format!("{STORE}/evidence/u/2/transcript"),
            bytes: 7,
        });
        outcome.extra("ending", json!("submitted"));
        outcome
    }

    #[test]
    fn a_report_comes_out_as_it_went_in() {
        let text = Report::of(outcome(), &Held::sample(2)).text();
        let back = Report::parse(&text, under(2)).unwrap().into_outcome(under(2));
        assert_eq!(format!("{back:?}"), format!("{:?}", outcome()));
    }

    #[test]
    fn base_branch_and_the_addresses_of_evidence_are_never_the_pods_to_say() {
        let mut said = outcome();
        said.base_sha = Some("b".repeat(40));
        said.branch = Some("main".into());
        said.job_name = Some("gate-of-another".into());
        said.evidence[0].url = "http://elsewhere.example/".into();
        let mut text = serde_json::to_value(Report::of(said, &Held::sample(2))).unwrap();
        text["baseSha"] = json!("b".repeat(40));
        text["evidence"][0]["url"] = json!("http://elsewhere.example/");
        text["usage"] = json!({ "promptTokens": -5, "turns": i64::MAX });
        text["diff"] = json!({ "files": -1, "insertions": i64::MAX, "deletions": i64::MIN });
        let told = Report::parse(&text.to_string(), under(2))
            .unwrap()
            .into_outcome(under(2));
        assert_eq!((&told.base_sha, &told.branch, &told.job_name), (&None, &None, &None));
        assert_eq!(told.evidence[0].url, "http://operator.example/evidence/u/2/transcript");
        let usage = told.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.turns), (0, 1 << 40));
        let diff = told.diff_stat.unwrap();
        assert_eq!((diff.files, diff.insertions, diff.deletions), (0, 1 << 40, 0));
        let nowhere = Under {
            store: None,
            ..under(2)
        };
        let told = Report::parse(&text.to_string(), nowhere).unwrap().into_outcome(nowhere);
        assert!(told.evidence.is_empty(), "without a store nothing is kept");
    }

    #[test]
    fn only_a_coders_own_words_under_this_very_claim_count() {
        let good = serde_json::to_value(Report::of(outcome(), &Held::sample(2))).unwrap();
        let with = |key: &str, value: serde_json::Value| {
            let mut changed = good.clone();
            changed[key] = value;
            Report::parse(&changed.to_string(), under(2))
        };
        assert!(with("summary", json!("other words")).is_ok());
        for (key, value, said) in [
            ("epoch", json!(1), "another claim"),
            ("task", json!("v"), "another claim"),
            ("verdict", json!("GATE-PASS"), "not a coder's"),
            ("verdict", json!(null), "neither"),
            ("verdict", json!("BEST"), "no report"),
            ("head", json!("main"), "no commit"),
            ("head", json!("A".repeat(40)), "no commit"),
            ("evidence", json!([{ "name": "../../x", "bytes": 1 }]), "evidence"),
            (
                "evidence",
                json!(vec![json!({ "name": "x", "bytes": 1 }); 17]),
                "evidence",
            ),
            ("usage", json!({ "turns": "many" }), "no report"),
        ] {
            let error = with(key, value).unwrap_err();
            assert!(error.contains(said), "{key}: {error}");
        }
        assert!(Report::parse("", under(2)).unwrap_err().contains("empty"));
        assert!(Report::parse("panicked at\u{1b}[2J", under(2)).is_err());
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_the_verdict_stays() {
        let mut large = outcome();
        large.extra("notes", json!("x".repeat(MESSAGE_MAX)));
        for number in 0..40 {
            large.evidence.push(EvidenceRef {
                name: format!("{number:02}-{}", "y".repeat(61)),
                url: String::new(),
                bytes: i64::MAX,
            });
        }
        let back = |outcome: Outcome| {
            let text = Report::of(outcome, &Held::sample(2)).text();
            assert!(text.len() <= MESSAGE_MAX);
            let back = Report::parse(&text, under(2)).unwrap().into_outcome(under(2));
            assert_eq!(
                (back.verdict, back.head_sha.clone()),
                (Some(Verdict::Go), Some("a".repeat(40)))
            );
            assert!(back.result.is_empty());
            back
        };
        assert_eq!(back(large.clone()).evidence.len(), EVIDENCE_MAX);
        // As long as people's words can be, and with all that else is told.
        large.usage = Some(Usage::default());
        large.diff_stat = Some(DiffStat::default());
        large.summary = "\u{1f980}".repeat(280);
        large.evidence_error = Some("\u{1f980}".repeat(300));
        let told = back(large);
        assert!(told.evidence.is_empty() && told.evidence_error.unwrap().contains("did not fit"));
    }
}
