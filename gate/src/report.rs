//! What `foreman-gate` says at its end: the termination message of its container.
//!
//! The message is JSON of at most [`REPORT_MAX`] bytes. Code under test can write the same file, so
//! parsing is strict and a report proves nothing by itself: see [`crate::verdict`].

use serde::{Deserialize, Serialize};

use crate::FORMAT;
use crate::binding::is_hex;
use crate::definition::STEPS_MAX;
use crate::tail;

/// Most bytes of a termination message that Kubernetes keeps.
pub const REPORT_MAX: usize = 4096;
/// Exit code of a gate whose blocking steps are all green.
pub const EXIT_PASS: u8 = 0;
/// Exit code of a gate with a failed blocking step.
pub const EXIT_FAIL: u8 = 1;
/// Exit code of a gate that could not tell.
pub const EXIT_ERROR: u8 = 2;
/// Exit code of a gate that found a protected path changed.
pub const EXIT_REFUSED: u8 = 3;

/// The report of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// Version of this format.
    pub format: String,
    /// Commit under test.
    pub head: String,
    /// Commit whose gate ran.
    pub base: String,
    /// Digest of the gate.
    pub digest: String,
    /// What it comes to.
    pub outcome: Outcome,
    /// Steps that ran, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<StepReport>,
    /// Name of the first blocking step that is not green.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_failing: Option<String>,
    /// End of that step's log, printable.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tail: String,
    /// The whole log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogDigest>,
    /// Protected paths that the change touches, as many as fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<String>,
    /// Why the gate could not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// What a report comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Every blocking step is green.
    Pass,
    /// A blocking step is red.
    Fail,
    /// A protected path is changed; nothing ran.
    Refused,
    /// The gate could not tell.
    Error,
}

impl Outcome {
    /// Returns the exit code that goes with it.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => EXIT_PASS,
            Self::Fail => EXIT_FAIL,
            Self::Refused => EXIT_REFUSED,
            Self::Error => EXIT_ERROR,
        }
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StepReport {
    /// Name.
    pub name: String,
    /// How it ended.
    pub outcome: StepOutcome,
    /// Exit code of its shell; 128 and the signal's number where a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Milliseconds that it took.
    pub ms: u64,
    /// Whether a failure is only remarked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub advisory: bool,
    /// Whether the kernel killed one of its processes at the memory limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub oom: bool,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepOutcome {
    /// Exit code 0.
    Pass,
    /// Any other exit code, or a signal.
    Fail,
    /// It overran its own timeout.
    Timeout,
    /// Its program is missing, or it could not be started.
    Error,
}

/// The whole log of a gate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogDigest {
    /// SHA-256 of the log as it was stored and printed.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Why a gate could not tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ErrorReport {
    /// Reason.
    pub reason: ErrorReason,
    /// What was found, for a person.
    pub detail: String,
    /// Whether trying again may help.
    pub retry: bool,
}

/// Why `foreman-gate` could not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorReason {
    /// The plan is missing, malformed or of another version.
    PlanInvalid,
    /// The head or base could not be fetched or checked out.
    CloneFailed,
    /// The work tree is not the head.
    WorkTreeMismatch,
    /// The cache that prepare should have filled is missing.
    CacheMissing,
    /// Prepare failed.
    PrepareFailed,
    /// A step's program is not in the image.
    ProgramMissing,
    /// A step's program is not the one that was there at the start.
    ProgramChanged,
    /// A process that a step left behind would not end.
    ProcessesRemain,
    /// The gate's own files or processes failed.
    Internal,
}

impl ErrorReason {
    /// Returns the name, as in the report.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PlanInvalid => "PlanInvalid",
            Self::CloneFailed => "CloneFailed",
            Self::WorkTreeMismatch => "WorkTreeMismatch",
            Self::CacheMissing => "CacheMissing",
            Self::PrepareFailed => "PrepareFailed",
            Self::ProgramMissing => "ProgramMissing",
            Self::ProgramChanged => "ProgramChanged",
            Self::ProcessesRemain => "ProcessesRemain",
            Self::Internal => "Internal",
        }
    }
}

/// Why a termination message is not a report.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// There is none.
    #[error("failed to find a report: the termination message is empty")]
    Empty,
    /// It is longer than a report can be.
    #[error("failed to read the report: it has {0} bytes; at most {REPORT_MAX} are allowed")]
    TooLong(usize),
    /// It is not JSON of the right shape.
    #[error("failed to read the report: {0}")]
    Malformed(#[from] serde_json::Error),
    /// Its parts do not agree.
    #[error("failed to use the report: {0}")]
    Inconsistent(String),
}

impl Report {
    /// Makes an empty report bound to a triple.
    pub fn new(head: &str, base: &str, digest: &str, outcome: Outcome) -> Self {
        Self {
            format: FORMAT.to_owned(),
            head: head.to_owned(),
            base: base.to_owned(),
            digest: digest.to_owned(),
            outcome,
            steps: Vec::new(),
            first_failing: None,
            tail: String::new(),
            log: None,
            refused: Vec::new(),
            error: None,
        }
    }

