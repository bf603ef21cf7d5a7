#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::coder::{FailureReason, Verdict};
use crate::model::{Finish, Protocol, RawCall};
use crate::tools::all_specs;
use proptest::prelude::*;
use serde_json::json;

fn state_with(settings: AgentSettings, budget: Budget) -> State {
    let opening = vec![
        Message::text(Speaker::System, "rules"),
        Message::text(Speaker::User, "task"),
    ];
    State::new(settings, budget, all_specs(), opening, false)
}

fn started() -> State {
    let (state, actions) = state_with(AgentSettings::default(), Budget::default()).step(Event::Start);
    assert_eq!(waits(&actions), "ask");
    state
}

fn calling(calls: &[(&str, &str)]) -> Event {
    let calls = calls
        .iter()
        .enumerate()
        .map(|(at, (name, arguments))| RawCall {
            id: format!("c{at}"),
            name: (*name).into(),
            arguments: (*arguments).into(),
        })
        .collect();
    Event::Reply(Reply {
        calls,
        finish: Finish::ToolCalls,
        usage: Usage {
            prompt: 10,
            cached: 5,
            completion: 2,
            estimated: false,
        },
        ..Reply::default()
    })
}

fn saying(content: &str, reasoning: &str, finish: Finish) -> Event {
    Event::Reply(Reply {
        content: content.into(),
        reasoning: reasoning.into(),
        finish,
        ..Reply::default()
    })
}

fn submitting(verdict: &str) -> Event {
    calling(&[(
        "submit_result",
        &format!("{{\"verdict\": \"{verdict}\", \"summary\": \"the summary\", \"commit_message\": \"Mend it\"}}"),
    )])
}

fn results(results: &[ToolResult]) -> Event {
    Event::Results(results.to_vec())
}

/// Names what a step waits for.
fn waits(actions: &[Action]) -> &'static str {
    let waiting: Vec<&str> = actions
        .iter()
        .filter_map(|action| match action {
            Action::Ask => Some("ask"),
            Action::RunTools(_) => Some("tools"),
            Action::InspectDiff => Some("diff"),
            Action::End(_) => Some("end"),
            Action::Say(_) | Action::Note(_) => None,
        })
        .collect();
    assert!(waiting.len() <= 1, "{actions:?}");
    match waiting.first() {
        Some(name) => match *name {
            "ask" => "ask",
            "tools" => "tools",
            "diff" => "diff",
            _ => "end",
        },
        None => "nothing",
    }
}

fn end(actions: Vec<Action>) -> End {
    match actions.into_iter().last() {
        Some(Action::End(end)) => *end,
        other => panic!("no end, but {other:?}"),
    }
}

