//! Where a pending task is to stand, and what its class asks of a node. Pure.

use schemas::agentic_task::TaskKind;
use schemas::dependencies::{DependencyState, TaskFacts, dependency_state};
use schemas::{AgenticTask, labels};

use super::class::{Class, Demand, Needs, Standing};
use super::facts::{TaskObject, agent_name, is_verifier, repo_of, status_of, virtual_start};
use super::index::Index;
use crate::agent::validate;
use crate::cache::Key;

impl Index {
    /// Says what a pending task's dependencies allow; an entry that can never be met is an error.
    pub(super) fn gate(&self, key: &Key, task: &AgenticTask) -> Result<DependencyState, String> {
        let mut facts = Vec::with_capacity(task.spec.depends_on.len());
        for dependency in &task.spec.depends_on {
            let name = dependency.resolve(&key.namespace)?;
            let found = self.tasks.get(&Key::new(key.namespace.clone(), name));
            facts.push((name, found.map(|found| TaskFacts::of(Some(status_of(found))))));
        }
        Ok(dependency_state(
            facts.iter().map(|(name, facts)| (*name, facts.as_ref())),
        ))
    }

    /// Says whether the base that a Workload's task is to be pinned to is known from what it depends on, and not set yet.
    pub(super) fn waits_for_base(&self, key: &Key, task: &TaskObject, object: &AgenticTask) -> bool {
        let known = |name: &str| {
            let found = self.tasks.get(&Key::new(key.namespace.clone(), name));
            found.is_some_and(|found| {
                let works = found
                    .readable()
                    .is_some_and(|task| matches!(task.spec.kind, TaskKind::IssueFix | TaskKind::Freeform));
                works && status_of(found).base_sha.is_some()
            })
        };
        let owned = object.spec.workload_ref.is_some() && task.label(labels::WORKLOAD).is_some();
        let mut upstream = object
            .spec
            .depends_on
            .iter()
            .filter_map(|entry| entry.resolve(&key.namespace).ok());
        owned && object.spec.base_sha.is_none() && upstream.any(known)
    }

    /// Finds out where a task that nothing holds back is to stand.
    pub(super) fn place(&self, key: &Key, task: &AgenticTask) -> Standing {
        if let Some(name) = agent_name(task) {
            let Some(agent) = self.agents.get(&Key::new(key.namespace.clone(), name)) else {
                return Standing::Held(format!(
                    "Agent {name:?} does not exist in namespace {:?}",
                    key.namespace
                ));
            };
            if let Some(why) = agent.unreadable() {
                return Standing::Held(format!("Agent {name:?} cannot be read: {why}"));
            }
            let profiles = |profile: &str| self.profiles.contains(profile);
            let found = agent.readable().map(|agent| validate::validate(agent, &profiles));
            if let Some(problem) = found.iter().flat_map(|found| &found.problems).next() {
                return Standing::Held(format!("Agent {name:?} is not valid: {problem}"));
            }
        }
        let demand = Demand {
            namespace: key.namespace.clone(),
            agent: agent_name(task).map(str::to_owned),
            required: match agent_name(task) {
                Some(_) => String::new(),
                None => task
                    .spec
                    .required_capability
                    .as_ref()
                    .and_then(|r| serde_json::to_string(r).ok())
                    .unwrap_or_default(),
            },
            model: task.spec.model_ref.clone(),
            verifies: is_verifier(task),
        };
        let class = Class {
            demand,
            repo: repo_of(task),
        };
        Standing::Queued(class, virtual_start(task))
    }

    /// Works out what a demand needs of a node.
    pub(super) fn needs(&self, demand: &Demand) -> Needs {
        let Some(name) = &demand.agent else {
            return Needs {
                required: serde_json::from_str(&demand.required).unwrap_or_default(),
                model: demand.model.clone(),
                holds_slot: !demand.verifies,
                agent_limit: None,
            };
        };
        let found = self
            .agents
            .get(&Key::new(demand.namespace.clone(), name))
            .and_then(|agent| agent.readable());
        let Some(agent) = found else {
            return Needs {
                holds_slot: !demand.verifies,
                ..Needs::default()
            };
        };
        let provider_model = agent
            .spec
            .provider_config
            .as_ref()
            .and_then(|config| config.model.clone());
        Needs {
            required: agent.spec.required_capability.clone().unwrap_or_default(),
            model: demand
                .model
                .clone()
                .or_else(|| agent.spec.model.clone())
                .or(provider_model),
            holds_slot: !demand.verifies,
            agent_limit: agent
                .spec
                .max_concurrent_tasks
                .and_then(|limit| usize::try_from(limit).ok()),
        }
    }
}
