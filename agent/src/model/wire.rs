//! The bytes of `/chat/completions`: requests out, chunks in. No I/O.

use serde_json::{Map, Value, json};

use super::thoughts::part;
use super::{Finish, Message, Protocol, RawCall, Reply, Request, Sink, Speaker, Usage, estimate_tokens};
use crate::tools::schema::{ToolSpec, any_call_schema};

/// Builds the body of a streaming request.
///
/// The order of fields never changes, and neither do bytes of earlier messages: a server's prompt cache lives on that.
pub fn build_body(model: &str, request: &Request) -> Value {
    let mut body = Map::new();
    body.insert("model".into(), json!(model));
    if request.protocol == Protocol::Native && !request.tools.is_empty() {
        let tools: Vec<Value> = request.tools.iter().map(build_tool).collect();
        body.insert("tools".into(), Value::Array(tools));
        body.insert("tool_choice".into(), json!("auto"));
    }
    if request.protocol == Protocol::JsonSchema && !request.tools.is_empty() {
        body.insert(
            "response_format".into(),
            json!({"type": "json_schema", "json_schema": {"name": "call", "strict": true, "schema": any_call_schema(&request.tools)}}),
        );
    }
    let messages: Vec<Value> = request
        .messages
        .iter()
        .map(|message| build_message(message, request.protocol))
        .collect();
    body.insert("messages".into(), Value::Array(messages));
    body.insert("max_tokens".into(), json!(request.max_tokens));
    if let Some(temperature) = request.temperature {
        body.insert("temperature".into(), json!(temperature));
    }
    if !request.chat_template_kwargs.is_empty() {
        body.insert(
            "chat_template_kwargs".into(),
            Value::Object(request.chat_template_kwargs.clone()),
        );
    }
    body.insert("stream".into(), json!(true));
    body.insert("stream_options".into(), json!({"include_usage": true}));
    Value::Object(body)
}

fn build_tool(tool: &ToolSpec) -> Value {
    json!({"type": "function", "function": {"name": tool.name, "description": tool.description, "parameters": tool.json_schema()}})
}

fn build_message(message: &Message, protocol: Protocol) -> Value {
    let native = protocol == Protocol::Native;
    match message.role {
        Speaker::Tool if native => {
            json!({"role": "tool", "tool_call_id": message.call_id.as_deref().unwrap_or_default(), "content": message.content})
        }
        Speaker::Tool => json!({"role": "user", "content": message.content}),
        Speaker::Assistant if native && !message.calls.is_empty() => {
            let calls: Vec<Value> = message.calls.iter().map(build_call).collect();
            let content = if message.content.is_empty() {
                Value::Null
            } else {
                json!(message.content)
            };
            json!({"role": "assistant", "content": content, "tool_calls": calls})
        }
        Speaker::Assistant => json!({"role": "assistant", "content": message.content}),
        Speaker::System => json!({"role": "system", "content": message.content}),
        Speaker::User => json!({"role": "user", "content": message.content}),
    }
}

