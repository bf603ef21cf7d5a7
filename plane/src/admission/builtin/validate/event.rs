//! Validation of Events, in the words of the group through which they came.

use serde_json::Value;

use super::field::text;
use crate::admission::error::FieldError;
use crate::admission::names;

/// Validates an Event of the core group.
pub(in crate::admission::builtin) fn core(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    if old.is_some() {
        return Vec::new();
    }
    legacy(
        new,
        &new["involvedObject"],
        text(new, "reportingComponent"),
        "reportingComponent",
        text(new, "message"),
    )
}

/// What stays as it is in an Event of events.k8s.io, and what errors call it.
const FIXED: [(&str, &str); 13] = [
    ("regarding", "involvedObject"),
    ("reason", "reason"),
    ("note", "message"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

/// Validates the change of an Event of events.k8s.io: only its series may change.
fn new_update(new: &Value, old: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if new["series"] != old["series"] {
        series(new, &mut errors);
    }
    for (field, path) in FIXED {
        if new[field] != old[field] {
            errors.push(FieldError::invalid(path, new[field].clone(), "field is immutable"));
        }
    }
    errors
}

/// Checks that a series is one.
fn series(new: &Value, errors: &mut Vec<FieldError>) {
    let series = &new["series"];
    if series.is_null() {
        return;
    }
    if series["count"].as_i64().unwrap_or_default() < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
}

/// Validates an Event of events.k8s.io.
pub(in crate::admission::builtin) fn new(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    if let Some(old) = old {
        return new_update(new, old);
    }
    let mut errors = legacy(
        new,
        &new["regarding"],
        text(new, "reportingController"),
        "reportingController",
        text(new, "note"),
    );
    if new["eventTime"].is_null() {
        errors.push(FieldError::required("eventTime", ""));
    }
    series(new, &mut errors);
    let kind = text(new, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    for (field, path) in [
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedCount", "count"),
    ] {
        if !new[field].is_null() {
            errors.push(FieldError::invalid(path, "", "needs to be unset"));
        }
    }
    errors
}

/// What both groups ask: an event of the older form lives where its object does, one of the newer form says who
/// reports what.
fn legacy(new: &Value, about: &Value, reporter: &str, reporter_at: &str, message: &str) -> Vec<FieldError> {
    const AT: &str = "involvedObject.namespace";
    const ELSEWHERE: &str = "does not match event.namespace";
    let mut errors = Vec::new();
    let own = text(&new["metadata"], "namespace");
    let namespace = text(about, "namespace");
    if new["eventTime"].is_null() {
        let nowhere = namespace.is_empty() && !matches!(own, "" | "default");
        if nowhere || (!namespace.is_empty() && namespace != own) {
            errors.push(FieldError::invalid(AT, namespace, ELSEWHERE));
        }
        return errors;
    }
    if namespace.is_empty() && !matches!(own, "default" | "kube-system") {
        errors.push(FieldError::invalid(AT, namespace, ELSEWHERE));
    }
    if reporter.is_empty() {
        errors.push(FieldError::required(reporter_at, ""));
    }
    for wrong in names::qualified_name(reporter) {
        errors.push(FieldError::invalid(reporter_at, reporter, wrong));
    }
    for field in ["reportingInstance", "action", "reason"] {
        let value = text(new, field);
        if value.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if value.len() > 128 {
            errors.push(FieldError::invalid(field, "", "can have at most 128 characters"));
        }
    }
    if message.len() > 1024 {
        errors.push(FieldError::invalid("message", "", "can have at most 1024 characters"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_series_of_a_new_event_changes() {
        let old = json!({"regarding": {"name": "p"}, "reason": "R", "note": "n", "type": "Normal"});
        let with = |field: &str, value: Value| {
            let mut changed = old.clone();
            changed[field] = value;
            let errors = new(&changed, Some(&old));
            errors.iter().map(|error| error.path.clone()).collect::<Vec<_>>()
        };
        let time = "2020-01-01T00:00:00.000000Z";
        assert!(with("series", json!({"count": 2, "lastObservedTime": time})).is_empty());
        assert_eq!(
            with("series", json!({"count": 1})),
            ["series.count", "series.lastObservedTime"]
        );
        assert_eq!(with("note", json!("m")), ["message"]);
        assert_eq!(with("regarding", json!({"name": "q"})), ["involvedObject"]);
    }
}
