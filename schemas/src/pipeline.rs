//! The steps of a Workload: written out in `spec.pipeline`, or made from `spec.issues`.

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::agentic_task::{Dependency, Payload, TaskKind};
use crate::graph;
use crate::names;
use crate::shared::LocalRef;
use crate::workload::{PipelineStep, WorkloadSpec};

/// Why a Workload has no usable pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PipelineError {
    /// Two steps have one name.
    #[error("failed to plan: spec.pipeline has two steps named {0:?}; give each its own name")]
    DuplicateStep(String),
    /// A step depends on a step that is not there.
    #[error("failed to plan: step {step:?} depends on {dependency:?}, which is no step of this pipeline")]
    UnknownDependency {
        /// Step.
        step: String,
        /// What it names.
        dependency: String,
    },
    /// An entry of a step's dependsOn is not usable.
    #[error("failed to plan: step {step:?}: {reason}")]
    BadDependency {
        /// Step.
        step: String,
        /// What is wrong.
        reason: String,
    },
    /// Steps wait for each other.
    #[error("failed to plan: steps {0} depend on each other in a cycle")]
    Cycle(String),
    /// An issue batch names no coder.
    #[error("failed to plan: spec.issues needs spec.coderAgentRef")]
    NoCoder,
    /// The Workload asks for something that is not built yet.
    #[error("failed to plan: {0} is not supported yet; write the steps out in spec.pipeline")]
    NotSupportedYet(&'static str),
}

/// The steps of a Workload and who waits for whom.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// Steps, in order.
    pub steps: Vec<PipelineStep>,
    /// Names of the steps that each step waits for.
    pub upstream: BTreeMap<String, Vec<String>>,
    /// Whether `spec.maxTasks` cut issues off (condition Truncated).
    pub truncated: bool,
}

/// Works out the steps of a Workload: `pipeline` wins over `issues`, which wins over intent alone.
pub fn expand(workload: &str, namespace: &str, spec: &WorkloadSpec) -> Result<Pipeline, PipelineError> {
    let (mut steps, truncated) = match (&spec.pipeline, &spec.issues) {
        (Some(steps), _) if !steps.is_empty() => (steps.clone(), false),
        (_, Some(issues)) if !issues.is_empty() => issue_steps(workload, spec, issues)?,
        _ => {
            return Err(PipelineError::NotSupportedYet(
                "a Workload with intent alone (a planner decomposes it)",
            ));
        }
    };
    let upstream = check(&steps, namespace)?;
    fill_branches(workload, &mut steps, &upstream);
    Ok(Pipeline {
        steps,
        upstream,
        truncated,
    })
}

fn check(steps: &[PipelineStep], namespace: &str) -> Result<BTreeMap<String, Vec<String>>, PipelineError> {
    let mut upstream = BTreeMap::new();
    for step in steps {
        let names = step.depends_on.iter().map(|dependency: &Dependency| {
            dependency
                .resolve(namespace)
                .map(str::to_owned)
                .map_err(|reason| PipelineError::BadDependency {
                    step: step.name.clone(),
                    reason,
                })
        });
        if upstream
            .insert(step.name.clone(), names.collect::<Result<Vec<_>, _>>()?)
            .is_some()
        {
            return Err(PipelineError::DuplicateStep(step.name.clone()));
        }
    }
    for (step, dependencies) in &upstream {
        if let Some(unknown) = dependencies.iter().find(|name| !upstream.contains_key(*name)) {
            return Err(PipelineError::UnknownDependency {
                step: step.clone(),
                dependency: unknown.clone(),
            });
        }
    }
    let edges = upstream
        .iter()
        .map(|(name, to)| (name.as_str(), to.iter().map(String::as_str).collect()))
        .collect();
    let cycle = graph::on_cycles(&edges);
    if !cycle.is_empty() {
        return Err(PipelineError::Cycle(cycle.into_iter().collect::<Vec<_>>().join(", ")));
    }
    Ok(upstream)
}