fn build_call(call: &RawCall) -> Value {
    // Chat templates parse the arguments: what is not an object would break every later request.
    let sound = serde_json::from_str::<Map<String, Value>>(&call.arguments).is_ok();
    let arguments = if sound { call.arguments.as_str() } else { "{}" };
    json!({"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}})
}

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
    /// The server reports a failure of its own in the middle of the stream.
    Server {
        /// Its status, 500 where it names none.
        status: u16,
        /// Its words.
        message: String,
    },
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
        let chunk: Value = serde_json::from_str(data)
            .map_err(|error| ChunkError::Malformed(format!("an event is not JSON: {error}")))?;
        self.push(&chunk, sink)
    }

    /// Takes one chunk, or a whole answer of a server that does not stream.
    pub fn push(&mut self, chunk: &Value, sink: Sink<'_>) -> Result<(), ChunkError> {
        if !chunk.is_object() {
            return Err(ChunkError::Malformed("the answer is JSON, but not an object".into()));
        }
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let status = error
                .get("code")
                .or_else(|| error.get("status"))
                .and_then(Value::as_u64)
                .and_then(|code| u16::try_from(code).ok());
            let status = status.filter(|status| (400..600).contains(status)).unwrap_or(500);
            return Err(ChunkError::Server {
                status,
                message: error_message(error),
            });
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
        if let Some(part) = choice.get("delta").or_else(|| choice.get("message")) {
            self.push_part(part, sink)?;
        }
        let reason = choice.get("finish_reason").and_then(Value::as_str);
        if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
            self.finish = Some(match reason {
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
        let reasoning = part
            .get("reasoning_content")
            .or_else(|| part.get("reasoning"))
            .and_then(Value::as_str);
        if let Some(text) = reasoning.filter(|text| !text.is_empty()) {
            sink();
            self.reasoning.push_str(text);
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

/// Reads the words of an error object in any of the shapes that servers use.
pub fn error_message(error: &Value) -> String {
    let text = match error {
        Value::String(text) => text.clone(),
        other => ["message", "detail", "error"]
            .iter()
            .find_map(|key| other.get(key))
            .map(|inner| match inner {
                Value::String(text) => text.clone(),
                Value::Object(_) => error_message(inner),
                other => other.to_string(),
            })
            .unwrap_or_else(|| other.to_string()),
    };
    crate::tools::output::one_line(&text, 400)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn assemble(chunks: &[Value]) -> Reply {
        let mut assembler = Assembler::default();
        for chunk in chunks {
            assembler.push_event(&chunk.to_string(), &|| {}).unwrap();
        }
        assembler.finish(70)
    }

    fn delta(delta: Value) -> Value {
        json!({"choices": [{"index": 0, "delta": delta}]})
    }

    #[test]
    fn calls_are_assembled_from_numbered_pieces() {
        let reply = assemble(&[
            delta(json!({"role": "assistant", "content": null})),
            delta(
                json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "read_file", "arguments": ""}}]}),
            ),
            delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"pa"}}]})),
            delta(json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "glob", "arguments": "{}"}}]})),
            delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "th\":\"x\"}"}}]})),
            json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
            json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}}),
        ]);
        let seen: Vec<(&str, &str)> = reply
            .calls
            .iter()
            .map(|call| (call.name.as_str(), call.arguments.as_str()))
            .collect();
        assert_eq!(seen, [("read_file", "{\"path\":\"x\"}"), ("glob", "{}")]);
        assert_eq!(reply.finish, Finish::ToolCalls);
        assert_eq!(
            reply.usage,
            Usage {
                prompt: 9,
                cached: 5,
                completion: 4,
                estimated: false
            }
        );
    }

    #[test]
    fn whole_calls_that_all_say_index_zero_stay_apart() {
        let whole = |id: &str, name: &str| {
            delta(
                json!({"tool_calls": [{"index": 0, "id": id, "function": {"name": name, "arguments": {"path": id}}}]}),
            )
        };
        let reply = assemble(&[whole("a", "read_file"), whole("b", "read_file")]);
        let seen: Vec<&str> = reply.calls.iter().map(|call| call.arguments.as_str()).collect();
        assert_eq!(seen, ["{\"path\":\"a\"}", "{\"path\":\"b\"}"]);
    }

    #[test]
    fn whole_calls_without_ids_under_one_index_stay_apart() {
        let whole = |path: &str| {
            let arguments = format!("{{\"path\":\"{path}\"}}");
            delta(json!({"tool_calls": [{"index": 0, "function": {"name": "read_file", "arguments": arguments}}]}))
        };
        let reply = assemble(&[whole("a"), whole("b")]);
        let seen: Vec<&str> = reply.calls.iter().map(|call| call.arguments.as_str()).collect();
        assert_eq!(seen, ["{\"path\":\"a\"}", "{\"path\":\"b\"}"]);
    }

    #[test]
    fn calls_without_number_or_id_are_joined_from_their_pieces_beside_text() {
        let reply = assemble(&[
            delta(json!({"content": "I look."})),
            delta(json!({"tool_calls": [{"function": {"name": "read_file", "arguments": "{\"pa"}}]})),
            delta(json!({"content": null, "tool_calls": [{"function": {"arguments": "th\":\"x\"}"}}]})),
            delta(json!({"content": null, "tool_calls": null})),
        ]);
        assert_eq!(reply.content, "I look.");
        assert_eq!(reply.calls.len(), 1);
        assert_eq!(reply.calls[0].arguments, "{\"path\":\"x\"}");
    }

    #[test]
    fn a_flood_of_calls_is_refused() {
        let mut assembler = Assembler::default();
        let calls: Vec<Value> = (0..10_000)
            .map(|index| json!({"index": index, "id": "same", "function": {"name": "glob", "arguments": ""}}))
            .collect();
        let refused = assembler.push(&delta(json!({"tool_calls": calls})), &|| {});
        assert_eq!(refused, Err(ChunkError::TooManyCalls));
    }

    #[test]
    fn absurd_and_broken_counts_do_no_harm() {
        let usage = json!({"prompt_tokens": u64::MAX, "completion_tokens": "many"});
        let reply = assemble(&[delta(json!({"content": "hi"})), json!({"choices": [], "usage": usage})]);
        assert_eq!(reply.usage.prompt, MOST_TOKENS);
        assert!(reply.usage.estimated && reply.usage.completion < 10);
    }

    #[test]
    fn missing_counts_are_estimated_and_marked() {
        let reply = assemble(&[delta(json!({"content": "four words of text"}))]);
        assert!(reply.usage.estimated);
        assert_eq!(reply.usage.prompt, 20);
        assert_eq!(reply.usage.completion, 6);
    }

    #[test]
    fn an_error_in_the_stream_and_a_foreign_answer_are_told_apart() {
        let mut assembler = Assembler::default();
        let seen = assembler.push(&json!({"error": {"message": "slot is gone", "code": 503}}), &|| {});
        assert_eq!(
            seen,
            Err(ChunkError::Server {
                status: 503,
                message: "slot is gone".into()
            })
        );
        assert!(matches!(
            assembler.push(&json!({"hello": 1}), &|| {}),
            Err(ChunkError::Malformed(_))
        ));
        assert!(matches!(
            assembler.push_event("{\"choices\": [", &|| {}),
            Err(ChunkError::Malformed(_))
        ));
    }

    #[test]
    fn broken_arguments_are_not_sent_back_to_the_template() {
        let call = RawCall {
            id: "1".into(),
            name: "bash".into(),
            arguments: "{\"command\": \"ls".into(),
        };
        let message = Message {
            calls: vec![call],
            ..Message::text(Speaker::Assistant, "")
        };
        let built = build_message(&message, Protocol::Native);
        assert_eq!(built.pointer("/tool_calls/0/function/arguments"), Some(&json!("{}")));
        assert_eq!(built.get("content"), Some(&Value::Null));
    }

    #[test]
    fn every_piece_of_a_long_call_is_a_sign_of_life() {
        let signs = std::sync::atomic::AtomicUsize::new(0);
        let sink = || {
            signs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        };
        let mut assembler = Assembler::default();
        for arguments in ["{\"content\": \"", "one line", " and another\"}"] {
            let call = json!([{ "index": 0, "function": { "name": "write_file", "arguments": arguments } }]);
            assembler.push(&delta(json!({ "tool_calls": call })), &sink).unwrap();
        }
        assembler.push(&delta(json!({})), &sink).unwrap();
        assert_eq!(signs.into_inner(), 3);
    }
}
