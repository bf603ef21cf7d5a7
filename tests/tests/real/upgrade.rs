//! From the first chart to the present one, with work underneath; and away again.
//!
//! `fixtures/chart-0.1.0-first.tgz` is the chart as it was when there first was one. The work is what an operator of that
//! time left: objects with their statuses.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::alone::Alone;
use super::chart::helm::chart;

const KINDS: &str = "taskqueues,workloads,agentictasks,agents,fleetnodes,modelprofiles";

fn first() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chart-0.1.0-first.tgz")
}

/// The first chart called all that it made `foreman-…`, whatever the release was called.
fn release() -> Alone {
    let mut alone = Alone::open("upgrade");
    alone.release = "foreman".to_owned();
    alone
}

fn named(alone: &Alone, kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": kind,
        "metadata": { "name": name, "namespace": alone.namespace }, "spec": spec,
    })
}

fn workload(intent: &str) -> Value {
    let payload = json!({ "repo": "https://git.example.com/a.git", "branch": "main" });
    let step = json!({ "name": "check", "kind": "verify", "agentRef": { "name": "checker" }, "payload": payload });
    json!({ "intent": intent, "repo": "https://git.example.com/a.git", "pipeline": [step] })
}

/// Work in every stage: done, refuted, under way, waiting.
fn load(alone: &Alone) {
    let apply = |kind: &str, name: &str, spec: Value| alone.apply(&named(alone, kind, name, spec));
    apply(
        "Agent",
        "checker",
        json!({ "role": "verifier", "tools": ["run_gate_job"] }),
    );
    for name in ["done", "refuted", "waiting"] {
        let spec = json!({ "kind": "verify", "payload": { "repo": "https://git.example.com/a.git", "branch": name },
                           "agentRef": { "name": "checker" } });
        apply("AgenticTask", name, spec);
    }
    let at = jiff::Timestamp::now().strftime("%FT%TZ").to_string();
    let ended = |verdict: &str| {
        json!({ "phase": "Succeeded", "verdict": verdict, "finishedAt": at, "epoch": 1,
                "result": { "summary": verdict } })
    };
    alone.says("agentictask", "done", &ended("GATE-PASS"));
    alone.says("agentictask", "refuted", &ended("GATE-FAIL"));
    apply("Workload", "ledger", workload("It is done."));
    let status = json!({ "phase": "Completed", "verdict": "GATE-PASS", "run": 1, "round": 1, "finishedAt": at,
                         "observedGeneration": 1, "message": "one round" });
    alone.says("workload", "ledger", &status);
    let secret = json!({ "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "clone", "namespace": alone.jobs }, "stringData": { "token": "let-me-in" } });
    alone.apply(&secret);
}

/// Describes what is there: each object with its identity, its spec and its status.
fn held(alone: &Alone) -> Vec<(String, Value, Value, Value)> {
    let all = alone.cluster.get(&[KINDS, "--namespace", &alone.namespace]);
    let of = |object: &Value| {
        let name = format!(
            "{}/{}",
            object["kind"].as_str().unwrap(),
            object["metadata"]["name"].as_str().unwrap()
        );
        let status = object["status"].clone();
        (name, object["metadata"]["uid"].clone(), object["spec"].clone(), status)
    };
    all["items"].as_array().unwrap().iter().map(of).collect()
}

fn uid(alone: &Alone, namespace: &str, kind: &str, name: &str) -> Value {
    alone.find_in(namespace, kind, name).unwrap()["metadata"]["uid"].clone()
}

#[test]
#[ignore = "needs a real control plane"]
fn an_upgrade_from_the_first_chart_loses_nothing_and_runs_nothing_again_and_an_uninstall_leaves_the_work() {
    let alone = release();
    let space = ["--namespace", alone.namespace.as_str()];
    let first = first();
    let mut words = vec![
        "install",
        alone.release.as_str(),
        first.to_str().unwrap(),
        "--create-namespace",
    ];
    // Another test of these servers may have applied the kinds.
    words.extend(["--take-ownership", "--set", "agent.mode=native"]);
    alone.helm_does(&[words.as_slice(), &space].concat());
    let crd = |name: &str| alone.cluster.get(&["crd", name]);
    let schema = |crd: &Value| crd["spec"]["versions"][0]["schema"].to_string();
    let kinds = ["agentictasks", "workloads", "taskqueues", "fleetnodes"].map(|it| format!("{it}.foreman.llmkube.dev"));
    let before = kinds.each_ref().map(|name| crd(name));
    load(&alone);
    let work = held(&alone);
    assert_eq!(work.len(), 5, "{work:?}");
    let claim = alone.cluster.get(&[&["pvc"], space.as_slice()].concat())["items"][0]["metadata"].clone();

    let present = chart();
    // What a person set is kept; what the first chart set by itself is not, since some of it has other names now.
    let mut words = vec!["upgrade", alone.release.as_str(), present.to_str().unwrap()];
    words.extend(["--reset-then-reuse-values"]);
    alone.helm_does(&[words.as_slice(), &space].concat());
    let deployment = alone.find("deployment", &format!("{}-agent", alone.release)).unwrap();
    let arguments = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
    assert!(arguments.to_string().contains("--agent-mode=native"), "{arguments}");
    assert_eq!(held(&alone), work, "objects after the upgrade, and before");
    let claimed = alone.cluster.get(&[&["pvc"], space.as_slice()].concat())["items"][0]["metadata"].clone();
    assert_eq!((&claimed["name"], &claimed["uid"]), (&claim["name"], &claim["uid"]));
    let mut extended = 0;
    for (name, before) in kinds.iter().zip(&before) {
        let after = crd(name);
        assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "{name} was kept");
        extended += usize::from(schema(&after) != schema(before));
    }
    assert!(extended > 0, "no kind has grown: the first chart is the present one");

    let operator = alone.operator();
    // Work that is new shows that the operator has seen all that is older.
    alone.apply(&named(&alone, "Workload", "fresh", workload("It is new.")));
    let tasks_of = |workload: &str| {
        let label = format!("foreman.llmkube.dev/workload={workload}");
        let words = ["agentictasks", "--selector", &label];
        let found = alone.cluster.get(&[words.as_slice(), space.as_slice()].concat());
        found["items"].as_array().unwrap().len()
    };
    let told = || operator.log();
    alone.until(
        "a task of the new Workload",
        || (tasks_of("fresh") > 0).then_some(()),
        told,
    );
    assert_eq!(tasks_of("ledger"), 0, "what was done is not done again");
    let now = held(&alone);
    for (name, uid, spec, status) in &work {
        let found = now.iter().find(|(other, ..)| other == name);
        let (_, uid_now, spec_now, status_now) = found.unwrap_or_else(|| panic!("{name} is lost"));
        assert_eq!((uid_now, spec_now), (uid, spec), "{name}");
        for field in ["phase", "verdict", "run", "round", "finishedAt", "epoch"] {
            let waits = name == "AgenticTask/waiting" && field == "phase";
            let expected = if waits { &json!("Pending") } else { &status[field] };
            let found = if waits && status_now[field].is_null() {
                expected
            } else {
                &status_now[field]
            };
            assert_eq!(found, expected, "{field} of {name}");
        }
    }
    drop(operator);

    let secret = uid(&alone, &alone.jobs, "secret", "clone");
    let left = held(&alone);
    let said = alone.helm_does(&[&["uninstall", alone.release.as_str()], space.as_slice()].concat());
    assert!(
        said.contains("agentictasks.foreman.llmkube.dev"),
        "it says what it kept: {said}"
    );
    assert_eq!(alone.find("deployment", &format!("{}-operator", alone.release)), None);
    for (name, before) in kinds.iter().zip(&before) {
        assert_eq!(crd(name)["metadata"]["uid"], before["metadata"]["uid"], "{name} stays");
    }
    assert_eq!(held(&alone), left, "work stays");
    assert_eq!(
        uid(&alone, &alone.jobs, "secret", "clone"),
        secret,
        "what people put beside the Jobs stays"
    );
}

#[test]
#[ignore = "needs a real control plane"]
fn values_of_the_first_chart_that_have_other_names_now_are_refused_by_name() {
    let alone = release();
    let space = ["--namespace", alone.namespace.as_str()];
    let (first, present) = (first(), chart());
    let install = [
        "install",
        alone.release.as_str(),
        first.to_str().unwrap(),
        "--create-namespace",
        "--take-ownership",
    ];
    alone.helm_does(&[install.as_slice(), &space].concat());
    let upgrade = [
        "upgrade",
        alone.release.as_str(),
        present.to_str().unwrap(),
        "--reuse-values",
    ];
    let said = alone.helm(&[upgrade.as_slice(), &space].concat());
    assert_eq!(said.code, Some(1), "{}", said.out);
    for name in ["replicas", "gitCredentialsSecret", "networkPolicy"] {
        assert!(said.err.contains(name), "{name} is not named: {}", said.err);
    }
    alone.helm_does(&[&["uninstall", alone.release.as_str()], space.as_slice()].concat());
}
