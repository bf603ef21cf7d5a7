//! What a new leader knows and does not know.

use super::*;

#[test]
fn what_a_term_decided_and_did_not_write_is_decided_anew_in_the_next() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(&mut index, "t", json!({}));
    put(&mut index, "new", json!({ "status": { "phase": null } }));
    let first = words(&[("t", "-> a"), ("new", "admit")]);
    assert_eq!(told(&plan(&mut index, at(0))), first);
    assert_eq!(told(&plan(&mut index, at(0))), words(&[]), "both are being written");
    index.begin_term();
    index.set_alive("a", true, Some("a-process".to_owned()));
    assert_eq!(told(&plan(&mut index, at(0))), first);
}

/// A task that a node's agent works on.
fn works_on(node: &str) -> Value {
    let claim = json!({ "node": node, "agent": format!("{node}-process"), "epoch": 3, "secretSHA256": "x" });
    json!({ "status": { "phase": "Running", "assignedNode": node, "epoch": 3, "claim": claim } })
}

#[test]
fn a_new_leader_takes_nothing_from_nodes_that_it_has_not_judged() {
    const NODES: usize = 200;
    let mut index = Index::default();
    let name = |number: usize| format!("node-{number:03}");
    for number in 0..NODES {
        let node: FleetNode = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "metadata": { "name": name(number) },
            "spec": { "nodeName": name(number), "roles": ["worker"] },
            "status": { "phase": "Ready", "capability": { "slots": 2, "totalRAMGB": 16 } }
        }))
        .unwrap();
        index.set_node(&name(number), Some(&node));
        put(&mut index, &format!("on-{}", name(number)), works_on(&name(number)));
    }
    put(
        &mut index,
        "assigned",
        json!({ "status": { "phase": "Scheduled", "assignedNode": name(7) } }),
    );
    put(&mut index, "pending", json!({}));
    // What nobody needs to judge: the node went while nobody led.
    put(&mut index, "orphan", works_on("gone"));
    index.begin_term();
    assert_eq!(
        told(&plan(&mut index, at(0))),
        words(&[("orphan", "LoseClaim node-gone")])
    );
    index.set_alive(&name(0), false, None);
    index.set_alive(&name(1), true, Some(format!("{}-process", name(1))));
    assert_eq!(
        told(&plan(&mut index, at(0))),
        words(&[("on-node-000", "LoseClaim node-lost"), ("pending", "-> node-001")])
    );
}

#[test]
fn nobody_is_told_that_a_node_is_away_before_it_was_looked_at() {
    let mut index = Index::default();
    let node: FleetNode = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "metadata": { "name": "a" },
        "spec": { "nodeName": "a", "roles": ["worker"] },
        "status": { "phase": "Ready", "capability": { "slots": 1, "totalRAMGB": 16 } }
    }))
    .unwrap();
    index.set_node("a", Some(&node));
    put(&mut index, "new", json!({ "status": { "phase": null } }));
    put(&mut index, "pending", json!({}));
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("new", "admit")]));
    assert!(plan_waits(&mut index, 10).is_empty());
    index.set_alive("a", false, None);
    plan(&mut index, at(0));
    let waits = plan_waits(&mut index, 10);
    let reasons: Vec<String> = told(&Pass {
        steps: waits,
        wake: None,
    })
    .into_values()
    .collect();
    assert_eq!(reasons, ["Some(1) no node fits: 1 node not heard of"]);
}

#[test]
fn what_an_earlier_term_found_of_a_node_is_not_believed_in_the_next() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(&mut index, "t", works_on("a"));
    index.set_alive("a", false, None);
    index.begin_term();
    assert!(plan(&mut index, at(0)).steps.is_empty(), "it may have come back since");
    index.set_alive("a", true, Some("a-process".to_owned()));
    index.begin_term();
    index.set_alive("a", true, Some("another-process".to_owned()));
    assert_eq!(
        told(&plan(&mut index, at(0))),
        words(&[("t", "LoseClaim agent-replaced")])
    );
}