/// Makes `code-<N>`, `verify-<N>` and `review-<N>-<i>` for each issue; `maxTasks` cuts whole issues.
fn issue_steps(
    workload: &str,
    spec: &WorkloadSpec,
    issues: &[i64],
) -> Result<(Vec<PipelineStep>, bool), PipelineError> {
    let coder = spec
        .coder_agent_ref
        .clone()
        .filter(|coder| coder.named().is_some())
        .ok_or(PipelineError::NoCoder)?;
    let verifier = spec
        .verifier_agent_ref
        .clone()
        .filter(|verifier| verifier.named().is_some());
    let reviewers = spec.reviewer_agent_refs.clone().unwrap_or_default();
    let mut seen = BTreeSet::new();
    let (mut steps, mut truncated) = (Vec::new(), false);
    for issue in issues.iter().filter(|issue| seen.insert(**issue)) {
        let of_issue = steps_of_issue(workload, *issue, &coder, verifier.as_ref(), &reviewers);
        let limit = spec
            .max_tasks
            .filter(|limit| *limit > 0)
            .and_then(|limit| usize::try_from(limit).ok());
        if limit.is_some_and(|limit| steps.len() + of_issue.len() > limit) {
            truncated = true;
            break;
        }
        steps.extend(of_issue);
    }
    Ok((steps, truncated))
}

fn steps_of_issue(
    workload: &str,
    issue: i64,
    coder: &LocalRef,
    verifier: Option<&LocalRef>,
    reviewers: &[LocalRef],
) -> Vec<PipelineStep> {
    let payload = Payload {
        issue: Some(issue),
        branch: Some(names::default_branch(&names::fit(&format!("{workload}-{issue}")))),
        ..Default::default()
    };
    let step = |name: String, kind, agent: &LocalRef, after: &[String]| PipelineStep {
        name,
        kind,
        agent_ref: agent.clone(),
        depends_on: after.iter().cloned().map(Dependency::Name).collect(),
        payload: payload.clone(),
        ..Default::default()
    };
    let code = format!("code-{issue}");
    let mut steps = vec![step(code.clone(), TaskKind::IssueFix, coder, &[])];
    let mut last = code;
    if let Some(verifier) = verifier {
        let verify = format!("verify-{issue}");
        steps.push(step(verify.clone(), TaskKind::Verify, verifier, &[last]));
        last = verify;
    }
    for (at, reviewer) in reviewers.iter().enumerate() {
        steps.push(step(
            format!("review-{issue}-{}", at + 1),
            TaskKind::Review,
            reviewer,
            &[last.clone()],
        ));
    }
    steps
}

/// Gives a coder's step without a branch one, and steps that look at a branch the one of the step they follow.
fn fill_branches(workload: &str, steps: &mut [PipelineStep], upstream: &BTreeMap<String, Vec<String>>) {
    let unnamed = |step: &PipelineStep| step.kind == TaskKind::IssueFix && step.payload.branch.is_none();
    let several = steps.iter().filter(|step| unnamed(step)).count() > 1;
    for step in steps.iter_mut().filter(|step| unnamed(step)) {
        let prefix = step.payload.branch_prefix.as_deref().unwrap_or(names::BRANCH_PREFIX);
        let name = if several {
            format!("{workload}-{}", step.name)
        } else {
            workload.to_owned()
        };
        step.payload.branch = Some(format!("{prefix}{}", names::fit(&name)));
    }
    let known: BTreeMap<String, (TaskKind, Option<String>)> = steps
        .iter()
        .map(|step| (step.name.clone(), (step.kind, step.payload.branch.clone())))
        .collect();
    for step in steps.iter_mut() {
        if matches!(step.kind, TaskKind::Verify | TaskKind::Review) && step.payload.branch.is_none() {
            step.payload.branch = nearest(&step.name, upstream, |name| {
                known.get(name).and_then(|(_, branch)| branch.clone())
            })
            .into_iter()
            .next();
        }
    }
}

