//! Calls as JSON, behind marks, in fences or bare, and JSON as models get it wrong.

use serde_json::Value;

use super::{Found, normalise};
use crate::tools::schema::ToolSpec;

/// Marks before JSON that models were trained on.
pub(super) const MARKS: [&str; 6] = [
    "[TOOL_CALLS]",
    "<tool_call>",
    "<tool_calls>",
    "<|tool_call|>",
    "<|python_tag|>",
    "<|START_ACTION|>",
];

/// Finds where JSON begins that its place makes a call: at the start of the text, or right behind a mark.
pub(super) fn begins(text: &str) -> Option<usize> {
    let is_json = |at: &usize| {
        let rest = text[*at..].trim_start();
        rest.starts_with('{')
            || rest
                .strip_prefix('[')
                .is_some_and(|list| list.trim_start().starts_with('{'))
    };
    let marked = MARKS.iter().filter_map(|mark| Some(text.find(mark)? + mark.len()));
    marked.chain([0]).filter(is_json).min()
}

/// JSON behind one of the marks; a missing opening or closing mark is forgiven.
pub(super) fn marked_json(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let marked = MARKS
        .iter()
        .filter_map(|mark| text.find(mark).map(|at| at + mark.len()));
    match marked.min() {
        Some(at) => json_calls(&text[at..], tools),
        None if text.contains("</tool_call>") => json_calls(text, tools),
        None => Vec::new(),
    }
}

/// JSON in a fenced block.
pub(super) fn fenced_json(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let mut calls = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("```") {
        let after = &rest[at + 3..];
        let (info, body) = after.split_once('\n').unwrap_or((after, ""));
        let (body, next) = body.split_once("```").unwrap_or((body, ""));
        if matches!(info.trim(), "json" | "tool" | "tool_call" | "tool_code" | "") {
            calls.extend(json_calls(body, tools));
        }
        rest = next;
    }
    calls
}

/// A reply that is JSON and nothing else.
pub(super) fn bare_json(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let text = text.trim();
    if text.starts_with(['{', '[']) {
        json_calls(text, tools)
    } else {
        Vec::new()
    }
}

/// Reads JSON objects one after another and keeps those that are calls of known tools.
pub(super) fn json_calls(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let mut calls = Vec::new();
    let mut rest = text;
    let mut reader = Reader::new(text);
    for _ in 0..64 {
        let Some(at) = rest.find(['{', '[']) else {
            break;
        };
        rest = &rest[at..];
        let Some((value, used)) = reader.read(rest) else {
            break;
        };
        let before = calls.len();
        if let Some(value) = &value {
            collect(value, tools, &mut calls);
        }
        let used = if calls.len() == before && value.is_none() {
            1
        } else {
            used.max(1)
        };
        rest = rest.get(used..).unwrap_or_default();
    }
    calls
}

/// Reads JSON out of a text, and gives up before it has read it too often.
pub(super) struct Reader {
    /// Bytes that may still be read where JSON is broken: an opening brace that nothing closes is read to the end of the
    /// text, and the next one again.
    left: usize,
}

impl Reader {
    pub(super) fn new(text: &str) -> Self {
        Self {
            left: 8 * text.len() + 64 * 1024,
        }
    }

    /// Reads what a text begins with, mended where that helps; returns it with its length, and `None` once too much was
    /// read.
    pub(super) fn read(&mut self, text: &str) -> Option<(Option<Value>, usize)> {
        let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        if let Some(Ok(value)) = stream.next() {
            return Some((Some(value), stream.byte_offset()));
        }
        let piece = balanced(text);
        let looked_at = piece.unwrap_or(text);
        self.left = self.left.checked_sub(looked_at.len())?;
        Some((read_json(looked_at), piece.map_or(1, str::len)))
    }
}