    /// Parses a termination message.
    pub fn parse(message: &[u8]) -> Result<Self, ReportError> {
        if message.is_empty() {
            return Err(ReportError::Empty);
        }
        if message.len() > REPORT_MAX {
            return Err(ReportError::TooLong(message.len()));
        }
        let report: Self = serde_json::from_slice(message)?;
        report.check().map_err(ReportError::Inconsistent)?;
        Ok(report)
    }

    fn check(&self) -> Result<(), String> {
        if self.format != FORMAT {
            return Err(format!(
                "format is {:?}; expected {FORMAT:?}",
                tail::line(&self.format, 40)
            ));
        }
        for (name, value, length) in [
            ("head", &self.head, 40),
            ("base", &self.base, 40),
            ("digest", &self.digest, 64),
        ] {
            if !is_hex(value, length) {
                return Err(format!("{name} is not {length} hex digits"));
            }
        }
        if self.log.as_ref().is_some_and(|log| !is_hex(&log.sha256, 64)) {
            return Err("the log's SHA-256 is not 64 hex digits".to_owned());
        }
        if self.steps.len() > STEPS_MAX {
            return Err(format!(
                "it lists {} steps; at most {STEPS_MAX} are allowed",
                self.steps.len()
            ));
        }
        for (index, step) in self.steps.iter().enumerate() {
            let agrees = match step.outcome {
                StepOutcome::Pass => step.exit_code == Some(0),
                StepOutcome::Fail => step.exit_code.is_some_and(|code| code != 0),
                StepOutcome::Timeout | StepOutcome::Error => step.exit_code.is_none(),
            };
            if !agrees {
                return Err(format!("outcome and exit code of step {} disagree", index + 1));
            }
            if self.steps[..index].iter().any(|other| other.name == step.name) {
                return Err(format!("step {} has the name of another", index + 1));
            }
        }
        if self.first_failing.as_deref() != first_failing(&self.steps) {
            return Err("firstFailing is not the first blocking step that is not green".to_owned());
        }
        let expected = match self.outcome {
            Outcome::Refused => self.steps.is_empty() && !self.refused.is_empty() && self.error.is_none(),
            Outcome::Error => self.error.is_some() && self.refused.is_empty(),
            Outcome::Pass | Outcome::Fail => {
                self.error.is_none() && self.refused.is_empty() && outcome_of(&self.steps) == self.outcome
            }
        };
        if !expected {
            return Err("its outcome does not follow from its steps".to_owned());
        }
        Ok(())
    }

    /// Returns the blocking step that failed first, if any.
    pub fn first_failing_step(&self) -> Option<&StepReport> {
        let name = self.first_failing.as_deref()?;
        self.steps.iter().find(|step| step.name == name)
    }

    /// Renders the termination message, cutting tail, paths and detail until it fits.
    pub fn to_message(&self) -> Vec<u8> {
        let mut report = self.clone();
        let full_tail = tail::clean(report.tail.as_bytes());
        let mut allowed = REPORT_MAX;
        loop {
            report.tail = tail::last(&full_tail, allowed).trim_end().to_owned();
            let message = serde_json::to_vec(&report).unwrap_or_default();
            if message.len() <= REPORT_MAX {
                return message;
            }
            let over = message.len() - REPORT_MAX;
            if !report.tail.is_empty() {
                // Escapes make the text longer than it is: cut by what is over, at least one byte.
                allowed = report.tail.len().saturating_sub(over.div_ceil(6).max(1));
            } else if report.refused.len() > 1 {
                report.refused.pop();
            } else if let Some(error) = report.error.as_mut().filter(|error| !error.detail.is_empty()) {
                let shorter = error.detail.len().saturating_sub(over.max(8));
                error.detail = tail::first(&error.detail, shorter).to_owned();
            } else if let Some(path) = report.refused.first_mut().filter(|path| path.len() > 8) {
                *path = tail::first(path, path.len() / 2).to_owned();
            } else {
                return Vec::new();
            }
        }
    }
}

/// Returns what steps come to: a red blocking step fails, an unknown one is an error.
pub fn outcome_of(steps: &[StepReport]) -> Outcome {
    let blocking = || steps.iter().filter(|step| !step.advisory);
    if blocking().any(|step| matches!(step.outcome, StepOutcome::Fail | StepOutcome::Timeout)) {
        Outcome::Fail
    } else if blocking().any(|step| step.outcome == StepOutcome::Error) || blocking().next().is_none() {
        Outcome::Error
    } else {
        Outcome::Pass
    }
}

