//! When a coder's Job is over, and what its end means. Pure.

use std::time::{Duration, Instant};

use gate::verdict::{ContainerEnd, JobEnd, JobOutcome};
use schemas::agentic_task::FailureReason;
use schemas::shared::Verdict;

use super::build::Limits;
use super::report::{Report, Under};
use crate::executor::follow::Sight;
use crate::outcome::Outcome;

/// How a Job came to its end, as far as it is seen from here.
#[derive(Debug)]
pub(super) enum End {
    /// It ended.
    Over(Box<JobOutcome>),
    /// Its container did not start in time.
    NotStarted(String),
    /// Its container ran longer than it may.
    Overran,
    /// The run was cancelled.
    Cancelled,
}

/// Watches over two limits that have nothing to do with each other: a start that waits for a node and an image, and work.
pub(super) struct Watch {
    limits: Limits,
    begun: Instant,
    started: Option<Instant>,
}

impl Watch {
    /// Watches a Job that begins, or is taken over, now.
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            begun: now,
            started: None,
        }
    }

    /// Says whether what is seen now is an end.
    pub(super) fn see(&mut self, sight: Sight, now: Instant) -> Option<End> {
        let seen = match sight {
            Sight::Cancelled => return Some(End::Cancelled),
            Sight::Job(seen) => seen,
        };
        if seen.finished() {
            return Some(End::Over(seen));
        }
        if matches!(seen.main, ContainerEnd::Running | ContainerEnd::Terminated(_)) {
            self.started.get_or_insert(now);
        }
        let longer = |since: Instant, seconds| now.duration_since(since) > Duration::from_secs(seconds);
        match self.started {
            None => longer(self.begun, self.limits.startup_seconds).then(|| End::NotStarted(waits_for(&seen))),
            Some(at) => longer(at, self.limits.run_seconds).then_some(End::Overran),
        }
    }
}

fn waits_for(seen: &JobOutcome) -> String {
    if let Some(why) = seen.stuck() {
        return why;
    }
    if !seen.unscheduled.is_empty() {
        return format!("its Pod finds no node: {}", seen.unscheduled);
    }
    match (seen.pods, seen.pod_phase.as_str()) {
        (0, _) => "the Job has no Pod; see `kubectl describe job` for what refuses it".into(),
        (_, phase) => format!(
            "its Pod is {}; see `kubectl describe pod` for what it waits for",
            if phase.is_empty() { "Pending" } else { phase }
        ),
    }
}

