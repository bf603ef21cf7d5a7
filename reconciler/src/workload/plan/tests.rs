#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::Arc;

use super::*;
use crate::cache::Cached;
use crate::workload::validate::validate;
use schemas::{AgenticTask, Workload};

fn workload(more: Value) -> Workload {
    let mut value = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload",
        "metadata": { "name": "w", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 1 },
        "spec": { "intent": "do it", "repo": "r", "pipeline": [
            { "name": "code", "kind": "issue-fix", "agentRef": { "name": "c" }, "payload": {} },
            { "name": "verify", "kind": "verify", "agentRef": { "name": "v" }, "dependsOn": ["code"], "payload": {} }
        ] }
    });
    for (field, part) in more.as_object().unwrap() {
        for (name, inner) in part.as_object().unwrap() {
            value[field][name] = inner.clone();
        }
    }
    serde_json::from_value(value).unwrap()
}

fn task(name: &str, step: &str, status: Value) -> TaskObject {
    let value = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
        "metadata": { "name": name, "namespace": "n", "uid": name, "labels": { labels::STEP: step } },
        "spec": { "kind": if step == "code" { "issue-fix" } else { "verify" }, "payload": {}, "run": 1, "round": 1 }, "status": status
    });
    let object: AgenticTask = serde_json::from_value(value).unwrap();
    Arc::new(Cached::of(object))
}

fn planned(more: Value, tasks: Vec<TaskObject>, upstream: Option<WorkloadPhase>, taken: &[&str]) -> Plan {
    let object = workload(more);
    let cached = Arc::new(Cached::of(object.clone()));
    let upstream = object
        .spec
        .depends_on
        .iter()
        .flatten()
        .map(|name| (name.clone(), upstream))
        .collect();
    let taken = taken.iter().map(|name| (*name).to_owned()).collect();
    let observed = Observed {
        key: Key::new("n", "w"),
        cached,
        workload: object,
        tasks,
        upstream,
        taken,
    };
    let valid = validate(&observed);
    plan(
        &observed,
        &valid,
        Timestamp::from_second(1_000_000).unwrap(),
        Duration::from_secs(60),
    )
}

fn has(plan: &Plan, kind: &str) -> bool {
    plan.status
        .as_ref()
        .unwrap()
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == kind)
}

#[test]
fn the_first_round_is_created_with_owner_and_labels() {
    let plan = planned(json!({}), Vec::new(), None, &[]);
    let names: Vec<&str> = plan.creates.iter().map(|(key, _)| key.name.as_str()).collect();
    assert_eq!(names, ["w-code", "w-verify"]);
    let meta = &plan.creates[0].1["metadata"];
    assert_eq!(
        (&meta["labels"][labels::STEP], &meta["ownerReferences"][0]["uid"]),
        (&json!("code"), &json!("u"))
    );
    assert_eq!(plan.status.unwrap().phase, Some(WorkloadPhase::Dispatched));
}

#[test]
fn a_dependency_is_waited_for_and_a_failed_one_blocks() {
    let depends = json!({ "spec": { "dependsOn": ["first"] } });
    for (phase, blocked) in [
        (None, false),
        (Some(WorkloadPhase::Dispatched), false),
        (Some(WorkloadPhase::Failed), true),
    ] {
        let plan = planned(depends.clone(), Vec::new(), phase, &[]);
        assert!(plan.creates.is_empty(), "{phase:?}");
        assert_eq!(has(&plan, "Blocked"), blocked, "{phase:?}");
    }
    assert_eq!(
        planned(depends, Vec::new(), Some(WorkloadPhase::Completed), &[])
            .creates
            .len(),
        2
    );
}

#[test]
fn a_name_that_is_taken_stalls_and_creates_nothing() {
    let plan = planned(json!({}), Vec::new(), None, &["w-code"]);
    assert!(plan.creates.is_empty() && has(&plan, "NameTaken") && has(&plan, "Stalled"));
}

#[test]
fn another_run_first_ends_what_runs() {
    let running = vec![task("w-code", "code", json!({ "phase": "Running" }))];
    let plan = planned(json!({ "spec": { "run": 2 } }), running, None, &[]);
    assert_eq!((plan.creates.len(), plan.cancels.len()), (0, 1));
    let over = vec![task("w-code", "code", json!({ "phase": "Failed" }))];
    let plan = planned(json!({ "spec": { "run": 2 } }), over, None, &[]);
    assert_eq!(plan.creates[0].0.name, "w-code-x2");
}

#[test]
fn a_finished_run_is_left_alone_and_its_tasks_are_collected_once_evidence_is_stored() {
    let status = json!({ "status": { "run": 1, "phase": "Completed", "observedGeneration": 1 } });
    let ended = |evidence: Value, finished: &str| {
        let status =
            json!({ "phase": "Succeeded", "verdict": "GO", "epoch": 1, "finishedAt": finished, "evidence": evidence });
        vec![task("w-code", "code", status)]
    };
    let old = "1970-01-12T13:44:00Z";
    let plan = planned(status.clone(), ended(json!([]), old), None, &[]);
    assert_eq!((plan.creates.len(), plan.collects.len()), (0, 1));
    let plan = planned(status.clone(), ended(Value::Null, old), None, &[]);
    assert_eq!(plan.collects.len(), 0, "its evidence is not stored");
    let plan = planned(status, ended(json!([]), "1970-01-12T13:46:20Z"), None, &[]);
    assert!(plan.collects.is_empty() && plan.wake.is_some());
}

