//! What a reply is taken for, and what is said where it brings nothing.

use serde_json::{Map, Value, json};

use super::{Action, FORMAT_ERRORS, Phase, Problem, State};
use crate::coder::Ending;
use crate::coder::extract::{self, Asked, Content};
use crate::model::{Category, Protocol, RawCall, Reply};
use crate::tools::Call;
use crate::tools::output::head_bytes;
use crate::tools::submit_result;

impl State {
    pub(super) fn on_reply(&mut self, reply: Reply, actions: &mut Vec<Action>) {
        self.usage.add(reply.usage);
        self.conversation.learn(reply.usage);
        let content = extract::read(&reply, self.settings.protocol, &self.tools, self.turn);
        match content {
            Content::Calls {
                asked,
                native,
                left_out,
            } => {
                let calls = if native {
                    native_calls(&reply.calls, &asked)
                } else {
                    Vec::new()
                };
                let said = match extract::call_in_thoughts(&reply) {
                    Some(call) => call.to_owned(),
                    None if native || reply.calls.is_empty() => reply.content,
                    None => spell_out(&reply.content, &reply.calls),
                };
                self.conversation.reply(self.turn, said, calls);
                if !native {
                    self.recovered = self.recovered.saturating_add(1);
                }
                let sound: Vec<Call> = asked.iter().filter_map(to_run).collect();
                let submits = asked
                    .iter()
                    .any(|asked| matches!(asked, Asked::Sound(call) if call.tool == submit_result::NAME));
                if !sound.is_empty() {
                    self.problems.clear();
                    self.tool_calls = self
                        .tool_calls
                        .saturating_add(u32::try_from(sound.len()).unwrap_or(u32::MAX));
                    self.phase = Phase::Working { asked, left_out };
                    actions.push(Action::RunTools(sound));
                } else if submits {
                    self.problems.clear();
                    self.on_results(asked, left_out, Vec::new(), actions);
                } else {
                    for wrong in &asked {
                        if let Asked::Wrong { id, name, lesson } = wrong {
                            self.observe(id.clone(), name, "", "refused", lesson.clone(), actions);
                        }
                    }
                    self.problem(Problem::Wrong, left_out_lesson(left_out), actions);
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

    pub(super) fn on_model_failed(&mut self, category: Category, message: &str, actions: &mut Vec<Action>) {
        match category {
            Category::Endless => self.problem(Problem::Cut, Some(self.cut_lesson()), actions),
            Category::TooManyCalls => {
                let lesson = format!(
                    "Your reply held hundreds of tool calls, and none of them was run. Send at most {} in one reply.",
                    extract::CALLS_PER_REPLY
                );
                self.problem(Problem::Wrong, Some(lesson), actions);
            }
            Category::ContextOverflow => {
                // The window is smaller than we were told: believe what the server just refused.
                self.window = self.window.min(self.conversation.tokens()).saturating_mul(4) / 5;
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
            Category::Recording => self.end(Ending::RecordingExhausted, message.to_owned(), actions),
        }
    }

    /// Counts a reply that brings nothing; three in a row end the run.
    pub(super) fn problem(&mut self, problem: Problem, lesson: Option<String>, actions: &mut Vec<Action>) {
        self.problems.push(problem);
        self.problems_total = self.problems_total.saturating_add(1);
        if self.problems.len() >= FORMAT_ERRORS {
            let same = self.problems.iter().all(|other| *other == problem);
            let (ending, what) = match problem {
                Problem::Text if same => (Ending::NoToolCall, "held text and no tool call"),
                Problem::Cut if same => (
                    Ending::RepliesCut,
                    "were cut off, at the limit of output tokens or of the time for a reply",
                ),
                Problem::Reasoning if same => (Ending::ReasoningOnly, "held thoughts only"),
                Problem::Empty if same => (Ending::EmptyReplies, "were empty"),
                _ => (Ending::FormatErrors, "held no tool call that could be run"),
            };
            self.end(ending, format!("{FORMAT_ERRORS} replies in a row {what}"), actions);
            return;
        }
        if let Some(lesson) = lesson {
            self.say(lesson, actions);
        }
        self.edit_free = self.edit_free.saturating_add(1);
        self.go_on(actions);
    }

    pub(super) fn how_to_call(&self) -> &'static str {
        match self.settings.protocol {
            Protocol::Native => "Use the tool calls of the interface; write no calls into the text.",
            Protocol::JsonSchema => "Reply with one JSON object: {\"tool\": NAME, \"arguments\": {…}}.",
            Protocol::Text => "Write it as the rules show: <call tool=\"NAME\">, one tag for each argument, </call>.",
        }
    }

    pub(super) fn cut_lesson(&self) -> String {
        "Your reply was cut off because it was too long, and nothing of it was done. Think less, and take a smaller step: write a long file in parts, or change it with str_replace.".into()
    }
}

/// Says that calls of a reply were not run, if any were not.
pub(super) fn left_out_lesson(left_out: usize) -> Option<String> {
    let calls = if left_out == 1 { "call was" } else { "calls were" };
    (left_out > 0).then(|| {
        format!(
            "The last {left_out} {calls} not run; send at most {} in one reply.",
            extract::CALLS_PER_REPLY
        )
    })
}

fn to_run(asked: &Asked) -> Option<Call> {
    match asked {
        Asked::Sound(call) if call.tool != submit_result::NAME => Some(call.clone()),
        _ => None,
    }
}

/// Returns the calls as they are to stand in the conversation: each that is answered, with the id of its answer. Servers
/// look at names and arguments again with every request, and some refuse all of it for one that is not plain.
fn native_calls(calls: &[RawCall], asked: &[Asked]) -> Vec<RawCall> {
    let stands = |(call, asked): (&RawCall, &Asked)| match asked {
        Asked::Sound(sound) => RawCall {
            id: sound.id.clone(),
            name: sound.tool.clone(),
            arguments: match serde_json::from_str::<Map<String, Value>>(&call.arguments) {
                Ok(_) => call.arguments.clone(),
                // As they were read and carried out.
                Err(_) => Value::Object(sound.arguments.clone()).to_string(),
            },
        },
        Asked::Wrong { id, .. } => RawCall {
            id: id.clone(),
            name: plain_name(&call.name),
            arguments: call.arguments.clone(),
        },
    };
    calls.iter().zip(asked).map(stands).collect()
}

/// Returns a name as every server takes one.
fn plain_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.trim().chars().take(64).map(plain).collect();
    if name.is_empty() { "unnamed".into() } else { name }
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
