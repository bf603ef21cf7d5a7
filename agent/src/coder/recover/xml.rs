//! Calls as tags that name the tool and each argument, as Qwen's, GLM's and other templates write them.

use serde_json::{Map, Value};

use super::blocks::body_value;
use super::json::read_json;
use super::{Found, from_first, named_call};
use crate::tools::schema::ToolSpec;

/// How a family of templates writes its tags.
struct Dialect {
    /// Begins a call; the name follows.
    call: &'static str,
    call_end: &'static str,
    /// Begins an argument; its name follows.
    argument: &'static str,
    argument_end: &'static str,
}

/// `<function=name><parameter=key>value</parameter></function>`, and `<invoke name="name"><parameter name="key">…`.
const DIALECTS: [Dialect; 2] = [
    Dialect {
        call: "<function=",
        call_end: "</function>",
        argument: "<parameter=",
        argument_end: "</parameter>",
    },
    Dialect {
        call: "<invoke name=",
        call_end: "</invoke>",
        argument: "<parameter name=",
        argument_end: "</parameter>",
    },
];
/// Begin a call, or are part of one.
pub(super) const MARKS: [&str; 3] = ["<function=", "<invoke name=", "<arg_key>"];
/// Closing tags of one value that are looked at.
const CLOSINGS: usize = 200;

/// Tells whether a text ends within a call of these forms.
pub(super) fn is_unclosed(text: &str) -> bool {
    let open = |mark: &str, end: &str| {
        text.rfind(mark)
            .map(|at| &text[at..])
            .filter(|piece| !piece.contains(end))
    };
    DIALECTS
        .iter()
        .any(|dialect| open(dialect.call, dialect.call_end).is_some())
        || open("<tool_call>", "</tool_call>").is_some_and(|piece| piece.contains("<arg_key>"))
}

/// Reads calls in one of the dialects.
pub(super) fn function_blocks(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let text = from_first(text, &[DIALECTS[0].call, DIALECTS[1].call]);
    let dialect = DIALECTS.iter().find(|dialect| text.starts_with(dialect.call));
    dialect.map(|dialect| dialect.calls(text, tools)).unwrap_or_default()
}

impl Dialect {
    fn calls(&self, text: &str, tools: &[ToolSpec]) -> Vec<Found> {
        let mut calls = Vec::new();
        // Found once: a reply may be a megabyte of tags, and each argument must not read it all again.
        let all = |mark: &str| text.match_indices(mark).map(|(at, _)| at).collect::<Vec<usize>>();
        let (opens, ends) = (all(self.argument), all(self.argument_end));
        let mut at = 0;
        while let Some(begin) = text[at..].find(self.call) {
            let begin = at + begin + self.call.len();
            let Some(end) = text[begin..].find('>') else { break };
            let name = unquoted(&text[begin..begin + end]);
            at = begin + end + 1;
            let next = text[at..].find(self.call).map_or(text.len(), |next| at + next);
            let own = &text[at..next];
            let mut arguments = Map::new();
            match own.find(self.argument) {
                Some(first) => at = self.arguments(text, at + first, (&opens, &ends), &mut arguments),
                None => {
                    let body = own.split(self.call_end).next().unwrap_or(own);
                    if let Some(Value::Object(object)) = read_json(body) {
                        arguments = object;
                    }
                }
            }
            calls.push(named_call(name, arguments, tools));
        }
        calls
    }

    /// Reads arguments that follow each other from `at` on; returns where they end. A value may hold anything, its own
    /// closing tag and whole calls included, as long as what follows that tag is not the next argument or the end.
    fn arguments(
        &self,
        text: &str,
        mut at: usize,
        (opens, ends): (&[usize], &[usize]),
        into: &mut Map<String, Value>,
    ) -> usize {
        while text[at..].starts_with(self.argument) {
            let begin = at + self.argument.len();
            let Some(end) = text[begin..].find('>') else {
                return text.len();
            };
            let key = unquoted(&text[begin..begin + end]);
            let value = begin + end + 1;
            let fits = |end: &usize| {
                let after = text[end + self.argument_end.len()..].trim_start();
                let marks = [self.argument, self.call_end, "</tool_call>"];
                after.is_empty() || marks.iter().any(|mark| after.starts_with(mark))
            };
            let ends = &ends[ends.partition_point(|end| *end < value)..];
            let ends = &ends[..ends.len().min(CLOSINGS)];
            // What is written about calls has as many arguments as it has ends of them.
            let opens = &opens[opens.partition_point(|open| *open < value)..];
            let is_balanced = |(closed, end): &(usize, &usize)| opens.partition_point(|open| open < *end) == *closed;
            let mut closings = ends.iter().enumerate();
            let balanced = closings.find(|found| fits(found.1) && is_balanced(found));
            let end = balanced.map(|(_, end)| *end);
            let end = end.or_else(|| ends.iter().copied().find(fits));
            let end = end.or_else(|| ends.last().copied());
            // One that the model forgot to close ends with its call, or where the next argument begins.
            let mut unclosed = &text[value..ends.first().copied().unwrap_or(text.len())];
            if end.is_none() {
                unclosed = unclosed.split(self.argument).next().unwrap_or(unclosed);
            }
            let ended_by_call = unclosed.find(self.call_end).map(|end| value + end).filter(|end| {
                let after = text[end + self.call_end.len()..].trim_start();
                after.is_empty() || [self.call, "</tool_call>"].iter().any(|mark| after.starts_with(mark))
            });
            let (end, after) = match (ended_by_call, end) {
                (Some(end), _) => (end, end),
                (None, Some(end)) => (end, end + self.argument_end.len()),
                (None, None) => (value + unclosed.len(), value + unclosed.len()),
            };
            into.insert(key.to_owned(), Value::String(body_value(&text[value..end])));
            at = after;
            at += text[at..].len() - text[at..].trim_start().len();
        }
        at
    }
}

/// Returns a name without the quotes around it and what else the tag says.
fn unquoted(name: &str) -> &str {
    let name = name.trim();
    match name.chars().next() {
        Some(quote @ ('"' | '\'')) => name[1..].split(quote).next().unwrap_or_default(),
        _ => name.trim_end_matches('/').trim(),
    }
}

/// `<tool_call>name<arg_key>key</arg_key><arg_value>value</arg_value></tool_call>`.
pub(super) fn key_blocks(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let mut calls = Vec::new();
    if !text.contains("<arg_key>") {
        return calls;
    }
    let text = from_first(text, &["<tool_call>"]);
    for piece in text.split("<tool_call>").skip(1) {
        let piece = piece.split("</tool_call>").next().unwrap_or(piece);
        let name = piece.split(['\n', '<']).next().unwrap_or_default();
        let mut arguments = Map::new();
        for pair in piece.split("<arg_key>").skip(1) {
            let Some((key, value)) = pair.split_once("</arg_key>") else {
                continue;
            };
            let value = value.split_once("<arg_value>").map_or("", |(_, value)| value);
            let value = value.rsplit_once("</arg_value>").map_or(value, |(value, _)| value);
            arguments.insert(key.trim().to_owned(), Value::String(value.to_owned()));
        }
        calls.push(named_call(name, arguments, tools));
    }
    calls
}
