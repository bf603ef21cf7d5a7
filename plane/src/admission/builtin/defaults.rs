//! Defaults of the built-in kinds.

use base64::Engine as _;
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

fn set(map: &mut Object, key: &str, value: Value) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value);
    }
}

fn object<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Object> {
    value.get_mut(key).and_then(Value::as_object_mut)
}

fn object_of<'a>(map: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    map.get_mut(key).and_then(Value::as_object_mut)
}

fn each<'a>(map: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    map.get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Finds (or makes) a map below a map; `None` when something else stands there.
fn made<'a>(map: &'a mut Object, key: &str) -> Option<&'a mut Object> {
    set(map, key, json!({}));
    map.get_mut(key).and_then(Value::as_object_mut)
}

/// Fills in the defaults of a kind.
pub(super) fn fill(api_version: &str, kind: &str, value: &mut Value) {
    let Some(root) = value.as_object_mut() else {
        return;
    };
    match kind {
        "Secret" => secret(root),
        "Namespace" => namespace(root),
        "Pod" => {
            if let Some(spec) = made(root, "spec") {
                pod_spec(spec);
                requests(spec);
                set(spec, "enableServiceLinks", json!(true));
            }
            let class = quality(&root["spec"]);
            if let Some(status) = made(root, "status") {
                set(status, "phase", json!("Pending"));
                set(status, "qosClass", json!(class));
                pod_status(status);
            }
        }
        "Job" => job(root),
        "Lease" => {
            made(root, "spec");
        }
        "PersistentVolumeClaim" => {
            if let Some(spec) = made(root, "spec") {
                set(spec, "volumeMode", json!("Filesystem"));
                set(spec, "resources", json!({}));
            }
            if let Some(status) = made(root, "status") {
                set(status, "phase", json!("Pending"));
            }
        }
        "Event" if api_version != "v1" => {
            for key in ["eventTime", "deprecatedFirstTimestamp", "deprecatedLastTimestamp"] {
                set(root, key, Value::Null);
            }
            set(root, "deprecatedSource", json!({}));
        }
        "Event" => {
            for key in ["eventTime", "firstTimestamp", "lastTimestamp"] {
                set(root, key, Value::Null);
            }
            for key in ["reportingComponent", "reportingInstance"] {
                set(root, key, json!(""));
            }
            set(root, "source", json!({}));
        }
        "CustomResourceDefinition" => super::crd::default(root),
        _ => {}
    }
}

fn secret(root: &mut Object) {
    if root.get("type").is_some_and(|kind| kind == "") {
        root.shift_remove("type");
    }
    set(root, "type", json!("Opaque"));
    let Some(Value::Object(plain)) = root.shift_remove("stringData") else {
        return;
    };
    if plain.is_empty() {
        return;
    }
    if let Some(data) = made(root, "data") {
        for (key, text) in plain {
            let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or_default());
            data.insert(key, encoded.into());
        }
    }
}

fn namespace(root: &mut Object) {
    let name = root.get("metadata").and_then(|m| m.get("name")).cloned();
    if let (Some(name), Some(metadata)) = (name, made(root, "metadata"))
        && let Some(labels) = made(metadata, "labels")
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    set(root, "spec", json!({}));
    if let Some(status) = made(root, "status") {
        set(status, "phase", json!("Active"));
    }
}

fn job(root: &mut Object) {
    let labels = root
        .get("spec")
        .and_then(|s| s.pointer("/template/metadata/labels"))
        .cloned();
    if let (Some(labels), Some(metadata)) = (labels, made(root, "metadata"))
        && metadata
            .get("labels")
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty)
    {
        metadata.insert("labels".to_owned(), labels);
    }
    if let Some(status) = made(root, "status") {
        condition_times(status);
    }
    let Some(spec) = made(root, "spec") else {
        return;
    };
    let both_absent = ["completions", "parallelism"]
        .iter()
        .all(|k| spec.get(*k).is_none_or(Value::is_null));
    if both_absent {
        set(spec, "completions", json!(1));
    }
    set(spec, "parallelism", json!(1));
    if spec.get("backoffLimitPerIndex").is_some() {
        set(spec, "backoffLimit", json!(i32::MAX));
    }
    set(spec, "backoffLimit", json!(6));
    set(spec, "completionMode", json!("NonIndexed"));
    set(spec, "manualSelector", json!(false));
    set(spec, "suspend", json!(false));
    let replacement = if spec.get("podFailurePolicy").is_some() {
        "Failed"
    } else {
        "TerminatingOrFailed"
    };
    set(spec, "podReplacementPolicy", json!(replacement));
    if let Some(policy) = object_of(spec, "podFailurePolicy") {
        for rule in each(policy, "rules") {
            for condition in each(rule, "onPodConditions") {
                set(condition, "status", json!("True"));
            }
        }
    }
    if let Some(template) = made(spec, "template") {
        set(template, "metadata", json!({}));
        if let Some(spec) = made(template, "spec") {
            pod_spec(spec);
        }
    }
}

