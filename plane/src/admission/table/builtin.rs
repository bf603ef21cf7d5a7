//! Columns of the built-in kinds.

use serde_json::{Value, json};

use super::Column;
use super::age::{age, between};
use crate::kinds::event::to_core;

/// Says of a Pod that has ended that it has.
pub(super) fn completion(object: &Value) -> Option<Value> {
    if object["kind"] != "Pod" || object["apiVersion"] != "v1" {
        return None;
    }
    let (reason, message) = match text(&object["status"]["phase"]) {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return None,
    };
    Some(serde_json::json!({"type": "Completed", "status": "True", "reason": reason, "message": message}))
}

/// Returns the columns of a built-in kind.
pub(super) fn columns(api_version: &str, kind: &str) -> Option<Vec<Column>> {
    let text = |name, about| Column::new(name, "string", 0, about);
    let wide = |name, about| Column::new(name, "string", 1, about);
    let age = || text("Age", "Time since the object was created.");
    let mut columns = vec![Column {
        format: "name".to_owned(),
        ..text("Name", "Name of the object, unique within its namespace.")
    }];
    match (api_version, kind) {
        ("v1", "Pod") => columns.extend([
            text("Ready", "Containers that are ready, of all containers."),
            text("Status", "What the pod does now."),
            text("Restarts", "How often containers were restarted, and when last."),
            age(),
            wide("IP", "Address of the pod."),
            wide("Node", "Node that runs the pod."),
            wide("Nominated Node", "Node that will have room for the pod."),
            wide("Readiness Gates", "Conditions on which readiness depends."),
        ]),
        ("batch/v1", "Job") => columns.extend([
            text("Status", "What became of the job."),
            text("Completions", "Pods that succeeded, of those wanted."),
            text("Duration", "Time from start to completion."),
            age(),
            wide("Containers", "Names of the containers."),
            wide("Images", "Images of the containers."),
            wide("Selector", "Labels of the job's pods."),
        ]),
        ("v1", "ConfigMap") => columns.extend([Column::new("Data", "string", 0, "Number of entries."), age()]),
        ("v1", "Secret") => columns.extend([
            text("Type", "What the secret is for."),
            Column::new("Data", "string", 0, "Number of entries."),
            age(),
        ]),
        ("v1", "Namespace") => columns.extend([text("Status", "Phase of the namespace."), age()]),
        ("coordination.k8s.io/v1", "Lease") => columns.extend([text("Holder", "Who holds the lease."), age()]),
        ("v1", "PersistentVolumeClaim") => columns.extend([
            text("Status", "Phase of the claim."),
            text("Volume", "Volume bound to the claim."),
            text("Capacity", "Size of the volume."),
            text("Access Modes", "How the volume may be mounted."),
            text("StorageClass", "Class of storage asked for."),
            text("VolumeAttributesClass", "Class of attributes in use."),
            age(),
            wide("VolumeMode", "Filesystem or Block."),
        ]),
        ("v1" | "events.k8s.io/v1", "Event") => {
            columns = vec![
                text("Last Seen", "When it happened last."),
                text("Type", "Normal or Warning."),
                text("Reason", "Short word for what happened."),
                text("Object", "Object that it happened to."),
                wide("Subobject", "Part of the object."),
                wide("Source", "Who reports it."),
                text("Message", "What happened."),
                wide("First Seen", "When it happened first."),
                Column::new("Count", "string", 1, "How often it happened."),
                Column {
                    format: "name".to_owned(),
                    ..wide("Name", "Name of the event.")
                },
            ];
        }
        _ => return None,
    }
    Some(columns)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn or_none(value: &str) -> Value {
    if value.is_empty() {
        "<none>".into()
    } else {
        value.into()
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    list(&object["status"]["conditions"]).iter().find(|c| c["type"] == kind)
}

fn is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c["status"] == "True")
}

/// Returns the cells of one object.
pub(super) fn cells(kind: &str, object: &Value, now: &str) -> Vec<Value> {
    let name = super::name(object);
    let created = Value::from(age(text(&object["metadata"]["creationTimestamp"]), now));
    match kind {
        "Pod" => pod(object, name, created, now),
        "Job" => job(object, name, created, now),
        "ConfigMap" => vec![
            name,
            json!(count(&object["data"]) + count(&object["binaryData"])),
            created,
        ],
        "Secret" => vec![
            name,
            text(&object["type"]).into(),
            json!(count(&object["data"])),
            created,
        ],
        "Namespace" => vec![name, text(&object["status"]["phase"]).into(), created],
        "Lease" => vec![name, text(&object["spec"]["holderIdentity"]).into(), created],
        "PersistentVolumeClaim" => claim(object, name, created),
        "Event" => event(object, name, now),
        _ => vec![name, created],
    }
}

