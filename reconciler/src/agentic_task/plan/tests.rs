#![allow(clippy::unwrap_used, clippy::panic)]
use std::collections::BTreeMap;

use super::*;
use crate::agentic_task::facts::OVERTIME;
use crate::cache::Cached;
use schemas::{Agent, FleetNode};
use serde_json::{Value, json};

mod claims;
mod retries;
mod terms;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn merge(target: &mut Value, patch: Value) {
    match patch {
        Value::Object(patch) => {
            for (name, value) in patch {
                merge(&mut target[name], value);
            }
        }
        patch => *target = patch,
    }
}

fn task(name: &str, more: Value) -> TaskObject {
    let mut value = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
        "metadata": { "name": name, "namespace": "n", "uid": format!("uid-{name}"), "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "kind": "freeform", "payload": { "repo": "r" } }, "status": { "phase": "Pending" }
    });
    merge(&mut value, more);
    let object: schemas::AgenticTask = serde_json::from_value(value).unwrap();
    Arc::new(Cached::of(object))
}

fn put(index: &mut Index, name: &str, more: Value) {
    index.set_task(&Key::new("n", name), Some(task(name, more)), at(0));
}

fn add_node(index: &mut Index, name: &str, slots: i64) {
    let node: FleetNode = serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "metadata": { "name": name },
        "spec": { "nodeName": name, "roles": ["worker"] },
        "status": { "phase": "Ready", "capability": { "slots": slots, "totalRAMGB": 16 } }
    }))
    .unwrap();
    index.set_node(name, Some(&node));
    index.set_alive(name, true, Some(format!("{name}-process")));
}

fn add_agent(index: &mut Index, name: &str, spec: Value) {
    let mut value = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent", "metadata": { "name": name, "namespace": "n" },
        "spec": { "role": "coder", "tools": ["bash"], "providerConfig": { "baseURL": "http://h/v1", "model": "m" } }
    });
    merge(&mut value["spec"], spec);
    let agent: Agent = serde_json::from_value(value).unwrap();
    index.set_agent(&Key::new("n", name), Some(Arc::new(Cached::of(agent))));
}

/// Task → what happens to it, in words.
fn told(pass: &Pass) -> BTreeMap<String, String> {
    let word = |what: &What| match what {
        What::Admit(None) => "admit".to_owned(),
        What::Admit(Some(waiting)) => format!("admit: {}", waiting.reason),
        What::Wait(waiting) => format!("{:?} {}", waiting.place, waiting.reason),
        What::Apply {
            event: Event::Assign { node },
            ..
        } => format!("-> {node}"),
        What::Apply {
            event: Event::End(reason),
            ..
        } => format!("end {reason:?}"),
        What::Apply { event, cause, .. } => format!("{:?} {cause}", event.kind()),
        What::Retry { retry, .. } => match retry {
            Retry::Cancel(_) => "cancel to retry".to_owned(),
            Retry::Create(key, _) => format!("make {}", key.name),
            Retry::Answer(Ok(name)) => format!("made {name}"),
            Retry::Answer(Err(_)) => "refuse to retry".to_owned(),
            Retry::Wait => "wait".to_owned(),
        },
    };
    pass.steps
        .iter()
        .map(|step| (step.key.name.clone(), word(&step.what)))
        .collect()
}

fn words(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter()
        .map(|(name, what)| ((*name).to_owned(), (*what).to_owned()))
        .collect()
}

#[test]
fn a_new_task_is_admitted_first_and_assigned_after() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(&mut index, "t", json!({ "status": { "phase": null } }));
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("t", "admit")]));
    put(&mut index, "t", json!({}));
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("t", "-> a")]));
}

