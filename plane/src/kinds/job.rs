//! Jobs.

use serde_json::{Map, Value, json};

use super::builtin::Stamp;
use super::podspec;
use crate::admission::names::{dns1123_label, label_value, qualified_name};
use crate::object::{map_mut, meta_str};
use crate::admission::error::FieldError;
use crate::status::unsupported;

/// The label by which a Job's Pods are found.
pub const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";

/// Sets defaults.
pub fn default(job: &mut Value) {
    let spec = map_mut(job, "spec");
    let has = |spec: &Map<String, Value>, field: &str| spec.get(field).is_some_and(|v| !v.is_null());
    if !has(spec, "completions") && !has(spec, "parallelism") {
        spec.insert("completions".into(), json!(1));
    }
    let set = |spec: &mut Map<String, Value>, field: &str, value: Value| {
        if !has(spec, field) {
            spec.insert(field.into(), value);
        }
    };
    set(spec, "parallelism", json!(1));
    set(spec, "backoffLimit", json!(6));
    set(spec, "completionMode", json!("NonIndexed"));
    set(spec, "suspend", json!(false));
    let replacement = if has(spec, "podFailurePolicy") {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set(spec, "podReplacementPolicy", json!(replacement));
    let template = map_mut(&mut job["spec"], "template");
    let mut template_value = Value::Object(std::mem::take(template));
    let pod = map_mut(&mut template_value, "spec");
    podspec::default(pod);
    job["spec"]["template"] = template_value;
}

/// Gives a new Job the selector and labels by which its Pods are found.
pub fn create(job: &mut Value, stamp: &Stamp) {
    job.as_object_mut().map(|map| map.remove("status"));
    job["status"] = json!({});
    if job["spec"]["manualSelector"] == Value::Bool(true) {
        return;
    }
    let name = meta_str(job, "name").to_owned();
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
    if job["spec"]["selector"].is_null() {
        job["spec"]["selector"] = json!({"matchLabels": {CONTROLLER_UID: stamp.uid}});
    }
}

/// Checks a Job.
pub fn validate(new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut problems = Vec::new();
    let spec = &new["spec"];
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        if let Some(count) = spec[field].as_i64()
            && count < 0
        {
            problems.push(FieldError::invalid(
                format!("spec.{field}"),
                count,
                "must be greater than or equal to 0",
            ));
        }
    }
    const MODES: [&str; 2] = ["Indexed", "NonIndexed"];
    let mode = spec["completionMode"].as_str().unwrap_or("");
    if !MODES.contains(&mode) {
        problems.push(unsupported("spec.completionMode", mode, &MODES));
    }
    if mode == "Indexed" && spec["completions"].is_null() {
        problems.push(FieldError::required(
            "spec.completions",
            "when completion mode is Indexed",
        ));
    }
    if let Some(old) = old {
        check_change(new, old, &mut problems);
        return problems;
    }
    // The name becomes the value of a label.
    let name = meta_str(new, "name");
    if name.len() > 63 && let Some(detail) = dns1123_label(name).into_iter().next() {
        problems.push(FieldError::invalid("metadata.name", name, detail));
    }
    for (key, value) in spec["template"]["metadata"]["labels"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or("");
        for detail in qualified_name(key).into_iter().chain(label_value(text)) {
            problems.push(FieldError::invalid("spec.template.metadata.labels", text, detail));
        }
    }
    check_selector(spec, &mut problems);
    let policy = spec["template"]["spec"]["restartPolicy"].as_str().unwrap_or("");
    if policy == "Always" {
        problems.push(unsupported(
            "spec.template.spec.restartPolicy",
            policy,
            &["OnFailure", "Never"],
        ));
    }
    problems.extend(podspec::validate(&spec["template"]["spec"], "spec.template.spec"));
    problems
}

fn check_selector(spec: &Value, problems: &mut Vec<FieldError>) {
    let labels = &spec["template"]["metadata"]["labels"];
    let wanted = spec["selector"]["matchLabels"].as_object();
    for (key, value) in wanted.into_iter().flatten() {
        if labels.get(key) != Some(value) {
            problems.push(FieldError::invalid(
                "spec.template.metadata.labels",
                labels.clone(),
                "`selector` does not match template `labels`",
            ));
            break;
        }
    }
    if spec["manualSelector"] != Value::Bool(true) {
        let own = wanted.and_then(|map| map.get(CONTROLLER_UID));
        if own.is_none() || own != labels.get(CONTROLLER_UID) {
            problems.push(FieldError::invalid(
                "spec.selector",
                spec["selector"].clone(),
                "`selector` not auto-generated",
            ));
        }
    }
}

fn check_change(new: &Value, old: &Value, problems: &mut Vec<FieldError>) {
    let started = old["status"].get("startTime").is_some();
    let suspended = old["spec"]["suspend"] == Value::Bool(true) && !started;
    let mut fixed = vec!["selector", "completionMode", "podFailurePolicy", "manualSelector"];
    if old["spec"]["completionMode"] != "Indexed" {
        fixed.push("completions");
    }
    if !suspended {
        fixed.push("template");
    }
    for field in fixed {
        if new["spec"].get(field) != old["spec"].get(field) {
            problems.push(FieldError::invalid(
                format!("spec.{field}"),
                new["spec"][field].clone(),
                "field is immutable",
            ));
        }
    }
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

    fn job() -> Value {
        json!({
            "metadata": {"name": "j"},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}}}
        })
    }

    #[test]
    fn a_new_job_gets_its_selector_and_defaults() {
        let mut job = job();
        default(&mut job);
        create(&mut job, &stamp());
        assert_eq!(validate(&job, None), []);
        assert_eq!(job["spec"]["backoffLimit"], 6);
        assert_eq!(job["spec"]["completions"], 1);
        assert_eq!(job["spec"]["selector"]["matchLabels"][CONTROLLER_UID], "u-1");
        let labels = &job["spec"]["template"]["metadata"]["labels"];
        assert_eq!(labels["job-name"], "j");
        assert_eq!(labels["batch.kubernetes.io/controller-uid"], "u-1");
    }

    #[test]
    fn a_jobs_pods_may_not_restart_for_ever() {
        let mut job = job();
        job["spec"]["template"]["spec"]["restartPolicy"] = Value::Null;
        default(&mut job);
        create(&mut job, &stamp());
        let problems = validate(&job, None);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].path, "spec.template.spec.restartPolicy");
        assert_eq!(
            problems[0].detail,
            "supported values: \"OnFailure\", \"Never\""
        );
    }

    #[test]
    fn the_template_of_a_job_stays() {
        let mut old = job();
        default(&mut old);
        create(&mut old, &stamp());
        let mut new = old.clone();
        new["spec"]["parallelism"] = json!(0);
        assert_eq!(validate(&new, Some(&old)), []);
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!("other");
        assert_eq!(validate(&new, Some(&old))[0].path, "spec.template");
        old["spec"]["suspend"] = json!(true);
        assert_eq!(validate(&new, Some(&old)), []);
    }
}
