//! What a Job in the Jobs' namespace may be, and which objects are refused when they are written.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::daemon::claim::ClaimSecret;
use agent::executor::job::build::{CoderObjects, CoderRequest, Limits, build};
use agent::executor::job::payload::Payload;
use gate::cache::CacheKey;
use gate::definition::{ResolvedGate, ResolvedPrepare, ResolvedResources, ResolvedStep, Source};
use gate::job::{CacheMount, GateObjects, GateRequest, build_job};
use schemas::agent::Execution;
use serde_json::{Value, json};

use super::cluster::{Cluster, Release};

/// Builds the objects of a gate as an agent on `node` does.
pub fn gate_objects(release: &Release, node: &str, task: &str) -> GateObjects {
    let gate = ResolvedGate {
        image: "docker.io/library/rust:1".into(),
        prepare: Some(ResolvedPrepare {
            command: "cargo fetch".into(),
            allow_hosts: vec!["index.crates.io".into()],
            timeout_seconds: 600,
            cache_key: vec!["Cargo.lock".into()],
        }),
        steps: vec![ResolvedStep {
            name: "test".into(),
            command: "cargo test".into(),
            timeout_seconds: 600,
            advisory: false,
        }],
        protected: vec![".foreman/**".into()],
        pinned: Vec::new(),
        resources: ResolvedResources::default(),
        deadline_seconds: 1800,
        source: Source::File,
    };
    let request = GateRequest {
        task_name: task.into(),
        task_uid: "0b0c9f0e-3a52-4b7d-9d2e-0c6d3c2b1a00".into(),
        epoch: 1,
        attempt: 1,
        namespace: release.jobs.clone(),
        labels: BTreeMap::from([(schemas::labels::NODE.to_owned(), node.to_owned())]),
        repository: "https://git.example.com/team/repo".into(),
        branch: "foreman/work".into(),
        head_sha: "a".repeat(40),
        base_sha: "b".repeat(40),
        file_roots: Vec::new(),
        credentials: Some(("clone".into(), "token".into())),
        ca_bundle: None,
        cache: Some(CacheMount {
            claim: format!("{}-gate-cache", release.name),
            key: CacheKey {
                repository: "0".repeat(16),
                key: "1".repeat(32),
            },
        }),
        service_account: Some("foreman-gate".into()),
        runtime_class: None,
        program_image: None,
        ttl_seconds: 3600,
        user: 65532,
    };
    build_job(&gate, &request).unwrap()
}

/// Tries to create an object without keeping it; returns the refusal.
pub fn refusal(cluster: &Cluster, object: &Value) -> Option<String> {
    let said = cluster.call(&["create", "--dry-run=server", "--filename", "-"], &object.to_string());
    (said.code != Some(0)).then_some(said.err)
}

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

fn pod(job: &mut Value) -> &mut Value {
    &mut job["spec"]["template"]["spec"]
}

fn push(job: &mut Value, at: &str, item: Value) {
    pod(job).pointer_mut(at).unwrap().as_array_mut().unwrap().push(item);
}

fn put(job: &mut Value, at: &str, name: &str, item: Value) {
    pod(job).pointer_mut(at).unwrap()[name] = item;
}

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

/// Builds the objects of a coder's Job as an agent on `node` does.
pub fn coder_objects(release: &Release, node: &str, task: &str) -> CoderObjects {
    objects_of(release, node, task, Execution::default())
}

fn objects_of(release: &Release, node: &str, task: &str, execution: Execution) -> CoderObjects {
    let request = CoderRequest {
        task_name: task.into(),
        task_uid: "0b0c9f0e-3a52-4b7d-9d2e-0c6d3c2b1a00".into(),
        epoch: 1,
        secret: ClaimSecret::new(rand::random()),
        namespace: release.jobs.clone(),
        labels: BTreeMap::from([(schemas::labels::NODE.to_owned(), node.to_owned())]),
        repository: "https://git.example.com/team/repo".into(),
        base: "b".repeat(40),
        file_roots: Vec::new(),
        limits: Limits::of(&execution, Duration::from_secs(300)),
        execution,
        default_image: Some("example/agent:1".into()),
        default_account: Some("foreman-coder".into()),
        credentials: Some(("clone".into(), "token".into())),
        ttl_seconds: 600,
    };
    build(&request, &Payload::default()).unwrap()
}

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

/// Manifests in the shapes that are published: none of them may be refused.
const PUBLISHED: &str = "\
apiVersion: foreman.llmkube.dev/v1alpha1
kind: AgenticTask
metadata: {name: verifier-smoke, namespace: default}
spec:
  kind: freeform
  requiredCapability: {roles: [verifier]}
  timeoutSeconds: 60
  payload: {prompt: hello}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: AgenticTask
