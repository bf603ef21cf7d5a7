//! The rules of a run as a pure function: state and event give state and actions. No I/O, no clock.
//!
//! Of the actions of one step at most one waits for something ([`Action::Ask`], [`Action::RunTools`],
//! [`Action::InspectDiff`]); what comes of it is the next event. A step that ends in [`Action::End`] is the last:
//! whatever happens afterwards changes nothing.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::circles::Circles;
use super::conversation::{Conversation, Observation, about};
use super::extract::{self, Asked, Content};
use super::{AgentSettings, End, Ending, FailureReason, Role, Verdict};
use crate::budget::{Budget, Exhausted};
use crate::model::{Category, Message, RawCall, Reply, Request, Speaker, Usage};
use crate::tools::output::{head_bytes, one_line};
use crate::tools::schema::ToolSpec;
use crate::tools::submit_result::{self, Claim, SUMMARY_CHARS, Submission};
use crate::tools::{Call, Outcome, ToolResult};

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
    Working { asked: Vec<Asked> },
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
            (_, Event::Cancelled) => self.end(
                Ending::Cancelled,
                "the run was cancelled".into(),
                &mut actions,
            ),
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
            (Phase::Working { asked }, Event::Results(results)) => {
                self.on_results(asked, results, &mut actions)
            }
            (Phase::Judging { id, submission }, Event::Diff(diff)) => {
                self.on_diff(id, submission, diff, &mut actions)
            }
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

    fn on_reply(&mut self, reply: Reply, actions: &mut Vec<Action>) {
        self.usage.add(reply.usage);
        self.conversation.learn(reply.usage);
        let content = extract::read(&reply, self.settings.protocol, &self.tools, self.turn);
        match content {
            Content::Calls { asked, native } => {
                let calls = if native {
                    native_calls(&reply.calls, &asked)
                } else {
                    Vec::new()
                };
                let said = if native || reply.calls.is_empty() {
                    reply.content
                } else {
                    spell_out(&reply.content, &reply.calls)
                };
                self.conversation.reply(self.turn, said, calls);
                if !native {
                    self.recovered = self.recovered.saturating_add(1);
                }
                let sound: Vec<Call> = asked.iter().filter_map(to_run).collect();
                let submits = asked.iter().any(
                    |asked| matches!(asked, Asked::Sound(call) if call.tool == submit_result::NAME),
                );
                if !sound.is_empty() {
                    self.problems.clear();
                    self.tool_calls = self
                        .tool_calls
                        .saturating_add(u32::try_from(sound.len()).unwrap_or(u32::MAX));
                    self.phase = Phase::Working { asked };
                    actions.push(Action::RunTools(sound));
                } else if submits {
                    self.problems.clear();
                    self.on_results(asked, Vec::new(), actions);
                } else {
                    for wrong in &asked {
                        if let Asked::Wrong { id, name, lesson } = wrong {
                            self.observe(id.clone(), name, "", "refused", lesson.clone(), actions);
                        }
                    }
                    self.problem(Problem::Wrong, None, actions);
                }
            }
            Content::Text => {
                self.conversation
                    .reply(self.turn, shortened(&reply.content), Vec::new());
                let lesson = "Your reply held no tool call, so nothing was done. Work only by tool calls. If the work is done, call submit_result with verdict GO; if it should not or cannot be done, call submit_result with NO-GO or ERROR.";
                self.problem(Problem::Text, Some(lesson.into()), actions);
            }
            Content::Garbled => {
                self.conversation
                    .reply(self.turn, shortened(&reply.content), Vec::new());
                let lesson = format!(
                    "Your reply holds a tool call that cannot be read. {}",
                    self.how_to_call()
                );
                self.problem(Problem::Wrong, Some(lesson), actions);
            }
            Content::Cut => {
                self.conversation
                    .reply(self.turn, shortened(&reply.content), Vec::new());
                self.problem(Problem::Cut, Some(self.cut_lesson()), actions);
            }
            Content::ReasoningOnly => {
                let lesson = "Your reply held thoughts only. Say what to do next by a tool call.";
                self.problem(Problem::Reasoning, Some(lesson.into()), actions);
            }
            Content::Empty => {
                let lesson = "Your reply was empty. Go on with a tool call, or call submit_result.";
                self.problem(Problem::Empty, Some(lesson.into()), actions);
            }
        }
    }

    fn on_model_failed(&mut self, category: Category, message: &str, actions: &mut Vec<Action>) {
        match category {
            Category::Endless => self.problem(Problem::Cut, Some(self.cut_lesson()), actions),
            Category::ContextOverflow => {
                // The window is smaller than we were told: believe what the server just refused.
                self.window = self
                    .window
                    .min(self.conversation.tokens())
                    .saturating_mul(4)
                    / 5;
                actions.push(Action::Note(format!(
                    "the prompt did not fit; the window is now taken for {} tokens",
                    self.window
                )));
                self.ask(actions);
            }
            Category::Unavailable | Category::Protocol => {
                self.end(Ending::ModelUnavailable, message.to_owned(), actions)
            }
            Category::Auth => self.end(Ending::ModelAuth, message.to_owned(), actions),
            Category::Timeout => self.end(Ending::ModelTimeout, message.to_owned(), actions),
            Category::Recording => {
                self.end(Ending::RecordingExhausted, message.to_owned(), actions)
            }
        }
    }

    fn on_results(
        &mut self,
        asked: Vec<Asked>,
        results: Vec<ToolResult>,
        actions: &mut Vec<Action>,
    ) {
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
                    if let Some((id, _)) =
                        submission.replace((call.id.clone(), submit_result::read(&call.arguments)))
                    {
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
                    if let Some(path) = &result.protected {
                        if self.protected_wanted.len() < 20 && !self.protected_wanted.contains(path)
                        {
                            self.protected_wanted.push(path.clone());
                        }
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
                seen.iter().map(|(tool, arguments, result)| {
                    (tool.as_str(), arguments.clone(), result.as_str())
                }),
                mutated,
            );
            self.edit_free = if mutated {
                0
            } else {
                self.edit_free.saturating_add(1)
            };
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
        match (submission, unsound) {
            (Some((id, submission)), None) => self.judge(id, submission, actions),
            (Some((id, _)), Some(tool)) => {
                let lesson = format!(
                    "the result was not taken: {tool} in the same reply did not work. Look at its answer, mend it, and call submit_result alone."
                );
                self.observe(id, submit_result::NAME, "", "refused", lesson, actions);
                self.go_on(actions);
            }
            (None, _) => self.go_on(actions),
        }
    }

    /// Takes what the model hands in. GO of a coder rests on the change, not on the words.
    fn judge(&mut self, id: String, submission: Submission, actions: &mut Vec<Action>) {
        match (submission.verdict, self.settings.role) {
            (Claim::Go, Role::Coder) => {
                self.phase = Phase::Judging { id, submission };
                actions.push(Action::InspectDiff);
            }
            _ => self.end_with(
                Ending::Submitted,
                submission.summary.clone(),
                Some(submission),
                actions,
            ),
        }
    }

    fn on_diff(
        &mut self,
        id: String,
        submission: Submission,
        diff: Diff,
        actions: &mut Vec<Action>,
    ) {
        self.changed = diff.changed;
        if !diff.protected.is_empty() {
            let paths = one_line(
                &diff
                    .protected
                    .iter()
                    .take(10)
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", "),
                200,
            );
            if self.protected_refused {
                self.end_with(
                    Ending::ProtectedPath,
                    format!("the change touches protected paths: {paths}"),
                    Some(submission),
                    actions,
                );
                return;
            }
            self.protected_refused = true;
            let lesson = format!(
                "the result was not taken: the change touches protected paths ({paths}). Put them back as they were (git show HEAD:PATH shows the original), then submit again; if the task needs them changed, submit NO-GO and say so."
            );
            self.observe(id, submit_result::NAME, "", "refused", lesson, actions);
            self.go_on(actions);
            return;
        }
        if self.changed.is_empty() {
            if !self.protected_wanted.is_empty() && self.empty_refused {
                let paths = one_line(&self.protected_wanted.join(", "), 200);
                self.end_with(
                    Ending::ProtectedPath,
                    format!("nothing was changed but for attempts on protected paths: {paths}"),
                    Some(submission),
                    actions,
                );
                return;
            }
            if self.empty_refused {
                self.end_with(
                    Ending::EmptyDiff,
                    format!(
                        "the model says GO, but nothing was changed: {}",
                        submission.summary
                    ),
                    Some(submission),
                    actions,
                );
                return;
            }
            self.empty_refused = true;
            let lesson = "the result was not taken: GO needs a change, and no file differs from the start. Make the change; or, if nothing has to be changed, submit NO-GO with extra {\"outcome\": \"ALREADY-RESOLVED\"} and say where you saw it.";
            self.observe(
                id,
                submit_result::NAME,
                "",
                "refused",
                lesson.into(),
                actions,
            );
            self.go_on(actions);
            return;
        }
        self.end_with(
            Ending::Submitted,
            submission.summary.clone(),
            Some(submission),
            actions,
        );
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
                format!(
                    "the task and the latest turn alone do not fit the window of {room} tokens"
                ),
                actions,
            );
            return;
        }
        self.turn += 1;
        self.conversation.asking();
        self.phase = Phase::Asking;
        actions.push(Action::Ask);
    }

    /// Leaves out as much as is needed to fit the window; returns whether it fits.
    fn fit(&mut self, actions: &mut Vec<Action>) -> bool {
        let cap = |value: u64| if value == 0 { u64::MAX } else { value };
        let reply = u64::from(self.settings.max_output_tokens)
            .min(self.window / 4)
            .max(SMALLEST_REPLY);
        let hard = self
            .window
            .saturating_sub(reply + MARGIN)
            .min(cap(self.settings.stuck.context_hard_cap));
        let soft = cap(self.settings.stuck.context_soft_cap)
            .min(cap(self.settings.working_set_tokens))
            .min(hard);
        let keep = self.settings.observation_window_turns;
        let before = self.conversation.tokens();
        // In steps, with a pause between them: each step costs the server's cache of everything after it.
        let rested = self.turn >= self.compacted_at + keep.max(1) || self.compactions == 0;
        if keep > 0
            && before > soft
            && rested
            && self.conversation.stub((self.turn + 1).saturating_sub(keep))
        {
            self.compacted(before, actions);
        }
        for keep in [2, 1] {
            if self.conversation.tokens() > hard
                && self.conversation.stub((self.turn + 1).saturating_sub(keep))
            {
                self.compacted(before, actions);
            }
        }
        for keep in [keep.max(2), 1, 0] {
            if self.conversation.tokens() > hard
                && self
                    .conversation
                    .drop_turns((self.turn + 1).saturating_sub(keep))
            {
                self.compacted(before, actions);
            }
        }
        self.conversation.tokens() <= hard
    }

    fn compacted(&mut self, before: u64, actions: &mut Vec<Action>) {
        self.compactions = self.compactions.saturating_add(1);
        self.compacted_at = self.turn;
        actions.push(Action::Note(format!(
            "older outputs are left out: about {before} tokens become {}",
            self.conversation.tokens()
        )));
    }

    /// Counts a reply that brings nothing; three in a row end the run.
    fn problem(&mut self, problem: Problem, lesson: Option<String>, actions: &mut Vec<Action>) {
        self.problems.push(problem);
        self.problems_total = self.problems_total.saturating_add(1);
        if self.problems.len() >= FORMAT_ERRORS {
            let same = self.problems.iter().all(|other| *other == problem);
            let (ending, what) = match problem {
                Problem::Text if same => (Ending::NoToolCall, "held text and no tool call"),
                Problem::Cut if same => {
                    (Ending::RepliesCut, "were cut at the limit of output tokens")
                }
                Problem::Reasoning if same => (Ending::ReasoningOnly, "held thoughts only"),
                Problem::Empty if same => (Ending::EmptyReplies, "were empty"),
                _ => (Ending::FormatErrors, "held no tool call that could be run"),
            };
            self.end(
                ending,
                format!("{FORMAT_ERRORS} replies in a row {what}"),
                actions,
            );
            return;
        }
        if let Some(lesson) = lesson {
            self.say(lesson, actions);
        }
        self.edit_free = self.edit_free.saturating_add(1);
        self.go_on(actions);
    }

    fn exhausted(&mut self, which: Exhausted, actions: &mut Vec<Action>) {
        let ending = match which {
            Exhausted::Turns => Ending::TurnsExhausted,
            Exhausted::Tokens => Ending::TokensExhausted,
            Exhausted::Wall => Ending::WallTimeExhausted,
            Exhausted::Idle => Ending::IdleTimeExhausted,
        };
        self.end(ending, self.budget.describe(which), actions);
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

    fn how_to_call(&self) -> &'static str {
        match self.settings.protocol {
            crate::model::Protocol::Native => {
                "Use the tool calls of the interface; write no calls into the text."
            }
            crate::model::Protocol::JsonSchema => {
                "Reply with one JSON object: {\"tool\": NAME, \"arguments\": {…}}."
            }
            crate::model::Protocol::Text => {
                "Write it as the rules show: <call tool=\"NAME\">, one tag for each argument, </call>."
            }
        }
    }

    fn cut_lesson(&self) -> String {
        "Your reply was cut off because it was too long, and nothing of it was done. Think less, and take a smaller step: write a long file in parts, or change it with str_replace.".into()
    }

    fn end(&mut self, ending: Ending, summary: String, actions: &mut Vec<Action>) {
        self.end_with(ending, summary, None, actions);
    }

    fn end_with(
        &mut self,
        ending: Ending,
        summary: String,
        submission: Option<Submission>,
        actions: &mut Vec<Action>,
    ) {
        let claim = submission.as_ref().map(|submission| submission.verdict);
        let (verdict, failure_reason) = judge_ending(ending, claim);
        let mut extra = Map::new();
        let mut outcome = json!(ending);
        let mut commit_message = String::new();
        if let Some(submission) = submission {
            // Only words that other parts act on may replace the name of the ending.
            let word = submission.extra.get("outcome").and_then(Value::as_str);
            if verdict == Verdict::NoGo
                && ending == Ending::Submitted
                && matches!(word, Some("ALREADY-RESOLVED" | "NEEDS-VERIFICATION"))
            {
                outcome = json!(word);
            }
            extra = submission.extra;
            commit_message = submission.commit_message;
        }
        let counts = [
            ("formatErrors", self.problems_total),
            ("recoveredCalls", self.recovered),
            ("compactions", self.compactions),
        ];
        extra.insert("outcome".into(), outcome);
        extra.extend(
            counts
                .into_iter()
                .filter(|(_, count)| *count > 0)
                .map(|(name, count)| (name.to_owned(), json!(count))),
        );
        if !self.protected_wanted.is_empty() {
            extra.insert("protectedPathsWanted".into(), json!(self.protected_wanted));
        }
        self.phase = Phase::Over;
        actions.push(Action::End(Box::new(End {
            verdict,
            failure_reason,
            ending,
            summary: one_line(&summary, SUMMARY_CHARS),
            commit_message,
            usage: self.usage,
            turns: self.turn,
            tool_calls: self.tool_calls,
            replay: self.replay,
            changed: self.changed.clone(),
            extra,
        })));
    }
}

