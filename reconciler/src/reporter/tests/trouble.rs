//! What the reporter does where the API, the repository or an earlier operator stands in its way.
use super::*;

#[tokio::test]
async fn a_job_that_the_api_refuses_to_show_holds_up_nothing_but_its_own_verdict() {
    let stage = Stage::fresh();
    let mut hidden = Stage::verifier();
    hidden["metadata"]["uid"] = json!("hidden");
    hidden["metadata"]["name"] = json!("w-hidden");
    hidden["status"]["commitSHA"] = json!(NEXT);
    hidden["status"]["result"] = json!({ "extra": { "namespace": "hidden" } });
    seen(&stage.ctx.tasks, hidden);
    stage.verifier_passes();
    // One commit was left behind by another, whose Job is hidden.
    stage.status(json!({
        "headSHA": NEXT, "round": 2,
        "rounds": [{ "run": 1, "round": 1, "headSHA": HEAD, "verdict": "GATE-PASS", "summary": "all passed" }],
        "pendingHeads": { HEAD: { "run": 1, "repo": "o/r", "told": true } },
    }));
    let refused = |next: &Next| matches!(next, Next::Failed(error) if error.contains("failed to read Job hidden/gate"));
    let next = stage.turns().await;
    assert!(refused(&next), "{next:?}");
    let mut said = vec![
        (HEAD.to_owned(), State::Success, "all passed".to_owned()),
        (NEXT.to_owned(), State::Pending, "Dispatched".to_owned()),
    ];
    assert_eq!(stage.said(), said);
    // The verdict that needs the Job is not told, neither as a success nor as one whose evidence is gone.
    stage.run_ends();
    let next = stage.turns().await;
    assert!(refused(&next), "{next:?}");
    assert_eq!(stage.said(), said);
    // One that needs no Job is.
    stage.status(json!({ "phase": "Failed", "verdict": "NO-GO", "message": "the reviewer says no" }));
    stage.turns().await;
    said.push((NEXT.to_owned(), State::Failure, "the reviewer says no".to_owned()));
    assert_eq!(stage.said(), said);
}

#[tokio::test]
async fn a_job_that_is_never_shown_leaves_no_commit_pending() {
    let stage = Stage::fresh();
    let mut hidden = Stage::verifier();
    hidden["status"]["result"] = json!({ "extra": { "namespace": "hidden" } });
    seen(&stage.ctx.tasks, hidden);
    stage.run_ends();
    let next = stage.turns().await;
    assert!(matches!(next, Next::Failed(_)), "{next:?}");
    stage.clock.advance(confirm::STAYS - Duration::from_secs(1));
    stage.work.add(stage.key.clone());
    assert!(matches!(stage.turns().await, Next::Failed(_)));
    let told = stage.said();
    assert!(told.iter().all(|(_, state, _)| *state == State::Pending), "{told:?}");
    stage.clock.advance(Duration::from_secs(1));
    stage.work.add(stage.key.clone());
    assert_eq!(stage.turns().await, Next::Wait);
    let (head, state, said) = stage.said().last().unwrap().clone();
    assert_eq!((head.as_str(), state), (HEAD, State::Error));
    assert!(
        said.starts_with("not confirmed within 15 minutes: failed to read Job hidden/gate"),
        "{said}"
    );
}

#[tokio::test]
async fn a_commit_that_an_earlier_operator_told_of_as_pending_is_noted_and_resolved() {
    let stage = Stage::fresh();
    stage.status(json!({ "reported": format!("{}@{HEAD} run 1 pending", labels::NOTES_REF) }));
    stage.work.add(stage.key.clone());
    stage.turns().await;
    assert_eq!(
        stage.workload_status()["pendingHeads"],
        json!({ HEAD: { "run": 1, "repo": "o/r", "told": true } })
    );
    let asked = lock(&stage.api.asked).len();
    stage.work.add(stage.key.clone());
    stage.turns().await;
    assert_eq!(
        (stage.said().len(), lock(&stage.api.asked).len()),
        (1, asked),
        "it is idle"
    );
    stage.status(json!({ "headSHA": NEXT, "round": 2 }));
    stage.turns().await;
    let states: Vec<(String, State)> = stage.said().into_iter().map(|(head, state, _)| (head, state)).collect();
    assert_eq!(
        states[1..],
        [(HEAD.to_owned(), State::Error), (NEXT.to_owned(), State::Pending)]
    );
}

#[tokio::test]
async fn a_commit_that_was_noted_and_not_told_is_told_though_another_was_in_between() {
    let stage = Stage::fresh();
    stage.forge.away.store(true, Ordering::Release);
    assert!(matches!(stage.turns().await, Next::After(_)));
    assert_eq!(
        stage.workload_status()["pendingHeads"],
        json!({ HEAD: { "run": 1, "repo": "o/r" } })
    );
    stage.forge.away.store(false, Ordering::Release);
    stage.status(json!({ "reported": format!("{}@{NEXT} run 1 pending", labels::NOTES_REF) }));
    stage.turns().await;
    assert_eq!(
        stage.said(),
        [(HEAD.to_owned(), State::Pending, "Dispatched".to_owned())]
    );
}

#[tokio::test]
async fn the_last_words_of_a_workload_have_all_their_tries() {
    let stage = Stage::fresh();
    stage.turns().await;
    stage.forge.away.store(true, Ordering::Release);
    stage.status(json!({ "phase": "Failed", "message": "no" }));
    let report = || reconcile(stage.ctx.clone(), stage.key.clone());
    for _ in 0..=LAST_WORDS {
        report().await;
    }
    stage.ctx.workloads.forget(&stage.key, Some("u"));
    for _ in 0..LAST_WORDS {
        assert!(matches!(report().await, Next::After(_)), "it is tried again");
    }
    assert_eq!(report().await, Next::Wait, "it is given up");
    stage.forge.away.store(false, Ordering::Release);
    report().await;
    assert_eq!(stage.said().len(), 1, "nothing is left to be said");
}

#[tokio::test]
async fn a_crd_that_does_not_keep_what_was_read_is_named() {
    let stage = Stage::fresh();
    stage.api.is_old.store(true, Ordering::Release);
    stage.verifier_passes();
    let next = reconcile(stage.ctx.clone(), stage.key.clone()).await;
    assert_eq!(
        next,
        Next::Failed("status.confirmed is not kept: the CRD of Workloads is of another release".to_owned())
    );
    assert_eq!(stage.said().len(), 1, "that it is pending was told");
    let reads = lock(&stage.api.asked)
        .iter()
        .filter(|asked| asked.ends_with("/jobs/gate"))
        .count();
    assert_eq!(reads, 1);
}
