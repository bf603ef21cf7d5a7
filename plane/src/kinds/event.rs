//! Events: one store, seen through the core group and through events.k8s.io.

use serde_json::{Map, Value};

/// What field selectors may use on core events.
pub const SELECTABLE: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
];

/// What field selectors may use on events of events.k8s.io.
pub const SELECTABLE_NEW: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "reportingController",
    "type",
];

/// Fields by their name in the core group and in events.k8s.io.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename(event: Value, api_version: &str, new_name: impl Fn(&str) -> Option<&'static str>) -> Value {
    let Value::Object(fields) = event else {
        return event;
    };
    let mut out = Map::new();
    for (key, value) in fields {
        match new_name(&key) {
            Some(name) => out.insert(name.to_owned(), value),
            None => out.insert(key, value),
        };
    }
    out.insert("apiVersion".into(), api_version.into());
    Value::Object(out)
}

/// Turns an event of events.k8s.io into the stored form.
pub fn to_core(event: Value) -> Value {
    let mut event = rename(event, "v1", |key| {
        RENAMED.iter().find(|row| row.1 == key).map(|row| row.0)
    });
    // The core form always has these.
    for key in ["reportingComponent", "reportingInstance"] {
        if event[key].is_null() {
            event[key] = "".into();
        }
    }
    if event["source"].is_null() {
        event["source"] = Value::Object(Map::new());
    }
    event
}

/// Turns a stored event into the form of events.k8s.io.
pub fn from_core(event: Value) -> Value {
    let mut event = rename(event, "events.k8s.io/v1", |key| {
        RENAMED.iter().find(|row| row.0 == key).map(|row| row.1)
    });
    if let Some(fields) = event.as_object_mut() {
        for key in ["reportingController", "reportingInstance"] {
            if fields.get(key).is_some_and(|value| value == "") {
                fields.remove(key);
            }
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_of_an_event_say_the_same() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m", "count": 2, "type": "Normal",
            "reportingComponent": "", "reportingInstance": "", "source": {}});
        let new = from_core(core.clone());
        assert_eq!(new["note"], "m");
        assert_eq!(new["regarding"]["name"], "a");
        assert_eq!(new["deprecatedCount"], 2);
        assert!(new.get("message").is_none());
        assert_eq!(to_core(new), core);
    }
}
