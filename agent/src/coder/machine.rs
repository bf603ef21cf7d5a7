//! The rules of a run as a pure function: state and event give state and actions. No I/O, no clock.
//!
//! Of the actions of one step at most one waits for something ([`Action::Ask`], [`Action::RunTools`],
//! [`Action::InspectDiff`]); what comes of it is the next event. A step that ends in [`Action::End`] is the last:
//! whatever happens afterwards changes nothing.

mod ending;
mod replies;
mod results;
mod room;

use std::time::Duration;

use super::circles::Circles;
use super::conversation::{Conversation, Observation};
use super::extract::Asked;
use super::{AgentSettings, End, Ending};
use crate::budget::Budget;
use crate::model::{Category, Message, Reply, Request, Speaker, Usage};
use crate::tools::root::pins::Held;
use crate::tools::schema::ToolSpec;
use crate::tools::submit_result::Submission;
use crate::tools::{Call, ToolResult};

pub use ending::judge_ending;

/// Replies in a row without a call that can be run, after which a run ends.
pub const FORMAT_ERRORS: usize = 3;
/// Room kept between prompt and window, in tokens.
const MARGIN: u64 = 128;
/// Smallest reply that is worth asking for, in tokens.
const SMALLEST_REPLY: u64 = 512;

/// Says what happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The run begins.
    Start,
    /// The model answered.
    Reply(Reply),
    /// The model did not answer.
    ModelFailed {
        /// How it counts.
        category: Category,
        /// What went wrong.
        message: String,
    },
    /// The tools answered, in the order of the calls.
    Results(Vec<ToolResult>),
    /// The change was looked at.
    Diff(Diff),
    /// The change could not be looked at.
    DiffFailed(String),
    /// Time went by.
    Tick {
        /// Since the start.
        elapsed: Duration,
        /// Since the last sign of life from model or tool.
        idle: Duration,
    },
    /// The run is to stop now.
    Cancelled,
}

/// Holds what is known of the change so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Paths that differ from the start of the run.
    pub changed: Vec<String>,
    /// Those of them that may not stay as they are, or parts of them that may not.
    pub held: Vec<Held>,
    /// Those of them that are too large to be committed, with their sizes in bytes.
    pub oversized: Vec<(String, u64)>,
    /// Those of them that were Git LFS pointers and hold content now.
    pub overwritten: Vec<String>,
}

/// Says what is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Write down what the loop says to the model.
    Say(Message),
    /// Write down what the loop decided.
    Note(String),
    /// Ask the model ([`State::request`]).
    Ask,
    /// Run the calls in this order.
    RunTools(Vec<Call>),
    /// Look at the change.
    InspectDiff,
    /// Stop: this is how it ended.
    End(Box<End>),
}

#[derive(Clone, Debug)]
enum Phase {
    Ready,
    Asking,
    Working { asked: Vec<Asked>, left_out: usize },
    Judging { id: String, submission: Submission },
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Problem {
    Wrong,
    Text,
    Cut,
    Reasoning,
    Empty,
}

/// Holds everything that a run is at a moment.
#[derive(Clone, Debug)]
pub struct State {
    settings: AgentSettings,
    budget: Budget,
    tools: Vec<ToolSpec>,
    replay: bool,
    conversation: Conversation,
    phase: Phase,
    turn: u32,
    usage: Usage,
    tool_calls: u32,
    problems: Vec<Problem>,
    problems_total: u32,
    recovered: u32,
    compactions: u32,
    compacted_at: u32,
    tool_failures: u32,
    circles: Circles,
    circle_warned: bool,
    edit_free: u32,
    mutated: bool,
    protected_wanted: Vec<String>,
    empty_refused: bool,
    protected_refused: bool,
    oversized_refused: bool,
    overwritten_refused: bool,
    window: u64,
    changed: Vec<String>,
    opening: Vec<Message>,
}

impl State {
    /// Prepares a run. `opening` is the system prompt and the task.
    pub fn new(
        settings: AgentSettings,
        budget: Budget,
        tools: Vec<ToolSpec>,
        opening: Vec<Message>,
        replay: bool,
    ) -> Self {
        let overhead = match settings.protocol {
            crate::model::Protocol::Native => tools
                .iter()
                .map(|tool| tool.json_schema().to_string().len() + tool.description.len() + 80)
                .sum(),
            _ => 0,
        };
        let conversation = Conversation::new(opening.clone(), settings.protocol, overhead);
        let window = u64::from(settings.context_window_tokens);
        Self {
            settings,
            budget,
            tools,
            replay,
            conversation,
            phase: Phase::Ready,
            turn: 0,
            usage: Usage::default(),
            tool_calls: 0,
            problems: Vec::new(),
            problems_total: 0,
            recovered: 0,
            compactions: 0,
            compacted_at: 0,
            tool_failures: 0,
            circles: Circles::default(),
            circle_warned: false,
            edit_free: 0,
            mutated: false,
            protected_wanted: Vec::new(),
            empty_refused: false,
            protected_refused: false,
            oversized_refused: false,
            overwritten_refused: false,
            window,
            changed: Vec::new(),
            opening,
        }
    }

