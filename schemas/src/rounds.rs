//! The machine of a Workload's run: which round it is in, and what comes next.
//!
//! [`next`] is a pure function of the spec, the ledger in status and the tasks of the current run. It
//! replays the rounds from the first one, so that an operator that died between two writes goes on
//! where it stopped.

use std::collections::{BTreeMap, BTreeSet};

use crate::agentic_task::{AgenticTask, AgenticTaskSpec, FailureReason};
use crate::dependencies::{Ending, TaskFacts};
use crate::labels;
use crate::phase::EndReason;
use crate::pipeline::{self, PipelineError};
use crate::shared::Verdict;
use crate::workload::{WorkloadSpec, WorkloadStatus};

mod chain;
mod task;

use chain::{Chain, ChainEnd, Judged};

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
    /// What was said of its end; empty where nothing was.
    pub summary: String,
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
            summary: summary_of(task),
        })
    }

    /// Describes the end: verdict or reason, and what was said of it.
    pub(crate) fn describe_end(&self) -> String {
        match self.summary.as_str() {
            "" => format!("{} ended {}", self.name, self.facts.describe()),
            said => format!("{} ended {}: {said}", self.name, self.facts.describe()),
        }
    }
}

/// Most characters of a task's summary that its Workload's message repeats.
const SAID: usize = 400;

fn summary_of(task: &AgenticTask) -> String {
    let result = task.status.as_ref().and_then(|status| status.result.as_ref());
    let said = result
        .and_then(|result| result.get("summary")?.as_str())
        .unwrap_or_default();
    said.chars().take(SAID).collect()
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

#[cfg(test)]
mod tests;
