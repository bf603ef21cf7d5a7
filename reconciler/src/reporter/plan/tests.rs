#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use proptest::prelude::*;
use serde_json::from_value;

const PHASES: [WorkloadPhase; 5] = [
    WorkloadPhase::Planning,
    WorkloadPhase::Planned,
    WorkloadPhase::Dispatched,
    WorkloadPhase::Completed,
    WorkloadPhase::Failed,
];
const VERDICTS: [Verdict; 7] = [
    Verdict::Go,
    Verdict::NoGo,
    Verdict::Incomplete,
    Verdict::GatePass,
    Verdict::GateFail,
    Verdict::GateError,
    Verdict::Skipped,
];

fn workload(status: Value) -> Workload {
    from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload", "metadata": { "name": "w", "namespace": "n" },
        "spec": { "intent": "x", "repo": "o/r", "verifierAgentRef": { "name": "v" } }, "status": status
    }))
    .unwrap()
}

/// What is to be reported of a Workload of which that is one thing at most.
fn only(status: Value) -> Option<CommitStatus> {
    let mut all = plan(&workload(status));
    assert!(all.len() < 2, "{all:?}");
    all.pop()
}

fn told(all: &[CommitStatus]) -> Vec<(&str, State, &str)> {
    all.iter()
        .map(|it| (it.head.as_str(), it.state, it.description.as_str()))
        .collect()
}

proptest! {
    #[test]
    fn there_is_one_way_to_success(phase in 0usize..5, verdict in prop::option::of(0usize..7), failed in any::<bool>()) {
        let reason = failed.then_some(FailureReason::GateError);
        let verdict = verdict.map(|verdict| VERDICTS[verdict]);
        let state = state_of(PHASES[phase], verdict, reason);
        let passes = PHASES[phase] == WorkloadPhase::Completed && verdict == Some(Verdict::GatePass) && reason.is_none();
        prop_assert_eq!(state == Some(State::Success), passes);
    }

    #[test]
    fn a_description_fits_and_is_one_line(message in ".{0,400}") {
        let found = only(json!({ "phase": "Failed", "headSHA": "a", "message": message })).unwrap();
        prop_assert!(found.description.chars().count() <= 140);
        prop_assert!(!found.description.contains(['\n', '\r']));
    }
}

#[test]
fn pending_comes_first_and_each_state_once() {
    assert_eq!(only(json!({ "phase": "Dispatched" })), None, "there is no head yet");
    let pending = only(json!({ "phase": "Dispatched", "headSHA": "a" })).unwrap();
    assert_eq!(pending.state, State::Pending);
    let noted = |note: Value| json!({ "phase": "Dispatched", "headSHA": "a", "reported": pending.receipt(), "pendingHeads": { "a": note } });
    assert_eq!(only(noted(json!({ "run": 1, "repo": "o/r" }))), None);
    let of_another_run = plan(&workload(noted(json!({ "run": 0, "repo": "o/r", "told": true }))));
    let states: Vec<State> = of_another_run.iter().map(|it| it.state).collect();
    assert_eq!(states, [State::Error, State::Pending]);
    let moved = only(json!({ "phase": "Dispatched", "headSHA": "b", "reported": pending.receipt() })).unwrap();
    assert_eq!(moved.head, "b", "a moved head inherits nothing");
    let success = only(passed(
        json!({ "t": { "run": 1, "headSHA": "b", "baseSHA": "c", "gateDigest": "d" } }),
    ))
    .unwrap();
    assert_eq!(
        (
            success.state,
            &success.details["baseSHA"],
            &success.details["gateDigest"]
        ),
        (State::Success, &json!("c"), &json!("d"))
    );
}

/// A run that ended with a pass of `b`, and what Jobs confirm.
fn passed(confirmed: Value) -> Value {
    json!({ "phase": "Completed", "verdict": "GATE-PASS", "headSHA": "b", "baseSHA": "c", "gateDigest": "d", "confirmed": confirmed })
}