    /// Returns the turn, from 1; 0 before the first reply was asked for.
    pub fn turn(&self) -> u32 {
        self.turn
    }

    /// Returns the limits of the run.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Tells whether the run is over.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    /// Returns what to send when the action is [`Action::Ask`].
    pub fn request(&self) -> Request {
        let room = self
            .window
            .saturating_sub(self.conversation.tokens())
            .saturating_sub(MARGIN);
        let max_tokens = u64::from(self.settings.max_output_tokens.max(1))
            .min(room)
            .max(SMALLEST_REPLY.min(u64::from(self.settings.max_output_tokens.max(1))));
        Request {
            messages: self.conversation.view(),
            tools: self.tools.clone(),
            protocol: self.settings.protocol,
            max_tokens: u32::try_from(max_tokens).unwrap_or(u32::MAX),
            temperature: self.settings.temperature,
            chat_template_kwargs: self.settings.chat_template_kwargs.clone(),
        }
    }

    /// Takes one event. An event that does not belong here changes nothing and asks for nothing.
    pub fn step(mut self, event: Event) -> (Self, Vec<Action>) {
        let actions = self.apply(event);
        (self, actions)
    }

    /// Takes one event in place, as [`State::step`] does.
    pub fn apply(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        let phase = std::mem::replace(&mut self.phase, Phase::Over);
        match (phase, event) {
            (Phase::Over, _) => {}
            (_, Event::Cancelled) => self.end(Ending::Cancelled, "the run was cancelled".into(), &mut actions),
            (phase, Event::Tick { elapsed, idle }) => match self.budget.overdue(elapsed, idle) {
                Some(which) => self.exhausted(which, &mut actions),
                None => self.phase = phase,
            },
            (Phase::Ready, Event::Start) => {
                actions.extend(self.opening.iter().cloned().map(Action::Say));
                self.ask(&mut actions);
            }
            (Phase::Asking, Event::Reply(reply)) => self.on_reply(reply, &mut actions),
            (Phase::Asking, Event::ModelFailed { category, message }) => {
                self.on_model_failed(category, &message, &mut actions)
            }
            (Phase::Working { asked, left_out }, Event::Results(results)) => {
                self.on_results(asked, left_out, results, &mut actions)
            }
            (Phase::Judging { id, submission }, Event::Diff(diff)) => self.on_diff(id, submission, diff, &mut actions),
            (Phase::Judging { submission, .. }, Event::DiffFailed(reason)) => {
                self.end_with(
                    Ending::Infrastructure,
                    format!("the change could not be looked at: {reason}"),
                    Some(submission),
                    &mut actions,
                );
            }
            (phase, _) => self.phase = phase,
        }
        actions
    }

    fn ask(&mut self, actions: &mut Vec<Action>) {
        if let Some(which) = self.budget.forbids_turn(self.turn, self.usage.total()) {
            self.exhausted(which, actions);
            return;
        }
        if self.budget.turns > 8 && self.budget.turns - self.turn == 3 {
            self.say(
                "Three turns are left. Finish what you are at and call submit_result.".into(),
                actions,
            );
        }
        if !self.fit(actions) {
            let room = self.window;
            self.end(
                Ending::ContextExhausted,
                format!("the task and the latest turn alone do not fit the window of {room} tokens"),
                actions,
            );
            return;
        }
        self.turn += 1;
        self.conversation.asking();
        self.phase = Phase::Asking;
        actions.push(Action::Ask);
    }

    fn say(&mut self, text: String, actions: &mut Vec<Action>) {
        self.conversation.say(self.turn, text.clone());
        actions.push(Action::Say(Message::text(Speaker::User, text)));
    }

    /// Answers a call in the loop's own name.
    fn observe(
        &mut self,
        id: String,
        tool: &str,
        about: &str,
        status: &'static str,
        content: String,
        actions: &mut Vec<Action>,
    ) {
        let message = Message {
            call_id: Some(id.clone()).filter(|id| !id.is_empty()),
            ..Message::text(Speaker::Tool, content.clone())
        };
        actions.push(Action::Say(message));
        self.conversation.observe(
            self.turn,
            Observation {
                id,
                tool: tool.into(),
                about: about.into(),
                status,
                content,
            },
        );
    }
}

#[cfg(test)]
mod tests;
