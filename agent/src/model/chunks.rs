//! Replies as `/chat/completions` sends them, put together from their chunks. No I/O.

use serde_json::{Map, Value};

use super::refusal::Refusal;
use super::thoughts::part;
use super::{Finish, RawCall, Reply, Sink, Usage, estimate_tokens};
use crate::coder::recover;

/// Most calls that one reply may hold; far fewer are carried out.
pub(super) const CALLS: usize = 256;
/// Largest count of tokens that is believed.
const MOST_TOKENS: u64 = 1 << 32;

/// Puts a reply together from its chunks.
#[derive(Debug, Default)]
pub struct Assembler {
    content: String,
    reasoning: String,
    calls: Vec<Partial>,
    finish: Option<Finish>,
    usage: Option<Usage>,
    has_choice: bool,
    done: bool,
}

#[derive(Debug, Default)]
struct Partial {
    index: Option<u64>,
    id: String,
    name: String,
    arguments: String,
}

/// Tells what is wrong with a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// It is not what the protocol says.
    Malformed(String),
    /// The model asks for more calls than are read.
    TooManyCalls,
    /// The server reports a failure of its own in place of a reply, or in the middle of one.
    Server(Refusal),
    /// The server ends a reply that it did not finish, in this word of its own.
    GivenUp(String),
}

impl Assembler {
    /// Takes the data of one event: a chunk, or the closing `[DONE]`.
    pub fn push_event(&mut self, data: &str, sink: Sink<'_>) -> Result<(), ChunkError> {
        let data = data.trim();
        if data.is_empty() {
            return Ok(());
        }
        if data == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        let chunk =
            read_chunk(data).map_err(|error| ChunkError::Malformed(format!("an event is not JSON: {error}")))?;
        self.push(&chunk, sink)
    }