/// Walks upstream from `step`, level by level, and returns what `pick` finds on the first level where it finds anything.
pub fn nearest<T>(step: &str, upstream: &BTreeMap<String, Vec<String>>, pick: impl Fn(&str) -> Option<T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    let mut level: Vec<&str> = upstream.get(step).into_iter().flatten().map(String::as_str).collect();
    while !level.is_empty() {
        level.retain(|name| seen.insert(*name));
        let found: Vec<T> = level.iter().filter_map(|name| pick(name)).collect();
        if !found.is_empty() {
            return found;
        }
        level = level
            .iter()
            .filter_map(|name| upstream.get(*name))
            .flatten()
            .map(String::as_str)
            .collect();
    }
    Vec::new()
}

impl Pipeline {
    /// Returns the step of a name.
    pub fn step(&self, name: &str) -> Option<&PipelineStep> {
        self.steps.iter().find(|step| step.name == name)
    }

    /// Groups the steps into chains: steps that hang together by dependencies, each in the pipeline's order.
    pub fn chains(&self) -> Vec<Vec<&PipelineStep>> {
        let mut chain_of: BTreeMap<&str, usize> = self
            .steps
            .iter()
            .enumerate()
            .map(|(at, step)| (step.name.as_str(), at))
            .collect();
        for step in &self.steps {
            for other in self.upstream.get(&step.name).into_iter().flatten() {
                let (Some(&a), Some(&b)) = (chain_of.get(step.name.as_str()), chain_of.get(other.as_str())) else {
                    continue;
                };
                let (low, high) = (a.min(b), a.max(b));
                chain_of
                    .values_mut()
                    .filter(|chain| **chain == high)
                    .for_each(|chain| *chain = low);
            }
        }
        let mut chains: BTreeMap<usize, Vec<&PipelineStep>> = BTreeMap::new();
        for step in &self.steps {
            chains.entry(chain_of[step.name.as_str()]).or_default().push(step);
        }
        chains.into_values().collect()
    }

