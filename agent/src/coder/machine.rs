//! The rules of a run as a pure function: state and event give state and actions. No I/O, no clock.
//!
//! Of the actions of one step at most one waits for something ([`Action::Ask`], [`Action::RunTools`],
//! [`Action::InspectDiff`]); what comes of it is the next event. A step that ends in [`Action::End`] is the last:
//! whatever happens afterwards changes nothing.

mod ending;
mod replies;
mod room;

use std::time::Duration;

use serde_json::Value;

use super::circles::Circles;
use super::conversation::{Conversation, Observation, about};
use super::extract::Asked;
use super::{AgentSettings, End, Ending, Role};
use crate::budget::Budget;
use crate::model::{Category, Message, Reply, Request, Speaker, Usage};
use crate::tools::output::one_line;
use crate::tools::schema::ToolSpec;
use crate::tools::submit_result::{self, Submission};
use crate::tools::{Call, Outcome, ToolResult};

pub use ending::judge_ending;

/// Replies in a row without a call that can be run, after which a run ends.
pub const FORMAT_ERRORS: usize = 3;
/// Turns in a row in which every tool failed, after which a run ends.
const TOOL_FAILURES: u32 = 3;
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
    /// Those of them that may not be changed.
    pub protected: Vec<String>,
    /// Those of them that are too large to be committed, with their sizes in bytes.
    pub oversized: Vec<(String, u64)>,
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

    fn on_results(&mut self, asked: Vec<Asked>, left_out: usize, results: Vec<ToolResult>, actions: &mut Vec<Action>) {
        let mut results = results.into_iter();
        let mut submission = None;
        let mut unsound = None;
        let (mut ran, mut failed, mut mutated) = (0u32, 0u32, false);
        let mut seen = Vec::new();
        let mut last_failure = String::new();
        for asked in &asked {
            match asked {
                Asked::Wrong { id, name, lesson } => {
                    unsound = Some(name.clone());
                    self.observe(id.clone(), name, "", "refused", lesson.clone(), actions);
                }
                Asked::Sound(call) if call.tool == submit_result::NAME => {
                    if let Some((id, _)) = submission.replace((call.id.clone(), submit_result::read(&call.arguments))) {
                        self.observe(
                            id,
                            submit_result::NAME,
                            "",
                            "refused",
                            "a later submit_result of the same reply counts instead".into(),
                            actions,
                        );
                    }
                }
                Asked::Sound(call) => {
                    let result = results
                        .next()
                        .unwrap_or_else(|| ToolResult::failed("the tool gave no answer"));
                    ran += 1;
                    let status = match result.outcome {
                        Outcome::Done => "ok",
                        Outcome::Refused => "refused",
                        Outcome::Failed => "failed",
                    };
                    if result.outcome != Outcome::Done {
                        unsound = Some(call.tool.clone());
                    }
                    if result.outcome == Outcome::Failed {
                        failed += 1;
                        last_failure = one_line(&result.content, 200);
                    }
                    mutated |= result.mutated;
                    if let Some(path) = &result.protected
                        && self.protected_wanted.len() < 20
                        && !self.protected_wanted.contains(path)
                    {
                        self.protected_wanted.push(path.clone());
                    }
                    seen.push((
                        call.tool.clone(),
                        Value::Object(call.arguments.clone()).to_string(),
                        result.content.clone(),
                    ));
                    let observation = Observation {
                        id: call.id.clone(),
                        tool: call.tool.clone(),
                        about: about(&call.arguments),
                        status,
                        content: result.content,
                    };
                    self.conversation.observe(self.turn, observation);
                }
            }
        }
        if ran > 0 {
            self.circles.add(
                seen.iter()
                    .map(|(tool, arguments, result)| (tool.as_str(), arguments.clone(), result.as_str())),
                mutated,
            );
            self.edit_free = if mutated { 0 } else { self.edit_free.saturating_add(1) };
            self.mutated |= mutated;
            self.circle_warned &= !mutated;
            self.tool_failures = if failed == ran {
                self.tool_failures.saturating_add(1)
            } else {
                0
            };
            if self.tool_failures >= TOOL_FAILURES {
                self.end(
                    Ending::ToolsFailed,
                    format!("tools failed {TOOL_FAILURES} times in a row: {last_failure}"),
                    actions,
                );
                return;
            }
        }
        let left_out = replies::left_out_lesson(left_out);
        let in_the_way = match (unsound, &left_out) {
            (Some(tool), _) => Some(format!(
                "{tool} in the same reply did not work. Look at its answer, mend it, and call submit_result alone."
            )),
            (None, Some(_)) => Some("not all calls of the same reply were run. Call submit_result alone.".to_owned()),
            (None, None) => None,
        };
        match (submission, in_the_way) {
            (Some((id, submission)), None) => return self.judge(id, submission, actions),
            (Some((id, _)), Some(why)) => {
                let lesson = format!("the result was not taken: {why}");
                self.observe(id, submit_result::NAME, "", "refused", lesson, actions);
            }
            (None, _) => {}
        }
        if let Some(lesson) = left_out {
            self.say(lesson, actions);
        }
        self.go_on(actions);
    }

    /// Ends what goes nowhere, warns of what may, and asks again.
    fn go_on(&mut self, actions: &mut Vec<Action>) {
        let threshold = self.settings.stuck.repeated_tool_threshold;
        if let Some(length) = self.circles.found(threshold) {
            let what = if length == 1 {
                "the same calls brought the same results".into()
            } else {
                format!("a circle of {length} turns was repeated")
            };
            self.end(
                Ending::StuckLoop,
                format!("{what} again and again without a change"),
                actions,
            );
            return;
        }
        if threshold > 2 && !self.circle_warned && self.circles.found(threshold - 1).is_some() {
            self.circle_warned = true;
            self.say("You repeat calls whose answers do not change. Do something else: read other code, make the edit, or submit a result.".into(), actions);
        }
        let limit = self.settings.stuck.edit_free_turns_limit;
        if limit > 0 && self.settings.role == Role::Coder {
            if self.edit_free >= limit {
                self.end(
                    Ending::NoEdits,
                    format!("{limit} turns went by without a change of the work tree"),
                    actions,
                );
                return;
            }
            if limit > 6 && self.edit_free == limit - 5 {
                self.say(format!("{} turns went by without a change; after 5 more the run ends. Make the edit now, or submit what you have.", self.edit_free), actions);
            }
        }
        self.ask(actions);
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
