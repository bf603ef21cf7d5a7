//! Makes the object of a task document: the queue's defaults are applied here, and only here.

use std::collections::BTreeMap;

use kube::core::ObjectMeta;

use super::{MarkdownTask, TaskContent, TaskDocument, run_key};
use crate::agentic_task::{Dependency, Payload, TaskKind};
use crate::file_error::{FileError, quote};
use crate::labels;
use crate::names;
use crate::rounds::QUEUE_ROUNDS;
use crate::shared::{Budget, LocalRef};
use crate::task_queue::QueueDefaults;
use crate::workload::{PipelineStep, WorkloadSpec};
use crate::{AgenticTask, Workload};

/// Name of the Agent that a queue without defaults takes for a role.
const CODER: &str = "coder";
const VERIFIER: &str = "verifier";

/// The queue that a task file belongs to, as it stands when a run starts.
#[derive(Clone, Copy, Debug)]
pub struct QueueContext<'a> {
    /// Name of the TaskQueue.
    pub name: &'a str,
    /// Its UID.
    pub uid: &'a str,
    /// Its namespace, where everything it makes lives.
    pub namespace: &'a str,
    /// What a task inherits.
    pub defaults: &'a QueueDefaults,
    /// Revision at which the file was read, as `branch@sha1:<hex>`.
    pub revision: &'a str,
    /// Object names that the file's `depends` stands for (see `queue_set`).
    pub depends_on: &'a [String],
}

/// What a task document becomes.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskObject {
    /// A Workload.
    Workload(Box<Workload>),
    /// A bare AgenticTask.
    AgenticTask(Box<AgenticTask>),
}

impl TaskObject {
    /// Returns the object's metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Workload(workload) => &workload.metadata,
            Self::AgenticTask(task) => &task.metadata,
        }
    }

    /// Returns the object's kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Workload(_) => "Workload",
            Self::AgenticTask(_) => "AgenticTask",
        }
    }
}

/// Makes the object of a document: name, namespace, labels, annotations, defaults, an explicit pipeline for Markdown.
///
/// `spec.run` stays unset: the queue counts runs. The error is a namespace that is not the queue's.
pub fn resolve(document: &TaskDocument, queue: &QueueContext<'_>) -> Result<TaskObject, FileError> {
    let key = run_key(document);
    match &document.content {
        TaskContent::Workload(workload) => {
            let mut workload = workload.clone();
            set_metadata(&mut workload.metadata, document, queue, &key)?;
            fill_workload(&mut workload.spec, queue.defaults);
            workload.spec.run_key = Some(key);
            Ok(TaskObject::Workload(workload))
        }
        TaskContent::AgenticTask(task) => {
            let mut task = task.clone();
            set_metadata(&mut task.metadata, document, queue, &key)?;
            fill_task(&mut task, queue.defaults);
            Ok(TaskObject::AgenticTask(task))
        }
        TaskContent::Markdown(markdown) => {
            let name = document.object_name(queue.uid);
            let mut spec = markdown_spec(markdown, &name, queue);
            spec.run_key = Some(key.clone());
            let mut workload = Workload::new(&name, spec);
            set_metadata(&mut workload.metadata, document, queue, &key)?;
            Ok(TaskObject::Workload(Box::new(workload)))
        }
    }
}

fn set_metadata(
    metadata: &mut ObjectMeta,
    document: &TaskDocument,
    queue: &QueueContext<'_>,
    key: &str,
) -> Result<(), FileError> {
    if let Some(other) = metadata
        .namespace
        .as_deref()
        .filter(|other| !other.is_empty() && *other != queue.namespace)
    {
        let message = format!("metadata.namespace is {}", quote(other));
        return Err(FileError::new(&document.path, document.namespace_at, message)
            .expected(format!("{:?}, the queue's namespace", queue.namespace))
            .suggestion("remove the namespace"));
    }
    metadata.namespace = Some(queue.namespace.to_owned());
    metadata
        .labels
        .get_or_insert_default()
        .insert(labels::QUEUE.to_owned(), names::label_value(queue.name));
    let annotations = metadata.annotations.get_or_insert_with(BTreeMap::new);
    for (name, value) in [
        (labels::QUEUE_UID, queue.uid),
        (labels::SOURCE_PATH, &document.path),
        (labels::SOURCE_REVISION, queue.revision),
        (labels::RUN_KEY, key),
    ] {
        annotations.insert(name.to_owned(), value.to_owned());
    }
    for (name, value) in labels::left_alone() {
        annotations.entry(name).or_insert(value);
    }
    Ok(())
}

/// Returns what a queue-made piece of work may spend: its own word, then the queue's, then three rounds.
fn budget(own: Option<&Budget>, defaults: Option<&Budget>) -> Budget {
    let none = Budget::default();
    let (own, defaults) = (own.unwrap_or(&none), defaults.unwrap_or(&none));
    Budget {
        rounds: own.rounds.or(defaults.rounds).or(Some(QUEUE_ROUNDS)),
        turns: own.turns.or(defaults.turns),
        tokens: own.tokens.or(defaults.tokens),
        seconds: own.seconds.or(defaults.seconds),
    }
}

fn named(agent: Option<&LocalRef>) -> Option<LocalRef> {
    agent.filter(|agent| agent.named().is_some()).cloned()
}

