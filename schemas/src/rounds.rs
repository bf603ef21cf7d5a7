//! The machine of a Workload's run: which round it is in, and what comes next.
//!
//! [`next`] is a pure function of the spec, the ledger in status and the tasks of the current run. It
//! replays the rounds from the first one, so that an operator that died between two writes goes on
//! where it stopped.

use std::collections::{BTreeMap, BTreeSet};

use crate::agentic_task::{AgenticTask, AgenticTaskSpec, FailureReason, Phase, TaskKind};
use crate::dependencies::{DependencyState, Ending, TaskFacts, dependency_state};
use crate::labels;
use crate::phase::EndReason;
use crate::pipeline::{self, Pipeline, PipelineError};
use crate::shared::Verdict;
use crate::workload::{PipelineStep, WorkloadSpec, WorkloadStatus};

mod task;

/// Rounds of a Workload that a queue made and that says nothing else.
pub const QUEUE_ROUNDS: i64 = 3;
/// Fix iterations after a reviewer's NO-GO where the Workload says nothing else.
pub const DEFAULT_REVIEW_ITERATIONS: i64 = 1;

/// A task of the current run, as the machine sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskView {
    /// Name of the AgenticTask.
    pub name: String,
    /// Step that it carries out.
    pub step: String,
    /// Run.
    pub run: i64,
    /// Round.
    pub round: i64,
    /// Phase, verdict, failure reason.
    pub facts: TaskFacts,
    /// Tokens that it used, prompt and completion.
    pub tokens: i64,
}

impl TaskView {
    /// Reads the view from a task of a Workload; `None` where the step's label is missing.
    pub fn of(task: &AgenticTask) -> Option<Self> {
        let step = task.metadata.labels.as_ref()?.get(labels::STEP)?.clone();
        let usage = task
            .status
            .as_ref()
            .and_then(|status| status.usage.clone())
            .unwrap_or_default();
        Some(Self {
            name: task.metadata.name.clone()?,
            step,
            run: task.spec.run.unwrap_or(1),
            round: task.spec.round.unwrap_or(1),
            facts: TaskFacts::of(task.status.as_ref()),
            tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
        })
    }
}

/// What the machine looks at.
#[derive(Clone, Copy, Debug)]
pub struct Ledger<'a> {
    /// Name of the Workload.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its spec.
    pub spec: &'a WorkloadSpec,
    /// Its status.
    pub status: Option<&'a WorkloadStatus>,
    /// Current run, from 1.
    pub run: i64,
    /// Base commit that the run is pinned to, where it is known.
    pub base_sha: Option<&'a str>,
    /// Tasks of the Workload; those of other runs are ignored.
    pub tasks: &'a [TaskView],
}

/// A task that has to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Name.
    pub name: String,
    /// Step (label).
    pub step: String,
    /// Round (label).
    pub round: i64,
    /// Spec.
    pub spec: AgenticTaskSpec,
}

/// A pending task that the operator ends without running it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskEnd {
    /// Name of the AgenticTask.
    pub name: String,
    /// How it ends.
    pub reason: EndReason,
    /// Why, for people.
    pub message: String,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The run has ended; nothing more happens to it.
    Done,
    /// Something has to end first.
    Wait(String),
    /// Tasks have to be created: those of round 1, of a further round, or those that an interrupted write left out.
    Create {
        /// Round of the newest of them.
        round: i64,
        /// Tasks that do not exist yet.
        tasks: Vec<NewTask>,
    },
    /// The run ends well.
    Complete {
        /// GATE-PASS, GO (not verified), or Skipped (the work was already done).
        verdict: Verdict,
        /// In one line.
        message: String,
    },
    /// The run does not end well.
    Fail {
        /// Verdict that decided it, where one did.
        verdict: Option<Verdict>,
        /// Reason, where it is one of those that have a name.
        reason: Option<FailureReason>,
        /// In one line.
        message: String,
    },
    /// The Workload asks for what is not built yet (condition NotSupportedYet).
    NotSupported(String),
}

/// What comes next, and which pending tasks end before that.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What comes next.
    pub step: Step,
    /// Pending tasks to end.
    pub ends: Vec<TaskEnd>,
    /// Highest round of any chain.
    pub round: i64,
    /// Fix iterations after reviews, summed over the chains.
    pub review_iterations: i64,
    /// Whether `maxTasks` cut issues off.
    pub truncated: bool,
}

/// How many of the latest round's tasks ended how; what was not needed counts nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// GO or GATE-PASS.
    pub succeeded: i64,
    /// Failed, NO-GO, GATE-FAIL, GATE-ERROR.
    pub failed: i64,
    /// INCOMPLETE.
    pub incomplete: i64,
}

