//! The one place that turns the end of a Job into a verdict.
//!
//! It passes only what a well-formed report of this very head, base and gate says, with every
//! blocking step green and an exit code that agrees. Everything that cannot be explained is an
//! error: the infrastructure's fault, which costs no round.

mod outcome;

pub use outcome::{ContainerEnd, JobEnd, JobOutcome, Terminated};

use crate::binding::Binding;
use crate::definition::GateError;
use crate::report::{EXIT_ERROR, EXIT_FAIL, EXIT_PASS, EXIT_REFUSED, Outcome, Report, StepOutcome, StepReport};
use crate::tail;

/// What a gate's Job proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The change is proved.
    Pass {
        /// Report that proves it.
        report: Report,
    },
    /// The change is refuted.
    Fail {
        /// Why.
        cause: FailCause,
        /// Report, where there is one of this head, base and gate.
        report: Option<Report>,
    },
    /// The change touches protected paths.
    Refused {
        /// Those paths.
        paths: Vec<String>,
    },
    /// The gate could not tell.
    Error(Failure),
}

/// Why a change is refuted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailCause {
    /// A blocking step exited with something else than 0.
    Step {
        /// Name.
        name: String,
        /// Exit code.
        exit_code: i32,
    },
    /// A blocking step overran its own timeout.
    Timeout {
        /// Name.
        name: String,
    },
    /// The steps were killed at their memory limit.
    OutOfMemory {
        /// Limit, such as `8Gi`.
        limit: String,
    },
}

/// Why a gate could not tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Reason in one word, such as `ImagePull` or `DeadlineExceeded`.
    pub reason: String,
    /// What was found, one printable line.
    pub detail: String,
    /// Whether trying again may help.
    pub retry: bool,
}

impl Failure {
    fn new(reason: &str, detail: impl AsRef<str>, retry: bool) -> Self {
        Self {
            reason: reason.to_owned(),
            detail: tail::line(detail.as_ref(), 500),
            retry,
        }
    }
}

impl From<&GateError> for Failure {
    fn from(error: &GateError) -> Self {
        let reason = match error {
            GateError::BrokenFile { .. } => "GateFileBroken",
            GateError::Invalid { .. } => "GateInvalid",
            GateError::NotFound => "GateNotFound",
        };
        Self::new(reason, error.to_string(), false)
    }
}

impl Verdict {
    /// Describes the verdict in one line, reason first.
    pub fn summary(&self) -> String {
        match self {
            Self::Pass { report } => passed(&report.steps),
            Self::Fail { cause, .. } => match cause {
                FailCause::Step { name, exit_code } => format!("step {name} failed with exit code {exit_code}"),
                FailCause::Timeout { name } => format!("step {name} overran its timeout"),
                FailCause::OutOfMemory { limit } => format!("killed at the memory limit of {limit}"),
            },
            Self::Refused { paths } => format!("touches protected paths: {}", paths.join(", ")),
            Self::Error(failure) => format!("{}: {}", failure.reason, failure.detail),
        }
    }
}

/// Says how many steps passed, and which did not and need not.
fn passed(steps: &[StepReport]) -> String {
    let (good, bad): (Vec<_>, Vec<_>) = steps.iter().partition(|step| step.outcome == StepOutcome::Pass);
    let count = |number: usize| format!("{number} step{}", if number == 1 { "" } else { "s" });
    if bad.is_empty() {
        return format!("{} passed", count(good.len()));
    }
    let bad: Vec<&str> = bad.iter().map(|step| step.name.as_str()).collect();
    format!(
        "{} passed; advisory only: {} did not",
        count(good.len()),
        bad.join(", ")
    )
}

/// Judges the end of a gate's Job.
pub fn judge(outcome: &JobOutcome, binding: &Binding) -> Verdict {
    match judged(outcome, binding) {
        Ok(verdict) => verdict,
        Err(failure) => Verdict::Error(failure),
    }
}

/// Judges the end of a prepare Job; `Err` says why there is no cache.
pub fn judge_prepare(outcome: &JobOutcome) -> Result<(), Failure> {
    whole_job(outcome)?;
    let init = match &outcome.init {
        ContainerEnd::Terminated(end) => end,
        other => return Err(unfinished("init container", other)),
    };
    if init.exit_code != 0 || init.signal.is_some() {
        return Err(init_failure(init, None));
    }
    let main = match &outcome.main {
        ContainerEnd::Terminated(end) => end,
        other => return Err(unfinished("main container", other)),
    };
    if main.exit_code == 0 && main.signal.is_none() && main.reason != "OOMKilled" {
        return match (outcome.job, outcome.pod_phase.as_str()) {
            (JobEnd::Complete, "Succeeded") => Ok(()),
            _ => Err(Failure::new(
                "PodFailed",
                "its container exited with 0, its Pod did not succeed",
                true,
            )),
        };
    }
    match Report::parse(main.message.as_bytes()) {
        Ok(Report { error: Some(error), .. }) => Err(Failure::new(error.reason.as_str(), error.detail, error.retry)),
        _ => Err(Failure::new("PrepareFailed", ended(main), true)),
    }
}

