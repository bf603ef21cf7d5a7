//! One chain of steps: which round it is in, and what it came to.

use std::collections::{BTreeMap, BTreeSet};

use super::task::Cause;
use super::{DEFAULT_REVIEW_ITERATIONS, Ledger, NewTask, TaskEnd, TaskView, task};
use crate::agentic_task::{FailureReason, Phase, TaskKind};
use crate::dependencies::{DependencyState, Ending, dependency_state};
use crate::phase::EndReason;
use crate::pipeline::Pipeline;
use crate::shared::Verdict;
use crate::workload::PipelineStep;

/// What became of one chain of steps.
pub(super) struct Judged {
    pub(super) end: ChainEnd,
    pub(super) ends: Vec<TaskEnd>,
    pub(super) round: i64,
    pub(super) review_iterations: i64,
}

/// How a chain stands.
pub(super) enum ChainEnd {
    Missing(Vec<NewTask>),
    Open(String),
    Well(Verdict),
    Badly {
        verdict: Option<Verdict>,
        reason: Option<FailureReason>,
        message: String,
    },
}

/// A chain of steps with the task that stands for each step in the round that was reached.
pub(super) struct Chain<'a> {
    ledger: &'a Ledger<'a>,
    plan: &'a Pipeline,
    steps: &'a [&'a PipelineStep],
    out_of_tokens: bool,
    round: i64,
    reviews: i64,
    /// The task of each step, by the round in which it was last due.
    now: BTreeMap<&'a str, &'a TaskView>,
    missing: Vec<NewTask>,
}

