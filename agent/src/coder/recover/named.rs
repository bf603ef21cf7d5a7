//! Calls whose name stands before a JSON object of arguments, as the templates of Mistral, Kimi, DeepSeek and gpt-oss
//! write them: `[TOOL_CALLS]name[ARGS]{…}`, `<|tool_call_begin|>functions.name:0<|tool_call_argument_begin|>{…}`,
//! `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name … {…}`, `to=functions.name <|constrain|>json<|message|>{…}`.

use serde_json::Value;

use super::json::Reader;
use super::{Found, from_first, normalise};
use crate::tools::output::head_bytes;
use crate::tools::schema::ToolSpec;

/// Begin a call.
pub(super) const MARKS: [&str; 4] = [
    "[TOOL_CALLS]",
    "<|tool_call_begin|>",
    "<\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>",
    "to=functions.",
];
/// Longest text between a mark and the arguments, in bytes.
const HEAD: usize = 200;

/// Reads calls of known tools, one after another.
pub(super) fn named_json(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let mut calls = Vec::new();
    let text = from_first(text, &MARKS);
    let Some(mark) = MARKS.iter().find(|mark| text.starts_with(**mark)) else {
        return calls;
    };
    let mut reader = Reader::new(text);
    let mut rest = text;
    while let Some(at) = rest.find(mark) {
        rest = &rest[at + mark.len()..];
        let head = head_bytes(rest, HEAD);
        let Some(brace) = head.find('{') else { continue };
        let name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        let mut words = head[..brace].split(|c| !name(c)).filter(|word| !word.is_empty());
        // DeepSeek's templates say first what kind of tool it is: `function<｜tool▁sep｜>name`.
        let name = words.find(|word| !["function", "tool", "sep"].contains(word));
        let Some(tool) = name.and_then(|name| normalise(name, tools)) else {
            continue;
        };
        let Some((value, used)) = reader.read(&rest[brace..]) else {
            break;
        };
        if let Some(Value::Object(arguments)) = value {
            calls.push(Found {
                name: tool.to_owned(),
                arguments,
            });
            rest = &rest[brace + used..];
        }
    }
    calls
}
