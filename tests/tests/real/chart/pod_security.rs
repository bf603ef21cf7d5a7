//! Every Pod of a release in namespaces that enforce Pod Security `restricted`.

use serde_json::{Value, json};

use super::admission::{coder_objects, gate_objects, refusal};
use super::cluster::Release;

/// Makes the Pod that a controller would make of a template.
fn pod(of: &Value, namespace: &str) -> Value {
    let template = &of["spec"]["template"];
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "generateName": "pod-", "namespace": namespace, "labels": template["metadata"]["labels"] },
        "spec": template["spec"],
    })
}

#[test]
#[ignore = "needs a real kube-apiserver"]
fn every_pod_of_a_release_is_admitted_where_pod_security_is_restricted() {
    let release = Release::apply(&[
        "--set",
        "agents.gpu.mode=native,agents.stub.mode=stub,operator.metrics.enabled=true",
    ]);
    release.cluster.run(
        &[
            "label",
            "namespace",
            &release.namespace,
            "pod-security.kubernetes.io/enforce=restricted",
        ],
        "",
    );
    // A Pod that says nothing is refused, in both namespaces.
    let bare =
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "x", "image": "example/x:1" }] } } } });
    for namespace in [&release.namespace, &release.jobs] {
        release.cluster.until("Pod Security", || {
            refusal(&release.cluster, &pod(&bare, namespace))
                .is_some_and(|said| said.contains("violates PodSecurity \"restricted:"))
        });
    }
    let found = release.cluster.get(&["deployments", "--namespace", &release.namespace]);
    let deployments = found["items"].as_array().unwrap();
    assert_eq!(deployments.len(), 3, "operator and two pools: {found:#}");
    for deployment in deployments {
        let refused = refusal(&release.cluster, &pod(deployment, &release.namespace));
        assert_eq!(refused, None, "{}", deployment["metadata"]["name"]);
    }
    let gate = gate_objects(&release, "node-a", "fix-login-code");
    let coder = coder_objects(&release, "node-a", "fix-login-code");
    for job in [Some(gate.job), gate.prepare_job, Some(coder.job)]
        .into_iter()
        .flatten()
    {
        let job = serde_json::to_value(job).unwrap();
        assert_eq!(refusal(&release.cluster, &pod(&job, &release.jobs)), None, "{job:#}");
    }
}