fn lessons(actions: &[Action]) -> String {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Say(message) => Some(message.content.as_str()),
            _ => None,
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Plays events and returns the end; every step but the last must wait for something.
fn play(mut state: State, events: Vec<Event>) -> End {
    for event in events {
        let (next, actions) = state.step(event);
        state = next;
        if state.is_over() {
            return end(actions);
        }
        assert_ne!(waits(&actions), "nothing");
    }
    panic!("the run did not end");
}

#[test]
fn calls_beyond_those_that_are_run_are_told() {
    let edit = ("write_file", "{\"path\": \"a\", \"content\": \"x\"}");
    let submission = (
        "submit_result",
        "{\"verdict\": \"GO\", \"summary\": \"s\", \"commit_message\": \"m\"}",
    );
    // The submission among them is not taken: what was to come after it was not done.
    for (first, ran) in [(edit, 12), (submission, 11)] {
        let calls: Vec<_> = std::iter::once(first).chain([edit; 14]).collect();
        let (state, actions) = started().step(calling(&calls));
        assert!(
            matches!(actions.last(), Some(Action::RunTools(calls)) if calls.len() == ran),
            "{actions:?}"
        );
        let (_, actions) = state.step(results(&vec![ToolResult::mutation("made a"); ran]));
        assert_eq!(waits(&actions), "ask");
        let lessons = lessons(&actions);
        assert!(
            lessons.contains("The last 3 calls were not run; send at most 12"),
            "{lessons}"
        );
        assert_eq!(lessons.contains("the result was not taken"), ran == 11, "{lessons}");
    }
    let (state, actions) = started().step(calling(&[edit; 12]));
    assert!(matches!(actions.last(), Some(Action::RunTools(calls)) if calls.len() == 12));
    let (_, actions) = state.step(results(&vec![ToolResult::mutation("made a"); 12]));
    assert_eq!(lessons(&actions), "");
    // None of those that count can be run.
    let (_, actions) = started().step(calling(&[("teleport", "{}"); 13]));
    assert!(lessons(&actions).contains("The last 1 call was not run"), "{actions:?}");
}

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
            protected: vec!["ci/run".into()],
            ..Diff::default()
        })
    };
    let (state, _) = started().step(submitting("GO"));
    let (state, actions) = state.step(touched());
    assert!(lessons(&actions).contains("ci/run"));
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
    assert!(end.summary.contains("ci/run"));
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
fn three_replies_that_bring_nothing_end_the_run_by_their_kind() {
    let text = || saying("I am done.", "", Finish::Stop);
    let empty = || saying("", "", Finish::Stop);
    let thoughts = || saying("", "hm", Finish::Stop);
    let cut = || saying("fn a() {", "", Finish::Length);
    let unknown = || calling(&[("teleport", "{}")]);
    let endless = || Event::ModelFailed {
        category: Category::Endless,
        message: "too long".into(),
    };
    let flood = || Event::ModelFailed {
        category: Category::TooManyCalls,
        message: "more than 256 tool calls".into(),
    };
    let cases = [
        (vec![flood(), flood(), flood()], Ending::FormatErrors),
        (vec![text(), text(), text()], Ending::NoToolCall),
        (vec![empty(), empty(), empty()], Ending::EmptyReplies),
        (vec![thoughts(), thoughts(), thoughts()], Ending::ReasoningOnly),
        (vec![cut(), endless(), cut()], Ending::RepliesCut),
        (vec![unknown(), unknown(), unknown()], Ending::FormatErrors),
        (vec![text(), empty(), unknown()], Ending::FormatErrors),
    ];
    for (events, ending) in cases {
        let end = play(started(), events);
        assert_eq!(
            (end.ending, end.failure_reason, end.turns),
            (ending, Some(FailureReason::ModelMisunderstood), 3)
        );
    }
}

#[test]
fn a_flood_of_calls_teaches_and_the_run_goes_on() {
    let (_, actions) = started().step(Event::ModelFailed {
        category: Category::TooManyCalls,
        message: "more than 256 tool calls".into(),
    });
    assert_eq!(waits(&actions), "ask");
    assert!(lessons(&actions).contains("at most 12"), "{}", lessons(&actions));
}

#[test]
fn a_sound_call_ends_a_row_of_format_errors() {
    let mut state = started();
    for _ in 0..4 {
        for event in [
            saying("text", "", Finish::Stop),
            saying("", "", Finish::Stop),
            calling(&[("bash", "{\"command\": \"ls\"}")]),
            results(&[ToolResult::mutation("ok")]),
        ] {
            let (next, actions) = state.step(event);
            state = next;
            assert_ne!(waits(&actions), "end");
        }
    }
}