/// Returns the name of the step that a person should look at first: the first blocking one that is
/// red, else the first blocking one that could not be started.
pub fn first_failing(steps: &[StepReport]) -> Option<&str> {
    let blocking = || steps.iter().filter(|step| !step.advisory);
    blocking()
        .find(|step| matches!(step.outcome, StepOutcome::Fail | StepOutcome::Timeout))
        .or_else(|| blocking().find(|step| step.outcome == StepOutcome::Error))
        .map(|step| step.name.as_str())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn step(name: &str, outcome: StepOutcome, exit_code: Option<i32>) -> StepReport {
        StepReport {
            name: name.to_owned(),
            outcome,
            exit_code,
            ms: 12,
            advisory: false,
            oom: false,
        }
    }

    pub(crate) fn report(steps: Vec<StepReport>) -> Report {
        let mut report = Report::new(&"a".repeat(40), &"b".repeat(40), &"c".repeat(64), outcome_of(&steps));
        report.first_failing = first_failing(&steps).map(str::to_owned);
        report.steps = steps;
        if report.outcome == Outcome::Error {
            report.error = Some(ErrorReport {
                reason: ErrorReason::ProgramMissing,
                detail: "step".to_owned(),
                retry: false,
            });
        }
        report
    }

    #[test]
    fn a_report_survives_its_message() {
        let mut one = report(vec![
            step("build", StepOutcome::Pass, Some(0)),
            step("test", StepOutcome::Fail, Some(101)),
        ]);
        one.tail = "assertion failed\n  left: 1".to_owned();
        one.log = Some(LogDigest {
            sha256: "d".repeat(64),
            bytes: 7,
        });
        let back = Report::parse(&one.to_message()).unwrap();
        assert_eq!(back, one);
        assert_eq!(back.first_failing_step().unwrap().exit_code, Some(101));
    }

    #[test]
    fn a_huge_report_is_cut_to_fit_and_keeps_the_end_of_the_tail() {
        let mut one = report(
            (0..STEPS_MAX)
                .map(|n| step(&format!("{n:063}"), StepOutcome::Fail, Some(-2_000_000_000)))
                .collect(),
        );
        one.tail = format!(
            "{}\nlast line \"quoted\" \u{1F980}",
            "\u{1}\\\"é\u{1b}[0m\n".repeat(5000)
        );
        let message = one.to_message();
        assert!(
            message.len() <= REPORT_MAX && message.len() > REPORT_MAX - 400,
            "{}",
            message.len()
        );
        let back = Report::parse(&message).unwrap();
        assert!(back.tail.ends_with("last line \"quoted\" \u{1F980}"));

        let mut refused = Report::new(&"a".repeat(40), &"b".repeat(40), &"c".repeat(64), Outcome::Refused);
        refused.refused = (0..500).map(|n| format!("ci/{n}/{}", "x".repeat(200))).collect();
        let back = Report::parse(&refused.to_message()).unwrap();
        assert!(back.refused.len() > 5 && back.refused[0].starts_with("ci/0/"));
    }

    #[test]
    fn messages_that_are_no_reports_are_refused() {
        let good = report(vec![step("test", StepOutcome::Pass, Some(0))]);
        let text = String::from_utf8(good.to_message()).unwrap();
        assert!(Report::parse(text.as_bytes()).is_ok());
        let replaced = |from: &str, to: &str| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        };
        for bad in [
            String::new(),
            "GATE-PASS".to_owned(),
            format!("{text}{text}"),
            format!("{text} x"),
            text[..text.len() - 1].to_owned(),
            replaced("foreman-gate/1", "foreman-gate/2"),
            replaced("\"ms\":12", "\"ms\":12,\"ms\":12"),
            replaced("\"ms\":12", "\"ms\":12,\"extra\":1"),
            replaced("\"exitCode\":0", "\"exitCode\":1"),
            replaced(
                "\"outcome\":\"pass\",\"exitCode\":0",
                "\"outcome\":\"fail\",\"exitCode\":1",
            ),
            replaced(&"a".repeat(40), &"A".repeat(40)),
            replaced(&"c".repeat(64), "c"),
            format!("{text}{}", " ".repeat(REPORT_MAX)),
        ] {
            assert!(Report::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn advisory_steps_decide_nothing() {
        let mut lint = step("lint", StepOutcome::Fail, Some(1));
        lint.advisory = true;
        assert_eq!(
            outcome_of(std::slice::from_ref(&lint)),
            Outcome::Error,
            "nothing blocking ran"
        );
        let steps = [lint, step("test", StepOutcome::Pass, Some(0))];
        assert_eq!(outcome_of(&steps), Outcome::Pass);
        assert_eq!(first_failing(&steps), None);
    }

    proptest! {
        #[test]
        fn hostile_messages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Report::parse(&bytes);
        }

        #[test]
        fn every_tail_gives_a_message_that_can_be_read(tail in "(?s).{0,3000}") {
            let mut one = report(vec![step("test", StepOutcome::Timeout, None)]);
            one.tail = tail;
            let message = one.to_message();
            prop_assert!(message.len() <= REPORT_MAX);
            let back = Report::parse(&message).unwrap();
            prop_assert!(back.tail.chars().all(|c| c == '\n' || c == '\t' || !c.is_control()));
        }
    }
}