#[test]
fn a_retry_raises_the_run_once() {
    let asked = json!({ "metadata": { "annotations": { labels::RETRY: "r1" } } });
    let rerun = planned(asked, Vec::new(), None, &[]).rerun.unwrap();
    assert_eq!(
        (&rerun["spec"]["run"], &rerun["metadata"]["annotations"][RETRIED]),
        (&json!(2), &json!("r1"))
    );
    let done = json!({ "metadata": { "annotations": { labels::RETRY: "r1", RETRIED: "r1" } }, "spec": { "run": 2 } });
    let plan = planned(done, Vec::new(), None, &[]);
    assert!(plan.rerun.is_none());
    assert_eq!(plan.status.unwrap().handled_retry.as_deref(), Some("r1"));
}

#[test]
fn issues_or_intent_alone_dispatch_nothing_and_say_what_to_write_instead() {
    let issues = json!({ "spec": { "pipeline": null, "issues": [7, 8], "coderAgentRef": { "name": "c" } } });
    let intent = json!({ "spec": { "pipeline": [] } });
    for (field, asked) in [("spec.issues", issues), ("spec.intent", intent)] {
        let plan = planned(asked, Vec::new(), None, &[]);
        assert!(plan.creates.is_empty(), "{field}: {:?}", plan.creates);
        assert!(has(&plan, "Stalled") && has(&plan, "NotSupportedYet"), "{field}");
        let status = plan.status.unwrap();
        let message = status.message.unwrap();
        assert!(
            message.contains(field) && message.contains("spec.pipeline"),
            "{message}"
        );
        assert_eq!(status.phase, Some(WorkloadPhase::Planning));
    }
    // Written-out steps win over the issues that they name.
    let both = planned(json!({ "spec": { "issues": [7] } }), Vec::new(), None, &[]);
    assert!(!has(&both, "NotSupportedYet"));
    assert_eq!(both.creates.len(), 2);
}

#[test]
fn a_workload_that_is_held_can_be_cancelled() {
    let asked = json!({ "metadata": { "annotations": { labels::CANCEL: "c1" } }, "spec": { "pipeline": null } });
    let status = planned(asked, Vec::new(), None, &[]).status.unwrap();
    assert_eq!(
        (status.phase, status.failure_reason, status.handled_cancel.as_deref()),
        (Some(WorkloadPhase::Failed), Some(FailureReason::Cancelled), Some("c1"))
    );
}

/// A task of the Workload `w` under any name, which waits for others.
fn named(name: &str, kind: &str, waits_for: &[&str], status: Value) -> TaskObject {
    let value = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
        "metadata": { "name": name, "namespace": "n", "uid": name, "labels": { labels::STEP: name } },
        "spec": { "kind": kind, "payload": {}, "dependsOn": waits_for, "run": 1, "round": 1 }, "status": status
    });
    let object: AgenticTask = serde_json::from_value(value).unwrap();
    Arc::new(Cached::of(object))
}

#[test]
fn the_verifiers_word_on_a_head_stands_whatever_the_steps_are_called() {
    for (coder, verifier) in [("code", "verify"), ("write", "check"), ("z", "a")] {
        let coded = json!({ "phase": "Succeeded", "verdict": "GO", "commitSHA": "head", "baseSHA": "base" });
        let proved = json!({ "phase": "Succeeded", "verdict": "GATE-PASS", "commitSHA": "head", "gateDigest": "gate" });
        let tasks = vec![
            named(coder, "issue-fix", &[], coded),
            named(verifier, "verify", &[coder], proved),
        ];
        let status = planned(json!({}), tasks, None, &[]).status.unwrap();
        assert_eq!(
            (status.head_sha.as_deref(), status.gate_digest.as_deref()),
            (Some("head"), Some("gate")),
            "{coder} and {verifier}"
        );
    }
}

#[test]
fn a_coder_that_works_on_what_was_proved_leaves_a_head_that_nobody_proved() {
    let coded = |head: &str| json!({ "phase": "Succeeded", "verdict": "GO", "commitSHA": head, "baseSHA": "base" });
    let proved = json!({ "phase": "Succeeded", "verdict": "GATE-PASS", "commitSHA": "one", "gateDigest": "gate" });
    let tasks = vec![
        named("b-first", "issue-fix", &[], coded("one")),
        named("c-check", "verify", &["b-first"], proved),
        named("a-more", "freeform", &["c-check"], coded("two")),
    ];
    let status = planned(json!({}), tasks, None, &[]).status.unwrap();
    assert_eq!((status.head_sha.as_deref(), status.gate_digest), (Some("two"), None));
}
