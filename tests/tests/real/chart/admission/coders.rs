//! What the Job of a coder may be.

use schemas::agent::Execution;
use serde_json::{Value, json};

use super::super::cluster::Release;
use super::{coder_objects, objects_of, pod, push, put, refusal};

#[test]
#[ignore = "needs a real kube-apiserver"]
fn a_job_of_a_coder_mounts_its_own_payload_and_nobody_elses() {
    let release = Release::apply(&["--set", "coder.gitCredentialsSecret=clone"]);
    let (own, other) = (
        coder_objects(&release, "node-a", "fix-login-code"),
        coder_objects(&release, "node-b", "fix-login-code"),
    );
    let job = serde_json::to_value(&own.job).unwrap();
    let with = |change: &dyn Fn(&mut Value)| {
        let mut changed = job.clone();
        change(&mut changed);
        changed
    };
    let theirs = other.payload.metadata.name.clone().unwrap();
    let steal = with(&|job| pod(job)["volumes"][0]["secret"]["secretName"] = json!(theirs));
    release
        .cluster
        .until("the policy", || refusal(&release.cluster, &steal).is_some());
    for object in [serde_json::to_value(&own.payload).unwrap(), job.clone()] {
        let said = release
            .cluster
            .call(&["create", "--dry-run=server", "--filename", "-"], &object.to_string());
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(!said.err.contains("would violate PodSecurity"), "{}", said.err);
    }
    let rename = |job: &mut Value, name: &str| {
        job["metadata"]["name"] = json!(name);
        pod(job)["volumes"][0]["secret"]["secretName"] = json!(name);
    };
    for (what, wrong, words) in [
        ("another's payload", steal, "no other Secrets"),
        (
            "a gate with a payload",
            with(&|job| put(job, "", "serviceAccountName", json!("foreman-gate"))),
            "no other Secrets",
        ),
        (
            "a Job of a Secret's name",
            with(&|job| rename(job, "registry-password")),
            "no other Secrets",
        ),
        (
            "a Job of a Secret's name that only begins as a payload's",
            with(&|job| rename(job, "coder-registry-password")),
            "no other Secrets",
        ),
        (
            "a Job that does not say that it is a coder's",
            with(&|job| job["metadata"]["labels"]["foreman.llmkube.dev/job-kind"] = json!("gate")),
            "no other Secrets",
        ),
        (
            "a pull secret of its own choice",
            with(&|job| pod(job)["imagePullSecrets"] = json!([{ "name": "clone" }])),
            "no other pull secrets",
        ),
        (
            "a token",
            with(&|job| put(job, "", "automountServiceAccountToken", json!(true))),
            "automountServiceAccountToken",
        ),
        (
            "an account of its own choice",
            with(&|job| put(job, "", "serviceAccountName", json!("builder"))),
            "no other service account",
        ),
        (
            "the host's disk",
            with(&|job| push(job, "/volumes", json!({ "name": "x", "hostPath": { "path": "/" } }))),
            "no other volumes",
        ),
        (
            "a variable from a Secret",
            with(&|job| {
                let from = json!({ "secretKeyRef": { "name": "clone", "key": "token" } });
                push(job, "/containers/0/env", json!({ "name": "T", "valueFrom": from }));
            }),
            "no variables from Secrets",
        ),
        (
            "no deadline",
            with(&|job| drop(job["spec"].as_object_mut().unwrap().remove("activeDeadlineSeconds"))),
            "a deadline",
        ),
    ] {
        let refused = refusal(&release.cluster, &wrong).unwrap_or_else(|| panic!("{what} is not refused"));
        assert!(refused.contains(words), "{what}: {words:?} is not in {refused}");
    }
}

#[test]
#[ignore = "needs a real kube-apiserver"]
fn what_an_agent_may_say_of_its_jobs_is_admitted_where_the_release_allows_it() {
    let execution = || -> Execution {
        serde_json::from_value(json!({
            "mode": "Job", "image": "registry.example/cuda:2", "imagePullSecrets": [{ "name": "registry" }],
            "serviceAccountName": "gpu", "nodeSelector": { "gpu": "h100" },
            "tolerations": [{ "key": "nvidia.com/gpu", "operator": "Exists" }],
            "resources": { "limits": { "nvidia.com/gpu": "1", "memory": "24Gi" } },
            "startupTimeoutSeconds": 900, "activeDeadlineSeconds": 1800, "ttlSecondsAfterFinished": 60,
        }))
        .unwrap()
    };
    let narrow = Release::apply(&["--set", "coder.gitCredentialsSecret=clone"]);
    let job = |release: &Release| {
        let objects = objects_of(release, "node-a", "fix-login-code", execution());
        serde_json::to_value(objects.job).unwrap()
    };
    narrow
        .cluster
        .until("the policy", || refusal(&narrow.cluster, &job(&narrow)).is_some());
    let refused = refusal(&narrow.cluster, &job(&narrow)).unwrap();
    assert!(
        refused.contains("coder.moreServiceAccounts") || refused.contains("coder.pullSecrets"),
        "it says which value names more: {refused}"
    );
    let wide = Release::apply(&[
        "--set",
        "coder.gitCredentialsSecret=clone,coder.moreServiceAccounts={gpu},coder.pullSecrets={registry}",
    ]);
    let mut other = job(&wide);
    pod(&mut other)["serviceAccountName"] = json!("cpu");
    wide.cluster
        .until("the policy", || refusal(&wide.cluster, &other).is_some());
    assert_eq!(refusal(&wide.cluster, &job(&wide)), None);
}
