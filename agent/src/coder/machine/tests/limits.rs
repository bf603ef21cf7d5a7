//! What ends a run that goes nowhere, costs too much or does not fit.

use super::*;

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
fn a_growing_conversation_is_compacted_in_steps_and_fits_the_window() {
    let settings = AgentSettings {
        context_window_tokens: 8192,
        max_output_tokens: 2048,
        ..AgentSettings::default()
    };
    let stuck = crate::coder::StuckLoop {
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
