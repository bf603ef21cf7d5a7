//! What the chart renders, checked against the schemas of the API server's own version and of our kinds.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::cluster::Cluster;
use super::helm::{needed, template};
use super::render::{POOLS, values};

/// Turns a definition of OpenAPI into a JSON Schema that knows every field it does not name as wrong.
fn strict(schema: &Value) -> Value {
    let Value::Object(map) = schema else {
        return schema.clone();
    };
    if map.get("format").and_then(Value::as_str) == Some("int-or-string")
        || map.get("x-kubernetes-int-or-string") == Some(&json!(true))
    {
        return json!({ "type": ["integer", "string"] });
    }
    let mut out = Map::new();
    for (key, value) in map {
        match key.as_str() {
            "properties" => {
                let inner = value.as_object().unwrap().iter();
                out.insert(
                    key.clone(),
                    inner.map(|(name, part)| (name.clone(), strict(part))).collect(),
                );
            }
            "items" | "additionalProperties" => {
                out.insert(key.clone(), strict(value));
            }
            "$ref" | "type" | "enum" | "required" | "pattern" | "minLength" | "minItems" | "minimum" | "maximum" => {
                out.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    let open = map.contains_key("additionalProperties")
        || map.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if map.contains_key("properties") && !open {
        out.insert("additionalProperties".into(), json!(false));
    }
    Value::Object(out)
}

/// Collects the names of the definitions that `schema` refers to.
fn references(schema: &Value, into: &mut BTreeSet<String>) {
    match schema {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                into.insert(name.trim_start_matches("#/definitions/").to_owned());
            }
            map.values().for_each(|value| references(value, into));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, into)),
        _ => {}
    }
}

/// Writes one schema for each kind that the API server serves, and for each of ours.
fn write_schemas(cluster: &Cluster, folder: &Path) -> usize {
    let text = cluster.run(&["get", "--raw", "/openapi/v2"], "");
    let served: Value = serde_json::from_str(&text).unwrap();
    let definitions = served["definitions"].as_object().unwrap();
    // kubeconform calls the group of the core kinds by their version.
    let file = |group: &str, version: &str, kind: &str| {
        let group = if group.is_empty() { version } else { group };
        folder.join(format!("{}_{group}_{version}.json", kind.to_lowercase()))
    };
    let mut written = 0;
    for (name, definition) in definitions {
        for kind in definition["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let said = |key: &str| kind[key].as_str().unwrap_or_default();
            if definition["properties"].get("metadata").is_none() || said("group") == schemas::GROUP {
                continue;
            }
            let (mut wanted, mut all) = (BTreeSet::from([name.clone()]), Map::new());
            while let Some(next) = wanted.pop_first() {
                if all.contains_key(&next) {
                    continue;
                }
                let schema = strict(&definitions[&next]);
                references(&schema, &mut wanted);
                all.insert(next, schema);
            }
            let schema = json!({ "$ref": format!("#/definitions/{name}"), "definitions": all });
            std::fs::write(file(said("group"), said("version"), said("kind")), schema.to_string()).unwrap();
            written += 1;
        }
    }
    for crd in schemas::crds::all() {
        let crd = serde_json::to_value(&crd).unwrap();
        let mut schema = strict(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]);
        schema["properties"]["apiVersion"] = json!({ "type": "string" });
        schema["properties"]["kind"] = json!({ "type": "string" });
        schema["properties"]["metadata"] = json!({ "type": "object" });
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        std::fs::write(file(schemas::GROUP, schemas::VERSION, kind), schema.to_string()).unwrap();
        written += 1;
    }
    written
}

/// Checks manifests; returns what kubeconform says and whether all are valid.
fn conform(schemas: &Path, text: &str) -> (Value, bool) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.yaml");
    std::fs::write(&file, text).unwrap();
    let location = format!(
        "{}/{{{{.ResourceKind}}}}_{{{{.Group}}}}_{{{{.ResourceAPIVersion}}}}.json",
        schemas.display()
    );
    let output = Command::new(needed("FOREMAN_KUBECONFORM"))
        .args(["-strict", "-output", "json", "-summary", "-schema-location", &location])
        .arg(&file)
        .output()
        .unwrap();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    (said, output.status.success())
}

