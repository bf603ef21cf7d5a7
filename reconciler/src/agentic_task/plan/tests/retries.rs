//! Requests to run again.

use super::*;

#[test]
fn a_bare_task_that_ended_runs_again_as_another_once() {
    let asked = |more: Value| {
        let mut value = json!({ "metadata": { "annotations": { "foreman.llmkube.dev/retry": "r1" } }, "status": { "phase": "Failed" } });
        merge(&mut value, more);
        value
    };
    let mut index = Index::default();
    put(
        &mut index,
        "t",
        asked(json!({ "spec": { "kind": "issue-fix", "payload": { "branch": "b" } } })),
    );
    put(
        &mut index,
        "t-x2",
        json!({ "spec": { "kind": "review" }, "status": { "phase": "Succeeded" } }),
    );
    let pass = plan(&mut index, at(0));
    // Another task has the first name.
    assert_eq!(told(&pass), words(&[("t", "make t-x3")]));
    let What::Retry {
        retry: Retry::Create(_, object),
        ..
    } = &pass.steps[0].what
    else {
        panic!()
    };
    assert_eq!(
        (
            &object["spec"]["run"],
            &object["spec"]["payload"]["branch"],
            &object["metadata"]["ownerReferences"][0]["uid"]
        ),
        (&json!(3), &json!("b-x3"), &json!("uid-t"))
    );
    // A restart between the two writes: the same request makes no second task.
    let mut made = object.clone();
    made["metadata"]["name"] = json!("t-x3");
    made["status"] = json!({ "phase": "Succeeded" });
    put(&mut index, "t-x3", made);
    index.look_at_task(&Key::new("n", "t"));
    let pass = plan(&mut index, at(0));
    assert_eq!(told(&pass), words(&[("t", "made t-x3")]));
    let patch = crate::agentic_task::status::build_patch(
        &pass.steps[0].task.0,
        &pass.steps[0].what,
        jiff::Timestamp::UNIX_EPOCH,
    );
    let patch = patch.unwrap().unwrap();
    assert_eq!((&patch["handledRetry"], patch.get("phase")), (&json!("r1"), None));
    put(&mut index, "t", asked(json!({ "status": { "handledRetry": "r1" } })));
    assert!(plan(&mut index, at(0)).steps.is_empty());
}

#[test]
fn a_retry_of_the_last_run_that_can_be_counted_is_refused() {
    let mut index = Index::default();
    put(
        &mut index,
        &format!("t-x{}", i64::MAX),
        json!({
            "metadata": { "annotations": { "foreman.llmkube.dev/retry": "r1" } },
            "spec": { "run": i64::MAX }, "status": { "phase": "Failed" },
        }),
    );
    let name = format!("t-x{}", i64::MAX);
    assert_eq!(told(&plan(&mut index, at(0))), words(&[(&name, "refuse to retry")]));
}

#[test]
fn a_retry_ends_what_runs_first_and_leaves_a_workloads_task_to_the_workload() {
    let retry = json!({ "metadata": { "annotations": { "foreman.llmkube.dev/retry": "r1" } } });
    let mut index = Index::default();
    add_node(&mut index, "a", 2);
    let mut runs = running("a-process");
    merge(&mut runs, retry.clone());
    put(&mut index, "runs", runs.clone());
    merge(
        &mut runs,
        json!({ "metadata": { "annotations": { "foreman.llmkube.dev/cancel": "retry-r1" } } }),
    );
    put(&mut index, "ends", runs);
    let mut step = retry;
    merge(
        &mut step,
        json!({ "spec": { "workloadRef": { "name": "w" } }, "status": { "phase": "Failed" } }),
    );
    put(&mut index, "step", step);
    assert_eq!(
        told(&plan(&mut index, at(0))),
        words(&[("runs", "cancel to retry"), ("step", "refuse to retry")])
    );
}