fn ended(state: &Value, prefix: &str) -> String {
    let terminated = &state["terminated"];
    match (
        text(&terminated["reason"]),
        terminated["signal"].as_i64().unwrap_or_default(),
    ) {
        ("", 0) => format!(
            "{prefix}ExitCode:{}",
            terminated["exitCode"].as_i64().unwrap_or_default()
        ),
        ("", signal) => format!("{prefix}Signal:{signal}"),
        (reason, _) => format!("{prefix}{reason}"),
    }
}

fn pod(object: &Value, name: Value, created: Value, now: &str) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let init = list(&spec["initContainers"]);
    let sidecar = |name: &Value| {
        init.iter()
            .any(|c| c["name"] == *name && c["restartPolicy"] == "Always")
    };
    let sidecars = init.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let total = list(&spec["containers"]).len() + sidecars;
    let mut reason = match text(&status["reason"]) {
        "" => text(&status["phase"]).to_owned(),
        reason => reason.to_owned(),
    };
    if let Some(gated) = condition(object, "PodScheduled").filter(|c| c["reason"] == "SchedulingGated") {
        reason = text(&gated["reason"]).to_owned();
    }
    let (mut ready, mut restarts, mut sidecar_restarts) = (0, 0, 0);
    let mut last = String::new();
    let mut sidecar_last = String::new();
    let mut initializing = false;
    let later = |last: &mut String, status: &Value| {
        let at = text(&status["lastState"]["terminated"]["finishedAt"]);
        if at > last.as_str() {
            *last = at.to_owned();
        }
    };
    for (i, one) in list(&status["initContainerStatuses"]).iter().enumerate() {
        let state = &one["state"];
        restarts += one["restartCount"].as_i64().unwrap_or_default();
        later(&mut last, one);
        let keeps_running = sidecar(&one["name"]);
        if keeps_running {
            sidecar_restarts += one["restartCount"].as_i64().unwrap_or_default();
            later(&mut sidecar_last, one);
        }
        if state["terminated"]["exitCode"] == 0 {
            continue;
        }
        if keeps_running && one["started"] == true {
            ready += usize::from(one["ready"] == true);
            continue;
        }
        let waiting = text(&state["waiting"]["reason"]);
        reason = if state["terminated"].is_object() {
            ended(state, "Init:")
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", init.len())
        };
        initializing = true;
        break;
    }
    if !initializing || is_true(object, "Initialized") {
        restarts = sidecar_restarts;
        last = sidecar_last;
        let mut running = false;
        for one in list(&status["containerStatuses"]).iter().rev() {
            let state = &one["state"];
            restarts += one["restartCount"].as_i64().unwrap_or_default();
            later(&mut last, one);
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if state["terminated"].is_object() {
                reason = ended(state, "");
            } else if one["ready"] == true && state["running"].is_object() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if is_true(object, "Ready") {
                "Running"
            } else {
                "NotReady"
            }
            .to_owned();
        }
    }
    if object["metadata"]["deletionTimestamp"].is_string() {
        if status["reason"] == "NodeLost" {
            reason = "Unknown".to_owned();
        } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
            reason = "Terminating".to_owned();
        }
    }
    let restarted = match (restarts, last.as_str()) {
        (0, _) | (_, "") => restarts.to_string(),
        (n, last) => format!("{n} ({} ago)", age(last, now)),
    };
    let ip = list(&status["podIPs"])
        .first()
        .map_or(text(&status["podIP"]), |p| text(&p["ip"]));
    let gates = list(&spec["readinessGates"]);
    let passed = gates
        .iter()
        .filter(|g| is_true(object, text(&g["conditionType"])))
        .count();
    let gates = if gates.is_empty() {
        "<none>".to_owned()
    } else {
        format!("{passed}/{}", gates.len())
    };
    vec![
        name,
        format!("{ready}/{total}").into(),
        reason.into(),
        restarted.into(),
        created,
        or_none(ip),
        or_none(text(&spec["nodeName"])),
        or_none(text(&status["nominatedNodeName"])),
        gates.into(),
    ]
}