#[test]
fn what_fits_is_found_once_for_the_tasks_of_many_repositories() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    let names = ["t", "u", "v"];
    for name in names {
        put(&mut index, name, json!({ "spec": { "payload": { "repo": name } } }));
    }
    assert_eq!(plan(&mut index, at(0)).steps.len(), 1, "one has the only slot");
    assert_eq!((index.classes.len(), index.fitting.len()), (2, 1));
    for name in names {
        index.set_task(&Key::new("n", name), None, at(0));
    }
    plan(&mut index, at(0));
    assert_eq!((index.classes.len(), index.fitting.len()), (0, 0));
}

#[test]
fn a_new_task_for_which_nothing_is_free_is_told_its_place_with_its_admission() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(&mut index, "first", json!({}));
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("first", "-> a")]));
    let assigned = json!({ "status": { "phase": "Scheduled", "assignedNode": "a" } });
    put(&mut index, "first", assigned);
    plan(&mut index, at(0));
    put(&mut index, "t", json!({ "status": { "phase": null } }));
    put(&mut index, "u", json!({ "status": { "phase": null } }));
    let places = |pass: &Pass| -> Vec<Option<i64>> {
        let place = |step: &Step| match &step.what {
            What::Admit(Some(waiting)) => waiting.place,
            other => panic!("{other:?}"),
        };
        pass.steps.iter().map(place).collect()
    };
    assert_eq!(places(&plan(&mut index, at(0))), [Some(1), Some(2)]);
    assert!(plan_waits(&mut index, 10).is_empty(), "their admissions say it");
    let waits = |place: i64| json!({ "status": { "waiting": { "place": place, "reason": NO_SLOT } } });
    put(&mut index, "t", waits(1));
    put(&mut index, "u", waits(2));
    plan(&mut index, at(1));
    assert!(plan_waits(&mut index, 10).is_empty(), "nothing of it is news");
    // What frees a slot does not wait for an admission.
    put(
        &mut index,
        "v",
        json!({ "metadata": { "creationTimestamp": "2020-01-01T00:00:00Z" }, "status": { "phase": null } }),
    );
    plan(&mut index, at(1));
    put(&mut index, "first", json!({ "status": { "phase": "Succeeded" } }));
    assert_eq!(told(&plan(&mut index, at(1))), words(&[("v", "-> a")]));
}

#[test]
fn what_holds_a_new_task_back_is_told_with_its_admission_and_not_again() {
    let mut index = Index::default();
    let waits = |status: serde_json::Value| json!({ "spec": { "dependsOn": ["first"] }, "status": status });
    put(&mut index, "first", json!({}));
    put(&mut index, "t", waits(json!({ "phase": null })));
    assert_eq!(
        told(&plan(&mut index, at(0))),
        words(&[("t", "admit: dependency first has not ended")])
    );
    let admitted = json!({ "waiting": { "reason": "dependency first has not ended" } });
    put(&mut index, "t", waits(admitted));
    plan(&mut index, at(1));
    let of_t = plan_waits(&mut index, 10)
        .into_iter()
        .filter(|step| step.key.name == "t");
    assert_eq!(of_t.count(), 0);
    put(&mut index, "first", json!({ "status": { "phase": "Running" } }));
    plan(&mut index, at(2));
    assert!(
        plan_waits(&mut index, 10).is_empty(),
        "the other one's phase is no news"
    );
}

#[test]
fn an_unsatisfiable_task_holds_nobody_up_and_says_why() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(
        &mut index,
        "big",
        json!({ "metadata": { "creationTimestamp": "2025-01-01T00:00:00Z" }, "spec": { "priority": 100, "requiredCapability": { "minRAMGB": 512 } } }),
    );
    put(
        &mut index,
        "orphan",
        json!({ "spec": { "agentRef": { "name": "nobody" }, "priority": 50 } }),
    );
    put(&mut index, "small", json!({}));
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("small", "-> a")]));
    let waits = Pass {
        steps: plan_waits(&mut index, 10),
        wake: None,
    };
    let told = told(&waits);
    assert_eq!(told["big"], "Some(1) no node fits: 1 node with less than 512 GiB RAM");
    assert!(told["orphan"].contains("Agent \"nobody\" does not exist"), "{told:?}");
}

