//! Builds the AgenticTask of one step in one round.

use std::collections::BTreeSet;

use super::{Ledger, NewTask, TaskView};
use crate::agentic_task::{AgenticTaskSpec, Dependency, TaskKind};
use crate::names;
use crate::pipeline::{self, Pipeline};
use crate::shared::{Budget, LocalRef};
use crate::workload::PipelineStep;

/// Why a round did not end well and another may follow.
pub(super) struct Cause<'a> {
    pub(super) task: &'a TaskView,
    pub(super) review: bool,
}

/// Builds the task of `step` in `round`; `set` holds the steps that run in this round, `earlier` names the task that
/// stands for any other step.
pub(super) fn build(
    ledger: &Ledger<'_>,
    plan: &Pipeline,
    step: &PipelineStep,
    round: i64,
    set: &BTreeSet<String>,
    earlier: &dyn Fn(&str) -> Option<String>,
    cause: Option<&Cause<'_>>,
) -> NewTask {
    let spec = ledger.spec;
    let name_of = |step: &str| names::task_name(ledger.name, step, ledger.run, round);
    let depends_on = plan
        .upstream
        .get(&step.name)
        .into_iter()
        .flatten()
        .map(|name| {
            if set.contains(name) {
                name_of(name)
            } else {
                earlier(name).unwrap_or_else(|| name_of(name))
            }
        })
        .map(Dependency::Name)
        .collect();
    let fixes = cause.filter(|cause| is_fixer(plan, step, &cause.task.step));
    let mut payload = step.payload.clone();
    payload.repo = payload.repo.or_else(|| spec.repo.clone());
    payload.base_branch = payload.base_branch.or_else(|| spec.base_branch.clone());
    payload.allow_overwrite = payload.allow_overwrite.or(spec.allow_overwrite);
    payload.open_pull_request = payload.open_pull_request.or(spec.open_pull_request);
    if fixes.is_some() {
        payload.revise_from_branch = payload.branch.clone();
    }
    let revision_coder = spec
        .revision_coder_agent_ref
        .clone()
        .filter(|agent| agent.named().is_some());
    let agent = match (fixes, revision_coder) {
        (Some(cause), Some(coder)) if cause.review => coder,
        _ => step.agent_ref.clone(),
    };
    NewTask {
        name: name_of(&step.name),
        step: step.name.clone(),
        round,
        spec: AgenticTaskSpec {
            agent_ref: Some(agent).filter(|agent| agent.named().is_some()),
            depends_on,
            gate_profile: step.gate_profile.clone().or_else(|| spec.gate_profile.clone()),
            kind: step.kind,
            mcp_enabled: spec.mcp_enabled,
            payload,
            priority: step.priority.or(spec.priority),
            timeout_seconds: step.timeout_seconds,
            verdict_policy: spec.verdict_policy.clone(),
            workload_ref: Some(LocalRef::new(ledger.name)),
            run: Some(ledger.run),
            round: Some(round),
            base_sha: ledger.base_sha.map(str::to_owned),
            feedback_from: fixes.map(|cause| cause.task.name.clone()),
            budget: budget(ledger),
            ..Default::default()
        },
    }
}

/// Says whether `step` is the coder that has to fix what ended `failed`.
fn is_fixer(plan: &Pipeline, step: &PipelineStep, failed: &str) -> bool {
    let nearest = |kind: TaskKind| {
        pipeline::nearest(failed, &plan.upstream, |name| {
            plan.step(name)
                .filter(|step| step.kind == kind)
                .map(|step| step.name.clone())
        })
    };
    let mut fixers = nearest(TaskKind::IssueFix);
    if fixers.is_empty() {
        fixers = nearest(TaskKind::Freeform);
    }
    fixers.contains(&step.name)
}

/// Gives a task the Workload's tokens, and its limits per task; rounds stay with the Workload.
///
/// The tokens are those of the whole run: who works on the task takes off what the run has used by then, and only that
/// is up to date.
fn budget(ledger: &Ledger<'_>) -> Option<Budget> {
    let whole = ledger.spec.budget.as_ref()?;
    let budget = Budget {
        rounds: None,
        ..whole.clone()
    };
    Some(budget).filter(|budget| *budget != Budget::default())
}