    /// Takes one chunk, or a whole answer of a server that does not stream.
    pub fn push(&mut self, chunk: &Value, sink: Sink<'_>) -> Result<(), ChunkError> {
        if is_error(chunk.as_array().and_then(|list| list.first()).unwrap_or(chunk)) {
            return Err(ChunkError::Server(Refusal::of(chunk)));
        }
        if !chunk.is_object() {
            return Err(ChunkError::Malformed("the answer is JSON, but not an object".into()));
        }
        if let Some(usage) = chunk.get("usage").filter(|usage| usage.is_object()) {
            self.usage = Some(read_usage(usage, chunk.get("timings")));
        }
        let Some(choices) = chunk.get("choices") else {
            return match chunk.get("usage") {
                Some(_) => Ok(()),
                None => Err(ChunkError::Malformed("the answer has no `choices`".into())),
            };
        };
        let Some(choice) = choices.as_array().and_then(|list| list.first()) else {
            return Ok(()); // the closing chunk that carries usage has an empty list
        };
        self.has_choice = true;
        let mut parts = ["delta", "message"].into_iter().filter_map(|key| choice.get(key));
        if let Some(part) = parts.find(|part| part.is_object()) {
            self.push_part(part, sink)?;
        }
        let reason = choice.get("finish_reason").and_then(Value::as_str);
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            self.finish = Some(match reason {
                // The server ran into something, or was told to stop: what came so far is half a reply.
                "abort" | "cancelled" | "error" | "network_error" => {
                    return Err(ChunkError::GivenUp(reason.to_owned()));
                }
                "stop" | "eos" | "end_turn" => Finish::Stop,
                "tool_calls" | "function_call" | "tool_use" => Finish::ToolCalls,
                "length" | "max_tokens" => Finish::Length,
                "content_filter" => Finish::ContentFilter,
                other => Finish::Other(other.chars().take(40).collect()),
            });
        }
        Ok(())
    }

    fn push_part(&mut self, part: &Value, sink: Sink<'_>) -> Result<(), ChunkError> {
        match part.get("content") {
            Some(Value::String(text)) if !text.is_empty() => {
                sink();
                self.content.push_str(text);
            }
            Some(Value::Array(parts)) => {
                for text in parts.iter().filter_map(|part| part.get("text").and_then(Value::as_str)) {
                    sink();
                    self.content.push_str(text);
                }
            }
            _ => {}
        }
        // Some servers send both names, the one they do not use with null.
        let text = |key: &str| part.get(key)?.as_str().filter(|text| !text.is_empty());
        if let Some(text) = text("reasoning_content").or_else(|| text("reasoning")) {
            sink();
            self.reasoning.push_str(text);
        }
        if let Some(text) = text("refusal") {
            sink();
            self.content.push_str(text);
        }
        for call in part.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
            self.push_call(call, sink);
            if self.calls.len() > CALLS {
                return Err(ChunkError::TooManyCalls);
            }
        }
        Ok(())
    }

    /// Adds a piece of a call. Servers differ: some number the pieces, some repeat index 0 for every call,
    /// some send whole calls without an index, some send the arguments as an object.
    fn push_call(&mut self, piece: &Value, sink: Sink<'_>) {
        sink();
        let index = piece.get("index").and_then(Value::as_u64);
        let id = piece.get("id").and_then(Value::as_str).unwrap_or_default();
        let function = piece.get("function").unwrap_or(&Value::Null);
        let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
        let at = match index {
            Some(_) => self.calls.iter().rposition(|call| call.index == index),
            None if name.is_empty() => self.calls.len().checked_sub(1),
            None => None,
        };
        let begins_another = |call: &Partial| {
            if name.is_empty() {
                return false;
            }
            let other_id = !id.is_empty() && !call.id.is_empty() && call.id != id;
            // Without ids, a second whole call under the same index follows arguments that are complete already.
            let follows_a_whole = id.is_empty()
                && call.id.is_empty()
                && function
                    .get("arguments")
                    .is_some_and(|more| !more.is_null() && more.as_str() != Some(""))
                && call.arguments.trim_end().ends_with('}')
                && serde_json::from_str::<Map<String, Value>>(&call.arguments).is_ok();
            other_id || follows_a_whole
        };
        let at = at.filter(|&at| self.calls.get(at).is_some_and(|call| !begins_another(call)));
        let at = at.unwrap_or_else(|| {
            self.calls.push(Partial {
                index,
                ..Partial::default()
            });
            self.calls.len() - 1
        });
        let Some(call) = self.calls.get_mut(at) else {
            return;
        };
        if call.id.is_empty() {
            call.id = id.to_owned();
        }
        if !name.is_empty() && call.name != name {
            call.name.push_str(name);
        }
        match function.get("arguments") {
            Some(Value::String(text)) => call.arguments.push_str(text),
            Some(Value::Null) | None => {}
            Some(other) => call.arguments.push_str(&other.to_string()),
        }
    }

    /// Returns how many bytes of reply are held.
    pub fn size(&self) -> usize {
        let calls: usize = self
            .calls
            .iter()
            .map(|call| call.arguments.len() + call.name.len() + call.id.len())
            .sum();
        self.content.len() + self.reasoning.len() + calls
    }

    /// Tells whether the server said that the reply is whole.
    pub fn is_whole(&self) -> bool {
        self.done || self.finish.is_some()
    }

    /// Tells whether the server gave any answer at all, an empty one included.
    pub fn has_choice(&self) -> bool {
        self.has_choice
    }

    /// Tells whether nothing more is to come.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Returns the reply; counts that the server did not give are estimated from `prompt_bytes`.
    pub fn finish(self, prompt_bytes: usize) -> Reply {
        let written = self.size();
        let mut usage = self.usage.unwrap_or_default();
        if usage.prompt == 0 {
            usage.prompt = estimate_tokens(prompt_bytes);
            usage.estimated = true;
        }
        if usage.completion == 0 && written > 0 {
            usage.completion = estimate_tokens(written);
            usage.estimated = true;
        }
        let (thought, content) = part(&self.content);
        let mut reasoning = self.reasoning;
        reasoning.push_str(&thought);
        let calls = self
            .calls
            .into_iter()
            .filter(|call| !(call.name.is_empty() && call.arguments.is_empty()));
        let calls = calls
            .map(|call| RawCall {
                id: call.id,
                name: call.name,
                arguments: call.arguments,
            })
            .collect();
        Reply {
            content,
            reasoning,
            calls,
            finish: self.finish.unwrap_or_default(),
            usage,
        }
    }
}

/// Reads a chunk or a whole answer. Some servers cut text in the middle of a character and send half of its escape.
pub(super) fn read_chunk(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(text).or_else(|error| recover::read_json(text).ok_or(error))
}

fn is_error(chunk: &Value) -> bool {
    let says_so = chunk.get("object").and_then(Value::as_str) == Some("error");
    says_so || chunk.get("error").is_some_and(|error| !error.is_null())
}

fn read_usage(usage: &Value, timings: Option<&Value>) -> Usage {
    let count = |value: Option<&Value>| value.and_then(Value::as_u64).unwrap_or(0).min(MOST_TOKENS);
    let cached = usage
        .pointer("/prompt_tokens_details/cached_tokens")
        .or_else(|| usage.get("prompt_cache_hit_tokens"));
    let cached = cached.or_else(|| timings.and_then(|timings| timings.get("cache_n")));
    Usage {
        prompt: count(usage.get("prompt_tokens")),
        cached: count(cached),
        completion: count(usage.get("completion_tokens")),
        estimated: false,
    }
}

#[cfg(test)]
mod tests;
