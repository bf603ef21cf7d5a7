//! The Agent controller: says whether an Agent can work, and what of it is not supported yet.

pub mod validate;

use std::sync::Arc;

use jiff::Timestamp;
use schemas::agent::AgentStatus;
use schemas::{Agent, ModelProfile, unsupported};
use serde_json::Value;

use crate::cache::{Cache, Cached, Key};
use crate::clock::Clock;
use crate::conditions::{self, Said};
use crate::work_queue::{Next, WorkQueue};
use crate::writer::{Outcome, Writer, status_patch};
use validate::{Found, validate};

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Agents.
    pub agents: Arc<Cache<Agent>>,
    /// Model profiles that Agents name.
    pub profiles: Arc<Cache<ModelProfile>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Queues an Agent whenever it or a ModelProfile changes.
pub fn observe(queue: &Arc<WorkQueue<Key>>, agents: &Arc<Cache<Agent>>, profiles: &Cache<ModelProfile>) {
    let adds = queue.clone();
    agents.subscribe(move |change| adds.add(change.key.clone()));
    let (adds, agents) = (queue.clone(), agents.clone());
    profiles.subscribe(move |change| {
        let names = |agent: &Cached<Agent>| {
            agent
                .readable()
                .is_some_and(|agent| agent.spec.model_profile_ref.as_deref() == Some(&change.key.name))
        };
        for agent in agents.all().iter().filter(|agent| names(agent)) {
            adds.add(Key::of(agent.meta()));
        }
    });
}

/// Brings one Agent's conditions up to date.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Next {
    let Some(agent) = ctx.agents.get(&key) else {
        return Next::Wait;
    };
    if agent.is_deleting() {
        return Next::Wait;
    }
    let Some(object) = agent.readable() else {
        tracing::warn!(agent = %key, error = agent.unreadable(), "an Agent cannot be read");
        return Next::Wait;
    };
    let profiles = ctx.profiles.clone();
    let found = validate(object, &move |name: &str| profiles.get(&Key::new("", name)).is_some());
    let Some(patch) = build_patch(object, &found, ctx.clock.now()) else {
        return Next::Wait;
    };
    match ctx
        .writer
        .patch_status(&ctx.agents, &key, agent.meta().resource_version.as_deref(), patch)
        .await
    {
        Ok(Outcome::Done | Outcome::Lost) => Next::Wait,
        Err(error) => Next::Failed(error.to_string()),
    }
}

fn build_patch(agent: &Agent, found: &Found, now: Timestamp) -> Option<Value> {
    let generation = agent.metadata.generation;
    let before = agent.status.as_ref();
    let mut after: AgentStatus = before.cloned().unwrap_or_default();
    let mut list = after.conditions.take().unwrap_or_default();
    let valid = match found.problems.is_empty() {
        true => Said::new("Validated", true, "Valid", "the Agent can work"),
        false => Said::new("Validated", false, "Invalid", found.problems.join("; ")),
    };
    let ready = Said {
        kind: "Ready",
        ..valid.clone()
    };
    conditions::set(&mut list, valid, generation, now);
    conditions::set(&mut list, ready, generation, now);
    unsupported::tell(&mut list, &found.unsupported, generation, now);
    after.conditions = Some(list);
    after.observed_generation = generation;
    status_patch(before, &after)
}
