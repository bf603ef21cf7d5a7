//! The one way to change what the API holds: leader-gated, one request per change, lost races as values.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Event;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::cache::{Cache, Key};
use crate::lanes::{Bulk, Lanes};
use crate::leader::Leadership;

/// Longest time that one request may take: a server that went away without a word must not hold work for good.
const LONGEST: Duration = Duration::from_secs(30);

/// Field manager of everything that the operator makes.
pub const FIELD_MANAGER: &str = "foreman-operator";

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This process does not lead.
    #[error("failed to {action} {object}: this process does not lead")]
    NotLeader {
        /// What was being done.
        action: &'static str,
        /// The object.
        object: String,
    },
    /// The API refused.
    #[error("failed to {action} {object}: {source}")]
    Api {
        /// What was being done.
        action: &'static str,
        /// The object.
        object: String,
        /// What the API said.
        source: Box<kube::Error>,
    },
    /// The API did not answer; whether it happened is not known.
    #[error("failed to {action} {object}: the API did not answer within {} s", LONGEST.as_secs())]
    Silence {
        /// What was being done.
        action: &'static str,
        /// The object.
        object: String,
    },
}

impl Error {
    /// Says whether the API found the object itself wrong, so that sending it again is no use.
    pub fn is_invalid(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(status) if matches!(status.code, 400 | 422)))
    }

    /// Tells what somebody has to allow, or to change, before this can be written; `None` where trying again is enough.
    ///
    /// The API's own words name the account, the verb, the kind and the namespace that an access rule lacks, the quota
    /// that is used up, or the policy with its message.
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Api { action, object, source } = self else {
            return None;
        };
        let kube::Error::Api(status) = &**source else {
            return None;
        };
        let reason = match status.code {
            403 if status.message.contains("exceeded quota") => "QuotaExceeded",
            // What an access rule lacks is said in these words; the others are of admission.
            403 if status.message.contains(" is forbidden: User \"") && status.message.contains("\" cannot ") => {
                "Forbidden"
            }
            400 | 403 | 422 => "Refused",
            // One that stands before the write and does not answer: no try of ours mends it.
            500 if status.message.contains("failed calling webhook") => "WebhookFailed",
            _ => return None,
        };
        Some(Refusal {
            reason,
            message: format!("failed to {action} {object}: {}", without_ports(&status.message)),
        })
    }

    /// Names the error as a metric label and an Event reason.
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotLeader { .. } => "not-leader",
            Self::Silence { .. } => "network",
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) if status.code == 403 => "forbidden",
                kube::Error::Api(status) if matches!(status.code, 400 | 422) => "invalid",
                kube::Error::Api(_) => "api",
                _ => "network",
            },
        }
    }
}

/// Takes out the near end of a connection that broke, which is another each time: what is told must not be news for ever.
fn without_ports(message: &str) -> String {
    let far_end = |word: &str| word.split_once("->").map_or(word, |(_, far)| far).to_owned();
    message.split(' ').map(far_end).collect::<Vec<_>>().join(" ")
}

/// A write that nobody but a person can make possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason of a condition.
    pub reason: &'static str,
    /// What was refused, and why, in the API's own words.
    pub message: String,
}

/// What came of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// It happened.
    Done,
    /// Somebody else was faster: the object changed, is gone, or is there already.
    Lost,
}

/// Writes for one controller.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    leadership: Leadership,
    lanes: Arc<Lanes>,
    /// What is being made first, where this writer makes it.
    bulk: Option<Arc<Bulk>>,
}

impl Writer {
    /// Makes a writer over `client` that works while `leadership` is held.
    pub fn new(client: Client, leadership: Leadership) -> Self {
        Self {
            client,
            leadership,
            lanes: Arc::default(),
            bulk: None,
        }
    }

    /// Shares the server with other writers.
    pub fn sharing(mut self, lanes: Arc<Lanes>) -> Self {
        self.lanes = lanes;
        self
    }

    /// Returns a writer whose writes come before those of all others, as long as it lives.
    pub fn first(&self) -> Self {
        Self {
            bulk: Some(Arc::new(self.lanes.begin())),
            ..self.clone()
        }
    }

    /// Says whether this process leads, so that its writes are sent.
    pub fn leads(&self) -> bool {
        self.leadership.holds()
    }