fn judged(outcome: &JobOutcome, binding: &Binding) -> Result<Verdict, Failure> {
    whole_job(outcome)?;
    match &outcome.init {
        ContainerEnd::Terminated(end) if end.exit_code == 0 && end.signal.is_none() => {}
        ContainerEnd::Terminated(end) => {
            if end.exit_code == i32::from(EXIT_REFUSED)
                && let Ok(report) = bound_report(end, binding)
                && report.outcome == Outcome::Refused
            {
                return Ok(Verdict::Refused { paths: report.refused });
            }
            return Err(init_failure(end, Some(binding)));
        }
        other => return Err(unfinished("init container", other)),
    }
    match &outcome.main {
        ContainerEnd::Terminated(end) => judge_main(outcome, end, binding),
        other => Err(unfinished("main container", other)),
    }
}

fn judge_main(outcome: &JobOutcome, end: &Terminated, binding: &Binding) -> Result<Verdict, Failure> {
    let report = bound_report(end, binding);
    if end.reason == "OOMKilled" {
        return Ok(Verdict::Fail {
            cause: FailCause::OutOfMemory {
                limit: memory_limit(binding),
            },
            report: report.ok(),
        });
    }
    if let Some(signal) = end.signal.filter(|signal| *signal != 0) {
        return Err(Failure::new(
            "Killed",
            format!("foreman-gate was ended by signal {signal}"),
            true,
        ));
    }
    if !matches!(end.reason.as_str(), "Completed" | "Error" | "") {
        return Err(Failure::new(&word(&end.reason), ended(end), true));
    }
    let report = report?;
    if end.exit_code != i32::from(report.outcome.exit_code()) {
        return Err(Failure::new(
            "ExitMismatch",
            format!(
                "the report says {:?}, the exit code is {}",
                report.outcome, end.exit_code
            ),
            true,
        ));
    }
    match report.outcome {
        Outcome::Pass => {
            if outcome.job != JobEnd::Complete || outcome.pod_phase != "Succeeded" || end.reason != "Completed" {
                return Err(Failure::new(
                    "PodFailed",
                    "the report says pass, its Pod did not succeed",
                    true,
                ));
            }
            Ok(Verdict::Pass { report })
        }
        Outcome::Fail => {
            let Some(step) = report.first_failing_step().cloned() else {
                return Err(Failure::new(
                    "ReportMalformed",
                    "the report names no failing step",
                    true,
                ));
            };
            let cause = match (step.oom, step.outcome) {
                (true, _) => FailCause::OutOfMemory {
                    limit: memory_limit(binding),
                },
                (false, StepOutcome::Timeout) => FailCause::Timeout { name: step.name },
                (false, _) => FailCause::Step {
                    name: step.name,
                    exit_code: step.exit_code.unwrap_or_default(),
                },
            };
            Ok(Verdict::Fail {
                cause,
                report: Some(report),
            })
        }
        Outcome::Refused => Ok(Verdict::Refused { paths: report.refused }),
        Outcome::Error => match report.error {
            Some(error) => Err(Failure::new(error.reason.as_str(), error.detail, error.retry)),
            None => Err(Failure::new("ReportMalformed", "the report names no reason", true)),
        },
    }
}

/// Looks at what ends the whole Job or Pod, whatever its containers say.
fn whole_job(outcome: &JobOutcome) -> Result<(), Failure> {
    if outcome.pods > 1 {
        return Err(Failure::new(
            "SeveralPods",
            format!("the Job has {} Pods; expected one", outcome.pods),
            true,
        ));
    }
    for reason in [&outcome.job_reason, &outcome.pod_reason] {
        // BackoffLimitExceeded only repeats that a container failed.
        if !reason.is_empty() && reason != "BackoffLimitExceeded" {
            return Err(Failure::new(&word(reason), &outcome.detail, true));
        }
    }
    match outcome.job {
        JobEnd::Complete | JobEnd::Failed => {}
        JobEnd::Missing => return Err(Failure::new("JobMissing", "the Job is gone", true)),
        JobEnd::Running => {
            // What will never start is not waited for, and it is what the reader wants to know.
            let both = [("init container", &outcome.init), ("main container", &outcome.main)];
            return Err(match both.into_iter().find(|(_, end)| end.stuck().is_some()) {
                Some((which, end)) => unfinished(which, end),
                None => Failure::new("NotFinished", "the Job has not ended", true),
            });
        }
    }
    if outcome.pods == 0 {
        return Err(Failure::new("PodMissing", "the Job ended and has no Pod", true));
    }
    Ok(())
}