#[test]
#[ignore = "needs a real kube-apiserver"]
fn what_is_rendered_fits_the_schemas_of_this_version_of_the_api() {
    let cluster = Cluster::new();
    let folder = tempfile::tempdir().unwrap();
    assert!(write_schemas(&cluster, folder.path()) > 50);
    let (_pools, pools) = values(POOLS);
    let queues =
        json!([{ "name": "team", "spec": { "git": { "url": "https://git.example.com/t", "interval": "30s" } } }]);
    let queues = format!("taskQueues={queues}");
    let forges = json!([{ "name": "hub", "spec": { "type": "forgejo", "url": "https://git.example.com" } }]);
    let forges = format!("forges={forges}");
    let pem = "caBundle=-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----";
    let matrix: Vec<Vec<&str>> = vec![
        vec![],
        vec!["--set", "agent.mode=native,agent.roles={worker,verifier}"],
        vec!["--set", "agent.mode=native,agent.gateCache.enabled=false"],
        vec!["--set", "agent.gateCache.storageClass=fast,evidence.storageClass=fast"],
        vec!["--values", &pools],
        vec![
            "--values",
            &pools,
            "--set",
            "networkPolicies.enabled=true,networkPolicies.additionalEgressCIDRs={10.0.0.0/8}",
        ],
        vec!["--set", "operator.replicaCount=2,evidence.accessModes={ReadWriteMany}"],
        vec!["--set", "operator.enabled=false"],
        vec!["--set", "agent.enabled=false,hostAgents.studio.taskNamespace=team"],
        vec![
            "--set",
            "crds.install=false",
            "--set-json",
            &queues,
            "--set-json",
            &forges,
        ],
        vec![
            "--api-versions",
            "foreman.llmkube.dev/v1alpha1/TaskQueue",
            "--set-json",
            &queues,
        ],
        vec![
            "--set",
            "imagePullSecrets[0].name=pull,operator.image.digest=sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ],
        vec![
            "--set",
            "operator.leaderElection.enabled=false,operator.metrics.enabled=false",
        ],
        vec![
            "--set",
            "webhook.enabled=false,admissionPolicies.enabled=false,networkPolicies.jobs=false",
        ],
        vec!["--set", "createJobsNamespace=false,jobsNamespace=work"],
        vec![
            "--set",
            "operator.gitCredentials.secretName=a,agent.gitCredentials.secretName=b,agent.githubToken.secretName=c",
        ],
        vec![
            "--set",
            "coder.gitCredentialsSecret=clone,coder.gitCredentialsSecretKey=pass",
        ],
        vec!["--set", pem],
        vec![
            "--set",
            "agent.env[0].name=A,agent.env[0].value=b,agent.tolerations[0].operator=Exists,agent.nodeSelector.disk=ssd",
        ],
        vec![
            "--set",
            "operator.secrets[0].namespace=t,operator.secrets[0].name=s,agent.secrets[0].namespace=t,agent.secrets[0].name=k",
        ],
    ];
    let mut checked = 0;
    for words in &matrix {
        let said = template(words);
        assert_eq!(said.code, Some(0), "{words:?}: {}", said.err);
        let (found, valid) = conform(folder.path(), &said.out);
        assert!(valid, "{words:?}: {found:#}");
        let valid = found["summary"]["valid"].as_u64().unwrap();
        assert_eq!(found["summary"]["skipped"], 0, "{words:?}");
        assert!(valid >= 8, "{words:?}: {found}");
        checked += valid;
    }
    assert!(checked > 700, "{checked}");
    // The check can fail.
    let (_, valid) = conform(
        folder.path(),
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replica: 1, selector: {}, template: {}}\n",
    );
    assert!(!valid);
}
