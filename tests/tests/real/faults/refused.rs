//! What the API refuses is told to people, in the API's own words, and goes on once it is allowed.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use git::{FileEdit, Identity, Repository};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Event, ResourceQuota, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::{ApiResource, GroupVersionKind};
use schemas::agentic_task::Phase;
use schemas::{AgenticTask, TaskQueue};
use serde_json::{Value, json};

use crate::follower::Follower;
use crate::foreman::{LIMIT, program};
use crate::real::site::{Site, condition, is_in, kubeconfig, needed};

/// Applies an object of the whole cluster.
async fn apply<K>(site: &Site, object: Value)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let api: Api<K> = Api::all(site.client.clone());
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let params = PatchParams::apply("foreman-tests").force();
    api.patch(&name, &params, &Patch::Apply(object)).await.unwrap();
}

/// What the operator's account may do, beside what is passed.
fn role(name: &str, more: &[Value]) -> Value {
    let mut rules = vec![
        json!({ "apiGroups": ["foreman.llmkube.dev"], "resources": ["*"], "verbs": ["get", "list", "watch"] }),
        json!({ "apiGroups": ["foreman.llmkube.dev"], "resources": ["taskqueues/status", "fleetnodes/status"], "verbs": ["patch"] }),
        json!({ "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "list", "watch", "create", "update"] }),
        json!({ "apiGroups": [""], "resources": ["events"], "verbs": ["create"] }),
    ];
    rules.extend_from_slice(more);
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": { "name": name }, "rules": rules,
    })
}

/// Makes an account with a role of its own, and a kubeconfig that logs in as it.
async fn account(site: &Site) -> PathBuf {
    let accounts: Api<ServiceAccount> = site.api();
    let mut account = ServiceAccount::default();
    account.metadata.name = Some("operator".into());
    accounts.create(&PostParams::default(), &account).await.unwrap();
    apply::<ClusterRole>(site, role(&site.namespace, &[])).await;
    apply::<ClusterRoleBinding>(
        site,
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": { "name": site.namespace },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": site.namespace },
            "subjects": [{ "kind": "ServiceAccount", "name": "operator", "namespace": site.namespace }],
        }),
    )
    .await;
    let asked = TokenRequest {
        spec: TokenRequestSpec::default(),
        ..TokenRequest::default()
    };
    let given = accounts
        .create_token_request("operator", &PostParams::default(), &asked)
        .await;
    let token = given.unwrap().status.unwrap().token;
    kubeconfig(site.folder.path(), "account.kubeconfig", |config| {
        config["users"][0]["user"] = json!({ "token": token });
    })
}

