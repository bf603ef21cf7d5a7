//! Foreman under a real Argo CD, which takes the chart from a Git server and puts it onto the cluster.
//!
//! No kubelet runs in this tier. What one does is done here: where a Pod's program would have started and said that it is
//! ready, the Pod's status is written, and `foreman-operator` runs as a process with the account of its Pod. All that
//! follows from it, such as the Deployment's own status, Kubernetes' controllers write.

mod site;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use site::{ARGOCD, GROUP, Site};

use super::chart::helm::needed;
use crate::foreman::Said;

/// Lets Argo CD install the chart, and returns the name of the operator's Deployment once that is there.
fn installed() -> (Site, String) {
    let site = Site::open();
    site.install(|_| {});
    let deployment = site.part("operator");
    let there = || site.alone.find("deployment", &deployment).map(drop);
    site.alone
        .until("the operator's Deployment", there, || site.told(&site.app));
    (site, deployment)
}

#[test]
#[ignore = "needs Argo CD on a real control plane"]
fn the_chart_comes_in_waves_and_is_healthy_only_once_its_operator_is() {
    let (site, deployment) = installed();
    let kinds = site.alone.cluster.get(&["crd", "taskqueues.foreman.llmkube.dev"]);
    let established = |it: &Value| it["type"] == "Established" && it["status"] == "True";
    assert!(
        kinds["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(established)
    );

    site.bind();
    site.kubelet("agent");
    let agent = site.part("agent");
    let available = || {
        site.alone
            .find("deployment", &agent)
            .filter(|it| it["status"]["availableReplicas"] == 1)
    };
    site.alone
        .until("an agent that is available", available, || site.told(&site.app));
    let status = site.look(&site.app);
    assert_ne!(status["health"]["status"], "Healthy", "the operator is not ready");
    let mut resources = status["resources"].as_array().unwrap().iter();
    let operator = resources.find(|it| it["kind"] == "Deployment" && it["name"] == deployment.as_str());
    assert_eq!(
        operator.unwrap()["health"]["status"],
        "Progressing",
        "{}",
        site.told(&site.app)
    );
    assert_eq!(
        site.alone.find("taskqueue", "tasks"),
        None,
        "a queue comes after the operator that serves it"
    );

    let operator = site.alone.operator();
    site.kubelet("operator");
    let status = site.until_well(&site.app);
    let queue = status["resources"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["kind"] == "TaskQueue");
    assert_eq!(
        queue.unwrap()["health"]["status"],
        "Healthy",
        "{queue:?}\n{}",
        operator.log()
    );
    let cache = site
        .alone
        .find_in(&site.alone.jobs, "pvc", &site.part("gate-cache"))
        .unwrap();
    assert_eq!(
        cache["status"]["phase"], "Pending",
        "nothing waits for a cache that no gate has used yet"
    );
}

#[test]
#[ignore = "needs Argo CD on a real control plane"]
fn what_tasks_come_to_and_what_is_made_for_them_is_nothing_to_argo_cd() {
    let site = Site::open();
    // Argo CD is to tell of whatever lies in the namespace and belongs to nobody.
    let project = [
        "patch",
        "appproject",
        "default",
        "--namespace",
        ARGOCD,
        "--type=merge",
        "--patch",
    ];
    let warn = [r#"{"spec":{"orphanedResources":{"warn":true}}}"#];
    site.alone.cluster.run(&[project.as_slice(), &warn].concat(), "");
    site.install(|_| {});
    let operator = site.run();
    site.until_well(&site.app);

    // A task among what Argo CD manages, whose gate fails.
    let task = json!({ "apiVersion": GROUP, "kind": "AgenticTask", "metadata": { "name": "refuted" },
        "spec": { "kind": "freeform", "requiredCapability": { "roles": ["verifier"] }, "payload": { "prompt": "x" } } });
    site.commit("foreman", &[("work/task.yaml", &task.to_string())]);
    let work = site.part("work");
    site.application("apps/queues.yaml", &work, |application| {
        application["spec"]["source"]["path"] = json!("work")
    });
    site.until(&work, "Synced", |status| status["sync"]["status"] == "Synced");
    let now = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
    let ended = json!({ "phase": "Succeeded", "verdict": "GATE-FAIL", "finishedAt": now, "epoch": 1,
                        "result": { "summary": "step test: exit 1" } });
    site.alone.says("agentictask", "refuted", &ended);
    let status = site.until_well(&work);
    let told = status["resources"][0]["health"]["message"].as_str().unwrap();
    assert!(told.starts_with("GATE-FAIL"), "{told}");

    // What a task file makes, what an agent makes, and what runs beside them.
    let file = "---\ntitle: Say hello\nrepo: https://git.example.com/a.git\n---\nSay hello.\n";
    site.commit("tasks", &[("tasks/hello.md", file)]);
    let space = ["--namespace", site.alone.namespace.as_str()];
    let first = |kind: &str| {
        let found = site.alone.cluster.get(&[&[kind], space.as_slice()].concat());
        let ours = |it: &&Value| it["metadata"]["name"] != "refuted";
        found["items"].as_array().unwrap().iter().find(ours).cloned()
    };
    let workload = site.alone.until("a Workload", || first("workloads"), || operator.log());
    let name = workload["metadata"]["name"].as_str().unwrap().to_owned();
    for annotated in ["argocd.argoproj.io/tracking-id", "app.kubernetes.io/instance"] {
        assert!(!workload["metadata"].to_string().contains(annotated), "{workload}");
    }
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "gate", "namespace": site.alone.jobs, "labels": { "foreman.llmkube.dev/task-uid": "0" } },
        "spec": { "suspend": true, "activeDeadlineSeconds": 600, "ttlSecondsAfterFinished": 600,
            "template": { "spec": { "restartPolicy": "Never", "automountServiceAccountToken": false,
            "serviceAccountName": "foreman-gate",
            "securityContext": { "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" } },
            "containers": [{ "name": "gate", "image": "example/gate:1",
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } } }] } } } });
    site.alone.apply(&job);
    let node = json!({ "apiVersion": GROUP, "kind": "FleetNode", "metadata": { "name": site.part("node") },
        "spec": { "nodeName": site.part("node") } });
    site.alone.apply(&node);
    let running = || {
        [
            site.uid(&site.alone.jobs, "job", "gate"),
            site.uid(&site.alone.namespace, "workload", &name),
            site.uid(&site.alone.namespace, "agentictask", "refuted"),
            site.uid("default", "fleetnode", &site.part("node")),
            site.uid(&site.alone.namespace, "pvc", &site.part("evidence")),
            site.uid("default", "namespace", &site.alone.jobs),
        ]
    };
    let before = running();
    for app in [&site.app, &work] {
        let status = site.look(app);
        assert_eq!(status["sync"]["status"], "Synced", "{}", site.told(app));
        assert_eq!(status["health"]["status"], "Healthy", "{}", site.told(app));
        let conditions = status["conditions"].to_string();
        assert!(!conditions.contains("Orphaned"), "{conditions}");
    }

    // Somebody scales the operator away: Argo CD brings it back, and touches nothing else.
    let scale = [
        "scale",
        "deployment",
        &site.part("operator"),
        "--replicas=0",
        "--namespace",
        &site.alone.namespace,
    ];
    site.alone.cluster.run(&scale, "");
    let back = || {
        site.alone
            .find("deployment", &site.part("operator"))
            .filter(|it| it["spec"]["replicas"] == 1)
    };
    site.alone.until("self-heal", back, || site.told(&site.app));
    assert_eq!(running(), before, "after self-heal");
    site.kubelet("operator");

    // Values take away what is no longer wanted; what holds work is left alone even then.
    site.install(|values| {
        values["operator"] = json!({ "metrics": { "enabled": false } });
        values["createJobsNamespace"] = json!(false);
    });
    let metrics = site.part("operator-metrics");
    let gone = || site.alone.find("service", &metrics).is_none().then_some(());
    site.alone.until("a pruned Service", gone, || site.told(&site.app));
    assert_eq!(running(), before, "after a prune");

    // Jobs and nodes go again.
    site.alone
        .cluster
        .run(&["delete", "job", "gate", "--namespace", &site.alone.jobs], "");
    site.alone.cluster.run(&["delete", "fleetnode", &site.part("node")], "");
    site.commit(
        "tasks",
        &[(
            "tasks/hello.md",
            "---\ntitle: Say hello\nrepo: https://git.example.com/b.git\n---\nHi.\n",
        )],
    );
    let status = site.look(&work);
    assert_eq!(status["sync"]["status"], "Synced", "{}", site.told(&work));
}

