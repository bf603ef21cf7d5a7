//! What Argo CD shows of our kinds: each `argocd/health/<Kind>/health.lua`, run in a Lua of the same version and with the
//! same few libraries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mlua::{Lua, LuaOptions, StdLib, Table, Value as LuaValue};
use schemas::agent_release::ReleasePhase;
use schemas::agentic_task::{FailureReason, Phase};
use schemas::fleet_node::NodePhase;
use schemas::shared::Verdict;
use schemas::workload::WorkloadPhase;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../argocd/health")
}

/// Gives a value to Lua as Argo CD does: what is null is not there.
fn given(lua: &Lua, value: &Value) -> LuaValue {
    match value {
        Value::Null => LuaValue::Nil,
        Value::Bool(flag) => LuaValue::Boolean(*flag),
        Value::Number(number) => LuaValue::Number(number.as_f64().unwrap()),
        Value::String(text) => LuaValue::String(lua.create_string(text).unwrap()),
        Value::Array(items) => {
            let items = items.iter().map(|item| given(lua, item));
            LuaValue::Table(lua.create_sequence_from(items).unwrap())
        }
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| (key.as_str(), given(lua, value)));
            LuaValue::Table(lua.create_table_from(fields).unwrap())
        }
    }
}

/// Runs the check of a kind, and returns what it says: health and message.
fn health(kind: &str, object: &Value) -> (String, String) {
    let script = std::fs::read_to_string(folder().join(kind).join("health.lua")).unwrap();
    // Argo CD loads no library of strings or numbers.
    let lua = Lua::new_with(StdLib::TABLE, LuaOptions::default()).unwrap();
    lua.globals().set("obj", given(&lua, object)).unwrap();
    let said: Table = lua.load(&script).eval().unwrap();
    let message: Option<String> = said.get("message").unwrap();
    (said.get("status").unwrap(), message.unwrap_or_default())
}

fn with_status(kind: &str, status: &Value) -> (String, String) {
    let object = json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": kind,
        "metadata": { "name": "x", "generation": 2 }, "status": status,
    });
    health(kind, &object)
}

/// Checks what is said of a status.
fn says(kind: &str, status: Value, expected: &str, in_message: &str) {
    let (found, message) = with_status(kind, &status);
    assert_eq!(found, expected, "{kind} with {status}: {message}");
    assert!(message.contains(in_message), "{kind} with {status}: {message}");
}

/// Returns every value that the schema of a kind allows for its phase.
fn phases<T: DeserializeOwned>(kind: &str) -> Vec<T> {
    let crd = schemas::crds::all().into_iter().find(|crd| crd.spec.names.kind == kind);
    let schema = serde_json::to_value(&crd.unwrap().spec.versions[0].schema).unwrap();
    let phases = schema.pointer("/openAPIV3Schema/properties/status/properties/phase/enum");
    let phases = phases.unwrap_or_else(|| panic!("{kind} has no phases in {schema}"));
    let phases = phases.as_array().unwrap().iter().filter(|phase| !phase.is_null());
    phases
        .map(|phase| serde_json::from_value(phase.clone()).unwrap())
        .collect()
}

fn condition(kind: &str, status: &str, message: &str) -> Value {
    json!({ "type": kind, "status": status, "reason": "Reason", "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z" })
}

#[test]
fn every_kind_has_a_check_and_every_check_has_a_kind() {
    let kinds: BTreeSet<String> = schemas::crds::all()
        .into_iter()
        .map(|crd| crd.spec.names.kind)
        .collect();
    let folders = std::fs::read_dir(folder()).unwrap();
    let checks = folders
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(kinds, checks);
}

#[test]
fn every_phase_of_a_task_has_a_health_and_none_degrades() {
    for phase in phases::<Phase>("AgenticTask") {
        let expected = match phase {
            Phase::Pending | Phase::Scheduled | Phase::Running | Phase::Verifying => "Progressing",
            Phase::Succeeded | Phase::Failed => "Healthy",
        };
        says("AgenticTask", json!({ "phase": phase }), expected, phase.as_str());
    }
    says("AgenticTask", json!(null), "Progressing", "waits for the operator");
    says("AgenticTask", json!({ "phase": "Resting" }), "Unknown", "Resting");
}