impl<'a> Chain<'a> {
    /// Goes through the rounds from the first one.
    pub(super) fn replay(
        ledger: &'a Ledger<'a>,
        plan: &'a Pipeline,
        steps: &'a [&'a PipelineStep],
        out_of_tokens: bool,
    ) -> Self {
        let mut chain = Self {
            ledger,
            plan,
            steps,
            out_of_tokens,
            round: 1,
            reviews: 0,
            now: BTreeMap::new(),
            missing: Vec::new(),
        };
        let all: BTreeSet<String> = steps.iter().map(|step| step.name.clone()).collect();
        chain.enter(1, &all, None);
        let reached = ledger
            .tasks
            .iter()
            .filter(|task| task.run == ledger.run && all.contains(&task.step))
            .map(|task| task.round)
            .max()
            .unwrap_or(1);
        while chain.missing.is_empty() && chain.round < reached {
            let Some(cause) = chain.cause() else { break };
            let set = plan.rerun_after(&cause.task.step);
            if set.is_empty() {
                break;
            }
            chain.reviews += i64::from(cause.review);
            let round = chain.round + 1;
            chain.enter(round, &set, Some(&cause));
        }
        chain
    }

    /// Makes `round` the current one: its tasks take the place of earlier ones, absent ones are missing.
    fn enter(&mut self, round: i64, set: &BTreeSet<String>, cause: Option<&Cause<'_>>) {
        let steps = self.steps;
        let mut absent = Vec::new();
        for step in steps.iter().filter(|step| set.contains(&step.name)) {
            let found = self
                .ledger
                .tasks
                .iter()
                .find(|task| task.run == self.ledger.run && task.round == round && task.step == step.name);
            match found {
                Some(task) => drop(self.now.insert(&step.name, task)),
                None => absent.push(*step),
            }
        }
        self.round = round;
        let earlier = |name: &str| self.now.get(name).map(|task| task.name.clone());
        let made = absent
            .iter()
            .map(|step| task::build(self.ledger, self.plan, step, round, set, &earlier, cause));
        self.missing = made.collect();
    }

    /// Returns what ended the round: a gate that refuted the change, or a reviewer who found it not good enough.
    fn cause(&self) -> Option<Cause<'a>> {
        let ended = |verdict| {
            self.steps
                .iter()
                .filter_map(|step| self.now.get(step.name.as_str()).copied().map(|task| (step, task)))
                .find(move |(step, task)| {
                    task.facts.phase == Phase::Succeeded
                        && task.facts.verdict == Some(verdict)
                        && (verdict == Verdict::GateFail || step.kind == TaskKind::Review)
                })
        };
        ended(Verdict::GateFail)
            .map(|(_, task)| Cause { task, review: false })
            .or_else(|| ended(Verdict::NoGo).map(|(_, task)| Cause { task, review: true }))
    }

    /// Says why no further round may follow, or nothing where one may.
    fn refusal(&self, cause: &Cause<'_>) -> Option<(Option<FailureReason>, String)> {
        let spec = self.ledger.spec;
        let rounds = spec.budget.as_ref().and_then(|budget| budget.rounds);
        let gate = (!cause.review).then_some(FailureReason::GateFailed);
        if self.plan.rerun_after(&cause.task.step).is_empty() {
            return Some((gate, "no coder step comes before it".to_owned()));
        }
        if self.out_of_tokens {
            return Some((
                Some(FailureReason::BudgetExhausted),
                "the budget of tokens is spent".to_owned(),
            ));
        }
        let limit = rounds.unwrap_or(if cause.review { i64::MAX } else { 1 });
        if self.round >= limit {
            return Some((
                gate,
                format!(
                    "{} of {limit} rounds {} spent",
                    self.round,
                    if limit == 1 { "is" } else { "are" }
                ),
            ));
        }
        let reviews = spec.max_review_iterations.unwrap_or(DEFAULT_REVIEW_ITERATIONS);
        if cause.review && self.reviews >= reviews {
            return Some((
                None,
                format!("{} of {reviews} review iterations are spent", self.reviews),
            ));
        }
        None
    }

    fn dependency_state(&self, step: &str) -> DependencyState {
        let upstream = self.plan.upstream.get(step).into_iter().flatten();
        dependency_state(upstream.map(|name| {
            let task = self.now.get(name.as_str()).copied();
            (
                task.map_or(name.as_str(), |task| task.name.as_str()),
                task.map(|task| &task.facts),
            )
        }))
    }

    /// Says where the chain stands and what comes next.
    pub(super) fn judge(self) -> Judged {
        let (round, reviews) = (self.round, self.reviews);
        let judged = |end, ends| Judged {
            end,
            ends,
            round,
            review_iterations: reviews,
        };
        if !self.missing.is_empty() {
            return judged(ChainEnd::Missing(self.missing), Vec::new());
        }
        let cause = self.cause();
        let refusal = cause.as_ref().map(|cause| self.refusal(cause));
        let goes_on = matches!(refusal, Some(None));
        let (ends, busy) = self.pending(goes_on);
        if let Some(reason) = busy {
            return judged(ChainEnd::Open(reason), ends);
        }
        match (cause, refusal) {
            (Some(cause), Some(None)) => Judged {
                round: round + 1,
                review_iterations: reviews + i64::from(cause.review),
                ..judged(ChainEnd::Missing(self.next_round(&cause)), ends)
            },
            (Some(cause), Some(Some((reason, why)))) => {
                let word = cause.task.facts.verdict;
                let message = format!("{}; {why}", cause.task.describe_end());
                judged(
                    ChainEnd::Badly {
                        verdict: word,
                        reason,
                        message,
                    },
                    ends,
                )
            }
            _ => {
                let end = self.outcome(&ends);
                judged(end, ends)
            }
        }
    }

    /// Returns which pending tasks end now, and what still has to be waited for.
    fn pending(&self, goes_on: bool) -> (Vec<TaskEnd>, Option<String>) {
        let (mut ends, mut busy) = (Vec::new(), None);
        for step in self.steps {
            let Some(task) = self.now.get(step.name.as_str()) else {
                continue;
            };
            let end = |reason, message| TaskEnd {
                name: task.name.clone(),
                reason,
                message,
            };
            match (task.facts.phase, self.dependency_state(&step.name)) {
                (Phase::Succeeded | Phase::Failed, _) => {}
                (Phase::Pending, DependencyState::UpstreamFailed(_)) if goes_on => {
                    ends.push(end(
                        EndReason::Skipped,
                        format!("round {} takes its place", self.round + 1),
                    ));
                }
                (Phase::Pending, DependencyState::UpstreamFailed(why)) => {
                    ends.push(end(EndReason::UpstreamFailed, why))
                }
                (Phase::Pending, DependencyState::Skip(why)) => ends.push(end(EndReason::Skipped, why)),
                (Phase::Pending, _) if self.out_of_tokens && step.kind != TaskKind::Verify => {
                    ends.push(end(EndReason::OutOfBudget, "the budget of tokens is spent".to_owned()));
                }
                // A task behind one that is about to end ends in its turn, at the next look.
                (Phase::Pending, DependencyState::Waiting(_)) if !ends.is_empty() => {
                    busy.get_or_insert_with(|| format!("{} waits", task.name));
                }
                (phase, _) => drop(busy.get_or_insert_with(|| format!("{} is {}", task.name, phase.as_str()))),
            }
        }
        (ends, busy)
    }

    fn next_round(&self, cause: &Cause<'_>) -> Vec<NewTask> {
        let set = self.plan.rerun_after(&cause.task.step);
        let earlier = |name: &str| self.now.get(name).map(|task| task.name.clone());
        let due = self.steps.iter().filter(|step| set.contains(&step.name));
        due.map(|step| {
            task::build(
                self.ledger,
                self.plan,
                step,
                self.round + 1,
                &set,
                &earlier,
                Some(cause),
            )
        })
        .collect()
    }

    /// Says what the chain came to once nothing of it is open.
    fn outcome(&self, ends: &[TaskEnd]) -> ChainEnd {
        if !ends.is_empty() {
            return ChainEnd::Open("tasks that cannot run are being ended".to_owned());
        }
        let tasks: Vec<&TaskView> = self
            .steps
            .iter()
            .filter_map(|step| self.now.get(step.name.as_str()).copied())
            .collect();
        let bad = |upstream: bool| {
            tasks.iter().find(|task| {
                task.facts.ending() == Ending::Badly
                    && (task.facts.failure_reason == Some(FailureReason::UpstreamFailed)) == upstream
            })
        };
        if let Some(task) = bad(false).or_else(|| bad(true)) {
            return ChainEnd::Badly {
                verdict: task.facts.verdict,
                reason: task.facts.failure_reason,
                message: task.describe_end(),
            };
        }
        let has = |verdict| tasks.iter().any(|task| task.facts.verdict == Some(verdict));
        ChainEnd::Well(match (has(Verdict::GatePass), has(Verdict::Go)) {
            (true, _) => Verdict::GatePass,
            (false, true) => Verdict::Go,
            (false, false) => Verdict::Skipped,
        })
    }
}
