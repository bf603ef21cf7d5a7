#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const PHASES: [Phase; 6] = [
    Phase::Pending,
    Phase::Scheduled,
    Phase::Running,
    Phase::Verifying,
    Phase::Succeeded,
    Phase::Failed,
];
const SECRET: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const OTHER: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn claim(epoch: i64, secret: &str) -> Claim {
    Claim {
        node: "n1".into(),
        agent: "p1".into(),
        epoch,
        secret_sha256: secret.into(),
    }
}

fn holder(epoch: i64, secret: &str) -> Writer<'_> {
    Writer::Agent(Holder {
        uid: "u1",
        epoch,
        secret_sha256: secret,
    })
}

fn status(phase: Phase) -> AgenticTaskStatus {
    let held = matches!(phase, Phase::Running | Phase::Verifying);
    AgenticTaskStatus {
        phase: Some(phase),
        assigned_node: (phase != Phase::Pending).then(|| "n1".into()),
        epoch: held.then_some(1),
        claim: held.then(|| claim(1, SECRET)),
        ..Default::default()
    }
}

fn bound() -> Bound {
    Bound {
        head_sha: "h".into(),
        base_sha: "b".into(),
        gate_digest: "g".into(),
    }
}

fn pass() -> Event {
    Event::Succeed(Outcome {
        verdict: Verdict::GatePass,
        bound: Some(bound()),
    })
}

fn go() -> Event {
    Event::Succeed(Outcome {
        verdict: Verdict::Go,
        bound: None,
    })
}

fn fail() -> Event {
    Event::Fail {
        reason: FailureReason::Timeout,
        verdict: Some(Verdict::Incomplete),
    }
}

#[test]
fn table_has_one_row_per_question_and_none_from_a_terminal_phase() {
    let questions: BTreeSet<_> = TABLE.iter().map(|row| (row.0.as_str(), row.1, row.2)).collect();
    assert_eq!(questions.len(), TABLE.len());
    assert!(TABLE.iter().all(|row| !row.0.is_terminal()));
}

#[test]
fn only_the_operator_writes_pending_and_only_agents_write_running_and_verifying() {
    for (from, event, writer, to) in TABLE {
        match to {
            Phase::Pending => assert_eq!(*writer, WriterKind::Operator, "{from:?} {event:?}"),
            Phase::Running | Phase::Verifying => assert_eq!(*writer, WriterKind::Agent, "{from:?} {event:?}"),
            Phase::Succeeded | Phase::Failed if *writer == WriterKind::Operator => assert_eq!(*from, Phase::Pending),
            _ => {}
        }
    }
}

#[test]
fn every_question_is_answered_as_the_table_says() {
    let events = [
        Event::Assign { node: "n2".into() },
        Event::Unassign,
        Event::Claim(claim(1, SECRET)),
        Event::Start,
        Event::StartGate { job: "j".into() },
        Event::RetryGate { job: "j2".into() },
        Event::GiveBack,
        go(),
        pass(),
        fail(),
        Event::LoseClaim { epoch: 1 },
        Event::LoseClaim { epoch: 0 },
        Event::End(EndReason::Skipped),
        Event::End(EndReason::Cancelled),
    ];
    let mut allowed = 0;
    for phase in PHASES {
        for event in &events {
            for writer in [holder(1, SECRET), Writer::Operator] {
                let result = transition("u1", Some(&status(phase)), event, &writer);
                match target(phase, event.kind(), writer.kind()) {
                    None => assert!(result.is_err(), "{phase:?} {event:?} {writer:?}"),
                    Some(to) => {
                        if let Ok(after) = result {
                            assert_eq!(after.phase, Some(to));
                            allowed += 1;
                        }
                    }
                }
            }
        }
    }
    // Assign, Skip, Abort; Unassign, LoseClaim(0), Claim; StartGate, GiveBack, GO, Fail, LoseClaim(1); RetryGate,
    // GiveBack, PASS, Fail, LoseClaim(1).
    assert_eq!(allowed, 16);
}

#[test]
fn a_task_runs_from_pending_to_a_bound_verdict() {
    let mut now = None;
    for (event, writer) in [
        (Event::Assign { node: "n1".into() }, Writer::Operator),
        (Event::Claim(claim(1, SECRET)), holder(1, SECRET)),
        (Event::Start, holder(1, SECRET)),
        (Event::StartGate { job: "j1".into() }, holder(1, SECRET)),
        (Event::RetryGate { job: "j2".into() }, holder(1, SECRET)),
        (pass(), holder(1, SECRET)),
    ] {
        now = Some(transition("u1", now.as_ref(), &event, &writer).unwrap());
    }
    let end = now.unwrap();
    assert_eq!(
        (end.phase, end.verdict, end.gate_tries),
        (Some(Phase::Succeeded), Some(Verdict::GatePass), Some(1))
    );
    assert_eq!(
        (
            end.commit_sha.as_deref(),
            end.base_sha.as_deref(),
            end.gate_digest.as_deref()
        ),
        (Some("h"), Some("b"), Some("g"))
    );
    assert_eq!(end.job_name.as_deref(), Some("j2"));
}