#[test]
#[ignore = "needs Argo CD on a real control plane"]
fn an_operator_that_cannot_start_degrades_the_application() {
    let (site, deployment) = installed();
    // Ten minutes is how long Kubernetes gives it; a test has less.
    let patch = json!({ "spec": { "progressDeadlineSeconds": 3 } }).to_string();
    let words = [
        "patch",
        "deployment",
        &deployment,
        "--namespace",
        &site.alone.namespace,
        "--patch",
        &patch,
    ];
    site.alone.cluster.run(&words, "");
    let status = site.until(&site.app, "Degraded", |status| status["health"]["status"] == "Degraded");
    let degraded = |it: &&Value| it["health"]["status"] == "Degraded";
    let named: Vec<_> = status["resources"]
        .as_array()
        .unwrap()
        .iter()
        .filter(degraded)
        .collect();
    assert!(named.iter().any(|it| it["name"] == deployment.as_str()), "{named:?}");
    assert_eq!(
        site.alone.find("taskqueue", "tasks"),
        None,
        "no queue before an operator"
    );
}

#[test]
#[ignore = "needs Argo CD on a real control plane"]
fn three_applications_come_one_after_the_other() {
    let site = Site::open();
    let files: Vec<(String, String)> = ["crds", "operator", "queues"]
        .map(|name| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../argocd/apps/{name}.yaml"));
            let text = std::fs::read_to_string(path).unwrap();
            let text = text.replace("https://git.example.com/foreman/foreman.git", &site.url("foreman"));
            let text = text.replace(
                "namespace: foreman-system",
                &format!("namespace: {}", site.alone.namespace),
            );
            let text = text.replace("releaseName: foreman", &format!("releaseName: {}", site.alone.release));
            (format!("argocd/apps/{name}.yaml"), text)
        })
        .into();
    let queue = Path::new(env!("CARGO_MANIFEST_DIR")).join("../argocd/queues/queue.yaml");
    let queue = std::fs::read_to_string(queue).unwrap();
    let queue = queue.replace("https://git.example.com/team/tasks.git", &site.url("tasks"));
    let mut files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    files.push(("argocd/queues/queue.yaml", &queue));
    site.commit("foreman", &files);
    site.application("app-of-apps.yaml", "foreman-apps", |application| {
        application["spec"]["destination"]["namespace"] = json!(ARGOCD);
    });
    let deployment = site.part("operator");
    let there = || site.alone.find("deployment", &deployment).map(drop);
    site.alone
        .until("the operator's Deployment", there, || site.told("foreman-apps"));
    assert_eq!(
        site.seen("foreman-crds")["health"]["status"],
        "Healthy",
        "kinds come first"
    );
    site.look("foreman-apps");
    assert_eq!(
        site.seen("foreman-queues"),
        Value::Null,
        "queues come after the operator"
    );
    let _operator = site.run();
    site.until_well("foreman-operator");
    site.until_well("foreman-queues");
    site.until_well("foreman-apps");
}