#[test]
fn an_unknown_tool_beside_a_sound_one_teaches_and_the_sound_one_runs() {
    let (state, actions) = started().step(calling(&[("teleport", "{}"), ("bash", "{\"command\": \"ls\"}")]));
    assert_eq!(waits(&actions), "tools");
    let (state, actions) = state.step(results(&[ToolResult::done("ok")]));
    assert!(lessons(&actions).contains("the tools are: read_file"));
    let answers: Vec<Option<String>> = state
        .request()
        .messages
        .iter()
        .filter(|message| message.role == Speaker::Tool)
        .map(|message| message.call_id.clone())
        .collect();
    assert_eq!(
        answers,
        [Some("c0".to_owned()), Some("c1".to_owned())],
        "every call has its answer, in order"
    );
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

#[test]
fn circles_and_turns_without_edits_end_the_run() {
    let look = || calling(&[("bash", "{\"command\": \"ls\"}")]);
    let same = (0..5)
        .flat_map(|_| [look(), results(&[ToolResult::done("same")])])
        .collect();
    let end = play(started(), same);
    assert_eq!((end.ending, end.turns), (Ending::StuckLoop, 5));
    let different = (0..15)
        .flat_map(|turn| [look(), results(&[ToolResult::done(format!("{turn}"))])])
        .collect();
    let end = play(started(), different);
    assert_eq!(
        (end.ending, end.turns, end.failure_reason),
        (Ending::NoEdits, 15, Some(FailureReason::MaxTurnsExhausted))
    );
    let mut state = started();
    for turn in 0..40 {
        let result = if turn % 14 == 13 {
            ToolResult::mutation("edit")
        } else {
            ToolResult::done(format!("{turn}"))
        };
        state = state.step(look()).0.step(results(&[result])).0;
    }
    assert!(!state.is_over(), "edits begin the count anew");
}

#[test]
fn tools_that_fail_three_times_in_a_row_end_the_run() {
    let look = || calling(&[("bash", "{\"command\": \"ls\"}")]);
    let broken = |n: u32| results(&[ToolResult::failed(format!("failed to start the sandbox: {n}"))]);
    let end = play(started(), vec![look(), broken(1), look(), broken(2), look(), broken(3)]);
    assert_eq!(
        (end.ending, end.failure_reason),
        (Ending::ToolsFailed, Some(FailureReason::ToolFailed))
    );
    assert!(end.summary.contains("sandbox: 3"));
}

#[test]
fn every_budget_has_its_own_end() {
    let budget = Budget {
        turns: 3,
        tokens: None,
        wall: Duration::from_secs(100),
        idle: Some(Duration::from_secs(10)),
    };
    let start = |budget| state_with(AgentSettings::default(), budget).step(Event::Start).0;
    let look = |n: u32| {
        vec![
            calling(&[("bash", "{\"command\": \"ls\"}")]),
            results(&[ToolResult::done(format!("{n}"))]),
        ]
    };
    let turns = play(start(budget), (0..3).flat_map(look).collect());
    assert_eq!(
        (turns.ending, turns.turns, turns.failure_reason),
        (Ending::TurnsExhausted, 3, Some(FailureReason::MaxTurnsExhausted))
    );
    let tokens = play(
        start(Budget {
            tokens: Some(20),
            ..budget
        }),
        (0..3).flat_map(look).collect(),
    );
    assert_eq!((tokens.ending, tokens.turns), (Ending::TokensExhausted, 2));
    let tick = |elapsed, idle| Event::Tick {
        elapsed: Duration::from_secs(elapsed),
        idle: Duration::from_secs(idle),
    };
    let (state, actions) = start(budget).step(tick(99, 9));
    assert!(actions.is_empty() && !state.is_over());
    let wall = play(start(budget), vec![tick(100, 0)]);
    assert_eq!(
        (wall.ending, wall.failure_reason),
        (Ending::WallTimeExhausted, Some(FailureReason::Timeout))
    );
    assert_eq!(
        play(start(budget), vec![tick(50, 10)]).ending,
        Ending::IdleTimeExhausted
    );
}

#[test]
fn failures_of_the_model_server_keep_their_names() {
    let cases = [
        (Category::Unavailable, FailureReason::InferenceServiceUnavailable),
        (Category::Protocol, FailureReason::InferenceServiceUnavailable),
        (Category::Recording, FailureReason::InferenceServiceUnavailable),
        (Category::Auth, FailureReason::AuthUnavailable),
        (Category::Timeout, FailureReason::Timeout),
    ];
    for (category, reason) in cases {
        let end = play(
            started(),
            vec![Event::ModelFailed {
                category,
                message: "what\nhappened\u{1b}[2J".into(),
            }],
        );
        assert_eq!(
            (end.failure_reason, end.summary.as_str()),
            (Some(reason), "what happened")
        );
    }
    let end = play(started(), vec![Event::Cancelled]);
    assert!(end.is_cancelled() && end.failure_reason.is_none());
}

#[test]
fn a_growing_conversation_is_compacted_in_steps_and_fits_the_window() {
    let settings = AgentSettings {
        context_window_tokens: 8192,
        max_output_tokens: 2048,
        ..AgentSettings::default()
    };
    let stuck = super::super::StuckLoop {
        edit_free_turns_limit: 0,
        ..settings.stuck
    };
    let (mut state, _) = state_with(AgentSettings { stuck, ..settings }, Budget::default()).step(Event::Start);
    let (mut notes, mut prefix_breaks, mut before) = (0, 0, state.request().messages);
    for turn in 0..40 {
        let mut reply = calling(&[("bash", &format!("{{\"command\": \"cat f{turn}\"}}"))]);
        if let Event::Reply(reply) = &mut reply {
            reply.usage.estimated = true; // the server counts nothing: sizes are estimated
        }
        let (next, _) = state.step(reply);
        let (next, actions) = next.step(results(&[ToolResult::done(format!("{turn} ").repeat(1200))]));
        state = next;
        notes += actions
            .iter()
            .filter(|action| matches!(action, Action::Note(_)))
            .count();
        assert_eq!(waits(&actions), "ask", "turn {turn}: {actions:?}");
        let request = state.request();
        let size: usize = request.messages.iter().map(|message| message.content.len()).sum();
        assert!(size < 8192 * 7 / 2, "turn {turn}: {size}");
        assert_eq!(request.messages[0].content, "rules");
        assert!(
            request.messages[1].content.starts_with("task"),
            "the task stays verbatim"
        );
        assert!(request.max_tokens >= 512);
        prefix_breaks += usize::from(
            request.messages[..before.len().min(request.messages.len())]
                != before[..before.len().min(request.messages.len())],
        );
        before = request.messages;
    }
    assert!(
        notes > 0 && prefix_breaks <= 30,
        "{notes} compactions, {prefix_breaks} changed prefixes"
    );
}

#[test]
fn a_task_that_never_fits_ends_as_such_and_an_overflow_shrinks_the_window() {
    let settings = || AgentSettings {
        context_window_tokens: 8192,
        ..AgentSettings::default()
    };
    let opening = vec![Message::text(Speaker::User, "x".repeat(60_000))];
    let (_, actions) = State::new(settings(), Budget::default(), all_specs(), opening, false).step(Event::Start);
    assert_eq!(end(actions).ending, Ending::ContextExhausted);
    let (mut state, _) = state_with(settings(), Budget::default()).step(Event::Start);
    for _ in 0..60 {
        if state.is_over() {
            return;
        }
        state = state
            .step(Event::ModelFailed {
                category: Category::ContextOverflow,
                message: "too long".into(),
            })
            .0;
    }
    panic!("a server that refuses every prompt must end the run");
}

#[test]
fn calls_in_text_work_in_every_protocol() {
    for protocol in [Protocol::Native, Protocol::Text, Protocol::JsonSchema] {
        let (state, _) = state_with(
            AgentSettings {
                protocol,
                ..AgentSettings::default()
            },
            Budget::default(),
        )
        .step(Event::Start);
        let (state, actions) = state.step(saying(
            "<call tool=\"bash\"><command>ls</command></call>",
            "",
            Finish::Stop,
        ));
        assert_eq!(waits(&actions), "tools", "{protocol}");
        let (state, _) = state.step(results(&[ToolResult::done("listing")]));
        let messages = state.request().messages;
        let last = messages.last().unwrap();
        assert_eq!(last.role, Speaker::User);
        assert!(
            last.content
                .contains("<tool_result tool=\"bash\" status=\"ok\">\nlisting")
        );
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let tool = prop_oneof![
        "bash",
        "write_file",
        "read_file",
        "submit_result",
        "nonsense",
        "functions.Bash"
    ];
    let arguments = prop_oneof![
        Just("{\"command\": \"ls\"}".to_owned()),
        Just("{\"path\": \"a\", \"content\": \"b\"}".to_owned()),
        Just("{\"verdict\": \"GO\", \"summary\": \"s\"}".to_owned()),
        Just("{\"verdict\": \"NO-GO\"}".to_owned()),
        any::<String>(),
    ];
    let calls = proptest::collection::vec((tool, arguments), 0..4);
    let finish = prop_oneof![
        Just(Finish::Stop),
        Just(Finish::Length),
        Just(Finish::ToolCalls),
        Just(Finish::ContentFilter)
    ];
    let reply = (
        calls,
        "(<call tool=\"bash\">|<command>ls|</call>|[a-z{}]{0,9}){0,4}",
        ".{0,5}",
        finish,
        any::<u64>(),
    )
        .prop_map(|(calls, content, reasoning, finish, prompt)| {
            let calls = calls
                .into_iter()
                .map(|(name, arguments)| RawCall {
                    id: String::new(),
                    name,
                    arguments,
                })
                .collect();
            Event::Reply(Reply {
                content,
                reasoning,
                calls,
                finish,
                usage: Usage {
                    prompt,
                    ..Usage::default()
                },
            })
        });
    let result = (any::<bool>(), 0usize..3, "[a-b]{0,2}").prop_map(|(mutated, outcome, content)| {
        let outcome = [Outcome::Done, Outcome::Refused, Outcome::Failed][outcome];
        ToolResult {
            outcome,
            content,
            mutated,
            protected: None,
        }
    });
    let category = prop_oneof![
        Just(Category::Unavailable),
        Just(Category::Auth),
        Just(Category::Timeout),
        Just(Category::Protocol),
        Just(Category::ContextOverflow),
        Just(Category::Endless),
        Just(Category::TooManyCalls),
        Just(Category::Recording)
    ];
    prop_oneof![
        1 => Just(Event::Start),
        20 => reply,
        10 => proptest::collection::vec(result, 0..5).prop_map(Event::Results),
        2 => category.prop_map(|category| Event::ModelFailed { category, message: "m".into() }),
        4 => (any::<bool>(), any::<bool>()).prop_map(|(changed, protected)| {
            let some = |yes| if yes { vec!["p".to_owned()] } else { vec![] };
            Event::Diff(Diff { changed: some(changed), protected: some(protected), oversized: Vec::new() })
        }),
        1 => Just(Event::DiffFailed("d".into())),
        1 => (0u64..5000, 0u64..5000).prop_map(|(elapsed, idle)| Event::Tick { elapsed: Duration::from_secs(elapsed), idle: Duration::from_secs(idle) }),
    ]
}

proptest! {
    #[test]
    fn arbitrary_events_never_break_the_machine(events in proptest::collection::vec(any_event(), 0..60)) {
        let (mut state, _) = state_with(AgentSettings::default(), Budget::default()).step(Event::Start);
        for event in events {
            let over = state.is_over();
            let (next, actions) = state.step(event);
            state = next;
            prop_assert!(!over || actions.is_empty());
            prop_assert_eq!(state.is_over() && !over, waits(&actions) == "end");
            prop_assert!(state.turn() <= 50);
        }
    }

    #[test]
    fn a_model_that_answers_anything_is_done_within_its_turns(replies in proptest::collection::vec(any_event(), 120), turns in 1u32..12) {
        let budget = Budget { turns, ..Budget::default() };
        let (mut state, mut actions) = state_with(AgentSettings::default(), budget).step(Event::Start);
        let mut steps = 0;
        let mut replies = replies.into_iter().filter(|event| matches!(event, Event::Reply(_)));
        while !state.is_over() {
            let event = match waits(&actions) {
                "ask" => replies.next().unwrap_or(Event::Reply(Reply::default())),
                "tools" => Event::Results(vec![ToolResult::mutation("x")]),
                "diff" => Event::Diff(Diff::default()),
                other => panic!("a running machine waits for {other}"),
            };
            (state, actions) = state.step(event);
            steps += 1;
            prop_assert!(steps <= turns * 3 + 3);
        }
    }
}