fn bound_report(end: &Terminated, binding: &Binding) -> Result<Report, Failure> {
    let report = Report::parse(end.message.as_bytes()).map_err(|error| {
        let reason = match error {
            crate::report::ReportError::Empty => "ReportMissing",
            _ => "ReportMalformed",
        };
        Failure::new(reason, format!("{error}; {}", ended(end)), true)
    })?;
    for (name, found, expected) in [
        ("head", &report.head, &binding.head),
        ("base", &report.base, &binding.base),
        ("gate digest", &report.digest, &binding.digest),
    ] {
        if found != expected {
            return Err(Failure::new(
                "ReportMismatch",
                format!("the report is about {name} {found}, this gate is about {expected}"),
                true,
            ));
        }
    }
    if let Some(expected) = &binding.steps
        && matches!(report.outcome, Outcome::Pass | Outcome::Fail)
    {
        let same = report.steps.len() == expected.len()
            && report
                .steps
                .iter()
                .zip(expected)
                .all(|(step, expected)| step.name == expected.name && step.advisory == expected.advisory);
        if !same {
            return Err(Failure::new(
                "ReportMismatch",
                "the report does not list the gate's steps",
                true,
            ));
        }
    }
    Ok(report)
}

fn init_failure(end: &Terminated, binding: Option<&Binding>) -> Failure {
    let report = match binding {
        Some(binding) => bound_report(end, binding).ok(),
        None => Report::parse(end.message.as_bytes()).ok(),
    };
    match report.and_then(|report| report.error) {
        Some(error) if end.exit_code == i32::from(EXIT_ERROR) => {
            Failure::new(error.reason.as_str(), error.detail, error.retry)
        }
        _ if end.reason == "OOMKilled" => Failure::new("FetchOutOfMemory", ended(end), true),
        _ => Failure::new("CloneFailed", ended(end), true),
    }
}

fn unfinished(which: &str, end: &ContainerEnd) -> Failure {
    match end {
        ContainerEnd::Waiting { reason, message } => {
            let short = match reason.as_str() {
                "ErrImagePull"
                | "ImagePullBackOff"
                | "InvalidImageName"
                | "ErrImageNeverPull"
                | "RegistryUnavailable"
                | "ImageInspectError" => "ImagePull",
                "" => "NeverStarted",
                other => return Failure::new(&word(other), format!("{which} waits: {message}"), true),
            };
            Failure::new(short, format!("{which} waits: {reason} {message}"), true)
        }
        ContainerEnd::Running => Failure::new("NotFinished", format!("{which} was still running"), true),
        ContainerEnd::Missing => Failure::new("NeverStarted", format!("{which} has no status"), true),
        ContainerEnd::Terminated(end) => Failure::new("Unknown", ended(end), true),
    }
}

fn ended(end: &Terminated) -> String {
    let by = match end.signal {
        Some(signal) if signal != 0 => format!("signal {signal}"),
        _ => format!("exit code {}", end.exit_code),
    };
    let name = match u8::try_from(end.exit_code) {
        Ok(EXIT_PASS) => " (pass)",
        Ok(EXIT_FAIL) => " (fail)",
        Ok(EXIT_ERROR) => " (error)",
        Ok(EXIT_REFUSED) => " (refused)",
        _ => "",
    };
    let reason = if end.reason.is_empty() {
        "no reason"
    } else {
        &end.reason
    };
    // Written by what starts containers, as nothing of the container ran.
    let why = match end.reason.as_str() {
        "StartError" | "ContainerCannotRun" | "CreateContainerError" if !end.message.is_empty() => {
            format!(": {}", crate::tail::line(&end.message, 500))
        }
        _ => String::new(),
    };
    format!("the container ended with {by}{name}, {reason}{why}")
}

fn memory_limit(binding: &Binding) -> String {
    binding
        .memory_limit
        .clone()
        .unwrap_or_else(|| "its container".to_owned())
}

/// Makes a reason of foreign text.
fn word(text: &str) -> String {
    let word: String = text.chars().filter(char::is_ascii_alphanumeric).take(60).collect();
    if word.is_empty() { "Unknown".to_owned() } else { word }
}

#[cfg(test)]
#[path = "verdict/tests.rs"]
mod tests;