    /// Returns the client, for reads.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn api<K>(&self, namespace: &str) -> (Api<DynamicObject>, ApiResource)
    where
        K: Resource,
        K::DynamicType: Default,
    {
        let resource = ApiResource::erase::<K>(&K::DynamicType::default());
        let api = if namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), namespace, &resource)
        };
        (api, resource)
    }

    /// Sends a request when it is its turn and waits for an answer, not for ever.
    async fn within<T>(&self, action: &'static str, key: &Key, sent: impl Future<Output = T>) -> Result<T, Error> {
        let _place = match self.bulk {
            Some(_) => None,
            None => self.lanes.place().await,
        };
        // It may have had to wait for longer than this process leads.
        self.gate(action, key)?;
        tokio::time::timeout(LONGEST, sent).await.map_err(|_| Error::Silence {
            action,
            object: key.to_string(),
        })
    }

    fn gate(&self, action: &'static str, key: &Key) -> Result<(), Error> {
        if self.leadership.holds() {
            Ok(())
        } else {
            Err(Error::NotLeader {
                action,
                object: key.to_string(),
            })
        }
    }

    /// Merges `status` into an object's status; it is lost when the object is no longer at `version`.
    pub async fn patch_status<K>(
        &self,
        cache: &Cache<K>,
        key: &Key,
        version: Option<&str>,
        status: Value,
    ) -> Result<Outcome, Error>
    where
        K: Resource + DeserializeOwned,
        K::DynamicType: Default,
    {
        let mut patch = json!({ "status": status });
        if let Some(version) = version {
            patch["metadata"] = json!({ "resourceVersion": version });
        }
        self.gate("write the status of", key)?;
        let known = uid_of(cache, key);
        let (api, _) = self.api::<K>(&key.namespace);
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        let sent = self.within(
            "write the status of",
            key,
            api.patch_status(&key.name, &parameters, &patch),
        );
        settle(cache, "write the status of", key, known.as_deref(), sent.await?)
    }

    /// Merges `patch` into an object; it is lost when the object is gone or has another UID.
    pub async fn patch<K>(&self, cache: &Cache<K>, key: &Key, patch: Value) -> Result<Outcome, Error>
    where
        K: Resource + DeserializeOwned,
        K::DynamicType: Default,
    {
        self.gate("change", key)?;
        let known = uid_of(cache, key);
        let (api, _) = self.api::<K>(&key.namespace);
        let (parameters, patch) = (PatchParams::default(), Patch::Merge(patch));
        let sent = self.within("change", key, api.patch(&key.name, &parameters, &patch));
        settle(cache, "change", key, known.as_deref(), sent.await?)
    }

    /// Creates or changes an object by server-side apply. A UID in it must be the object's.
    pub async fn apply<K>(&self, cache: &Cache<K>, key: &Key, mut object: Value) -> Result<Outcome, Error>
    where
        K: Resource + DeserializeOwned,
        K::DynamicType: Default,
    {
        self.gate("apply", key)?;
        let known = uid_of(cache, key);
        let (api, resource) = self.api::<K>(&key.namespace);
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(resource.kind);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(object);
        let sent = self.within("apply", key, api.patch(&key.name, &parameters, &patch));
        settle(cache, "apply", key, known.as_deref(), sent.await?)
    }

    /// Creates an object; it is lost when one of this name is there.
    pub async fn create<K>(&self, cache: &Cache<K>, key: &Key, mut object: Value) -> Result<Outcome, Error>
    where
        K: Resource + DeserializeOwned,
        K::DynamicType: Default,
    {
        self.gate("create", key)?;
        let (api, resource) = self.api::<K>(&key.namespace);
        object["apiVersion"] = json!(resource.api_version);
        object["kind"] = json!(resource.kind);
        object["metadata"]["name"] = json!(key.name);
        object["metadata"]["namespace"] = json!(key.namespace);
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let sent = match serde_json::from_value::<DynamicObject>(object) {
            Ok(object) => self.within("create", key, api.create(&parameters, &object)).await?,
            Err(error) => Err(kube::Error::SerdeError(error)),
        };
        settle(cache, "create", key, None, sent)
    }

    /// Deletes an object and, in the background, what it owns; another object of the same name is left alone.
    pub async fn delete<K>(&self, cache: &Cache<K>, key: &Key, uid: &str) -> Result<Outcome, Error>
    where
        K: Resource + DeserializeOwned,
        K::DynamicType: Default,
    {
        self.gate("delete", key)?;
        let (api, _) = self.api::<K>(&key.namespace);
        let preconditions = (!uid.is_empty()).then(|| Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions,
            ..DeleteParams::default()
        };
        match self.within("delete", key, api.delete(&key.name, &parameters)).await? {
            Ok(answer) => {
                match answer.left() {
                    // Finalizers or dependents hold it: the watch will say when it is gone.
                    Some(object) if object.metadata.deletion_timestamp.is_some() => cache.observe(object),
                    _ => cache.forget(key, Some(uid)),
                }
                Ok(Outcome::Done)
            }
            Err(error) => {
                if !uid.is_empty() && is_gone(key, &error) {
                    cache.forget(key, Some(uid));
                }
                settle_error("delete", key, error)
            }
        }
    }

    /// Records an Event under a name that tells whether it was recorded before.
    pub async fn event(&self, namespace: &str, name: &str, mut event: Event) -> Result<Outcome, Error> {
        let key = Key::new(namespace, name);
        self.gate("record", &key)?;
        event.metadata.name = Some(name.to_owned());
        event.metadata.namespace = Some(namespace.to_owned());
        let api: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        match self
            .within("record", &key, api.create(&PostParams::default(), &event))
            .await?
        {
            Ok(_) => Ok(Outcome::Done),
            Err(error) => settle_error("record", &key, error),
        }
    }
}

