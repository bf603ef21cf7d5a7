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
