//! Finds tool calls in text: in the project's own text protocol, and in the forms that models fall into by themselves.
//!
//! Nothing is trusted here: what is found is still checked against the tool's description.

use std::collections::HashMap;

use serde_json::{Map, Value};

use crate::tools::schema::{Kind, ToolSpec};

/// Holds a call as it was found in text.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The tool, by its own name where it is known, else as written.
    pub name: String,
    /// The arguments.
    pub arguments: Map<String, Value>,
}

/// Reads one form of calls.
type Form = fn(&str, &[ToolSpec]) -> Vec<Found>;

/// Finds the calls in a text; the first form that yields any decides.
pub fn find_calls(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let forms: [Form; 5] = [call_blocks, function_blocks, marked_json, fenced_json, bare_json];
    forms
        .iter()
        .map(|form| form(text, tools))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// Tells whether a text has the marks of a call, readable or not.
pub fn looks_like_call(text: &str) -> bool {
    [
        "<call ",
        "<call>",
        "<tool_call>",
        "</tool_call>",
        "<function=",
        "[TOOL_CALLS]",
        "\"tool_calls\"",
        "<|tool_call",
    ]
    .iter()
    .any(|mark| text.contains(mark))
}

/// Returns the known name that a model means.
pub fn normalise(name: &str, tools: &[ToolSpec]) -> Option<&'static str> {
    let last = name.trim().rsplit(['.', ':', '/']).next().unwrap_or(name);
    let mut snake = String::new();
    let mut previous_lower = false;
    for c in last.trim_matches(|c: char| !c.is_alphanumeric()).chars() {
        if c.is_uppercase() && previous_lower {
            snake.push('_');
        }
        previous_lower = c.is_lowercase() || c.is_ascii_digit();
        snake.push(if c == '-' || c == ' ' {
            '_'
        } else {
            c.to_ascii_lowercase()
        });
    }
    let meant = match snake.as_str() {
        "shell" | "sh" | "run_bash" | "execute_bash" | "run_command" | "execute_command" | "terminal" => "bash",
        "search_replace" | "string_replace" | "replace_in_file" => "str_replace",
        "create_file" | "write" => "write_file",
        "read" | "open_file" | "view_file" | "cat" => "read_file",
        "search" | "rg" => "grep",
        "find_files" => "glob",
        "submit" | "finish" | "submit_results" => "submit_result",
        other => other,
    };
    tools
        .iter()
        .find(|tool| tool.name == snake)
        .or_else(|| tools.iter().find(|tool| tool.name == meant))
        .map(|tool| tool.name)
}

fn named(name: &str, arguments: Map<String, Value>, tools: &[ToolSpec]) -> Found {
    let name = normalise(name, tools).map_or_else(|| name.trim().to_owned(), str::to_owned);
    Found { name, arguments }
}

/// The text protocol: `<call tool="name">` with one tag for each argument, values as they are.
fn call_blocks(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
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
        calls.push(named(name, arguments, tools));
        at = after;
    }
    calls
}

/// Begins a call of the text protocol.
const CALL: &str = "<call ";
/// Ends one.
const CALL_END: &str = "</call>";
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
fn body_value(value: &str) -> String {
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

/// `<function=name><parameter=key>value</parameter></function>`, and `<tool_call>name<arg_key>…<arg_value>…`.
fn function_blocks(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let mut calls = Vec::new();
    for piece in text.split("<function=").skip(1) {
        let Some((name, body)) = piece.split_once('>') else {
            continue;
        };
        let body = body.split("</function>").next().unwrap_or(body);
        let mut arguments = Map::new();
        for parameter in body.split("<parameter=").skip(1) {
            let Some((key, value)) = parameter.split_once('>') else {
                continue;
            };
            let value = value.rsplit_once("</parameter>").map_or(value, |(value, _)| value);
            arguments.insert(key.trim().to_owned(), Value::String(body_value(value)));
        }
        if arguments.is_empty()
            && let Some(Value::Object(object)) = read_json(body)
        {
            arguments = object;
        }
        calls.push(named(name, arguments, tools));
    }
    if calls.is_empty() && text.contains("<arg_key>") {
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
            calls.push(named(name, arguments, tools));
        }
    }
    calls
}

/// JSON between the marks that models were trained on; a missing opening or closing mark is forgiven.
fn marked_json(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    if let Some((_, rest)) = text.split_once("[TOOL_CALLS]") {
        return json_calls(rest, tools);
    }
    let Some(at) = text
        .find("<tool_call>")
        .map(|at| at + "<tool_call>".len())
        .or_else(|| text.contains("</tool_call>").then_some(0))
    else {
        return Vec::new();
    };
    json_calls(&text[at..], tools)
}

fn fenced_json(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
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

fn bare_json(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let text = text.trim();
    if text.starts_with(['{', '[']) {
        json_calls(text, tools)
    } else {
        Vec::new()
    }
}

/// Reads JSON objects one after another and keeps those that are calls of known tools.
fn json_calls(text: &str, tools: &[ToolSpec]) -> Vec<Found> {
    let mut calls = Vec::new();
    let mut rest = text;
    // An opening brace that nothing closes is read to the end of the text, and the next one again.
    let mut left = 8 * text.len() + 64 * 1024;
    for _ in 0..64 {
        let Some(at) = rest.find(['{', '[']) else {
            break;
        };
        rest = &rest[at..];
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let (value, used) = match stream.next() {
            Some(Ok(value)) => (Some(value), stream.byte_offset()),
            _ => {
                let piece = balanced(rest);
                let looked_at = piece.unwrap_or(rest);
                let Some(less) = left.checked_sub(looked_at.len()) else {
                    break;
                };
                left = less;
                (read_json(looked_at), piece.map_or(1, str::len))
            }
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
                Some('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' | 'u') => {
                    mended.push('\\');
                    mended.extend(chars.next());
                }
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

#[cfg(test)]
mod tests;