fn fill_workload(spec: &mut WorkloadSpec, defaults: &QueueDefaults) {
    fn inherit<T: Clone>(own: &mut Option<T>, default: &Option<T>) {
        if own.is_none() {
            own.clone_from(default);
        }
    }
    inherit(&mut spec.repo, &defaults.repo);
    inherit(&mut spec.base_branch, &defaults.base_branch);
    inherit(&mut spec.coder_agent_ref, &defaults.coder_agent_ref);
    inherit(&mut spec.verifier_agent_ref, &defaults.verifier_agent_ref);
    inherit(&mut spec.reviewer_agent_refs, &defaults.reviewer_agent_refs);
    inherit(&mut spec.gate_profile, &defaults.gate_profile);
    inherit(&mut spec.priority, &defaults.priority);
    inherit(&mut spec.open_pull_request, &defaults.open_pull_request);
    spec.budget = Some(budget(spec.budget.as_ref(), defaults.budget.as_ref()));
    for step in spec
        .pipeline
        .iter_mut()
        .flatten()
        .filter(|step| step.agent_ref.named().is_none())
    {
        if let Some(agent) = agent_for(step.kind, defaults) {
            step.agent_ref = agent;
        }
    }
}

fn agent_for(kind: TaskKind, defaults: &QueueDefaults) -> Option<LocalRef> {
    match kind {
        TaskKind::IssueFix => named(defaults.coder_agent_ref.as_ref()),
        TaskKind::Verify => named(defaults.verifier_agent_ref.as_ref()),
        TaskKind::Review => named(
            defaults
                .reviewer_agent_refs
                .as_ref()
                .and_then(|reviewers| reviewers.first()),
        ),
        // Without an Agent these run on a node's default executor, and go on doing so.
        TaskKind::Freeform | TaskKind::Integrate | TaskKind::Reconcile => None,
    }
}

fn fill_task(task: &mut AgenticTask, defaults: &QueueDefaults) {
    let spec = &mut task.spec;
    spec.payload.repo = spec.payload.repo.take().or_else(|| defaults.repo.clone());
    spec.payload.base_branch = spec.payload.base_branch.take().or_else(|| defaults.base_branch.clone());
    spec.agent_ref = named(spec.agent_ref.as_ref()).or_else(|| agent_for(spec.kind, defaults));
    spec.gate_profile = spec.gate_profile.take().or_else(|| defaults.gate_profile.clone());
    spec.priority = spec.priority.or(defaults.priority);
    spec.payload.open_pull_request = spec.payload.open_pull_request.or(defaults.open_pull_request);
    let whole = budget(spec.budget.as_ref(), defaults.budget.as_ref());
    // One task has no rounds.
    spec.budget = Some(Budget { rounds: None, ..whole }).filter(|budget| *budget != Budget::default());
}

/// Makes the spec of a Markdown task: code, verify, and a review for each reviewer.
fn markdown_spec(task: &MarkdownTask, name: &str, queue: &QueueContext<'_>) -> WorkloadSpec {
    let (front, defaults) = (&task.front, queue.defaults);
    let agent = |own: Option<&String>, default: Option<&LocalRef>, fallback: &str| {
        own.map(LocalRef::new)
            .or_else(|| named(default))
            .unwrap_or_else(|| LocalRef::new(fallback))
    };
    let coder = agent(front.agent.as_ref(), defaults.coder_agent_ref.as_ref(), CODER);
    let verifier = agent(front.verifier.as_ref(), defaults.verifier_agent_ref.as_ref(), VERIFIER);
    let reviewers: Vec<LocalRef> = match &front.reviewers {
        Some(reviewers) => reviewers.items().into_iter().map(LocalRef::new).collect(),
        None => defaults
            .reviewer_agent_refs
            .iter()
            .flatten()
            .filter_map(|agent| named(Some(agent)))
            .collect(),
    };
    let payload = Payload {
        branch: Some(front.branch.clone().unwrap_or_else(|| names::default_branch(name))),
        issue: front.issue,
        ..Default::default()
    };
    let step = |step_name: String, kind, agent: &LocalRef, after: Option<&str>| PipelineStep {
        name: step_name,
        kind,
        agent_ref: agent.clone(),
        depends_on: after
            .map(|after| Dependency::Name(after.to_owned()))
            .into_iter()
            .collect(),
        payload: payload.clone(),
        timeout_seconds: front.timeout_seconds(),
        ..Default::default()
    };
    let mut pipeline = vec![
        step("code".to_owned(), TaskKind::IssueFix, &coder, None),
        step("verify".to_owned(), TaskKind::Verify, &verifier, Some("code")),
    ];
    for (at, reviewer) in reviewers.iter().enumerate() {
        let step_name = if reviewers.len() == 1 {
            "review".to_owned()
        } else {
            format!("review-{}", at + 1)
        };
        pipeline.push(step(step_name, TaskKind::Review, reviewer, Some("verify")));
    }
    WorkloadSpec {
        intent: task.body.clone(),
        title: Some(task.title.clone()),
        repo: front.repo.clone().or_else(|| defaults.repo.clone()),
        base_branch: front.base.clone().or_else(|| defaults.base_branch.clone()),
        budget: Some(budget(front.budget.as_ref(), defaults.budget.as_ref())),
        gate_profile: front
            .gate
            .as_ref()
            .map(|gate| gate.profile())
            .or_else(|| defaults.gate_profile.clone()),
        priority: front.priority.or(defaults.priority),
        open_pull_request: front.open_pull_request.or(defaults.open_pull_request),
        depends_on: Some(queue.depends_on.to_vec()).filter(|names| !names.is_empty()),
        coder_agent_ref: Some(coder),
        verifier_agent_ref: Some(verifier),
        reviewer_agent_refs: Some(reviewers).filter(|reviewers| !reviewers.is_empty()),
        pipeline: Some(pipeline),
        ..Default::default()
    }
}
