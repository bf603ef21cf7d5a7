//! Jobs.

use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::admission::error::FieldError;
use crate::object::{map_mut, meta_str};

/// The label by which a Job's Pods are found.
pub const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Gives a new Job the selector and labels by which its Pods are found.
pub fn create(job: &mut Value, stamp: &Stamp) {
    job.as_object_mut().map(|map| map.remove("status"));
    job["status"] = json!({});
    if job["spec"]["manualSelector"] == Value::Bool(true) {
        return;
    }
    let name = meta_str(job, "name").to_owned();
    // Labels that are the template's stay so.
    let shared = job["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"];
    let template = &mut job["spec"]["template"];
    let labels = crate::object::meta_mut(template)
        .entry("labels")
        .or_insert_with(|| json!({}));
    if let Some(labels) = labels.as_object_mut() {
        for (key, value) in [
            (CONTROLLER_UID, &stamp.uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &stamp.uid),
            ("job-name", &name),
        ] {
            labels.insert(key.to_owned(), value.as_str().into());
        }
    }
    let labels = job["spec"]["template"]["metadata"]["labels"].clone();
    let own = crate::object::meta_mut(job);
    if own
        .get("labels")
        .and_then(Value::as_object)
        .is_none_or(serde_json::Map::is_empty)
        || shared
    {
        own.insert("labels".into(), labels);
    }
    let labels = map_mut(&mut job["spec"]["selector"], "matchLabels");
    labels
        .entry(CONTROLLER_UID)
        .or_insert_with(|| stamp.uid.as_str().into());
}

/// Checks that a new Job's selector finds its Pods and no others.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut problems = Vec::new();
    if old.is_some() {
        return problems;
    }
    let spec = &new["spec"];
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = spec["selector"]["matchLabels"].as_object();
    let unmatched = || {
        let words = "`selector` does not match template `labels`";
        FieldError::invalid("spec.template.metadata.labels", labels.clone(), words)
    };
    if spec["selector"].is_null() {
        return vec![FieldError::required("spec.selector", ""), unmatched()];
    }
    for (key, value) in wanted.into_iter().flatten() {
        if labels.get(key) != Some(value) {
            problems.push(unmatched());
            break;
        }
    }
    if spec["manualSelector"] != Value::Bool(true) {
        let generated = json!({"matchLabels": {CONTROLLER_UID: labels[CONTROLLER_UID]}});
        if spec["selector"] != generated {
            problems.push(FieldError::invalid(
                "spec.selector",
                spec["selector"].clone(),
                "`selector` not auto-generated",
            ));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp() -> Stamp {
        Stamp {
            now: jiff::Timestamp::UNIX_EPOCH,
            uid: "u-1".into(),
        }
    }

    #[test]
    fn a_new_job_gets_the_selector_and_labels_of_its_own_pods() {
        let mut job = json!({"metadata": {"name": "j"}, "spec": {"template": {"metadata": {"labels": {"a": "b"}}}}});
        create(&mut job, &stamp());
        assert_eq!(validate(&job, None), []);
        assert_eq!(job["spec"]["selector"]["matchLabels"][CONTROLLER_UID], "u-1");
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["job-name"], "j");
        assert_eq!(labels["batch.kubernetes.io/controller-uid"], "u-1");
        assert_eq!(labels["a"], "b");
        assert_eq!(job["metadata"]["labels"], *labels);
    }

    #[test]
    fn a_selector_of_ones_own_must_be_asked_for() {
        let mut job = json!({"metadata": {"name": "j"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}}}});
        let mut manual = job.clone();
        manual["spec"]["manualSelector"] = json!(true);
        create(&mut job, &stamp());
        assert_eq!(validate(&job, None)[0].path, "spec.selector");
        create(&mut manual, &stamp());
        assert_eq!(validate(&manual, None), []);
        assert!(
            manual["spec"]["template"]["metadata"]["labels"]
                .get("job-name")
                .is_none()
        );
        let mut without = manual.clone();
        without["spec"]["selector"] = Value::Null;
        assert_eq!(validate(&without, None)[0].path, "spec.selector");
        manual["spec"]["selector"] = json!({"matchLabels": {"a": "c"}});
        assert_eq!(validate(&manual, None)[0].path, "spec.template.metadata.labels");
    }
}