#[test]
fn what_waits_is_told_once() {
    let mut index = Index::default();
    put(&mut index, "t", json!({}));
    plan(&mut index, at(0));
    let steps = plan_waits(&mut index, 10);
    assert_eq!(steps.len(), 1);
    let What::Wait(waiting) = &steps[0].what else {
        panic!("{steps:?}")
    };
    put(
        &mut index,
        "t",
        json!({ "status": { "waiting": serde_json::to_value(waiting).unwrap() } }),
    );
    assert!(plan(&mut index, at(1)).steps.is_empty());
    assert!(plan_waits(&mut index, 10).is_empty());
}

#[test]
fn priority_goes_first_and_age_catches_up() {
    let order = |first_created: &str| {
        let mut index = Index::default();
        put(
            &mut index,
            "old",
            json!({ "metadata": { "creationTimestamp": first_created } }),
        );
        put(
            &mut index,
            "urgent",
            json!({ "metadata": { "creationTimestamp": "2026-01-01T01:00:00Z" }, "spec": { "priority": 1 } }),
        );
        add_node(&mut index, "a", 1);
        told(&plan(&mut index, at(0))).into_keys().next().unwrap()
    };
    assert_eq!(order("2026-01-01T00:55:00Z"), "urgent");
    assert_eq!(order("2026-01-01T00:45:00Z"), "old");
}

#[test]
fn repositories_share_the_slots() {
    let mut index = Index::default();
    for i in 0..20 {
        put(
            &mut index,
            &format!("many-{i}"),
            json!({ "spec": { "payload": { "repo": "big" } } }),
        );
    }
    for i in 0..2 {
        let late = json!({ "metadata": { "creationTimestamp": "2026-01-01T00:05:00Z" }, "spec": { "payload": { "repo": "small" } } });
        put(&mut index, &format!("few-{i}"), late);
    }
    add_node(&mut index, "a", 4);
    let told = told(&plan(&mut index, at(0)));
    assert_eq!(told.len(), 4);
    assert_eq!(
        told.keys().filter(|name| name.starts_with("few")).count(),
        2,
        "{told:?}"
    );
}

#[test]
fn an_agents_limit_and_a_nodes_slots_are_kept() {
    let mut index = Index::default();
    add_node(&mut index, "a", 3);
    add_agent(&mut index, "coder", json!({ "maxConcurrentTasks": 2 }));
    for i in 0..5 {
        put(
            &mut index,
            &format!("t{i}"),
            json!({ "spec": { "agentRef": { "name": "coder" } } }),
        );
    }
    put(&mut index, "u1", json!({}));
    put(&mut index, "u2", json!({}));
    let told = told(&plan(&mut index, at(0)));
    assert_eq!(told, words(&[("t0", "-> a"), ("t1", "-> a"), ("u1", "-> a")]));
}

#[test]
fn a_verifier_takes_no_coders_slot_and_has_a_place_of_its_own() {
    let fill = |slots: Value| {
        let mut index = Index::default();
        add_node(&mut index, "a", 1);
        let node: FleetNode = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "metadata": { "name": "a" },
            "spec": { "nodeName": "a" }, "status": { "phase": "Ready", "capability": { "slots": slots } }
        }))
        .unwrap();
        index.set_node("a", Some(&node));
        put(&mut index, "code", running("a-process"));
        put(&mut index, "code2", json!({}));
        put(&mut index, "verify", json!({ "spec": { "kind": "verify" } }));
        put(&mut index, "verify2", json!({ "spec": { "kind": "verify" } }));
        let told = told(&plan(&mut index, at(0)));
        // The other way round: what verifies leaves the slot to a coder.
        let mut index = Index::default();
        add_node(&mut index, "a", 1);
        index.set_node("a", Some(&node));
        let mut verifying = running("a-process");
        merge(
            &mut verifying,
            json!({ "spec": { "kind": "verify" }, "status": { "phase": "Verifying" } }),
        );
        put(&mut index, "verify", verifying);
        put(&mut index, "code2", json!({}));
        (told, super::tests::told(&plan(&mut index, at(0))))
    };
    assert_eq!(
        fill(json!(1)),
        (words(&[("verify", "-> a")]), words(&[("code2", "-> a")]))
    );
    // An agent that names no slots does one task at a time.
    assert_eq!(fill(Value::Null), (words(&[]), words(&[])));
}

