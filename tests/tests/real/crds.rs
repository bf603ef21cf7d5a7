//! The kinds on a real kube-apiserver, which reads schemas and rules by itself.

use std::collections::BTreeSet;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::{client, crds, install_crds, namespace};

/// The objects of one kind, in a namespace where the kind has them.
fn api(client: &Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let crds = crds();
    let crd = crds.iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let version = &crd.spec.versions[0].name;
    let resource = ApiResource {
        group: crd.spec.group.clone(),
        version: version.clone(),
        api_version: format!("{}/{version}", crd.spec.group),
        kind: kind.to_owned(),
        plural: crd.spec.names.plural.clone(),
    };
    if crd.spec.scope == "Namespaced" {
        Api::namespaced_with(client.clone(), namespace, &resource)
    } else {
        Api::all_with(client.clone(), &resource)
    }
}

/// Applies an object, with unknown fields refused.
async fn apply(api: &Api<DynamicObject>, kind: &str, name: &str, spec: &Value) -> Result<DynamicObject, kube::Error> {
    let object = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    });
    let params = PatchParams::apply("foreman-tests").validation_strict();
    api.patch(name, &params, &Patch::Apply(object)).await
}

/// A kind, a good spec, what makes it bad, and what the refusal must name.
fn table() -> [(&'static str, Value, Value, &'static str); 8] {
    let git = json!({"git": {"url": "https://git.example/tasks.git"}});
    [
        (
            "Agent",
            json!({"role": "coder", "tools": ["bash"]}),
            json!({"role": "king"}),
            "spec.role: Unsupported value: \"king\"",
        ),
        (
            "AgentRelease",
            json!({"agentKind": "foreman-agent", "version": "1.0.0"}),
            json!({"concurrency": 0}),
            "spec.concurrency",
        ),
        (
            "AgenticTask",
            json!({"kind": "freeform", "payload": {}}),
            json!({"baseSHA": "main"}),
            "spec.baseSHA",
        ),
        (
            "FleetNode",
            json!({"nodeName": "one"}),
            json!({"nodeName": null}),
            "spec.nodeName: Required value",
        ),
        (
            "Forge",
            json!({"type": "forgejo", "url": "https://git.example"}),
            json!({"type": "svn"}),
            "spec.type: Unsupported value: \"svn\"",
        ),
        (
            "ModelProfile",
            json!({"systemPromptAddendum": "Be brief."}),
            json!({"systemPromptAddendum": 7}),
            "systemPromptAddendum",
        ),
        (
            "TaskQueue",
            git,
            json!({"git": null}),
            "a queue needs spec.git or spec.issues",
        ),
        ("Workload", json!({"intent": "Do it."}), json!({"run": 0}), "spec.run"),
    ]
}

#[tokio::test]
#[ignore = "needs a real control plane"]
async fn every_kind_is_established_and_refuses_a_bad_field() {
    let client = client().await;
    install_crds(&client).await;
    let namespace = namespace(&client).await;
    let table = table();
    let kinds: BTreeSet<&str> = table.iter().map(|row| row.0).collect();
    let installed = crds();
    let installed: BTreeSet<&str> = installed.iter().map(|crd| crd.spec.names.kind.as_str()).collect();
    assert_eq!(kinds, installed, "the table names every kind");
    for (kind, good, change, named) in table {
        let api = api(&client, &namespace, kind);
        // The name is the namespace's, which nobody else has: some kinds belong to the whole cluster.
        let kept = apply(&api, kind, &namespace, &good).await;
        assert!(kept.is_ok(), "{kind} {good}: {kept:?}");
        let mut bad = good.clone();
        for (field, value) in change.as_object().unwrap() {
            bad[field.as_str()] = value.clone();
        }
        // A null stands for a field that is left out.
        bad.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let unknown = {
            let mut spec = good.clone();
            spec["nonsense"] = json!(1);
            spec
        };
        let other = format!("{namespace}-bad");
        for (spec, named) in [(bad, named), (unknown, "nonsense")] {
            match apply(&api, kind, &other, &spec).await {
                Err(kube::Error::Api(status)) => {
                    assert!(
                        status.message.contains(named),
                        "{kind} {spec}: {} does not name {named}",
                        status.message
                    );
                    // 422 from the schema; 500 where a field is in no schema, which is what server-side apply answers.
                    assert!([422, 500].contains(&status.code), "{kind} {spec}: {status:?}");
                }
                other => panic!("{kind} {spec} is not refused: {other:?}"),
            }
            assert!(api.get_opt(&other).await.unwrap().is_none(), "{kind} {spec} was kept");
        }
    }
}