#[test]
fn a_task_whose_gate_failed_is_healthy_and_says_so() {
    let status =
        json!({ "phase": "Succeeded", "verdict": Verdict::GateFail, "result": { "summary": "step test: exit 1" } });
    says(
        "AgenticTask",
        status,
        "Healthy",
        "GATE-FAIL, Succeeded: step test: exit 1",
    );
    for reason in [
        FailureReason::GateError,
        FailureReason::LostClaims,
        FailureReason::Cancelled,
    ] {
        let status = json!({ "phase": "Failed", "failureReason": reason });
        says("AgenticTask", status, "Healthy", &reason.as_str());
    }
    let status = json!({ "phase": "Pending", "waiting": { "place": 3, "reason": "no node has the role coder" } });
    says("AgenticTask", status, "Progressing", "no node has the role coder");
}

#[test]
fn every_phase_of_a_workload_has_a_health_and_none_degrades() {
    for phase in phases::<WorkloadPhase>("Workload") {
        let expected = match phase {
            WorkloadPhase::Planning | WorkloadPhase::Planned | WorkloadPhase::Dispatched => "Progressing",
            WorkloadPhase::Completed | WorkloadPhase::Failed => "Healthy",
        };
        says(
            "Workload",
            json!({ "phase": phase, "observedGeneration": 2 }),
            expected,
            phase.as_str(),
        );
    }
    says("Workload", json!(null), "Progressing", "waits for the operator");
    says("Workload", json!({ "phase": "Resting" }), "Unknown", "Resting");
    let status = json!({ "phase": "Completed", "observedGeneration": 1 });
    says("Workload", status, "Progressing", "has not seen the last change");
}

#[test]
fn a_workload_whose_gate_failed_is_healthy_and_one_that_waits_for_a_person_is_suspended() {
    let status = json!({ "phase": "Failed", "verdict": "GATE-FAIL", "message": "round 3 of 3: test failed" });
    says(
        "Workload",
        status,
        "Healthy",
        "GATE-FAIL, Failed: round 3 of 3: test failed",
    );
    for kind in ["Stalled", "Blocked"] {
        let status = json!({ "phase": "Planning", "conditions": [condition(kind, "True", "who goes first?")] });
        says("Workload", status, "Suspended", "who goes first?");
        let status = json!({ "phase": "Planning", "conditions": [condition(kind, "False", "all is well")] });
        says("Workload", status, "Progressing", "Planning");
    }
}

#[test]
fn every_phase_of_a_node_has_a_health_and_none_degrades() {
    for phase in phases::<NodePhase>("FleetNode") {
        let (expected, message) = match phase {
            NodePhase::Ready => ("Healthy", "takes tasks"),
            NodePhase::Draining => ("Suspended", "nothing new"),
            NodePhase::NotReady => ("Suspended", "2026-01-01"),
            NodePhase::Unknown => ("Progressing", "not been heard of"),
        };
        let status = json!({ "phase": phase, "lastHeartbeatTime": "2026-01-01T00:00:00Z" });
        says("FleetNode", status, expected, message);
    }
    says("FleetNode", json!(null), "Progressing", "not been heard of");
    says("FleetNode", json!({ "phase": "Resting" }), "Unknown", "Resting");
}

#[test]
fn every_phase_of_a_release_has_a_health() {
    for phase in phases::<ReleasePhase>("AgentRelease") {
        let expected = match phase {
            ReleasePhase::Pending | ReleasePhase::InProgress => "Progressing",
            ReleasePhase::AwaitingApproval | ReleasePhase::Paused => "Suspended",
            ReleasePhase::Succeeded => "Healthy",
            ReleasePhase::Failed => "Degraded",
        };
        let conditions = json!([condition("Ready", "False", "2 of 3 nodes")]);
        says(
            "AgentRelease",
            json!({ "phase": phase, "conditions": conditions }),
            expected,
            "2 of 3 nodes",
        );
    }
    says("AgentRelease", json!(null), "Suspended", "waits for somebody");
    says("AgentRelease", json!({ "phase": "Resting" }), "Unknown", "Resting");
    let status = json!({ "phase": "Succeeded", "observedGeneration": 1 });
    says("AgentRelease", status, "Progressing", "has not been seen");
}

#[test]
fn an_agent_that_can_never_work_degrades() {
    let status = |validated, generation| {
        let conditions = [
            condition("Validated", validated, "spec.tools"),
            condition("Ready", validated, "spec.tools"),
        ];
        json!({ "observedGeneration": generation, "conditions": conditions })
    };
    says("Agent", json!(null), "Progressing", "waits for the operator");
    says(
        "Agent",
        json!({ "conditions": [] }),
        "Progressing",
        "waits for the operator",
    );
    says("Agent", status("True", 2), "Healthy", "spec.tools");
    says("Agent", status("False", 2), "Degraded", "spec.tools");
    says("Agent", status("Unknown", 2), "Progressing", "waits");
    says(
        "Agent",
        status("False", 1),
        "Progressing",
        "has not seen the last change",
    );
}

