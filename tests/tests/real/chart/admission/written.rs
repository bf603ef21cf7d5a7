//! Which objects of our kinds are refused when they are written.

use serde_json::{Value, json};

use super::super::cluster::Release;
use super::refusal;

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