/// Returns the UID under which an object is known.
fn uid_of<K>(cache: &Cache<K>, key: &Key) -> Option<String>
where
    K: Resource + DeserializeOwned,
    K::DynamicType: Default,
{
    Some(cache.get(key)?.uid().to_owned()).filter(|uid| !uid.is_empty())
}

/// Takes in the answer to a write of the object that was known by `uid` when it was sent.
fn settle<K>(
    cache: &Cache<K>,
    action: &'static str,
    key: &Key,
    uid: Option<&str>,
    sent: Result<DynamicObject, kube::Error>,
) -> Result<Outcome, Error>
where
    K: Resource + DeserializeOwned,
    K::DynamicType: Default,
{
    match sent {
        Ok(object) => {
            cache.observe(object);
            Ok(Outcome::Done)
        }
        Err(error) => {
            if let Some(uid) = uid
                && is_gone(key, &error)
            {
                cache.forget(key, Some(uid));
            }
            settle_error(action, key, error)
        }
    }
}

/// Says whether the API said that there is no such object. A 404 may also be about its namespace, or about a kind that is
/// not served just now.
fn is_gone(key: &Key, error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let about = status.details.as_ref();
    status.code == 404
        && status.reason == "NotFound"
        && about.is_some_and(|about| about.name == key.name && about.kind != "namespaces")
}

fn settle_error(action: &'static str, key: &Key, error: kube::Error) -> Result<Outcome, Error> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => Ok(Outcome::Lost),
        error => Err(Error::Api {
            action,
            object: key.to_string(),
            source: Box::new(error),
        }),
    }
}