#[test]
fn no_pass_is_reported_that_a_job_did_not_confirm() {
    let good = json!({ "run": 1, "headSHA": "b", "baseSHA": "c", "gateDigest": "d" });
    let with = |field: &str, value: Value| {
        let mut confirmation = good.clone();
        confirmation[field] = value;
        confirmation
    };
    let table = [
        (json!({}), "the evidence is gone"),
        (
            json!({ "t": with("doubt", json!("Job j does not say so")) }),
            "Job j does not say so",
        ),
        // Every one of several has to confirm it.
        (json!({ "a": good, "t": with("doubt", json!("no")) }), "no"),
        (json!({ "t": with("headSHA", json!("a")) }), "the evidence is gone"),
        (json!({ "t": with("run", json!(2)) }), "the evidence is gone"),
        (
            json!({ "t": with("baseSHA", json!("x")) }),
            "what the Job proved has another base or gate",
        ),
        (
            json!({ "t": with("gateDigest", json!("x")) }),
            "what the Job proved has another base or gate",
        ),
    ];
    for (confirmed, said) in table {
        let found = only(passed(confirmed.clone())).unwrap();
        assert_eq!(
            (found.state, found.details["state"].as_str()),
            (State::Error, Some("error")),
            "{confirmed}"
        );
        assert!(found.description.starts_with(said), "{}", found.description);
        let mut again = passed(confirmed);
        again["reported"] = json!(found.receipt());
        assert_eq!(only(again), None, "it is not sent again");
    }
    let two = json!({ "a": with("gateDigest", json!("x")), "t": good });
    assert_eq!(only(passed(two)).unwrap().state, State::Success);
}

#[test]
fn a_head_that_the_work_left_behind_gets_the_verdict_of_its_round() {
    let status = |verdict: Value| {
        json!({
            "run": 1, "phase": "Dispatched", "headSHA": "h2", "round": 2,
            "rounds": [
                { "run": 1, "round": 1, "headSHA": "h1", "verdict": verdict, "summary": "step test failed" },
                { "run": 1, "round": 2, "headSHA": "h2", "verdict": "GO" },
            ],
            "pendingHeads": { "h1": { "run": 1, "repo": "o/before" } },
            "confirmed": { "t": { "run": 1, "headSHA": "h1", "baseSHA": "c", "gateDigest": "d" } },
        })
    };
    for (verdict, state, said) in [
        (json!("GATE-FAIL"), State::Failure, "step test failed"),
        (json!("NO-GO"), State::Failure, "step test failed"),
        (json!("GATE-PASS"), State::Success, "step test failed"),
        // The Job's word counts before the record of the round has it.
        (json!("GO"), State::Success, "GATE-PASS"),
        (json!(null), State::Success, "GATE-PASS"),
        (
            json!("GATE-ERROR"),
            State::Error,
            "superseded by h2 before the gate ended",
        ),
    ] {
        let all = plan(&workload(status(verdict.clone())));
        assert_eq!(told(&all[..1]), [("h1", state, said)], "{verdict}");
        assert_eq!(
            (all[0].repo.as_str(), all[0].details["round"].as_i64()),
            ("o/before", Some(1))
        );
        assert_eq!((all[1].head.as_str(), all[1].state), ("h2", State::Pending));
    }
    let mut unproved = status(json!("GO"));
    unproved["confirmed"] = json!({});
    assert_eq!(
        told(&plan(&workload(unproved))[..1]),
        [("h1", State::Error, "superseded by h2 before the gate ended")]
    );
    let mut unread = status(json!("GATE-PASS"));
    unread["confirmed"] = json!({});
    let all = plan(&workload(unread));
    assert_eq!(all[0].state, State::Error);
    assert!(all[0].description.starts_with("the evidence is gone"), "{:?}", all[0]);
}

#[test]
fn another_run_resolves_what_the_one_before_left_pending() {
    let status = json!({
        "run": 2, "phase": "Planning", "rounds": [{ "run": 1, "round": 1, "headSHA": "h1", "verdict": "GO" }],
        "pendingHeads": { "h1": { "run": 1, "repo": "o/r" } },
    });
    let mut asked = workload(status);
    assert!(
        plan(&asked).is_empty(),
        "the status is not about the run that is wanted"
    );
    asked.spec.run = Some(2);
    let all = plan(&asked);
    assert_eq!(
        told(&all),
        [("h1", State::Error, "superseded by run 2 before the gate ended")]
    );
}

#[test]
fn what_was_pending_and_ends_without_a_gate_does_not_stay_pending() {
    let ended = |pending: Value| json!({ "run": 1, "phase": "Completed", "verdict": "GO", "headSHA": "h", "message": "done, not verified by a gate", "pendingHeads": pending });
    assert_eq!(only(ended(json!({}))), None);
    let found = only(ended(json!({ "h": { "run": 1, "repo": "o/r" } }))).unwrap();
    assert_eq!(
        (found.state, found.description.as_str()),
        (State::Error, "done, not verified by a gate")
    );
}