fn running(agent: &str) -> Value {
    json!({ "status": { "phase": "Running", "assignedNode": "a", "epoch": 3, "claim": { "node": "a", "agent": agent, "epoch": 3, "secretSHA256": "x" } } })
}

#[test]
fn a_dependency_opens_fails_or_leaves_it_to_the_workload() {
    let mut index = Index::default();
    add_node(&mut index, "a", 9);
    put(
        &mut index,
        "first",
        json!({ "status": { "phase": "Running", "assignedNode": "a", "claim": { "node": "a", "agent": "a-process", "epoch": 1, "secretSHA256": "x" } } }),
    );
    put(
        &mut index,
        "bare",
        json!({ "spec": { "dependsOn": [{ "name": "first" }] } }),
    );
    let label = json!({ "foreman.llmkube.dev/workload": "w" });
    put(
        &mut index,
        "owned",
        json!({ "metadata": { "labels": label }, "spec": { "dependsOn": ["first"] } }),
    );
    assert!(plan(&mut index, at(0)).steps.is_empty());
    put(
        &mut index,
        "first",
        json!({ "status": { "phase": "Succeeded", "verdict": "NO-GO" } }),
    );
    assert_eq!(told(&plan(&mut index, at(1))), words(&[("bare", "end UpstreamFailed")]));
    put(
        &mut index,
        "first",
        json!({ "status": { "phase": "Succeeded", "verdict": "GO" } }),
    );
    assert_eq!(
        told(&plan(&mut index, at(1))),
        words(&[("bare", "-> a"), ("owned", "-> a")])
    );
}

#[test]
fn a_pass_after_no_change_plans_nothing() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(&mut index, "r", running("a-process"));
    for i in 0..50 {
        put(&mut index, &format!("t{i}"), json!({}));
    }
    plan(&mut index, at(0));
    assert!(index.is_settled());
    assert!(plan(&mut index, at(1)).steps.is_empty());
    assert_eq!(index.queued(), 50);
}

#[test]
fn a_freed_slot_costs_one_assignment_whatever_the_length_of_the_queue() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    for i in 0..20_000 {
        put(&mut index, &format!("t{i:05}"), json!({}));
    }
    assert_eq!(plan(&mut index, at(0)).steps.len(), 1);
    for i in 0..1000 {
        put(
            &mut index,
            &format!("t{i:05}"),
            json!({ "status": { "phase": "Succeeded", "verdict": "GO" } }),
        );
        assert!(index.dirty.len() <= 2, "{} tasks are looked at", index.dirty.len());
        assert_eq!(plan(&mut index, at(1)).steps.len(), 1);
        assert!(index.is_settled(), "the others stay where they are");
    }
}

#[test]
fn failed_writes_in_a_row_are_counted_as_long_as_their_task_is_there() {
    let mut index = Index::default();
    let key = Key::new("n", "t");
    put(&mut index, "t", json!({}));
    assert_eq!([index.add_failure(&key), index.add_failure(&key)], [1, 2]);
    index.end_failures(&key);
    assert_eq!([index.add_failure(&key), index.add_failure(&key)], [1, 2]);
    index.set_task(&key, None, at(0));
    assert_eq!([index.add_failure(&key), index.add_failure(&key)], [1, 1], "it is gone");
    put(&mut index, "t", json!({}));
    assert_eq!(index.add_failure(&key), 1, "another of this name begins anew");
}