/// Counts the tasks of a run; of each step, the latest round counts.
pub fn counts(tasks: &[TaskView], run: i64) -> Counts {
    let mut latest: BTreeMap<&str, &TaskView> = BTreeMap::new();
    for task in tasks.iter().filter(|task| task.run == run) {
        let known = latest.entry(&task.step).or_insert(task);
        if task.round > known.round {
            *known = task;
        }
    }
    let mut counts = Counts::default();
    for task in latest.values() {
        match task.facts.ending() {
            Ending::Well => counts.succeeded += 1,
            Ending::Badly if task.facts.verdict == Some(Verdict::Incomplete) => counts.incomplete += 1,
            Ending::Badly => counts.failed += 1,
            Ending::Open | Ending::NotNeeded => {}
        }
    }
    counts
}

/// Returns the tokens that the tasks of a run used.
pub fn tokens_used(tasks: &[TaskView], run: i64) -> i64 {
    tasks
        .iter()
        .filter(|task| task.run == run)
        .fold(0, |sum, task| sum.saturating_add(task.tokens))
}

/// Decides what comes next in a Workload's run.
pub fn next(ledger: &Ledger<'_>) -> Decision {
    let ended = ledger.status.is_some_and(|status| {
        status.run.unwrap_or(1) == ledger.run && status.phase.is_some_and(|phase| phase.is_terminal())
    });
    let bare = |step| Decision {
        step,
        ends: Vec::new(),
        round: 0,
        review_iterations: 0,
        truncated: false,
    };
    if ended {
        return bare(Step::Done);
    }
    let plan = match pipeline::expand(ledger.name, ledger.namespace, ledger.spec) {
        Ok(plan) => plan,
        Err(error @ PipelineError::NotSupportedYet(_)) => return bare(Step::NotSupported(error.to_string())),
        Err(error) => {
            let reason = Some(FailureReason::ConstraintViolated);
            return bare(Step::Fail {
                verdict: None,
                reason,
                message: error.to_string(),
            });
        }
    };
    let budget = ledger.spec.budget.as_ref().and_then(|budget| budget.tokens);
    let out_of_tokens = budget.is_some_and(|budget| tokens_used(ledger.tasks, ledger.run) >= budget);
    let chains = plan
        .chains()
        .iter()
        .map(|steps| Chain::replay(ledger, &plan, steps, out_of_tokens).judge())
        .collect();
    combine(chains, plan.truncated)
}

/// What became of one chain of steps.
struct Judged {
    end: ChainEnd,
    ends: Vec<TaskEnd>,
    round: i64,
    review_iterations: i64,
}

enum ChainEnd {
    Missing(Vec<NewTask>),
    Open(String),
    Well(Verdict),
    Badly {
        verdict: Option<Verdict>,
        reason: Option<FailureReason>,
        message: String,
    },
}

fn combine(chains: Vec<Judged>, truncated: bool) -> Decision {
    let round = chains.iter().map(|chain| chain.round).max().unwrap_or(0);
    let review_iterations = chains.iter().map(|chain| chain.review_iterations).sum();
    let (mut ends, mut missing) = (Vec::new(), Vec::new());
    let (mut open, mut failed) = (None, None);
    let mut verdicts = BTreeSet::new();
    for chain in chains {
        ends.extend(chain.ends);
        match chain.end {
            ChainEnd::Missing(tasks) => missing.extend(tasks),
            ChainEnd::Open(reason) => drop(open.get_or_insert(reason)),
            ChainEnd::Badly {
                verdict,
                reason,
                message,
            } => {
                failed.get_or_insert(Step::Fail {
                    verdict,
                    reason,
                    message,
                });
            }
            ChainEnd::Well(verdict) => drop(verdicts.insert(verdict.as_str())),
        }
    }
    let step = if !missing.is_empty() {
        Step::Create { round, tasks: missing }
    } else if let Some(reason) = open {
        Step::Wait(reason)
    } else if let Some(failed) = failed {
        failed
    } else if verdicts.contains(Verdict::Go.as_str()) {
        Step::Complete {
            verdict: Verdict::Go,
            message: "done, not verified by a gate".to_owned(),
        }
    } else if verdicts.contains(Verdict::GatePass.as_str()) {
        Step::Complete {
            verdict: Verdict::GatePass,
            message: format!("the gate passed in round {round}"),
        }
    } else {
        Step::Complete {
            verdict: Verdict::Skipped,
            message: "the work was already done".to_owned(),
        }
    };
    Decision {
        step,
        ends,
        round,
        review_iterations,
        truncated,
    }
}

/// A chain of steps with the task that stands for each step in the round that was reached.
struct Chain<'a> {
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

/// Why a round did not end well and another may follow.
struct Cause<'a> {
    task: &'a TaskView,
    review: bool,
}

impl<'a> Chain<'a> {
    fn replay(ledger: &'a Ledger<'a>, plan: &'a Pipeline, steps: &'a [&'a PipelineStep], out_of_tokens: bool) -> Self {
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
            return Some((gate, format!("{} of {limit} rounds are spent", self.round)));
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

    fn judge(self) -> Judged {
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
                let message = format!("{} ended {} and {why}", cause.task.name, cause.task.facts.describe());
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
                message: format!("{} ended {}", task.name, task.facts.describe()),
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

#[cfg(test)]
mod tests;