fn selector_words(selector: &Value) -> String {
    let mut words = Vec::new();
    let mut labels: Vec<_> = selector["matchLabels"].as_object().into_iter().flatten().collect();
    labels.sort_by_key(|(k, _)| *k);
    words.extend(labels.into_iter().map(|(k, v)| format!("{k}={}", text(v))));
    for one in list(&selector["matchExpressions"]) {
        let key = text(&one["key"]);
        let values: Vec<&str> = list(&one["values"]).iter().map(text).collect();
        words.push(match text(&one["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    if words.is_empty() {
        "<none>".to_owned()
    } else {
        words.join(",")
    }
}

fn job(object: &Value, name: Value, created: Value, now: &str) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let state = if is_true(object, "Complete") {
        "Complete"
    } else if is_true(object, "Failed") {
        "Failed"
    } else if object["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
            .into_iter()
            .find(|c| is_true(object, c))
            .unwrap_or("Running")
    };
    let succeeded = status["succeeded"].as_i64().unwrap_or_default();
    let completions = match (
        spec["completions"].as_i64(),
        spec["parallelism"].as_i64().unwrap_or_default(),
    ) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let started = text(&status["startTime"]);
    let duration = match (started, text(&status["completionTime"])) {
        ("", _) => String::new(),
        (started, "") => between(started, now),
        (started, done) => between(started, done),
    };
    let containers = list(&spec["template"]["spec"]["containers"]);
    let column = |key: &str| containers.iter().map(|c| text(&c[key])).collect::<Vec<_>>().join(",");
    vec![
        name,
        state.into(),
        completions.into(),
        duration.into(),
        created,
        column("name").into(),
        column("image").into(),
        selector_words(&spec["selector"]).into(),
    ]
}

fn claim(object: &Value, name: Value, created: Value) -> Vec<Value> {
    let (spec, status) = (&object["spec"], &object["status"]);
    let phase = if object["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else {
        text(&status["phase"])
    };
    let volume = text(&spec["volumeName"]);
    let (mut capacity, mut modes) = ("", String::new());
    if !volume.is_empty() {
        capacity = text(&status["capacity"]["storage"]);
        let short = |mode: &Value| match text(mode) {
            "ReadWriteOnce" => "RWO",
            "ReadOnlyMany" => "ROX",
            "ReadWriteMany" => "RWX",
            "ReadWriteOncePod" => "RWOP",
            _ => "",
        };
        modes = list(&status["accessModes"])
            .iter()
            .map(short)
            .filter(|m| !m.is_empty())
            .collect::<Vec<_>>()
            .join(",");
    }
    let attributes = match text(&spec["volumeAttributesClassName"]) {
        "" => "<unset>",
        class => class,
    };
    let mode = match text(&spec["volumeMode"]) {
        "" => "<unset>",
        mode => mode,
    };
    vec![
        name,
        phase.into(),
        volume.into(),
        capacity.into(),
        modes.into(),
        text(&spec["storageClassName"]).into(),
        attributes.into(),
        created,
        mode.into(),
    ]
}

fn event(object: &Value, name: Value, now: &str) -> Vec<Value> {
    let core;
    let object = if object["apiVersion"] == "events.k8s.io/v1" {
        core = to_core(object.clone());
        &core
    } else {
        object
    };
    let since = |value: &Value| age(text(value), now);
    let first = if text(&object["firstTimestamp"]).is_empty() {
        since(&object["eventTime"])
    } else {
        since(&object["firstTimestamp"])
    };
    let mut last = if text(&object["lastTimestamp"]).is_empty() {
        first.clone()
    } else {
        since(&object["lastTimestamp"])
    };
    let mut count = object["count"].as_i64().unwrap_or_default();
    if object["series"].is_object() {
        last = since(&object["series"]["lastObservedTime"]);
        count = object["series"]["count"].as_i64().unwrap_or_default();
    } else if count == 0 {
        count = 1;
    }
    let about = &object["involvedObject"];
    let kind = text(&about["kind"]).to_lowercase();
    let target = match text(&about["name"]) {
        "" => kind,
        name => format!("{kind}/{name}"),
    };
    let component = match text(&object["source"]["component"]) {
        "" => text(&object["reportingComponent"]),
        component => component,
    };
    let instance = match text(&object["source"]["host"]) {
        "" => text(&object["reportingInstance"]),
        host => host,
    };
    let source = if instance.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {instance}")
    };
    vec![
        last.into(),
        text(&object["type"]).into(),
        text(&object["reason"]).into(),
        target.into(),
        text(&about["fieldPath"]).into(),
        source.into(),
        text(&object["message"]).trim().into(),
        first.into(),
        count.into(),
        name,
    ]
}
