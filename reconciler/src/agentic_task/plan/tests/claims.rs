//! How claims die, and what ends with them.

use super::*;

#[test]
fn every_way_in_which_a_claim_dies() {
    let fresh = || {
        let mut index = Index::default();
        add_node(&mut index, "a", 1);
        index
    };
    let mut index = fresh();
    put(&mut index, "t", running("a-process"));
    assert!(plan(&mut index, at(0)).steps.is_empty());
    index.set_alive("a", false, None);
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("t", "LoseClaim node-lost")]));

    let mut index = fresh();
    put(&mut index, "t", running("an-earlier-process"));
    assert_eq!(
        told(&plan(&mut index, at(0))),
        words(&[("t", "LoseClaim agent-replaced")])
    );

    let mut index = fresh();
    put(
        &mut index,
        "t",
        json!({ "status": { "phase": "Running", "assignedNode": "a", "epoch": 3 } }),
    );
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("t", "LoseClaim given-back")]));

    let mut index = fresh();
    put(&mut index, "t", running("a-process"));
    index.set_node("a", None);
    assert_eq!(told(&plan(&mut index, at(0))), words(&[("t", "LoseClaim node-gone")]));

    let mut index = fresh();
    put(&mut index, "t", running("a-process"));
    let wake = plan(&mut index, at(0)).wake.unwrap();
    assert_eq!(wake, at(2700) + OVERTIME);
    assert!(plan(&mut index, wake - at(1)).steps.is_empty());
    assert_eq!(told(&plan(&mut index, wake)), words(&[("t", "LoseClaim overdue")]));
}

#[test]
fn an_overdue_task_whose_write_failed_is_left_alone_until_its_pause_is_over() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    let assigned = json!({ "status": { "phase": "Scheduled", "assignedNode": "a" } });
    put(&mut index, "t", assigned.clone());
    let due = words(&[("t", "Unassign unclaimed")]);
    plan(&mut index, at(0));
    assert_eq!(told(&plan(&mut index, CLAIM_TIME)), due);
    let key = Key::new("n", "t");
    index.rest(&key);
    index.look_at_node("a");
    for _ in 0..3 {
        assert!(plan(&mut index, CLAIM_TIME).steps.is_empty());
    }
    index.look_at_task(&key);
    assert_eq!(told(&plan(&mut index, CLAIM_TIME)), due, "the pause is over");
    index.rest(&key);
    put(&mut index, "t", assigned);
    assert_eq!(told(&plan(&mut index, CLAIM_TIME)), due, "there is news of it");
}

#[test]
fn an_unclaimed_assignment_is_taken_back_in_time() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(
        &mut index,
        "t",
        json!({ "status": { "phase": "Scheduled", "assignedNode": "a" } }),
    );
    assert_eq!(plan(&mut index, at(0)).wake, Some(CLAIM_TIME));
    assert_eq!(
        told(&plan(&mut index, CLAIM_TIME)),
        words(&[("t", "Unassign unclaimed")])
    );
}

#[test]
fn three_lost_claims_end_a_task_and_a_cancel_ends_a_pending_one() {
    let mut index = Index::default();
    add_node(&mut index, "a", 1);
    put(&mut index, "lost", json!({ "status": { "lostClaims": 3 } }));
    put(
        &mut index,
        "gone",
        json!({ "metadata": { "annotations": { "foreman.llmkube.dev/cancel": "1" } } }),
    );
    put(
        &mut index,
        "done",
        json!({ "metadata": { "annotations": { "foreman.llmkube.dev/cancel": "1" } }, "status": { "handledCancel": "1" } }),
    );
    put(&mut index, "unite", json!({ "spec": { "kind": "integrate" } }));
    assert_eq!(
        told(&plan(&mut index, at(0))),
        words(&[
            ("lost", "end LostClaims"),
            ("gone", "end Cancelled"),
            ("done", "-> a"),
            ("unite", "end Refused(NotSupportedYet)")
        ])
    );
}
