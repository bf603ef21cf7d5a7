//! Events: what a person reads under `kubectl describe` where a status cannot say it.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemas::names;

use crate::cache::Key;
use crate::writer::Writer;
use schemas::inert::one_line;

/// Longest message, in characters.
const MESSAGE: usize = 1000;

/// A warning about an object.
pub struct Warning<'a> {
    /// Kind of the object.
    pub kind: &'a str,
    /// The object.
    pub of: &'a Key,
    /// UID of the object.
    pub uid: &'a str,
    /// Reason, in one word.
    pub reason: &'a str,
    /// What is wrong, where, and what to do.
    pub message: &'a str,
    /// What makes it another warning than those before; one that was recorded is not recorded again.
    pub once: &'a str,
}

impl Warning<'_> {
    fn name(&self) -> String {
        let id = names::sha256_hex(format!("{}\n{}\n{}", self.uid, self.reason, self.once));
        format!("{}.{}", names::fit(&self.of.name), &id[..16])
    }

    fn build(&self, now: Timestamp) -> Event {
        Event {
            involved_object: ObjectReference {
                api_version: Some(format!("{}/{}", schemas::GROUP, schemas::VERSION)),
                kind: Some(self.kind.to_owned()),
                name: Some(self.of.name.clone()),
                namespace: Some(self.of.namespace.clone()),
                uid: Some(self.uid.to_owned()),
                ..ObjectReference::default()
            },
            type_: Some("Warning".into()),
            reason: Some(self.reason.to_owned()),
            message: Some(one_line(self.message, MESSAGE)),
            source: Some(EventSource {
                component: Some("foreman-operator".into()),
                host: None,
            }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            ..Event::default()
        }
    }
}

/// Records a warning. One that cannot be recorded is in the log, and keeps nobody from going on.
pub async fn warn(writer: &Writer, warning: &Warning<'_>, now: Timestamp) {
    let event = warning.build(now);
    if let Err(error) = writer.event(&warning.of.namespace, &warning.name(), event).await {
        tracing::warn!(kind = warning.kind, object = %warning.of, %error, "an Event was not recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_has_one_name_as_long_as_nothing_of_it_changes() {
        let key = Key::new("default", "tasks");
        let warning = |once| Warning {
            kind: "TaskQueue",
            of: &key,
            uid: "u",
            reason: "InvalidFile",
            message: "a.md:1:1: unknown key\nand more",
            once,
        };
        assert_eq!(warning("a").name(), warning("a").name());
        assert_ne!(warning("a").name(), warning("b").name());
        let event = warning("a").build(Timestamp::UNIX_EPOCH);
        assert_eq!(event.involved_object.name.as_deref(), Some("tasks"));
        assert!(!event.message.unwrap_or_default().contains('\n'), "one line of a table");
    }
}
