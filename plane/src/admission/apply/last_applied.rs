//! The annotation in which client-side apply keeps its configuration.

use serde_json::Value;

use super::fieldset::FieldSet;
use super::{fit, walk};
use crate::admission::gofmt;
use crate::admission::types::TypeInfo;

/// Annotation in which client-side apply keeps its configuration.
pub(super) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Returns the fields that client-side apply wrote and that still stand as it wrote them.
pub(super) fn last_applied_fields(live: &Value, types: &TypeInfo) -> LastApplied {
    let text = live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap_or_default();
    let Ok(last) = serde_json::from_str::<Value>(text) else {
        return LastApplied(FieldSet::default());
    };
    if last["apiVersion"] != live["apiVersion"] || fit::check(&types.root, &last).is_err() {
        return LastApplied(FieldSet::default());
    }
    let change = walk::compare(&types.root, &last, live);
    let set = walk::field_set(&types.root, &last);
    LastApplied(
        set.difference(&change.modified)
            .difference(&change.added)
            .difference(&change.removed),
    )
}

/// Fields that client-side apply wrote.
pub(super) struct LastApplied(FieldSet);

impl LastApplied {
    /// Tells whether all of a set are among them.
    pub(super) fn covers(&self, set: &FieldSet) -> bool {
        set.difference(&self.0).is_empty()
    }
}

/// Keeps the annotation of client-side apply in step, where there is one.
pub(super) fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotation) = object
        .pointer_mut("/metadata/annotations")
        .and_then(|a| a.get_mut(LAST_APPLIED))
    else {
        return;
    };
    if annotation.as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
        let emptied = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
            .is_some_and(|a| {
                a.shift_remove(LAST_APPLIED);
                a.is_empty()
            });
        if emptied {
            metadata.shift_remove("annotations");
        }
    }
    *annotation = Value::String(format!("{}\n", gofmt::json(&applied)));
}