/// The table of endings: what each means in the published words.
pub fn judge_ending(ending: Ending, claim: Option<Claim>) -> (Verdict, Option<FailureReason>) {
    use FailureReason as Reason;
    let incomplete = |reason| (Verdict::Incomplete, Some(reason));
    match ending {
        Ending::Submitted => match claim {
            Some(Claim::Go) => (Verdict::Go, None),
            Some(Claim::NoGo) => (Verdict::NoGo, None),
            Some(Claim::Error) | None => incomplete(Reason::ModelReportedError),
        },
        Ending::EmptyDiff => (Verdict::NoGo, None),
        Ending::ProtectedPath => incomplete(Reason::ConstraintViolated),
        Ending::FormatErrors
        | Ending::NoToolCall
        | Ending::EmptyReplies
        | Ending::ReasoningOnly
        | Ending::RepliesCut
        | Ending::StuckLoop => incomplete(Reason::ModelMisunderstood),
        Ending::NoEdits
        | Ending::ContextExhausted
        | Ending::TurnsExhausted
        | Ending::TokensExhausted => incomplete(Reason::MaxTurnsExhausted),
        Ending::WallTimeExhausted | Ending::IdleTimeExhausted | Ending::ModelTimeout => {
            incomplete(Reason::Timeout)
        }
        Ending::ToolsFailed => incomplete(Reason::ToolFailed),
        Ending::ModelUnavailable | Ending::RecordingExhausted => {
            incomplete(Reason::InferenceServiceUnavailable)
        }
        Ending::ModelAuth => incomplete(Reason::AuthUnavailable),
        Ending::Infrastructure => incomplete(Reason::InfrastructureError),
        Ending::Cancelled => (Verdict::Incomplete, None),
    }
}

