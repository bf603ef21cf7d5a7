//! What the model hands in, held against the change.

use super::*;

#[test]
fn an_edit_and_a_submission_end_in_go() {
    let state = started();
    let (state, actions) = state.step(calling(&[
        ("write_file", "{\"path\": \"a\", \"content\": \"x\"}"),
        ("bash", "{\"command\": \"cargo test\"}"),
    ]));
    let Some(Action::RunTools(calls)) = actions.last() else {
        panic!("{actions:?}")
    };
    assert_eq!(
        calls.iter().map(|call| call.tool.as_str()).collect::<Vec<_>>(),
        ["write_file", "bash"]
    );
    let (state, _) = state.step(results(&[ToolResult::mutation("made a"), ToolResult::done("ok")]));
    let (state, actions) = state.step(submitting("GO"));
    assert_eq!(waits(&actions), "diff");
    let (state, actions) = state.step(Event::Diff(Diff {
        changed: vec!["a".into()],
        ..Diff::default()
    }));
    let end = end(actions);
    assert_eq!(
        (end.verdict, end.failure_reason, end.ending),
        (Verdict::Go, None, Ending::Submitted)
    );
    assert_eq!(
        (end.summary.as_str(), end.commit_message.as_str()),
        ("the summary", "Mend it")
    );
    assert_eq!(
        (end.turns, end.tool_calls, end.usage.total(), end.usage.cached),
        (2, 2, 24, 10)
    );
    assert_eq!(end.changed, ["a"]);
    assert!(state.step(Event::Start).1.is_empty(), "what is over stays over");
}

#[test]
fn what_the_model_hands_in_decides_the_outcome() {
    let cases = [
        ("NO-GO", Verdict::NoGo, None),
        ("ERROR", Verdict::Incomplete, Some(FailureReason::ModelReportedError)),
    ];
    for (word, verdict, reason) in cases {
        let end = play(started(), vec![submitting(word)]);
        assert_eq!((end.verdict, end.failure_reason), (verdict, reason), "{word}");
    }
    let resolved = calling(&[(
        "submit_result",
        "{\"verdict\": \"NO-GO\", \"summary\": \"s\", \"extra\": {\"outcome\": \"ALREADY-RESOLVED\", \"seen\": 1}}",
    )]);
    let end = play(started(), vec![resolved]);
    assert_eq!(
        (end.extra["outcome"].clone(), end.extra["seen"].clone()),
        (json!("ALREADY-RESOLVED"), json!(1))
    );
    let invented = calling(&[(
        "submit_result",
        "{\"verdict\": \"NO-GO\", \"summary\": \"s\", \"extra\": {\"outcome\": \"GATE-PASS\"}}",
    )]);
    assert_eq!(play(started(), vec![invented]).extra["outcome"], json!("SUBMITTED"));
}

#[test]
fn a_reviewers_go_needs_no_change() {
    let settings = AgentSettings {
        role: Role::Reviewer,
        ..AgentSettings::default()
    };
    let (state, _) = state_with(settings, Budget::default()).step(Event::Start);
    assert_eq!(play(state, vec![submitting("GO")]).verdict, Verdict::Go);
}

#[test]
fn go_without_a_change_is_refused_once_and_then_a_named_outcome() {
    let (state, _) = started().step(submitting("GO"));
    let (state, actions) = state.step(Event::Diff(Diff::default()));
    assert!(lessons(&actions).contains("no file differs") && waits(&actions) == "ask");
    let end = play(state, vec![submitting("GO"), Event::Diff(Diff::default())]);
    assert_eq!(
        (end.verdict, end.failure_reason, end.ending),
        (Verdict::NoGo, None, Ending::EmptyDiff)
    );
}

