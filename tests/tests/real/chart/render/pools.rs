//! What a pool takes over from `agent`.

use serde_json::{Value, json};

use super::super::helm::{arguments, find, objects};
use super::values;

#[test]
#[ignore = "needs a real helm"]
fn an_empty_map_of_a_pool_takes_away_what_it_would_inherit() {
    let (_folder, file) = values(
        "agent:\n  nodeSelector: {disk: ssd}\n  nodeLabels: {zone: a}\n  podLabels: {team: blue}\n  affinity: {nodeAffinity: {x: z}}\n  \
         serviceAccount: {annotations: {role: x}}\n\
         agents:\n  own:\n    nodeSelector: {}\n    nodeLabels: {}\n    podLabels: {}\n    affinity: {}\n    \
         resources: {limits: {}}\n    serviceAccount: {annotations: {}}\n    image: {}\n    gateCache: {}\n  \
         as-agent: {}\n  none:\n    resources: {}\n",
    );
    let all = objects(&["--values", &file]);
    let pod = |pool: &str| &find(&all, "Deployment", &format!("foreman-{pool}-agent"))["spec"]["template"];
    let (inherits, own) = (pod("as-agent"), pod("own"));
    assert_eq!(inherits["spec"]["nodeSelector"], json!({ "disk": "ssd" }));
    assert_eq!(own["spec"]["nodeSelector"], Value::Null);
    assert_eq!(inherits["metadata"]["labels"]["team"], "blue");
    assert_eq!(own["metadata"]["labels"]["team"], Value::Null);
    assert_eq!(inherits["spec"]["affinity"], json!({ "nodeAffinity": { "x": "z" } }));
    assert!(own["spec"]["affinity"].get("nodeAffinity").is_none());
    let label = "--node-labels=zone=a".to_owned();
    assert!(arguments(&all, "foreman-as-agent-agent").contains(&label));
    assert!(!arguments(&all, "foreman-own-agent").contains(&label));
    let account =
        |pool: &str| &find(&all, "ServiceAccount", &format!("foreman-{pool}-agent"))["metadata"]["annotations"];
    assert_eq!(*account("as-agent"), json!({ "role": "x" }));
    assert_eq!(*account("own"), Value::Null);
    let resources = |pool: &str| &pod(pool)["spec"]["containers"][0]["resources"];
    assert_eq!(resources("own")["limits"], json!({}));
    assert_eq!(resources("own")["requests"], resources("as-agent")["requests"]);
    assert_eq!(*resources("none"), json!({}));
    // Of a section it says nothing.
    assert_eq!(
        own["spec"]["containers"][0]["image"],
        inherits["spec"]["containers"][0]["image"]
    );
    find(&all, "PersistentVolumeClaim", "foreman-own-gate-cache");
}