#[test]
fn a_queue_that_cannot_be_read_degrades_and_its_tasks_do_not() {
    let status = |conditions: &[(&str, &str)]| {
        let conditions: Vec<_> = conditions
            .iter()
            .map(|(kind, status)| condition(kind, status, kind))
            .collect();
        json!({ "observedGeneration": 2, "conditions": conditions })
    };
    for (conditions, expected, message) in [
        ([("Fetched", "True"), ("Ready", "True")].as_slice(), "Healthy", "Ready"),
        (&[("Fetched", "False"), ("Ready", "False")], "Degraded", "Fetched"),
        (&[("Stalled", "True"), ("Ready", "False")], "Degraded", "Stalled"),
        (&[("Ready", "True"), ("Suspended", "True")], "Suspended", "Suspended"),
        (&[("Fetched", "False"), ("Suspended", "True")], "Suspended", "Suspended"),
        (
            &[("Fetched", "True"), ("Ready", "False"), ("PruneGuarded", "True")],
            "Suspended",
            "PruneGuarded",
        ),
        (
            &[("Fetched", "True"), ("Ready", "False"), ("NameTaken", "True")],
            "Suspended",
            "NameTaken",
        ),
        (
            &[("Fetched", "True"), ("Ready", "True"), ("NotSupportedYet", "True")],
            "Healthy",
            "Ready",
        ),
        (&[("Fetched", "True"), ("Ready", "False")], "Progressing", "Ready"),
        (&[], "Progressing", "waits for the operator"),
    ] {
        says("TaskQueue", status(conditions), expected, message);
    }
    let counts = json!({ "observedGeneration": 2, "counts": { "failed": 7 }, "invalidFileCount": 2, "conditions": [
        condition("Fetched", "True", "read"), condition("Ready", "True", "2 of 9 files cannot be used") ] });
    says("TaskQueue", counts, "Healthy", "2 of 9 files cannot be used");
    says("TaskQueue", json!(null), "Progressing", "waits for the operator");
    for reason in ["Forbidden", "QuotaExceeded", "Refused", "WebhookFailed"] {
        let mut ready = condition("Ready", "False", "roles \"x\" is forbidden");
        ready["reason"] = json!(reason);
        let refused = |more: &[(&str, &str)]| {
            let mut refused = status(more);
            refused["conditions"].as_array_mut().unwrap().push(ready.clone());
            refused
        };
        let read = &[("Fetched", "True")];
        says("TaskQueue", refused(read), "Degraded", "is forbidden");
        let rests = &[("Fetched", "True"), ("Suspended", "True")];
        says("TaskQueue", refused(rests), "Suspended", "Suspended");
    }
    let mut old = status(&[("Stalled", "True")]);
    old["observedGeneration"] = json!(1);
    says("TaskQueue", old, "Progressing", "has not seen the last change");
}

#[test]
fn what_nothing_is_said_against_is_healthy() {
    for kind in ["ModelProfile", "Forge"] {
        says(kind, json!(null), "Healthy", "");
        for (name, status, expected) in [
            ("Ready", "True", "Healthy"),
            ("Ready", "False", "Degraded"),
            ("Validated", "False", "Degraded"),
            ("Stalled", "True", "Degraded"),
            ("Stalled", "False", "Healthy"),
        ] {
            says(
                kind,
                json!({ "conditions": [condition(name, status, name)] }),
                expected,
                "",
            );
        }
        let status = json!({ "conditions": [condition("NotSupportedYet", "True", "nothing acts on it")] });
        says(kind, status, "Healthy", "nothing acts on it");
        if kind == "ModelProfile" {
            let status = json!({ "observedGeneration": 1, "conditions": [condition("Ready", "False", "no")] });
            says(kind, status, "Progressing", "has not seen the last change");
        }
    }
}

#[test]
fn a_check_stands_alone_and_calls_no_library_that_argo_cd_lacks() {
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path().join("health.lua");
        let script = std::fs::read_to_string(&path).unwrap();
        for word in [
            "string.", "math.", "io.", "os.", "require", "dofile", ":match", ":format", ":sub",
        ] {
            assert!(!script.contains(word), "{} uses {word}", path.display());
        }
    }
}
