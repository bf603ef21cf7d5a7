//! The controller of the kinds that have no other: it says what of them nothing acts on yet.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use schemas::{AgentRelease, Forge, ModelProfile, unsupported};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cache::{Cache, Key};
use crate::clock::Clock;
use crate::work_queue::{Next, WorkQueue};
use crate::writer::{Outcome, Writer};

/// A kind of which this controller speaks.
pub trait Told: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static {
    /// Lists what nothing acts on yet.
    fn unsupported(&self) -> Vec<String>;
    /// Returns the conditions that stand.
    fn conditions(&self) -> Vec<Condition>;
}

impl Told for Forge {
    fn unsupported(&self) -> Vec<String> {
        vec!["kind Forge".to_owned()]
    }

    fn conditions(&self) -> Vec<Condition> {
        let status = self.status.as_ref();
        status.and_then(|status| status.conditions.clone()).unwrap_or_default()
    }
}

impl Told for AgentRelease {
    fn unsupported(&self) -> Vec<String> {
        vec!["kind AgentRelease".to_owned()]
    }

    fn conditions(&self) -> Vec<Condition> {
        let status = self.status.as_ref();
        status.and_then(|status| status.conditions.clone()).unwrap_or_default()
    }
}

impl Told for ModelProfile {
    fn unsupported(&self) -> Vec<String> {
        unsupported::of_profile(&self.spec)
    }

    fn conditions(&self) -> Vec<Condition> {
        let status = self.status.as_ref();
        status.and_then(|status| status.conditions.clone()).unwrap_or_default()
    }
}

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Forges.
    pub forges: Arc<Cache<Forge>>,
    /// Releases of the node agent.
    pub releases: Arc<Cache<AgentRelease>>,
    /// Model profiles.
    pub profiles: Arc<Cache<ModelProfile>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// An object, by its kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Object {
    /// A Forge.
    Forge(Key),
    /// An AgentRelease.
    Release(Key),
    /// A ModelProfile.
    Profile(Key),
}

/// Queues an object whenever it changes.
pub fn observe(queue: &Arc<WorkQueue<Object>>, ctx: &Context) {
    fn follow<K: Told>(queue: &Arc<WorkQueue<Object>>, cache: &Cache<K>, object: fn(Key) -> Object) {
        let adds = queue.clone();
        cache.subscribe(move |change| adds.add(object(change.key.clone())));
    }
    follow(queue, &ctx.forges, Object::Forge);
    follow(queue, &ctx.releases, Object::Release);
    follow(queue, &ctx.profiles, Object::Profile);
}

/// Lists every object there is.
pub fn all(ctx: &Context) -> Vec<Object> {
    fn keys<K: Told>(cache: &Cache<K>, object: fn(Key) -> Object) -> Vec<Object> {
        cache.all().iter().map(|found| object(Key::of(found.meta()))).collect()
    }
    let mut all = keys(&ctx.forges, Object::Forge);
    all.extend(keys(&ctx.releases, Object::Release));
    all.extend(keys(&ctx.profiles, Object::Profile));
    all
}

/// Brings one object's condition up to date.
pub async fn reconcile(ctx: Arc<Context>, object: Object) -> Next {
    match object {
        Object::Forge(key) => tell(&ctx, &ctx.forges, &key).await,
        Object::Release(key) => tell(&ctx, &ctx.releases, &key).await,
        Object::Profile(key) => tell(&ctx, &ctx.profiles, &key).await,
    }
}

async fn tell<K: Told>(ctx: &Context, cache: &Cache<K>, key: &Key) -> Next {
    let Some(found) = cache.get(key).filter(|found| !found.is_deleting()) else {
        return Next::Wait;
    };
    let Some(patch) = found.readable().and_then(|object| build_patch(object, ctx.clock.now())) else {
        return Next::Wait;
    };
    let version = found.meta().resource_version.as_deref();
    match ctx.writer.patch_status(cache, key, version, patch).await {
        Ok(Outcome::Done | Outcome::Lost) => Next::Wait,
        Err(error) => Next::Failed(error.to_string()),
    }
}

/// Builds the merge patch of the status; `None` when nothing changes.
fn build_patch<K: Told>(object: &K, now: jiff::Timestamp) -> Option<Value> {
    let before = object.conditions();
    let mut after = before.clone();
    unsupported::tell(&mut after, &object.unsupported(), object.meta().generation, now);
    (after != before).then(|| json!({ "conditions": after }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_kind_without_a_controller_says_so_once_and_a_field_while_it_is_set() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let read = |spec: Value, status: Value| -> ModelProfile {
            serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "ModelProfile",
                "metadata": { "name": "p", "generation": 1 }, "spec": spec, "status": status,
            }))
            .unwrap()
        };
        assert_eq!(build_patch(&read(json!({}), json!({})), now), None);
        let set = json!({ "restrictReadsInForcingPhase": true });
        let patch = build_patch(&read(set.clone(), json!({})), now).unwrap();
        assert_eq!(patch["conditions"][0]["type"], "NotSupportedYet");
        assert_eq!(build_patch(&read(set, patch.clone()), now), None, "it is said once");
        assert_eq!(
            build_patch(&read(json!({}), patch), now),
            Some(json!({ "conditions": [] })),
            "and taken back"
        );
        let forge: Forge = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Forge", "metadata": { "name": "f" },
            "spec": { "type": "gitea", "url": "https://git.example" },
        }))
        .unwrap();
        let patch = build_patch(&forge, now).unwrap();
        assert!(
            patch["conditions"][0]["message"]
                .as_str()
                .unwrap()
                .contains("kind Forge")
        );
    }
}