#[test]
fn a_deleted_workload_leaves_no_head_pending() {
    let pending = json!({ "h1": { "run": 1, "repo": "o/r" }, "h2": { "run": 1, "repo": "o/r" } });
    let rounds = json!([{ "run": 1, "round": 1, "headSHA": "h1", "verdict": "GATE-FAIL" }]);
    let works = json!({ "run": 1, "phase": "Dispatched", "headSHA": "h2", "rounds": rounds, "pendingHeads": pending });
    let all = plan_deleted(&workload(works));
    assert_eq!(
        told(&all),
        [
            ("h1", State::Failure, "GATE-FAIL"),
            ("h2", State::Error, "the Workload was deleted before the gate ended")
        ]
    );
    let mut ended = passed(json!({ "t": { "run": 1, "headSHA": "b", "baseSHA": "c", "gateDigest": "d" } }));
    ended["pendingHeads"] = json!({ "b": { "run": 1, "repo": "o/r" } });
    ended["message"] = json!("the gate passed");
    let all = plan_deleted(&workload(ended));
    assert_eq!(told(&all), [("b", State::Success, "the gate passed")]);
    assert!(plan_deleted(&workload(json!({ "phase": "Dispatched", "headSHA": "h" }))).is_empty());
}

#[test]
fn refused_is_failure_and_infrastructure_is_error() {
    let state = |verdict, reason| state_of(WorkloadPhase::Failed, verdict, reason).unwrap();
    assert_eq!(state(None, Some(FailureReason::ConstraintViolated)), State::Failure);
    assert_eq!(
        state(Some(Verdict::GateFail), Some(FailureReason::GateFailed)),
        State::Failure
    );
    assert_eq!(
        state(Some(Verdict::GateError), Some(FailureReason::GateError)),
        State::Error
    );
    assert_eq!(state(None, Some(FailureReason::Cancelled)), State::Error);
}

/// Two branches of a run, the first of them in its second round while the gate of the other still works.
fn two_branches(phase: &str, second: Value) -> Value {
    let mut h2 = json!({ "branch": "two", "verdict": "GO" });
    h2.as_object_mut().unwrap().extend(second.as_object().unwrap().clone());
    json!({
        "run": 1, "phase": phase, "headSHA": "h3", "round": 2, "message": "one of two failed",
        "verdict": "GATE-FAIL",
        "rounds": [
            {
                "run": 1, "round": 1, "headSHA": "h2", "verdict": "GATE-FAIL", "summary": "exit 1",
                "heads": { "h1": { "branch": "one", "verdict": "GATE-FAIL", "summary": "exit 1" }, "h2": h2 },
            },
            { "run": 1, "round": 2, "headSHA": "h3", "heads": { "h3": { "branch": "one", "verdict": "GATE-FAIL", "summary": "exit 2" } } },
        ],
        "pendingHeads": {
            "h1": { "run": 1, "repo": "o/r", "told": true },
            "h2": { "run": 1, "repo": "o/r", "told": true },
            "h3": { "run": 1, "repo": "o/r", "told": true },
        },
    })
}

#[test]
fn a_further_round_of_one_branch_leaves_no_other_branch_behind() {
    let all = plan(&workload(two_branches("Dispatched", json!({}))));
    assert_eq!(told(&all), [("h1", State::Failure, "exit 1")]);
}

#[test]
fn each_of_several_branches_ends_with_its_own_verdict() {
    let confirmed = json!({ "t": { "run": 1, "headSHA": "h2", "baseSHA": "c", "gateDigest": "d" } });
    for (second, confirmed, state, said) in [
        (
            json!({ "verdict": "GATE-PASS", "summary": "all passed" }),
            confirmed.clone(),
            State::Success,
            "all passed",
        ),
        // The Job's word counts before the record of the round has it.
        (json!({}), confirmed.clone(), State::Success, "GATE-PASS"),
        (
            json!({ "verdict": "NO-GO", "summary": "no" }),
            confirmed,
            State::Failure,
            "no",
        ),
        (
            json!({ "verdict": "GATE-ERROR", "summary": "no node" }),
            json!({}),
            State::Error,
            "no node",
        ),
        (json!({}), json!({}), State::Error, "one of two failed"),
    ] {
        let mut status = two_branches("Failed", second);
        status["confirmed"] = confirmed;
        let all = plan(&workload(status));
        assert_eq!(
            told(&all),
            [
                ("h1", State::Failure, "exit 1"),
                ("h2", state, said),
                ("h3", State::Failure, "exit 2")
            ]
        );
        assert_eq!(
            all.iter().map(|it| it.left_behind).collect::<Vec<_>>(),
            [true, true, false]
        );
    }
}

#[test]
fn a_deleted_workload_leaves_no_branch_pending() {
    let all = plan_deleted(&workload(two_branches("Dispatched", json!({}))));
    assert_eq!(
        told(&all),
        [
            ("h1", State::Failure, "exit 1"),
            ("h2", State::Error, "the Workload was deleted before the gate ended"),
            ("h3", State::Failure, "exit 2"),
        ]
    );
}