#[test]
#[ignore = "needs Argo CD on a real control plane"]
fn argo_cd_itself_understands_every_check_of_health() {
    let folder = tempfile::tempdir().unwrap();
    let patch = Path::new(env!("CARGO_MANIFEST_DIR")).join("../argocd/argocd-cm.yaml");
    let patch = schemas::yaml::parse_value(&std::fs::read_to_string(patch).unwrap()).unwrap();
    let config = json!({ "apiVersion": "v1", "kind": "ConfigMap", "data": patch["data"],
        "metadata": { "name": "argocd-cm", "namespace": ARGOCD, "labels": { "app.kubernetes.io/part-of": "argocd" } } });
    let config_path = folder.path().join("argocd-cm.yaml");
    std::fs::write(&config_path, config.to_string()).unwrap();
    for (kind, status, expected) in [
        (
            "AgenticTask",
            json!({ "phase": "Succeeded", "verdict": "GATE-FAIL" }),
            "Healthy",
        ),
        ("Workload", json!({ "phase": "Dispatched" }), "Progressing"),
        ("FleetNode", json!({ "phase": "NotReady" }), "Suspended"),
        ("AgentRelease", json!({ "phase": "Failed" }), "Degraded"),
        (
            "Agent",
            json!({ "conditions": [{ "type": "Validated", "status": "False", "message": "m" }] }),
            "Degraded",
        ),
        (
            "TaskQueue",
            json!({ "conditions": [{ "type": "Fetched", "status": "False", "message": "m" }] }),
            "Degraded",
        ),
        ("ModelProfile", json!({}), "Healthy"),
        ("Forge", json!({}), "Healthy"),
    ] {
        let object = json!({ "apiVersion": GROUP, "kind": kind, "metadata": { "name": "x" }, "status": status });
        let path = folder.path().join("object.yaml");
        std::fs::write(&path, object.to_string()).unwrap();
        let mut command = Command::new(needed("FOREMAN_ARGOCD"));
        command
            .args(["admin", "settings", "resource-overrides", "health"])
            .arg(&path)
            .arg("--argocd-cm-path")
            .arg(&config_path)
            .env("ARGOCD_BINARY_NAME", "argocd")
            .env("HOME", folder.path());
        let said: Said = command.output().unwrap().into();
        assert_eq!(said.code, Some(0), "{kind}: {}{}", said.out, said.err);
        assert!(
            said.out.contains(&format!("STATUS: {expected}")),
            "{kind}: {}",
            said.out
        );
    }
}
