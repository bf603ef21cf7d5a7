//! Events: one store, seen through the core group and through events.k8s.io.

use serde_json::{Map, Value};

use crate::admission::error::FieldError;

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
    rename(event, "v1", |key| {
        RENAMED.iter().find(|row| row.1 == key).map(|row| row.0)
    })
}

/// Turns a stored event into the form of events.k8s.io.
pub fn from_core(event: Value) -> Value {
    rename(event, "events.k8s.io/v1", |key| {
        RENAMED.iter().find(|row| row.0 == key).map(|row| row.1)
    })
}

fn validate_namespace(new: &Value, field: &str) -> Vec<FieldError> {
    let own = crate::object::meta_str(new, "namespace");
    let about = new[field]["namespace"].as_str().unwrap_or("");
    if about != own && !(about.is_empty() && own == "default") {
        return vec![FieldError::invalid(
            format!("{field}.namespace"),
            about,
            "does not match event.namespace",
        )];
    }
    Vec::new()
}

/// Checks an event of events.k8s.io.
pub fn validate_new(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut problems = validate_namespace(new, "regarding");
    if old.is_none() {
        for field in ["reportingController", "reportingInstance", "action", "reason"] {
            if new[field].as_str().unwrap_or("").is_empty() {
                problems.push(FieldError::required(field, ""));
            }
        }
        if new["eventTime"].is_null() {
            problems.push(FieldError::required("eventTime", ""));
        }
        if new["note"].as_str().unwrap_or("").len() > 1024 {
            problems.push(FieldError::invalid("note", "", "can have at most 1024 characters"));
        }
    }
    if !matches!(new["type"].as_str(), Some("Normal" | "Warning")) {
        problems.push(FieldError::invalid(
            "type",
            new["type"].clone(),
            "has invalid value: must be Normal or Warning",
        ));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_forms_of_an_event_say_the_same() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "involvedObject": {"name": "a"}, "message": "m", "count": 2, "type": "Normal"});
        let new = from_core(core.clone());
        assert_eq!(new["note"], "m");
        assert_eq!(new["regarding"]["name"], "a");
        assert_eq!(new["deprecatedCount"], 2);
        assert!(new.get("message").is_none());
        assert_eq!(to_core(new), core);
    }
}