fn to_run(asked: &Asked) -> Option<Call> {
    match asked {
        Asked::Sound(call) if call.tool != submit_result::NAME => Some(call.clone()),
        _ => None,
    }
}

/// Returns the calls as they are to stand in the conversation: each that is answered, with the id of its answer.
fn native_calls(calls: &[RawCall], asked: &[Asked]) -> Vec<RawCall> {
    let id = |asked: &Asked| match asked {
        Asked::Sound(call) => call.id.clone(),
        Asked::Wrong { id, .. } => id.clone(),
    };
    calls
        .iter()
        .zip(asked)
        .map(|(call, asked)| RawCall {
            id: id(asked),
            ..call.clone()
        })
        .collect()
}

/// Writes native calls into the text, where the protocol has no place for them.
fn spell_out(content: &str, calls: &[RawCall]) -> String {
    let calls = calls.iter().map(|call| {
        format!(
            "<tool_call>{}</tool_call>",
            json!({"name": call.name, "arguments": call.arguments})
        )
    });
    std::iter::once(content.to_owned())
        .chain(calls)
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn shortened(content: &str) -> String {
    const MOST: usize = 4000;
    let head = head_bytes(content, MOST);
    if head.len() < content.len() {
        format!("{head}\n[cut]")
    } else {
        head.to_owned()
    }
}

#[cfg(test)]
mod tests;
