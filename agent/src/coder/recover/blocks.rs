//! The project's own text protocol: a block for each call, a tag for each argument, code as it stands.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{Found, named_call, normalise};
use crate::tools::schema::{Kind, ToolSpec};

/// The text protocol: `<call tool="name">` with one tag for each argument, values as they are.
pub(super) fn call_blocks(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let mut calls = Vec::new();
    let mut at = 0;
    let Some(first) = text.find(CALL) else { return calls };
    let tags = Tags::new(text, first);
    while let Some(found) = text[at..].find(CALL) {
        let begin = at + found + CALL.len();
        let Some(end) = text[begin..].find('>') else { break };
        let name = text[begin..begin + end]
            .trim()
            .trim_start_matches("tool")
            .trim_start_matches("name")
            .trim_start()
            .trim_start_matches('=')
            .trim()
            .trim_end_matches('/')
            .trim();
        let name = name.trim_matches(['"', '\'']);
        let spec = normalise(name, tools).and_then(|known| tools.iter().find(|tool| tool.name == known));
        let (arguments, after) = tags.values(begin + end + 1, spec);
        calls.push(named_call(name, arguments, tools));
        at = after;
    }
    calls
}

/// Begins a call of the text protocol.
pub(super) const CALL: &str = "<call ";
/// Ends one.
pub(super) const CALL_END: &str = "</call>";
/// Longest name of a tag.
const TAG_NAME: usize = 40;
/// Closing tags of one value that are looked at.
const CLOSINGS: usize = 200;

/// The plain tags of a text, found once: a reply may be a megabyte of them, and each question about what comes next
/// must not read it all again.
struct Tags<'a> {
    text: &'a str,
    /// Where an opening tag begins.
    opening: Vec<usize>,
    /// Where the closing tags of a name begin.
    closing: HashMap<&'a str, Vec<usize>>,
}

impl<'a> Tags<'a> {
    fn new(text: &'a str, from: usize) -> Self {
        let mut tags = Self {
            text,
            opening: Vec::new(),
            closing: HashMap::new(),
        };
        for (at, _) in text[from..].match_indices('<') {
            let at = from + at;
            if opening_tag(&text[at..]).is_some() {
                tags.opening.push(at);
            } else if let Some(name) = text[at + 1..].strip_prefix('/').and_then(tag_name) {
                tags.closing.entry(name).or_default().push(at);
            }
        }
        tags
    }

    fn next_opening(&self, from: usize) -> Option<usize> {
        self.opening.get(self.opening.partition_point(|at| *at < from)).copied()
    }

    fn closings(&self, name: &str, from: usize) -> &[usize] {
        let all = self.closing.get(name).map_or(&[][..], Vec::as_slice);
        &all[all.partition_point(|at| *at < from)..]
    }

    fn call_end(&self, from: usize) -> Option<usize> {
        self.closings("call", from).first().copied()
    }

    /// Reads `<name>value</name>` pairs up to the end of the call, and says where that is. A value may hold anything, its
    /// own closing tag included, as long as what follows that is not the next argument or the end.
    fn values(&self, from: usize, spec: Option<&ToolSpec>) -> (Map<String, Value>, usize) {
        let mut values = Map::new();
        let mut at = from;
        loop {
            let rest = &self.text[at..];
            let trimmed = rest.trim_start();
            at += rest.len() - trimmed.len();
            if trimmed.starts_with(CALL_END) {
                return (values, at + CALL_END.len());
            }
            let Some((name, body)) = opening_tag(trimmed) else {
                // Stray text: the next tag or the end of the block is what counts.
                match (self.next_opening(at), self.call_end(at)) {
                    (Some(tag), end) if end.is_none_or(|end| tag < end) => {
                        at = tag;
                        continue;
                    }
                    (_, Some(end)) => return (values, end + CALL_END.len()),
                    (_, None) => return (values, self.text.len()),
                }
            };
            let body_at = self.text.len() - body.len();
            let closing = name.len() + "</>".len();
            let param = |name: &str| {
                let mut params = spec.map(|spec| spec.params.iter()).into_iter().flatten();
                params.find(|param| param.name == name || param.aliases.contains(&name))
            };
            let fits = |end: &usize| {
                let after = self.text[end + closing..].trim_start();
                after.is_empty()
                    || after.starts_with(CALL_END)
                    || opening_tag(after).is_some_and(|(next, _)| spec.is_none() || param(next).is_some())
            };
            let ends = self.closings(name, body_at);
            let ends = &ends[..ends.len().min(CLOSINGS)];
            let end = ends.iter().copied().find(fits).or_else(|| ends.last().copied());
            let (value, after) = match end {
                Some(end) => (&self.text[body_at..end], end + closing),
                None => match self.call_end(body_at) {
                    Some(end) => (&self.text[body_at..end], end),
                    None => (body, self.text.len()),
                },
            };
            let value = match param(name).map(|param| &param.kind) {
                Some(Kind::Body) | None => body_value(value),
                Some(_) => value.trim().to_owned(),
            };
            values.insert(name.to_owned(), Value::String(value));
            at = after;
        }
    }
}

/// Returns the name of an opening tag without attributes, and what follows the tag.
fn opening_tag(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let name = tag_name(inner)?;
    Some((name, &inner[name.len() + 1..]))
}

/// Returns the name that a text begins with and a `>` ends.
fn tag_name(text: &str) -> Option<&str> {
    let end = text.bytes().take(TAG_NAME + 1).position(|byte| byte == b'>')?;
    let name = text.get(..end)?;
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    plain.then_some(name)
}

/// Takes off the line end after the opening tag and the indentation before the closing one.
pub(super) fn body_value(value: &str) -> String {
    let Some(body) = value.strip_prefix("\r\n").or_else(|| value.strip_prefix('\n')) else {
        return value.to_owned();
    };
    let end = body.rfind('\n').map_or(0, |at| at + 1);
    let last = &body[end..];
    if last.trim().is_empty() {
        body[..end].to_owned()
    } else {
        body.to_owned()
    }
}