/// Drops texts that are empty, where the kind does not write them and a default counts for them.
fn drop_empty(map: &mut Object, keys: &[&str]) {
    for key in keys {
        if map.get(*key).is_some_and(|text| text == "") {
            map.shift_remove(*key);
        }
    }
}

fn pod_spec(spec: &mut Object) {
    let unwritten = [
        "dnsPolicy",
        "hostname",
        "nodeName",
        "priorityClassName",
        "restartPolicy",
        "schedulerName",
        "serviceAccount",
        "serviceAccountName",
        "subdomain",
    ];
    drop_empty(spec, &unwritten);
    set(spec, "dnsPolicy", json!("ClusterFirst"));
    set(spec, "restartPolicy", json!("Always"));
    set(spec, "schedulerName", json!("default-scheduler"));
    set(spec, "securityContext", json!({}));
    set(spec, "terminationGracePeriodSeconds", json!(30));
    for volume in each(spec, "volumes") {
        self::volume(volume);
    }
    for secret in each(spec, "imagePullSecrets") {
        drop_empty(secret, &["name"]);
    }
    for key in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each(spec, key) {
            self::container(container);
        }
    }
    for toleration in each(spec, "tolerations") {
        drop_empty(toleration, &["key", "operator", "value", "effect"]);
    }
    if spec.get("hostNetwork").is_some_and(|shared| *shared == true) {
        for key in ["initContainers", "containers"] {
            for container in each(spec, key) {
                host_ports(container);
            }
        }
    }
    if let Some(account) = spec.get("serviceAccountName").cloned() {
        set(spec, "serviceAccount", account);
    } else if let Some(account) = spec.get("serviceAccount").cloned() {
        set(spec, "serviceAccountName", account);
    }
}

/// Where a Pod shares the network of its host, its ports are the host's.
fn host_ports(container: &mut Object) {
    for port in each(container, "ports") {
        if let Some(number) = port.get("containerPort").cloned() {
            set(port, "hostPort", number);
        }
    }
}

fn volume(volume: &mut Object) {
    if volume.keys().all(|k| k == "name") {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            set(source, "defaultMode", json!(420));
            field_references(source);
            for projection in each(source, "sources") {
                if let Some(token) = projection.get_mut("serviceAccountToken").and_then(Value::as_object_mut) {
                    set(token, "expirationSeconds", json!(3600));
                }
                if let Some(downward) = projection.get_mut("downwardAPI").and_then(Value::as_object_mut) {
                    field_references(downward);
                }
            }
        }
    }
    let template = object_of(volume, "ephemeral").and_then(|ephemeral| object_of(ephemeral, "volumeClaimTemplate"));
    if let Some(template) = template {
        set(template, "metadata", json!({}));
        if let Some(spec) = made(template, "spec") {
            set(spec, "volumeMode", json!("Filesystem"));
        }
    }
    if let Some(path) = volume.get_mut("hostPath").and_then(Value::as_object_mut) {
        set(path, "type", json!(""));
    }
}

fn field_references(source: &mut Object) {
    for item in each(source, "items") {
        if let Some(field) = item.get_mut("fieldRef").and_then(Value::as_object_mut) {
            set(field, "apiVersion", json!("v1"));
        }
        divisor(item);
    }
}

/// What is said of a resource is said in whole units, where no other are named.
fn divisor(source: &mut Object) {
    if let Some(resource) = object_of(source, "resourceFieldRef") {
        set(resource, "divisor", json!("0"));
    }
}

