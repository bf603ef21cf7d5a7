//! What replies bring, and what is said of those that bring nothing.

use super::*;

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
fn calls_stand_in_the_conversation_as_every_server_takes_them() {
    let (state, actions) = started().step(calling(&[
        ("functions.Bash", "{\"command\": \"ls\",}"),
        ("glob", "{\"pattern\": \"*\"}"),
        ("tele port\u{e9}<|x|>", "{"),
        ("", "{}"),
    ]));
    assert_eq!(waits(&actions), "tools");
    let (state, _) = state.step(results(&[ToolResult::done("a"), ToolResult::done("b")]));
    let messages = state.request().messages;
    let calls: Vec<(&str, &str)> = messages
        .iter()
        .flat_map(|message| &message.calls)
        .map(|call| (call.name.as_str(), call.arguments.as_str()))
        .collect();
    assert_eq!(
        calls,
        [
            ("bash", "{\"command\":\"ls\"}"),
            ("glob", "{\"pattern\": \"*\"}"),
            ("tele_port___x__", "{"),
            ("unnamed", "{}"),
        ]
    );
    let answers = messages.iter().filter(|message| message.role == Speaker::Tool);
    assert_eq!(answers.count(), 4);
}

#[test]
fn a_call_that_ends_thoughts_stands_in_the_conversation_before_its_answer() {
    let thoughts = "Hm.\n<call tool=\"bash\">\n<command>ls</command>\n</call>";
    let (state, actions) = started().step(saying("", thoughts, Finish::Stop));
    assert_eq!(waits(&actions), "tools");
    let (state, _) = state.step(results(&[ToolResult::done("listing")]));
    let messages = state.request().messages;
    let [.., said, answer] = &messages[..] else { panic!() };
    assert_eq!(said.content, "<call tool=\"bash\">\n<command>ls</command>\n</call>");
    assert!(answer.role == Speaker::User && answer.content.contains("listing"));
}
