//! Whatever happens, in whatever order, the machine keeps its rules.

use super::*;
use proptest::prelude::*;

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
            let changed = if changed { vec!["p".to_owned()] } else { vec![] };
            let held = if protected { vec![held("p", "put it back")] } else { vec![] };
            Event::Diff(Diff { changed, held, ..Diff::default() })
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