/// Waits for a queue that is not ready because of all these words.
pub(super) async fn queue_says(queues: &mut Follower<TaskQueue>, words: &[&str]) {
    let what = format!("a queue that says {words:?}");
    queues
        .saw(&what, |queue| {
            let said = condition(queue, "Ready").unwrap_or_default();
            words.iter().all(|word| said.contains(word))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn a_missing_permission_is_named_and_work_goes_on_once_it_is_given() {
    let site = Site::open().await;
    site.node("a", 10).await;
    let login = account(&site).await;
    let mut operator = site.operator_by("operator", &login);
    operator.says(&["Starting workers", "TaskQueue"]);
    let (mut tasks, mut queues) = (site.tasks(), site.queues());
    let mut events = Follower::<Event>::of(site.api());
    site.queue().await;
    site.ask(3);
    let user = format!("system:serviceaccount:{}:operator", site.namespace);
    queue_says(
        &mut queues,
        &[
            "False Forbidden:",
            &user,
            "cannot create resource \"agentictasks\"",
            &site.namespace,
        ],
    )
    .await;

    // The objects may be made, their status may not be written: no condition of theirs could say so.
    let group = |resource: &str| json!({ "apiGroups": ["foreman.llmkube.dev"], "resources": [resource], "verbs": ["create", "patch"] });
    apply::<ClusterRole>(&site, role(&site.namespace, &[group("agentictasks")])).await;
    tasks.until("three tasks", |seen| (seen.len() >= 3).then_some(())).await;
    events
        .saw("an Event that names the permission", |event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason.as_deref() == Some("Forbidden")
                && event.involved_object.kind.as_deref() == Some("AgenticTask")
                && message.contains("cannot patch resource \"agentictasks/status\"")
                && message.contains(&user)
        })
        .await;
    queue_says(&mut queues, &["True Applied"]).await;

    let all = [group("agentictasks"), group("agentictasks/status")];
    apply::<ClusterRole>(&site, role(&site.namespace, &all)).await;
    tasks.assigned(3).await;
    tasks.assert_each_done_once(3);
    drop(operator);
    let roles: Api<ClusterRole> = Api::all(site.client.clone());
    roles.delete(&site.namespace, &DeleteParams::default()).await.unwrap();
    let bindings: Api<ClusterRoleBinding> = Api::all(site.client.clone());
    bindings
        .delete(&site.namespace, &DeleteParams::default())
        .await
        .unwrap();
    site.delete_nodes(&["a"]).await;
}

pub(super) fn admission(site: &Site, kind: &str) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", kind);
    Api::all_with(site.client.clone(), &ApiResource::from_gvk(&kind))
}

/// Waits until task `t001` is refused: what refuses it holds a while after it was made, and there is nothing to watch.
pub(super) async fn holds(site: &Site) {
    let api: Api<AgenticTask> = site.api();
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let refused: AgenticTask = serde_json::from_value(site.task("t001")).unwrap();
    let waited = tokio::time::timeout(LIMIT, async {
        while api.create(&dry, &refused).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    waited.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn a_policy_that_refuses_one_object_is_quoted_and_holds_up_no_other() {
    let site = Site::open().await;
    let name = site.namespace.clone();
    let params = PatchParams::apply("foreman-tests").force();
    let objects = [
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": { "name": name },
            "spec": {
                "failurePolicy": "Fail",
                "matchConstraints": {
                    "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } },
                    "resourceRules": [{
                        "apiGroups": ["foreman.llmkube.dev"], "apiVersions": ["*"], "operations": ["CREATE", "UPDATE"],
                        "resources": ["agentictasks"],
                    }],
                },
                "validations": [{ "expression": "!object.metadata.name.startsWith('t001')", "message": "no such numbers here" }],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": { "name": name }, "spec": { "policyName": name, "validationActions": ["Deny"] },
        }),
    ];
    for object in &objects {
        let api = admission(&site, object["kind"].as_str().unwrap());
        api.patch(&name, &params, &Patch::Apply(object)).await.unwrap();
    }
    holds(&site).await;

    site.node("a", 10).await;
    let mut operator = site.operator("operator");
    operator.says(&["Starting workers", "TaskQueue"]);
    let (mut tasks, mut queues) = (site.tasks(), site.queues());
    site.queue().await;
    site.ask(5);
    queue_says(&mut queues, &["False Refused:", "t001", "no such numbers here"]).await;
    tasks.assigned(4).await;
    let binding = admission(&site, "ValidatingAdmissionPolicyBinding");
    binding.delete(&name, &DeleteParams::default()).await.unwrap();
    tasks.assigned(5).await;
    tasks.assert_each_done_once(5);
    queue_says(&mut queues, &["True Applied"]).await;
    let policies = admission(&site, "ValidatingAdmissionPolicy");
    policies.delete(&name, &DeleteParams::default()).await.unwrap();
    site.delete_nodes(&["a"]).await;
}

/// A process that is killed when dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real kube-apiserver"]
async fn a_quota_on_jobs_ends_in_a_gate_error_that_names_it() {
    let site = Site::open().await;
    let quotas: Api<ResourceQuota> = site.api();
    let quota: ResourceQuota = serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "no-jobs" },
        "spec": { "hard": { "count/jobs.batch": "0" } },
    }))
    .unwrap();
    quotas.create(&PostParams::default(), &quota).await.unwrap();
    let mut seen = Follower::<ResourceQuota>::of(quotas);
    seen.saw("the quota in force", |quota| {
        quota.status.as_ref().is_some_and(|status| status.hard.is_some())
    })
    .await;

    let folder = site.folder.path().canonicalize().unwrap();
    let code = Repository::init_bare(&folder.join("code.git"), "main").unwrap();
    let who = Identity::new("T", "t@example.invalid", 1_700_000_000);
    let gate = "image: docker.io/library/debian:12\nsteps:\n  - name: check\n    command: \"true\"\n";
    let base = code
        .commit_files(None, &[FileEdit::write(".foreman/gate.yaml", gate)], "begin", &who)
        .unwrap();
    let head = code
        .commit_files(Some(base), &[FileEdit::write("a.txt", "a\n")], "work", &who)
        .unwrap();
    code.set_ref("refs/heads/main", Some(base)).unwrap();
    code.set_ref("refs/heads/foreman/work", Some(head)).unwrap();

    let mut operator = site.operator("operator");
    operator.says(&["Starting workers", "AgenticTask"]);
    let log = std::fs::File::create(folder.join("agent.log")).unwrap();
    let _agent = Agent(
        Command::new(program().with_file_name("foreman-agent"))
            .args(["--fleet-node-name", &site.node_name("a"), "--roles", &site.namespace])
            .args([
                "--task-namespace",
                &site.namespace,
                "--foreman-namespace",
                &site.namespace,
            ])
            .args([
                "--agent-mode",
                "native",
                "--unsafe-no-sandbox",
                "--heartbeat-interval",
                "1s",
            ])
            .arg("--kubeconfig")
            .arg(needed("FOREMAN_REAL_KUBECONFIG"))
            .arg("--workspace-dir")
            .arg(folder.join("agent"))
            .arg("--file-root")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap(),
    );
    let task: AgenticTask = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask", "metadata": { "name": "verify" },
        "spec": {
            "kind": "verify", "requiredCapability": { "roles": [site.namespace] },
            "payload": { "repo": format!("file://{}", folder.join("code.git").display()), "branch": "foreman/work" },
        },
    }))
    .unwrap();
    let api: Api<AgenticTask> = site.api();
    let mut tasks = site.tasks();
    api.create(&PostParams::default(), &task).await.unwrap();
    let ended = tasks.saw("the end", |task| is_in(task, Phase::Failed)).await;
    let status = json!(ended.status);
    assert_eq!(
        (&status["verdict"], &status["failureReason"]),
        (&json!("GATE-ERROR"), &json!("GateError")),
        "{status:#}"
    );
    let summary = status["result"]["summary"].as_str().unwrap();
    for word in ["exceeded quota: no-jobs", "count/jobs.batch"] {
        assert!(summary.contains(word), "{word:?} is not in {summary}");
    }
    site.delete_nodes(&["a"]).await;
}