metadata: {name: gate-503, namespace: default}
spec:
  kind: verify
  priority: 50
  timeoutSeconds: 3900
  agentRef: {name: gate}
  dependsOn:
    - {name: code-503, namespace: default}
  payload: {repo: team/repo, issue: 503, branch: foreman/issue-503}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: AgenticTask
metadata: {name: gate-504, namespace: default}
spec:
  kind: verify
  agentRef: {name: gate}
  dependsOn: [code-504]
  payload: {repo: \"ssh://git@git.example.com/team/repo\", branch: foreman/issue-504}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Agent
metadata: {name: gate, namespace: default}
spec:
  role: verifier
  tools: [run_gate_job]
  requiredCapability: {roles: [verifier]}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Agent
metadata: {name: cloud-reviewer, namespace: default}
spec:
  role: reviewer
  provider: cloud-proxy
  providerConfig:
    baseURL: http://proxy.lan:4000/v1
    model: big
    apiKeySecretRef: {name: proxy-key, key: token}
  temperature: \"0.2\"
  tools: [read_file, grep, bash, submit_result]
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Workload
metadata: {name: linter-fix-503, namespace: default}
spec:
  intent: one explicit pipeline
  repo: team/repo
  pipeline:
    - name: code-503
      kind: issue-fix
      agentRef: {name: coder}
      payload: {repo: team/repo, issue: 503, branch: foreman/issue-503, prompt: fix it}
      timeoutSeconds: 1800
    - name: verify-503
      kind: verify
      agentRef: {name: gate}
      dependsOn: [code-503]
      payload: {repo: team/repo, issue: 503, branch: foreman/issue-503}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: Workload
metadata: {name: batch, namespace: default}
spec:
  intent: fix the listed issues
  repo: team/repo
  issues: [641, 642]
  coderAgentRef: {name: coder}
  verifierAgentRef: {name: gate}
  reviewerAgentRefs: [{name: reviewer}]
  escalationReviewerAgentRefs: [{name: big-reviewer}]
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: ModelProfile
metadata: {name: small}
spec: {restrictReadsInForcingPhase: true}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: AgentRelease
metadata: {name: v1}
spec: {agentKind: foreman-agent, version: 0.2.0}
---
apiVersion: foreman.llmkube.dev/v1alpha1
kind: TaskQueue
metadata: {name: team, namespace: default}
spec:
  git: {url: \"https://git.example.com/tasks.git\"}
";

#[test]
#[ignore = "needs a real kube-apiserver"]
fn what_can_never_work_is_refused_and_what_is_published_is_not() {
    let release = Release::apply(&[]);
    let task = |payload: Value, waits: Value| {
        json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": "own", "namespace": "default" },
            "spec": { "kind": "freeform", "payload": payload, "dependsOn": waits },
        })
    };
    let workload = |pipeline: Value| {
        json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload",
            "metadata": { "name": "own", "namespace": "default" },
            "spec": { "intent": "x", "pipeline": pipeline },
        })
    };
    let step = |name: &str, after: Value| json!({ "name": name, "kind": "verify", "agentRef": { "name": "v" }, "payload": {}, "dependsOn": after });
    let secret = task(json!({ "repo": "https://me:s3cret@git.example.com/r" }), json!([]));
    release
        .cluster
        .until("the policy", || refusal(&release.cluster, &secret).is_some());
    for document in PUBLISHED.split("---\n") {
        let object = schemas::yaml::parse_value(document).unwrap();
        assert_eq!(refusal(&release.cluster, &object), None, "{document}");
    }
    for (object, words) in [
        (secret, "put it into a Secret"),
        (
            task(json!({ "repo": "https://ghp_token@github.com/o/r" }), json!([])),
            "put it into a Secret",
        ),
        (task(json!({}), json!(["own"])), "depends on itself"),
        (
            task(json!({}), json!([{ "name": "own", "namespace": "default" }])),
            "depends on itself",
        ),
        (
            workload(json!([step("a", json!([])), step("a", json!([]))])),
            "two steps",
        ),
        (workload(json!([step("a", json!(["a"]))])), "depends on itself"),
        (
            json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "TaskQueue",
                "metadata": { "name": "own", "namespace": "default" },
                "spec": { "git": { "url": "https://u:p@git.example.com/t" } },
            }),
            "put it into a Secret",
        ),
        (
            json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent",
                "metadata": { "name": "own", "namespace": "default" },
                "spec": { "role": "coder", "tools": ["bash"], "providerConfig": { "baseURL": "https://u:p@m.example/v1" } },
            }),
            "put it into a Secret",
        ),
    ] {
        let refused = refusal(&release.cluster, &object).unwrap_or_else(|| panic!("{object} is not refused"));
        assert!(refused.contains(words), "{words:?} is not in {refused}");
        assert!(
            !refused.contains("s3cret") && !refused.contains("ghp_token"),
            "{refused}"
        );
    }
}
