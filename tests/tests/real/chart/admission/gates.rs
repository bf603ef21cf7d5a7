//! What the Job of a gate may be.

use serde_json::{Value, json};

use super::super::cluster::Release;
use super::{coder_objects, gate_objects, push, put, refusal};

/// A change of a Job's Pod, and what the refusal must say.
type Change = (fn(&mut Value), &'static str);

const REFUSED: &[Change] = &[
    (
        |job| push(job, "/volumes", json!({ "name": "x", "hostPath": { "path": "/etc" } })),
        "no other volumes",
    ),
    (
        |job| {
            let token = json!({ "serviceAccountToken": { "path": "token" } });
            push(
                job,
                "/volumes",
                json!({ "name": "x", "projected": { "sources": [token] } }),
            );
        },
        "no other volumes",
    ),
    (
        |job| {
            push(
                job,
                "/volumes",
                json!({ "name": "x", "projected": { "sources": [{ "secret": { "name": "other" } }] } }),
            )
        },
        "no other volumes",
    ),
    (
        |job| {
            push(
                job,
                "/volumes",
                json!({ "name": "x", "nfs": { "server": "nas", "path": "/" } }),
            )
        },
        "no other volumes",
    ),
    (
        |job| {
            push(
                job,
                "/volumes",
                json!({ "name": "x", "csi": { "driver": "secrets-store.csi.k8s.io" } }),
            )
        },
        "no other volumes",
    ),
    (
        |job| {
            push(
                job,
                "/volumes",
                json!({ "name": "x", "secret": { "secretName": "other" } }),
            )
        },
        "no other Secrets",
    ),
    (
        |job| {
            push(
                job,
                "/volumes",
                json!({ "name": "x", "persistentVolumeClaim": { "claimName": "data" } }),
            )
        },
        "no other claims",
    ),
    (
        |job| {
            push(
                job,
                "/containers/0/volumeMounts",
                json!({ "name": "credentials", "mountPath": "/c" }),
            )
        },
        "never by the one that runs",
    ),
    (
        |job| {
            let from = json!({ "secretKeyRef": { "name": "clone", "key": "token" } });
            push(job, "/containers/0/env", json!({ "name": "T", "valueFrom": from }));
        },
        "no variables from Secrets",
    ),
    (
        |job| {
            put(
                job,
                "/initContainers/0",
                "envFrom",
                json!([{ "secretRef": { "name": "clone" } }]),
            )
        },
        "no variables from Secrets",
    ),
    (
        |job| put(job, "", "serviceAccountName", json!("builder")),
        "no other service account",
    ),
    (
        |job| put(job, "", "automountServiceAccountToken", json!(true)),
        "automountServiceAccountToken",
    ),
    (
        |job| put(job, "", "automountServiceAccountToken", Value::Null),
        "automountServiceAccountToken",
    ),
    (
        |job| put(job, "", "imagePullSecrets", json!([{ "name": "clone" }])),
        "no other pull secrets",
    ),
    (|job| put(job, "", "hostNetwork", json!(true)), "shares no network"),
    (|job| put(job, "", "hostPID", json!(true)), "shares no network"),
    (|job| put(job, "", "hostIPC", json!(true)), "shares no network"),
    (
        |job| put(job, "", "nodeName", json!("control-plane")),
        "placed by the scheduler",
    ),
    (
        |job| put(job, "", "priorityClassName", json!("system-node-critical")),
        "no priority over others",
    ),
    (
        |job| put(job, "/initContainers/0", "image", json!("docker.io/library/busybox:1")),
        "foreman-gate fetch",
    ),
    (
        |job| {
            put(
                job,
                "/initContainers/0",
                "command",
                json!(["cat", "/credentials/token"]),
            )
        },
        "foreman-gate fetch",
    ),
    (
        |job| put(job, "/initContainers/0", "args", json!(["run"])),
        "foreman-gate fetch",
    ),
    (
        |job| {
            let mount = json!({ "name": "credentials", "mountPath": "/c" });
            let other = json!({ "name": "x", "image": "busybox", "command": ["cat", "/c/token"], "volumeMounts": [mount],
                "securityContext": { "allowPrivilegeEscalation": false, "runAsNonRoot": true } });
            push(job, "/initContainers", other);
        },
        "foreman-gate fetch",
    ),
    (
        |job| {
            let all = json!({ "privileged": true, "runAsNonRoot": true });
            put(job, "/containers/0", "securityContext", all);
        },
        "no privileges",
    ),
    (
        |job| {
            put(
                job,
                "/containers/0/securityContext",
                "allowPrivilegeEscalation",
                json!(true),
            )
        },
        "no privileges",
    ),
    (
        |job| {
            put(
                job,
                "/containers/0/securityContext",
                "capabilities",
                json!({ "add": ["SYS_ADMIN"] }),
            )
        },
        "no privileges",
    ),
    (
        |job| put(job, "/initContainers/0/securityContext", "runAsUser", json!(0)),
        "no privileges",
    ),
    (
        |job| {
            put(
                job,
                "/containers/0",
                "ports",
                json!([{ "containerPort": 80, "hostPort": 80 }]),
            )
        },
        "no privileges",
    ),
    (
        |job| {
            put(job, "", "securityContext", json!({}));
            put(job, "/containers/0/securityContext", "runAsNonRoot", Value::Null);
        },
        "no privileges",
    ),
    (
        |job| {
            job["spec"].as_object_mut().unwrap().remove("activeDeadlineSeconds");
        },
        "a deadline",
    ),
    (
        |job| {
            job["spec"].as_object_mut().unwrap().remove("ttlSecondsAfterFinished");
        },
        "a deadline",
    ),
    (|job| job["spec"]["parallelism"] = json!(50), "one Pod"),
    (|job| job["spec"]["completions"] = json!(50), "one Pod"),
    (
        |job| {
            let labels = job["metadata"]["labels"].as_object_mut().unwrap();
            labels.remove(schemas::labels::TASK_UID);
        },
        "names its task",
    ),
];

#[test]
#[ignore = "needs a real kube-apiserver"]
fn a_job_mounts_nothing_but_what_a_gate_needs() {
    let release = Release::apply(&["--set", "coder.gitCredentialsSecret=clone"]);
    let objects = gate_objects(&release, "node-a", "fix-login-verify");
    let job = serde_json::to_value(&objects.job).unwrap();
    let host = {
        let mut job = job.clone();
        (REFUSED[0].0)(&mut job);
        job
    };
    release
        .cluster
        .until("the policy", || refusal(&release.cluster, &host).is_some());
    // What an agent really makes is taken, also under Pod Security `restricted`.
    for object in [
        serde_json::to_value(&objects.config_map).unwrap(),
        serde_json::to_value(objects.prepare_job.as_ref().unwrap()).unwrap(),
        job.clone(),
    ] {
        assert_eq!(refusal(&release.cluster, &object), None, "{object}");
        let said = release
            .cluster
            .call(&["create", "--dry-run=server", "--filename", "-"], &object.to_string());
        assert!(!said.err.contains("would violate PodSecurity"), "{}", said.err);
    }
    for (index, (change, words)) in REFUSED.iter().enumerate() {
        let mut wrong = job.clone();
        change(&mut wrong);
        let refused = refusal(&release.cluster, &wrong);
        let refused = refused.unwrap_or_else(|| panic!("case {index} ({words}) is not refused"));
        assert!(refused.contains(words), "case {index}: {words:?} is not in {refused}");
    }
    // Elsewhere Jobs are nobody's business here.
    let mut elsewhere = host;
    elsewhere["metadata"]["namespace"] = json!(release.namespace);
    assert_eq!(refusal(&release.cluster, &elsewhere), None);
}

#[test]
#[ignore = "needs a real kube-apiserver"]
fn a_job_that_was_admitted_by_other_values_can_still_end() {
    let mut release = Release::apply(&["--set", "coder.gitCredentialsSecret=clone"]);
    let mut job = serde_json::to_value(gate_objects(&release, "node-a", "fix-login-verify").job).unwrap();
    job["spec"]["suspend"] = json!(true);
    let name = job["metadata"]["name"].as_str().unwrap().to_owned();
    let jobs = release.jobs.clone();
    let cluster = &release.cluster;
    cluster.run(&["create", "--filename", "-"], &job.to_string());
    release.change(&[
        "--set",
        "coder.gitCredentialsSecret=clone,agent.gateCache.enabled=false",
    ]);
    let cluster = &release.cluster;
    let mut another = job.clone();
    another["metadata"]["name"] = json!("another");
    let refused = || refusal(cluster, &another).unwrap_or_default();
    cluster.until_or(
        "the policy of the new values",
        || refused().contains("no other claims"),
        refused,
    );
    let go_on = [
        "patch",
        "job",
        &name,
        "--namespace",
        &jobs,
        "--patch",
        "{\"spec\":{\"suspend\":false}}",
    ];
    assert!(
        cluster.call(&go_on, "").err.contains("no other claims"),
        "it may not begin"
    );
    // The garbage collector takes its finalizer away, which is an update.
    let delete = [
        "delete",
        "job",
        &name,
        "--namespace",
        &jobs,
        "--cascade=foreground",
        "--timeout=60s",
    ];
    cluster.run(&delete, "");
}

#[test]
#[ignore = "needs a real kube-apiserver"]
fn a_coders_job_may_hold_the_credential_itself_and_none_that_only_names_its_account() {
    let release = Release::apply(&["--set", "coder.gitCredentialsSecret=clone"]);
    let mut job = serde_json::to_value(gate_objects(&release, "node-a", "fix-login-code").job).unwrap();
    push(
        &mut job,
        "/containers/0/volumeMounts",
        json!({ "name": "credentials", "mountPath": "/c" }),
    );
    release
        .cluster
        .until("the policy", || refusal(&release.cluster, &job).is_some());
    put(&mut job, "", "serviceAccountName", json!("foreman-coder"));
    let said = refusal(&release.cluster, &job).unwrap();
    assert!(said.contains("never by the one that runs"), "{said}");
    let coder = serde_json::to_value(coder_objects(&release, "node-a", "fix-login-code").job).unwrap();
    let pod = &coder["spec"]["template"]["spec"];
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap();
    assert!(mounts.iter().any(|mount| mount["name"] == "credentials"), "{pod:#}");
    assert_eq!(refusal(&release.cluster, &coder), None);
}