fn collect(value: &Value, tools: &[ToolSpec], calls: &mut Vec<Found>) {
    let object = match value {
        Value::Array(items) => {
            items.iter().for_each(|item| collect(item, tools, calls));
            return;
        }
        Value::Object(object) => object,
        _ => return,
    };
    for wrapper in ["tool_calls", "function_call", "tool_call", "function"] {
        if let Some(inner @ (Value::Object(_) | Value::Array(_))) = object.get(wrapper) {
            collect(inner, tools, calls);
            return;
        }
    }
    let name_key = ["name", "tool", "tool_name", "function", "action"]
        .into_iter()
        .find(|key| object.get(*key).is_some_and(Value::is_string));
    let Some(name_key) = name_key else { return };
    let Some(name) = object
        .get(name_key)
        .and_then(Value::as_str)
        .and_then(|name| normalise(name, tools))
    else {
        return;
    };
    let nested = ["arguments", "parameters", "args", "input", "action_input"]
        .into_iter()
        .find_map(|key| object.get(key));
    let arguments = match nested {
        Some(Value::Object(arguments)) => arguments.clone(),
        Some(Value::String(text)) => match read_json(text) {
            Some(Value::Object(arguments)) => arguments,
            _ => return,
        },
        Some(_) => return,
        None => object
            .iter()
            .filter(|(key, _)| key.as_str() != name_key && key.as_str() != "thought")
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    };
    calls.push(Found {
        name: name.to_owned(),
        arguments,
    });
}

/// Returns the piece from an opening brace to the one that closes it.
fn balanced(text: &str) -> Option<&str> {
    let (mut depth, mut in_string, mut escaped) = (0u32, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return Some(&text[..=at]);
                }
            }
            _ => {}
        }
    }
    None
}

/// Reads JSON, mending what models get wrong most: bare line ends in strings, bad escapes, commas before a closing brace.
pub fn read_json(text: &str) -> Option<Value> {
    let text = text.trim();
    if let Ok(value) = serde_json::from_str(text) {
        return Some(value);
    }
    serde_json::from_str(&mend_json(text)).ok()
}

fn mend_json(text: &str) -> String {
    let mut mended = String::with_capacity(text.len() + 16);
    let mut in_string = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                in_string = !in_string;
                mended.push(c);
            }
            '\\' if in_string => match chars.peek() {
                Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => {
                    mended.push('\\');
                    mended.extend(chars.next());
                }
                Some('u') => push_unicode(&mut mended, &mut chars),
                Some('\'') => mended.extend(chars.next()),
                _ => mended.push_str("\\\\"),
            },
            '\n' if in_string => mended.push_str("\\n"),
            '\r' if in_string => mended.push_str("\\r"),
            '\t' if in_string => mended.push_str("\\t"),
            ',' if !in_string => {
                let mut ahead = chars.clone();
                let next = ahead.find(|c| !c.is_whitespace());
                if !matches!(next, Some('}' | ']')) {
                    mended.push(',');
                }
            }
            c => mended.push(c),
        }
    }
    mended
}

/// Adds an escape that begins with `\u`, of which `chars` stands before the `u`: what is none is plain text, and half of a
/// pair of surrogates stands for nothing.
fn push_unicode(mended: &mut String, chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let unit = |chars: &std::iter::Peekable<std::str::Chars<'_>>, marks: &[char]| {
        let mut ahead = chars.clone();
        marks.iter().all(|mark| ahead.next() == Some(*mark)).then_some(())?;
        let digits: String = ahead.take(4).filter(char::is_ascii_hexdigit).collect();
        (digits.len() == 4).then_some(())?;
        u16::from_str_radix(&digits, 16).ok()
    };
    match unit(chars, &['u']) {
        None => mended.push_str("\\\\"),
        Some(first) => {
            let escape: String = chars.by_ref().take(5).collect();
            let second = unit(chars, &['\\', 'u']).filter(|second| (0xdc00..0xe000).contains(second));
            match (first, second) {
                (0xd800..=0xdbff, Some(_)) => {
                    let second: String = chars.by_ref().take(6).collect();
                    mended.push_str(&format!("\\{escape}{second}"));
                }
                (0xd800..=0xdfff, _) => mended.push('\u{fffd}'),
                _ => mended.push_str(&format!("\\{escape}")),
            }
        }
    }
}
