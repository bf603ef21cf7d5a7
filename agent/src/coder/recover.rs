//! Finds tool calls in text: in the project's own text protocol, and in the forms that models fall into by themselves.
//!
//! Nothing is trusted here: what is found is still checked against the tool's description.

mod blocks;
mod json;
mod named;
mod xml;

use serde_json::{Map, Value};

use crate::tools::schema::ToolSpec;

pub use json::read_json;

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
    if let Some(json) = json::begins(text) {
        let marks = [blocks::CALL].into_iter().chain(xml::MARKS).chain(named::MARKS);
        let mut others = marks.filter_map(|mark| text.find(mark).map(|at| (at, at + mark.len())));
        // Its strings may hold anything: found or not, no other form is looked for inside.
        if others.all(|(at, end)| at > json || end == json) {
            return json::json_calls(&text[json..], tools);
        }
    }
    let forms: [Form; 7] = [
        blocks::call_blocks,
        xml::function_blocks,
        xml::key_blocks,
        named::named_json,
        json::marked_json,
        json::fenced_json,
        json::bare_json,
    ];
    forms
        .iter()
        .map(|form| form(text, tools))
        .find(|found| !found.is_empty())
        .unwrap_or_default()
}

/// Marks of one form that are looked at.
const LOOKED_AT: usize = 16;

/// Returns a text from the first of the marks on that is not shown as code: who writes about calls makes none.
fn from_first<'a>(text: &'a str, marks: &[&str]) -> &'a str {
    let found = marks.iter().flat_map(|mark| text.match_indices(mark).take(LOOKED_AT));
    let mut found: Vec<usize> = found.map(|(at, _)| at).collect();
    found.sort_unstable();
    let is_shown = |before: &str| {
        let fences = before.lines().filter(|line| line.trim_start().starts_with("```"));
        let line = before.rsplit('\n').next().unwrap_or_default();
        fences.count() % 2 == 1 || line.matches('`').count() % 2 == 1
    };
    let mut found = found.into_iter().take(LOOKED_AT);
    found.find(|at| !is_shown(&text[..*at])).map_or("", |at| &text[at..])
}

/// Tells whether a text has the marks of a call, readable or not.
pub fn looks_like_call(text: &str) -> bool {
    const MARKS: [&str; 6] = [
        "<call>",
        "</tool_call>",
        "\"tool_calls\"",
        "<|tool_call",
        "<\u{ff5c}tool\u{2581}call",
        blocks::CALL,
    ];
    let marks = MARKS.iter().chain(&json::MARKS).chain(&named::MARKS);
    marks.chain(&xml::MARKS).any(|mark| text.contains(mark))
}

/// Tells whether a text ends within a call that has no end mark yet.
pub fn is_unclosed(text: &str) -> bool {
    let open = |mark: &str, end: &str| text.rfind(mark).is_some_and(|at| !text[at..].contains(end));
    open(blocks::CALL, blocks::CALL_END)
        || xml::is_unclosed(text)
        || (text.trim_start().starts_with('{') && read_json(text).is_none())
}

/// Returns the call with which a text ends, whatever stands before it.
pub fn call_at_the_end(text: &str) -> Option<&str> {
    const BLOCKS: [(&str, &str); 4] = [
        ("<tool_call>", "</tool_call>"),
        ("<function=", "</function>"),
        ("<invoke name=", "</invoke>"),
        (blocks::CALL, blocks::CALL_END),
    ];
    let text = text.trim_end();
    let (mark, end) = BLOCKS.iter().find(|(_, end)| text.ends_with(end))?;
    let piece = text.rfind(mark).map(|at| &text[at..]);
    // What lies in another call is no call, but what that one is about.
    piece.filter(|piece| piece.matches(end).count() == 1)
}

/// Returns the known name that a model means.
pub fn normalise(name: &str, tools: &[ToolSpec]) -> Option<&'static str> {
    // Marks of the template may stick to a name, a namespace stand before it and the call's number behind it.
    let plain = name.split("<|").next().unwrap_or(name).trim();
    let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    let last = plain
        .rsplit(['.', ':', '/'])
        .find(|part| !is_number(part))
        .unwrap_or(plain);
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

fn named_call(name: &str, arguments: Map<String, Value>, tools: &[ToolSpec]) -> Found {
    let name = normalise(name, tools).map_or_else(|| name.trim().to_owned(), str::to_owned);
    Found { name, arguments }
}

#[cfg(test)]
mod tests;