    /// Returns the steps that must run again so that `failed` can pass: the coder before it and all that follows that.
    /// Empty where nobody could fix it.
    pub fn rerun_after(&self, failed: &str) -> BTreeSet<String> {
        let kind = |name: &str| self.step(name).map(|step| step.kind);
        let of = |wanted| {
            nearest(failed, &self.upstream, |name| {
                (kind(name) == Some(wanted)).then(|| name.to_owned())
            })
        };
        let mut fixers = of(TaskKind::IssueFix);
        if fixers.is_empty() {
            fixers = of(TaskKind::Freeform);
        }
        let mut set: BTreeSet<String> = fixers.into_iter().collect();
        loop {
            let before = set.len();
            for (step, dependencies) in &self.upstream {
                if dependencies.iter().any(|name| set.contains(name)) {
                    set.insert(step.clone());
                }
            }
            if set.len() == before {
                return set;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use serde_json::json;

    fn spec(value: serde_json::Value) -> WorkloadSpec {
        serde_json::from_value(value).unwrap()
    }

    fn steps(list: &[(&str, &str, &[&str])]) -> WorkloadSpec {
        let pipeline: Vec<_> = list
            .iter()
            .map(|(name, kind, after)| json!({"name": name, "kind": kind, "agentRef": {"name": "a"}, "payload": {}, "dependsOn": after}))
            .collect();
        spec(json!({"intent": "x", "pipeline": pipeline}))
    }

    #[test]
    fn issues_become_code_verify_and_review_steps() {
        let spec = spec(
            json!({"intent": "x", "issues": [5, 7], "coderAgentRef": {"name": "c"}, "verifierAgentRef": {"name": "v"}, "reviewerAgentRefs": [{"name": "r"}, {"name": "s"}]}),
        );
        let plan = expand("wl", "ns", &spec).unwrap();
        let names: Vec<_> = plan.steps.iter().map(|step| step.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "code-5",
                "verify-5",
                "review-5-1",
                "review-5-2",
                "code-7",
                "verify-7",
                "review-7-1",
                "review-7-2"
            ]
        );
        assert_eq!(plan.upstream["review-5-2"], ["verify-5"]);
        assert_eq!(plan.chains().len(), 2);
        assert!(plan.steps.iter().all(|step| step.payload.branch.is_some()));
    }

    #[test]
    fn reviews_follow_the_code_where_nobody_verifies() {
        let spec = spec(
            json!({"intent": "x", "issues": [5], "coderAgentRef": {"name": "c"}, "reviewerAgentRefs": [{"name": "r"}]}),
        );
        assert_eq!(expand("wl", "ns", &spec).unwrap().upstream["review-5-1"], ["code-5"]);
    }

    #[test]
    fn max_tasks_cuts_whole_issues() {
        let spec = spec(
            json!({"intent": "x", "issues": [1, 2, 3], "maxTasks": 5, "coderAgentRef": {"name": "c"}, "verifierAgentRef": {"name": "v"}}),
        );
        let plan = expand("wl", "ns", &spec).unwrap();
        assert_eq!((plan.steps.len(), plan.truncated), (4, true));
    }

    #[test]
    fn an_unusable_pipeline_is_refused_with_its_reason() {
        let error = |spec: &WorkloadSpec| expand("wl", "ns", spec).unwrap_err();
        assert!(matches!(
            error(&steps(&[("a", "verify", &[]), ("a", "verify", &[])])),
            PipelineError::DuplicateStep(_)
        ));
        assert!(matches!(
            error(&steps(&[("a", "verify", &["b"])])),
            PipelineError::UnknownDependency { .. }
        ));
        assert_eq!(
            error(&steps(&[
                ("a", "verify", &["b"]),
                ("b", "verify", &["a"]),
                ("c", "verify", &["a"])
            ])),
            PipelineError::Cycle("a, b".into())
        );
        assert!(matches!(
            error(&spec(json!({"intent": "x"}))),
            PipelineError::NotSupportedYet(_)
        ));
        assert_eq!(
            error(&spec(json!({"intent": "x", "issues": [1]}))),
            PipelineError::NoCoder
        );
    }

    #[test]
    fn foreign_namespaces_are_refused_and_both_shapes_of_depends_on_are_read() {
        let with = |entry: serde_json::Value| {
            let mut spec = steps(&[("a", "issue-fix", &[]), ("b", "verify", &[])]);
            spec.pipeline.as_mut().unwrap()[1].depends_on = serde_json::from_value(json!([entry])).unwrap();
            expand("wl", "ns", &spec)
        };
        assert_eq!(with(json!("a")).unwrap().upstream["b"], ["a"]);
        assert_eq!(
            with(json!({"name": "a", "namespace": "ns"})).unwrap().upstream["b"],
            ["a"]
        );
        assert!(matches!(
            with(json!({"name": "a", "namespace": "other"})),
            Err(PipelineError::BadDependency { .. })
        ));
        assert!(matches!(with(json!(7)), Err(PipelineError::BadDependency { .. })));
    }

    #[test]
    fn a_fix_runs_the_coder_and_all_that_follows_it_but_not_what_came_before() {
        let plan = expand(
            "wl",
            "ns",
            &steps(&[
                ("plan", "freeform", &[]),
                ("code", "issue-fix", &["plan"]),
                ("verify", "verify", &["code"]),
                ("review", "review", &["verify"]),
            ]),
        )
        .unwrap();
        let set = plan.rerun_after("verify");
        assert_eq!(
            set.iter().map(String::as_str).collect::<Vec<_>>(),
            ["code", "review", "verify"]
        );
        assert_eq!(
            plan.step("verify").unwrap().payload.branch.as_deref(),
            Some("foreman/wl")
        );
        let alone = expand("wl", "ns", &steps(&[("verify", "verify", &[])])).unwrap();
        assert!(alone.rerun_after("verify").is_empty());
    }
}