#[test]
fn an_agent_that_lost_its_claim_changes_nothing() {
    let running = status(Phase::Running);
    let lost = transition("u1", Some(&running), &Event::LoseClaim { epoch: 1 }, &Writer::Operator).unwrap();
    assert_eq!(
        (lost.phase, lost.lost_claims, &lost.claim, &lost.assigned_node),
        (Some(Phase::Pending), Some(1), &None, &None)
    );
    let earlier = EarlierClaim {
        epoch: 1,
        secret_sha256: SECRET.into(),
    };
    assert_eq!(
        lost.earlier_claims,
        Some(vec![earlier]),
        "its Job may still store evidence"
    );
    let again = transition(
        "u1",
        Some(&lost),
        &Event::Assign { node: "n1".into() },
        &Writer::Operator,
    )
    .unwrap();
    let second = transition("u1", Some(&again), &Event::Claim(claim(2, OTHER)), &holder(2, OTHER)).unwrap();
    let second = transition("u1", Some(&second), &Event::Start, &holder(2, OTHER)).unwrap();
    for event in [go(), fail(), Event::StartGate { job: "j".into() }, Event::GiveBack] {
        for late in [holder(1, SECRET), holder(2, SECRET), holder(1, OTHER)] {
            assert!(matches!(
                transition("u1", Some(&second), &event, &late),
                Err(Illegal::NotTheHolder { .. })
            ));
        }
        assert!(matches!(
            transition("u2", Some(&second), &event, &holder(2, OTHER)),
            Err(Illegal::NotTheHolder { .. })
        ));
    }
    assert!(transition("u1", Some(&second), &go(), &holder(2, OTHER)).is_ok());
}

#[test]
fn a_claim_is_taken_once_by_the_assigned_node_with_the_next_epoch() {
    let scheduled = AgenticTaskStatus {
        epoch: Some(1),
        ..status(Phase::Scheduled)
    };
    let take = |claim: Claim, writer: Writer<'_>| transition("u1", Some(&scheduled), &Event::Claim(claim), &writer);
    assert!(take(claim(2, SECRET), holder(2, SECRET)).is_ok());
    assert!(take(claim(1, SECRET), holder(1, SECRET)).is_err(), "an earlier epoch");
    assert!(take(claim(3, SECRET), holder(3, SECRET)).is_err(), "an epoch too far");
    assert!(
        take(claim(2, SECRET), holder(2, OTHER)).is_err(),
        "somebody else's secret"
    );
    assert!(
        take(
            Claim {
                node: "n2".into(),
                ..claim(2, SECRET)
            },
            holder(2, SECRET)
        )
        .is_err(),
        "another node"
    );
    assert!(take(claim(2, "short"), holder(2, "short")).is_err(), "no hash");
    let taken = take(claim(2, SECRET), holder(2, SECRET)).unwrap();
    assert!(
        transition("u1", Some(&taken), &Event::Claim(claim(3, OTHER)), &holder(3, OTHER)).is_err(),
        "taken already"
    );
}

#[test]
fn a_claim_given_back_is_not_counted_as_lost() {
    let back = transition(
        "u1",
        Some(&status(Phase::Running)),
        &Event::GiveBack,
        &holder(1, SECRET),
    )
    .unwrap();
    assert_eq!((back.phase, &back.claim), (Some(Phase::Running), &None));
    let pending = transition("u1", Some(&back), &Event::LoseClaim { epoch: 1 }, &Writer::Operator).unwrap();
    assert_eq!(
        (pending.phase, pending.lost_claims, pending.earlier_claims),
        (Some(Phase::Pending), None, None)
    );
}

#[test]
fn a_claim_made_meanwhile_is_not_lost_by_an_older_observation() {
    let newer = AgenticTaskStatus {
        epoch: Some(2),
        claim: Some(claim(2, OTHER)),
        ..status(Phase::Running)
    };
    assert!(transition("u1", Some(&newer), &Event::LoseClaim { epoch: 1 }, &Writer::Operator).is_err());
}

#[test]
fn the_third_gate_error_is_the_end() {
    let mut now = status(Phase::Verifying);
    for try_number in 1..MAX_GATE_TRIES {
        now = transition(
            "u1",
            Some(&now),
            &Event::RetryGate {
                job: format!("j{try_number}"),
            },
            &holder(1, SECRET),
        )
        .unwrap();
        assert_eq!((now.phase, now.gate_tries), (Some(Phase::Verifying), Some(try_number)));
    }
    assert!(!may_retry_gate(&now));
    assert!(
        transition(
            "u1",
            Some(&now),
            &Event::RetryGate { job: "j".into() },
            &holder(1, SECRET)
        )
        .is_err()
    );
    let end = Event::Fail {
        reason: FailureReason::GateError,
        verdict: Some(Verdict::GateError),
    };
    let end = transition("u1", Some(&now), &end, &holder(1, SECRET)).unwrap();
    assert_eq!(
        (end.phase, end.verdict),
        (Some(Phase::Failed), Some(Verdict::GateError))
    );
}