/// Times that a condition does not have are written as null.
fn condition_times(status: &mut Object) {
    for condition in each(status, "conditions") {
        set(condition, "lastProbeTime", Value::Null);
        set(condition, "lastTransitionTime", Value::Null);
    }
}

fn pod_status(status: &mut Object) {
    condition_times(status);
    let address = status.get("podIP").cloned().filter(|address| address != "");
    if let Some(address) = address.filter(|_| !status.contains_key("podIPs")) {
        status.insert("podIPs".to_owned(), json!([{"ip": address}]));
    }
    for key in [
        "initContainerStatuses",
        "containerStatuses",
        "ephemeralContainerStatuses",
    ] {
        for container in each(status, key) {
            for state in ["state", "lastState"] {
                let Some(state) = made(container, state) else {
                    continue;
                };
                for (name, times) in [
                    ("running", &["startedAt"][..]),
                    ("terminated", &["startedAt", "finishedAt"]),
                ] {
                    if let Some(state) = state.get_mut(name).and_then(Value::as_object_mut) {
                        times.iter().for_each(|time| set(state, time, Value::Null));
                    }
                }
            }
        }
    }
}

/// Requests what is limited, of a Pod: a template leaves it to its Pods.
fn requests(spec: &mut Object) {
    for key in ["initContainers", "containers"] {
        for resources in each(spec, key).filter_map(|container| made(container, "resources")) {
            if let Some(Value::Object(limits)) = resources.get("limits").cloned()
                && let Some(requests) = made(resources, "requests")
            {
                for (name, limit) in limits {
                    set(requests, &name, limit);
                }
            }
        }
    }
}

/// Returns the class of service that a pod's requests and limits of processors and memory put it in.
pub fn quality(spec: &Value) -> &'static str {
    let lists = ["initContainers", "containers"].into_iter().filter_map(|k| spec.get(k));
    let (mut any, mut all) = (false, true);
    for container in lists.filter_map(Value::as_array).flatten() {
        let of = |kind: &str, name: &str| container.pointer(&format!("/resources/{kind}/{name}")).cloned();
        for name in ["cpu", "memory"] {
            let (request, limit) = (of("requests", name), of("limits", name));
            any |= request.is_some() || limit.is_some();
            all &= limit.is_some() && request == limit;
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Says whether an image's tag may move, so that it is pulled always.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or_default();
    last.split_once(':').is_none_or(|(_, tag)| tag == "latest")
}

fn container(container: &mut Object) {
    let unwritten = [
        "image",
        "imagePullPolicy",
        "terminationMessagePath",
        "terminationMessagePolicy",
        "workingDir",
    ];
    drop_empty(container, &unwritten);
    let image = container.get("image").and_then(Value::as_str).unwrap_or_default();
    let policy = if is_latest(image) { "Always" } else { "IfNotPresent" };
    set(container, "imagePullPolicy", json!(policy));
    set(container, "terminationMessagePath", json!("/dev/termination-log"));
    set(container, "terminationMessagePolicy", json!("File"));
    made(container, "resources");
    for port in each(container, "ports") {
        drop_empty(port, &["name", "hostIP", "protocol"]);
        set(port, "protocol", json!("TCP"));
    }
    for mount in each(container, "volumeMounts") {
        drop_empty(mount, &["subPath", "subPathExpr"]);
    }
    for env in each(container, "env") {
        drop_empty(env, &["value"]);
        if let Some(from) = object_of(env, "valueFrom") {
            divisor(from);
        }
        if let Some(field) = env.get_mut("valueFrom").and_then(|v| object(v, "fieldRef")) {
            set(field, "apiVersion", json!("v1"));
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).and_then(Value::as_object_mut) {
            set(probe, "timeoutSeconds", json!(1));
            set(probe, "periodSeconds", json!(10));
            set(probe, "successThreshold", json!(1));
            set(probe, "failureThreshold", json!(3));
            handler(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = container.get_mut("lifecycle").and_then(|l| object(l, hook)) {
            handler(hook);
        }
    }
}

fn handler(handler: &mut Object) {
    if let Some(get) = handler.get_mut("httpGet").and_then(Value::as_object_mut) {
        set(get, "path", json!("/"));
        set(get, "scheme", json!("HTTP"));
    }
    if let Some(grpc) = handler.get_mut("grpc").and_then(Value::as_object_mut) {
        set(grpc, "service", json!(""));
    }
}