#[test]
fn a_protected_change_is_refused_once_and_then_violates_the_constraint() {
    let touched = || {
        Event::Diff(Diff {
            changed: vec!["ci/run".into(), "a".into()],
            held: vec![
                held("ci/run", "it is protected by \"ci/**\"; put the whole file back"),
                held("package.json (scripts.test)", "put scripts.test back"),
            ],
            ..Diff::default()
        })
    };
    let (state, _) = started().step(submitting("GO"));
    let (state, actions) = state.step(touched());
    let said = lessons(&actions);
    assert!(
        said.contains("\n- ci/run: it is protected by \"ci/**\"; put the whole file back\n"),
        "{said}"
    );
    assert!(
        said.contains("\n- package.json (scripts.test): put scripts.test back\n"),
        "{said}"
    );
    let put_back = play(
        state.clone(),
        vec![
            submitting("GO"),
            Event::Diff(Diff {
                changed: vec!["a".into()],
                ..Diff::default()
            }),
        ],
    );
    assert_eq!(put_back.verdict, Verdict::Go);
    let end = play(state, vec![submitting("GO"), touched()]);
    assert_eq!(
        (end.failure_reason, end.ending),
        (Some(FailureReason::ConstraintViolated), Ending::ProtectedPath)
    );
    assert!(
        end.summary.contains("ci/run, package.json (scripts.test)"),
        "{}",
        end.summary
    );
}

#[test]
fn only_the_first_of_many_things_to_put_back_are_named() {
    let many = (0..25).map(|at| held(&format!("ci/{at}"), "put it back"));
    let diff = Diff {
        changed: vec!["ci/0".into()],
        held: many.collect(),
        ..Diff::default()
    };
    let (state, _) = started().step(submitting("GO"));
    let said = lessons(&state.step(Event::Diff(diff)).1);
    assert!(
        said.contains("- ci/9: put it back\n- and 15 more\nThen submit again"),
        "{said}"
    );
}

#[test]
fn pointers_written_over_are_refused_once_and_then_the_change_counts() {
    let diff = || {
        Event::Diff(Diff {
            changed: vec!["a.rs".into(), "logo.png".into()],
            overwritten: vec!["logo.png".into()],
            ..Diff::default()
        })
    };
    let (state, _) = started().step(submitting("GO"));
    let (state, actions) = state.step(diff());
    assert_eq!(waits(&actions), "ask");
    let said = lessons(&actions);
    assert!(
        said.contains("Git LFS pointers were written over") && said.contains("(logo.png)"),
        "{said}"
    );
    let end = play(state, vec![submitting("GO"), diff()]);
    assert_eq!((end.ending, end.verdict), (Ending::Submitted, Verdict::Go));
}

#[test]
fn a_file_too_large_to_commit_is_refused_once_and_then_the_rest_counts() {
    let diff = || {
        Event::Diff(Diff {
            changed: vec!["a.rs".into(), "core.dump".into()],
            oversized: vec![("core.dump".into(), 300 << 20)],
            ..Diff::default()
        })
    };
    let (state, _) = started().step(submitting("GO"));
    let (state, actions) = state.step(diff());
    assert_eq!(waits(&actions), "ask");
    assert!(
        lessons(&actions).contains("core.dump with 300 MiB"),
        "{}",
        lessons(&actions)
    );
    let end = play(state, vec![submitting("GO"), diff()]);
    assert_eq!((end.ending, end.verdict), (Ending::Submitted, Verdict::Go));
}

#[test]
fn a_task_that_only_tried_protected_paths_ends_as_a_violation() {
    let refused = ToolResult {
        protected: Some(".foreman/gate.yaml".into()),
        ..ToolResult::refused("protected")
    };
    let events = vec![
        calling(&[("write_file", "{\"path\": \".foreman/gate.yaml\", \"content\": \"\"}")]),
        results(&[refused]),
        submitting("GO"),
        Event::Diff(Diff::default()),
        submitting("GO"),
        Event::Diff(Diff::default()),
    ];
    let end = play(started(), events);
    assert_eq!(end.failure_reason, Some(FailureReason::ConstraintViolated));
    assert!(end.summary.contains(".foreman/gate.yaml"));
}

#[test]
fn a_result_beside_a_failed_call_is_not_taken() {
    let both = calling(&[
        (
            "str_replace",
            "{\"path\": \"a\", \"old_string\": \"x\", \"new_string\": \"y\"}",
        ),
        ("submit_result", "{\"verdict\": \"GO\", \"summary\": \"s\"}"),
    ]);
    let (state, _) = started().step(both);
    let (_, actions) = state.step(results(&[ToolResult::refused("not found")]));
    assert_eq!(waits(&actions), "ask");
    assert!(lessons(&actions).contains("str_replace in the same reply did not work"));
}