#[test]
fn a_gates_verdict_needs_a_gate_that_ran_and_what_it_is_bound_to() {
    assert!(transition("u1", Some(&status(Phase::Running)), &pass(), &holder(1, SECRET)).is_err());
    for bound in [
        None,
        Some(Bound {
            gate_digest: String::new(),
            ..bound()
        }),
    ] {
        let event = Event::Succeed(Outcome {
            verdict: Verdict::GatePass,
            bound,
        });
        assert!(transition("u1", Some(&status(Phase::Verifying)), &event, &holder(1, SECRET)).is_err());
    }
    assert!(transition("u1", Some(&status(Phase::Verifying)), &go(), &holder(1, SECRET)).is_err());
    let failed = Event::Fail {
        reason: FailureReason::Timeout,
        verdict: Some(Verdict::GatePass),
    };
    assert!(transition("u1", Some(&status(Phase::Verifying)), &failed, &holder(1, SECRET)).is_err());
}

#[test]
fn the_operator_ends_pending_work_with_the_matching_reason() {
    for (reason, phase, verdict, failure) in [
        (
            EndReason::Cancelled,
            Phase::Failed,
            None,
            Some(FailureReason::Cancelled),
        ),
        (EndReason::Skipped, Phase::Succeeded, Some(Verdict::Skipped), None),
        (
            EndReason::UpstreamFailed,
            Phase::Failed,
            None,
            Some(FailureReason::UpstreamFailed),
        ),
        (
            EndReason::OutOfBudget,
            Phase::Failed,
            None,
            Some(FailureReason::BudgetExhausted),
        ),
        (
            EndReason::LostClaims,
            Phase::Failed,
            None,
            Some(FailureReason::LostClaims),
        ),
    ] {
        let end = transition("u1", None, &Event::End(reason), &Writer::Operator).unwrap();
        assert_eq!(
            (end.phase, end.verdict, end.failure_reason),
            (Some(phase), verdict, failure)
        );
        assert!(
            transition(
                "u1",
                Some(&status(Phase::Running)),
                &Event::End(reason),
                &Writer::Operator
            )
            .is_err()
        );
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let verdict = prop_oneof![
        Just(Verdict::Go),
        Just(Verdict::NoGo),
        Just(Verdict::GatePass),
        Just(Verdict::GateFail),
        Just(Verdict::GateError),
        Just(Verdict::Skipped)
    ];
    prop_oneof![
        Just(Event::Assign { node: "n1".into() }),
        Just(Event::Unassign),
        (1i64..6, any::<bool>()).prop_map(|(epoch, own)| Event::Claim(claim(epoch, if own { SECRET } else { OTHER }))),
        Just(Event::Start),
        Just(Event::StartGate { job: "j".into() }),
        Just(Event::RetryGate { job: "j".into() }),
        Just(Event::GiveBack),
        (verdict, any::<bool>()).prop_map(|(verdict, with)| Event::Succeed(Outcome {
            verdict,
            bound: with.then(bound)
        })),
        Just(fail()),
        (0i64..6).prop_map(|epoch| Event::LoseClaim { epoch }),
        Just(Event::End(EndReason::Skipped)),
        Just(Event::End(EndReason::Cancelled)),
    ]
}

proptest! {
    #[test]
    fn no_sequence_of_events_breaks_the_rules(
        steps in proptest::collection::vec((any_event(), any::<bool>(), 1i64..6, any::<bool>()), 0..60)
    ) {
        let mut now: Option<AgenticTaskStatus> = None;
        let mut verified = false;
        for (event, agent, epoch, own) in steps {
            let writer = if agent { holder(epoch, if own { SECRET } else { OTHER }) } else { Writer::Operator };
            let before = now.clone();
            let from = phase_of(before.as_ref());
            match transition("u1", now.as_ref(), &event, &writer) {
                Err(_) => prop_assert_eq!(&now, &before),
                Ok(after) => {
                    prop_assert!(!from.is_terminal(), "a terminal phase was left");
                    let old = before.clone().unwrap_or_default();
                    prop_assert!(after.epoch.unwrap_or(0) >= old.epoch.unwrap_or(0), "the epoch went back");
                    prop_assert!(after.gate_tries.unwrap_or(0) < MAX_GATE_TRIES);
                    if agent && !matches!(event, Event::Claim(_)) {
                        prop_assert_eq!(old.claim.as_ref().map(|c| c.epoch), Some(epoch));
                    }
                    verified |= after.phase == Some(Phase::Verifying);
                    if after.verdict == Some(Verdict::GatePass) {
                        prop_assert!(verified && agent && after.gate_digest.is_some());
                    }
                    now = Some(after);
                }
            }
        }
    }
}
