//! Events about Pods.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, PostParams};
use kube::{Resource, ResourceExt};

use super::{Desk, FIELD_MANAGER};

/// Writes an Event about a Pod.
pub async fn write(desk: &Desk, pod: &Pod, kind: &str, reason: &str, text: &str) {
    let namespace = pod.namespace().unwrap_or_default();
    let now = Time(Timestamp::now());
    let suffix: u64 = rand::random();
    let event = Event {
        // A dot may not end a generated name's prefix.
        metadata: ObjectMeta {
            name: Some(format!("{}.{suffix:016x}", pod.name_any())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            kind: Some("Pod".into()),
            api_version: Some("v1".into()),
            ..pod.object_ref(&())
        },
        reason: Some(reason.into()),
        message: Some(text.chars().take(1000).collect()),
        type_: Some(kind.into()),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        source: Some(k8s_openapi::api::core::v1::EventSource {
            component: Some(FIELD_MANAGER.into()),
            host: Some(desk.config.node.clone()),
        }),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(desk.client.clone(), &namespace);
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::debug!(%error, "failed to write an event");
    }
}