/// Computes the merge patch that turns `before` into `after`; `None` when they are the same.
pub fn merge_patch(before: &Value, after: &Value) -> Option<Value> {
    if before == after {
        return None;
    }
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            let mut patch = Map::new();
            for name in before.keys().filter(|name| !after.contains_key(*name)) {
                patch.insert(name.clone(), Value::Null);
            }
            for (name, value) in after {
                match before.get(name) {
                    Some(old) => {
                        if let Some(change) = merge_patch(old, value) {
                            patch.insert(name.clone(), change);
                        }
                    }
                    None => {
                        patch.insert(name.clone(), value.clone());
                    }
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        (_, after) => Some(after.clone()),
    }
}

/// Computes the merge patch between two statuses.
pub fn status_patch<S: serde::Serialize>(before: Option<&S>, after: &S) -> Option<Value> {
    let before = before
        .and_then(|status| serde_json::to_value(status).ok())
        .unwrap_or_else(|| json!({}));
    let after = serde_json::to_value(after).ok()?;
    merge_patch(&before, &after)
}

/// Merges a patch as the API does.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let map = target.as_object_mut().unwrap();
    for (name, value) in patch {
        if value.is_null() {
            map.remove(name);
        } else {
            merge(map.entry(name.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn leaf() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0i64..5).prop_map(Value::from),
            prop::collection::vec(0i64..3, 0..3).prop_map(|list| json!(list)),
        ]
    }

    fn tree() -> impl Strategy<Value = Value> {
        let object = |inner: BoxedStrategy<Value>| {
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect()))
        };
        object(prop_oneof![leaf(), object(leaf().boxed())].boxed())
    }

    #[test]
    fn a_refusal_is_told_in_the_same_words_whatever_port_it_came_by() {
        let broken = |port: u16| format!("failed calling webhook: read tcp 10.0.0.1:{port}->10.0.0.2:443: reset");
        assert_eq!(without_ports(&broken(40_001)), without_ports(&broken(40_002)));
        assert_eq!(without_ports("no  change -x"), "no  change -x");
    }

    #[test]
    fn a_refusal_says_what_a_person_has_to_change() {
        let error = |code: u16, message: &str| Error::Api {
            action: "apply",
            object: "n/t".into(),
            source: Box::new(kube::Error::Api(Box::new(kube::core::Status {
                code,
                message: message.into(),
                ..kube::core::Status::default()
            }))),
        };
        let table = [
            (
                403,
                "x is forbidden: User \"u\" cannot patch resource \"agentictasks\"",
                Some("Forbidden"),
            ),
            (403, "pods \"x\" is forbidden: exceeded quota: q", Some("QuotaExceeded")),
            (422, "ValidatingAdmissionPolicy 'p' denied request: no", Some("Refused")),
            (403, "admission webhook \"w\" denied the request: no", Some("Refused")),
            (
                403,
                "admission webhook \"w\" denied the request: you cannot do this on Sunday",
                Some("Refused"),
            ),
            (
                500,
                "Internal error occurred: failed calling webhook \"w\": connection refused",
                Some("WebhookFailed"),
            ),
            (500, "etcdserver: request timed out", None),
        ];
        for (code, message, reason) in table {
            let refusal = error(code, message).refusal();
            assert_eq!(refusal.as_ref().map(|refusal| refusal.reason), reason, "{message}");
            assert!(refusal.is_none_or(|refusal| refusal.message == format!("failed to apply n/t: {message}")));
        }
    }

    #[test]
    fn only_an_object_that_the_api_does_not_find_is_forgotten() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode",
            "metadata": { "name": "n", "uid": "u", "resourceVersion": "1" }, "spec": { "nodeName": "n" }
        }))
        .unwrap();
        let key = Key::new("", "n");
        let table = [
            (
                json!({ "code": 404, "reason": "NotFound", "details": { "name": "n", "kind": "fleetnodes" } }),
                "u",
                true,
            ),
            (
                json!({ "code": 404, "reason": "NotFound", "details": { "name": "n", "kind": "fleetnodes" } }),
                "earlier",
                false,
            ),
            (
                json!({ "code": 404, "reason": "NotFound", "details": { "name": "n", "kind": "namespaces" } }),
                "u",
                false,
            ),
            (json!({ "code": 404, "reason": "NotFound", "details": {} }), "u", false),
            (
                json!({ "code": 409, "reason": "Conflict", "details": { "name": "n", "kind": "fleetnodes" } }),
                "u",
                false,
            ),
        ];
        for (status, uid, forgotten) in table {
            let cache = Cache::<schemas::FleetNode>::default();
            cache.observe(object.clone());
            let mut whole = json!({ "status": "Failure", "message": "no" });
            merge(&mut whole, &status);
            let answer: kube::core::Status = serde_json::from_value(whole).unwrap();
            let sent = Err(kube::Error::Api(Box::new(answer)));
            let outcome = settle(&cache, "change", &key, Some(uid), sent).unwrap();
            assert_eq!(outcome, Outcome::Lost);
            assert_eq!(cache.get(&key).is_none(), forgotten, "{status} of {uid}");
        }
    }

    proptest! {
        #[test]
        fn merging_the_patch_turns_one_into_the_other(before in tree(), after in tree()) {
            match merge_patch(&before, &after) {
                None => prop_assert_eq!(&before, &after),
                Some(patch) => {
                    let mut merged = before.clone();
                    merge(&mut merged, &patch);
                    prop_assert_eq!(&merged, &after);
                }
            }
        }
    }
}