/// Says what a Job's end means. Only a well-formed message of this very claim is a result.
pub(super) fn judge(end: &End, under: Under<'_>, limits: Limits) -> Outcome {
    let nobodys = |reason: FailureReason, why: String| {
        let mut outcome = Outcome::failed(reason, why);
        outcome.verdict = Some(Verdict::Incomplete);
        outcome
    };
    let infrastructure = |why: String| nobodys(FailureReason::InfrastructureError, why);
    let overran = || {
        nobodys(
            FailureReason::Timeout,
            format!(
                "the coder's Job ran longer than execution.activeDeadlineSeconds, {} s",
                limits.run_seconds
            ),
        )
    };
    let seen = match end {
        End::Cancelled => return infrastructure("the run was cancelled".into()),
        End::NotStarted(why) => {
            return nobodys(
                FailureReason::JobNotStarted,
                format!(
                    "the coder's Pod did not start within {} s: {why}",
                    limits.startup_seconds
                ),
            );
        }
        End::Overran => return overran(),
        End::Over(seen) => seen,
    };
    match &seen.main {
        _ if seen.job == JobEnd::Missing => infrastructure("the coder's Job was deleted by somebody else".into()),
        ContainerEnd::Terminated(ended) if ended.exit_code == 0 => match Report::parse(&ended.message, under) {
            Ok(report) => report.into_outcome(under),
            Err(why) => infrastructure(format!("the coder's Pod ended without a result: {why}")),
        },
        ContainerEnd::Terminated(ended) if ended.reason == "OOMKilled" => infrastructure(
            "the coder's Pod was killed for memory (OOMKilled); raise execution.resources.limits.memory".into(),
        ),
        // The margin of the Job's own deadline is spent as well: its agent was away meanwhile.
        _ if seen.job_reason == "DeadlineExceeded" => overran(),
        ContainerEnd::Terminated(ended) => infrastructure(format!(
            "the coder's Pod ended without a result ({}, exit code {}): {}",
            if ended.reason.is_empty() {
                "Error"
            } else {
                &ended.reason
            },
            ended.exit_code,
            ended.message,
        )),
        _ => infrastructure(format!(
            "the coder's Job ended without a result: {} {}",
            [&seen.job_reason, &seen.pod_reason]
                .into_iter()
                .find(|reason| !reason.is_empty())
                .map_or("no reason is given", String::as_str),
            seen.detail
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use gate::verdict::Terminated;

    use super::*;
    use crate::daemon::claim::Held;

    const LIMITS: Limits = Limits {
        startup_seconds: 30,
        run_seconds: 60,
    };
    const UNDER: Under<'static> = Under {
        task: "u",
        epoch: 1,
        store: None,
    };

    fn seen(job: JobEnd, main: ContainerEnd) -> JobOutcome {
        JobOutcome {
            job,
            main,
            pods: 1,
            ..JobOutcome::default()
        }
    }

    fn over(job: JobEnd, main: ContainerEnd) -> End {
        End::Over(Box::new(seen(job, main)))
    }

    fn terminated(code: i32, reason: &str, message: &str) -> ContainerEnd {
        ContainerEnd::Terminated(Terminated {
            exit_code: code,
            signal: None,
            reason: reason.into(),
            message: message.into(),
        })
    }

    #[test]
    fn only_a_message_of_this_claim_is_a_result_and_all_else_is_nobodys_verdict() {
        let done = |epoch| Report::of(Outcome::ended(Verdict::Go, "done"), &Held::sample(epoch)).text();
        let (good, other) = (done(1), done(2));
        let judged = |end: &End| judge(end, UNDER, LIMITS);
        let told = judged(&over(JobEnd::Complete, terminated(0, "Completed", &good)));
        assert_eq!((told.verdict, told.failure), (Some(Verdict::Go), None));
        let mut late = seen(JobEnd::Failed, ContainerEnd::Missing);
        late.job_reason = "DeadlineExceeded".into();
        let mut gone = seen(JobEnd::Missing, terminated(0, "Completed", &good));
        gone.pods = 0;
        use FailureReason::{InfrastructureError, JobNotStarted, Timeout};
        let table = [
            (
                over(JobEnd::Complete, terminated(0, "Completed", &other)),
                InfrastructureError,
                "another claim",
            ),
            (
                over(JobEnd::Complete, terminated(0, "Completed", "")),
                InfrastructureError,
                "is empty",
            ),
            (
                over(JobEnd::Failed, terminated(1, "Error", &good)),
                InfrastructureError,
                "exit code 1",
            ),
            (
                over(JobEnd::Failed, terminated(137, "OOMKilled", &good)),
                InfrastructureError,
                "limits.memory",
            ),
            (
                over(JobEnd::Failed, terminated(128, "StartError", "no such program")),
                InfrastructureError,
                "StartError",
            ),
            (
                over(JobEnd::Failed, ContainerEnd::Missing),
                InfrastructureError,
                "ended without a result",
            ),
            (End::Over(Box::new(late)), Timeout, "activeDeadlineSeconds, 60 s"),
            (
                End::Over(Box::new(gone)),
                InfrastructureError,
                "deleted by somebody else",
            ),
            (
                End::NotStarted("ImagePullBackOff: x".into()),
                JobNotStarted,
                "within 30 s: ImagePullBackOff",
            ),
            (End::Overran, Timeout, "activeDeadlineSeconds, 60 s"),
            (End::Cancelled, InfrastructureError, "cancelled"),
        ];
        for (end, reason, said) in table {
            let told = judged(&end);
            assert_eq!(told.verdict, Some(Verdict::Incomplete), "{end:?}");
            assert_eq!(told.failure, Some(reason), "{end:?}");
            assert!(told.summary.contains(said), "{said:?} is not in {:?}", told.summary);
        }
    }

    #[test]
    fn the_time_to_start_and_the_time_to_run_are_counted_apart() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let waiting = || Sight::Job(Box::new(seen(JobEnd::Running, ContainerEnd::Missing)));
        let running = || Sight::Job(Box::new(seen(JobEnd::Running, ContainerEnd::Running)));

        let mut watch = Watch::new(LIMITS, begin);
        assert!(watch.see(waiting(), at(30)).is_none());
        assert!(matches!(watch.see(waiting(), at(31)), Some(End::NotStarted(_))));

        // A start that took nearly all of its time takes nothing from the run, and a run is not a start that is late.
        let mut watch = Watch::new(LIMITS, begin);
        assert!(watch.see(waiting(), at(29)).is_none());
        assert!(watch.see(running(), at(30)).is_none());
        assert!(watch.see(running(), at(90)).is_none());
        assert!(matches!(watch.see(running(), at(91)), Some(End::Overran)));

        let mut watch = Watch::new(LIMITS, begin);
        assert!(matches!(watch.see(Sight::Cancelled, at(0)), Some(End::Cancelled)));
        let ended = Sight::Job(Box::new(seen(JobEnd::Complete, terminated(0, "Completed", ""))));
        assert!(
            matches!(watch.see(ended, at(500)), Some(End::Over(_))),
            "an end is an end however late it is seen"
        );
    }

    #[test]
    fn a_pod_that_does_not_start_is_told_of_with_its_reason() {
        let mut seen = JobOutcome::default();
        assert!(waits_for(&seen).contains("no Pod"));
        seen.pods = 1;
        assert!(waits_for(&seen).contains("is Pending"));
        seen.unscheduled = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu".into();
        assert!(waits_for(&seen).contains("finds no node: 0/3 nodes are available"));
        seen.main = ContainerEnd::Waiting {
            reason: "ImagePullBackOff".into(),
            message: "no such image".into(),
        };
        assert!(waits_for(&seen).contains("ImagePullBackOff"));
    }
}
