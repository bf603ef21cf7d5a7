//! The machine played event by event; what the parts share stands here.

#![allow(clippy::unwrap_used, clippy::panic)]

mod any;
mod handing_in;
mod limits;
mod replies;

use super::*;
use crate::coder::{FailureReason, Role, Verdict};
use crate::model::{Finish, Protocol, RawCall};
use crate::tools::{Outcome, all_specs};
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

fn held(what: &str, remedy: &str) -> Held {
    Held {
        what: what.into(),
        remedy: remedy.into(),
    }
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
