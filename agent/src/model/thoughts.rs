//! Thoughts that a model wrote into its text, parted from the text.

use crate::coder::recover;
use crate::tools::all_specs;

/// Closes thoughts. Many chat templates open them themselves, so that the reply begins within the thoughts.
const CLOSE: &str = "</think>";
/// Marks of several templates between which thoughts stand, where a reply begins with them.
const PAIRS: [(&str, &str); 5] = [
    ("<think>", CLOSE),
    ("<thinking>", "</thinking>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
];
/// Closing tags of one reply that are looked at.
const CLOSINGS: usize = 16;

/// Parts the thoughts (`<think>…</think>`, with or without the opening tag) from the text; returns both.
///
/// Without an opening tag only a closing tag parts them that no call holds in an argument and no block of code shows: a
/// file that speaks of the tag stays whole.
pub fn part(content: &str) -> (String, String) {
    let start = content.trim_start();
    let mut opened = PAIRS
        .iter()
        .filter_map(|(open, close)| Some((start.strip_prefix(open)?, *close)));
    let (thought, rest) = match opened.next() {
        Some((body, close)) => body.split_once(close).unwrap_or((body, "")),
        None => match closing(start) {
            Some(at) => (&start[..at], &start[at + CLOSE.len()..]),
            None => return (String::new(), content.to_owned()),
        },
    };
    (thought.trim().to_owned(), rest.trim_start().to_owned())
}

/// Returns where the tag is that closes thoughts which nothing opened.
fn closing(text: &str) -> Option<usize> {
    text.match_indices(CLOSE)
        .take(CLOSINGS)
        .map(|(at, _)| at)
        .find(|at| closes(text, *at))
}

fn closes(text: &str, at: usize) -> bool {
    let (before, after) = (&text[..at], &text[at + CLOSE.len()..]);
    if !stands_apart(before, after) {
        return false;
    }
    // A call that ends the reply is meant, whatever stands behind it.
    let ends_a_call = after.trim().is_empty() && recover::looks_like_call(before);
    let shown = in_code_block(before) || in_open_call(before) || in_argument(text, at);
    !ends_a_call && !shown
}

/// Tells whether the tag begins or ends its line, as a model writes it. Within a line it counts only after plain words.
fn stands_apart(before: &str, after: &str) -> bool {
    let line_before = before.rsplit('\n').next().unwrap_or_default();
    let line_after = after.split('\n').next().unwrap_or_default();
    let quoted = before.ends_with(['`', '"', '\'']);
    line_before.trim().is_empty() || !quoted && (line_after.trim().is_empty() || !before.contains('<'))
}

/// Tells whether a text ends within a block of code that a fence has opened.
fn in_code_block(before: &str) -> bool {
    let fences = before.lines().filter(|line| line.trim_start().starts_with("```"));
    fences.count() % 2 == 1
}

/// Tells whether a text ends within a call, readable or not, that has no end mark yet.
fn in_open_call(before: &str) -> bool {
    let open = |mark: &str, end: &str| {
        let at = before.rfind(mark);
        at.is_some_and(|at| !before[at..].contains(end))
    };
    open("<call ", "</call>")
        || open("<tool_call>", "</tool_call>")
        || open("<function=", "</function>")
        || before.contains("[TOOL_CALLS]")
        || before.starts_with(['{', '['])
}

/// Tells whether the tag at `at` belongs to an argument of a call, as calls are read from the whole text.
fn in_argument(text: &str, at: usize) -> bool {
    // Another text of the same length: only the tag that is asked about bears it.
    const MARK: &str = "(mark-8)";
    let marked = [&text[..at], MARK, &text[at + CLOSE.len()..]].concat();
    let calls = recover::find_calls(&marked, &all_specs());
    calls
        .iter()
        .any(|call| call.arguments.values().any(|value| value.to_string().contains(MARK)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parted(content: &str) -> Option<(String, String)> {
        let (thought, rest) = part(content);
        (rest != content).then_some((thought, rest))
    }

    fn both(thought: &str, rest: &str) -> Option<(String, String)> {
        Some((thought.to_owned(), rest.to_owned()))
    }

    #[test]
    fn thoughts_inside_the_text_are_parted_from_it() {
        assert_eq!(parted("<think>hm</think>\nyes"), both("hm", "yes"));
        assert_eq!(parted("hm\n</think>yes"), both("hm", "yes"));
        assert_eq!(parted("hm</think>yes"), both("hm", "yes"));
        assert_eq!(parted("hm.</think>"), both("hm.", ""));
        assert_eq!(parted("<think>endless"), both("endless", ""));
        assert_eq!(parted("if a < b { \"</think>\" }"), None);
        let draft = "[TOOL_CALLS]bash[ARGS]{\"command\": \"rm -r src\"}";
        assert_eq!(
            parted(&format!("[THINK]{draft}, no.[/THINK]yes")),
            both(&format!("{draft}, no."), "yes")
        );
        assert_eq!(parted("<thinking>hm</thinking>\nyes"), both("hm", "yes"));
        assert_eq!(parted("<thinking>endless</think>"), both("endless</think>", ""));
    }

    #[test]
    fn thoughts_that_nothing_opened_go_with_the_calls_drafted_in_them() {
        let call = "<call tool=\"read_file\">\n<path>src/a.rs</path>\n</call>";
        let draft = "<call tool=\"bash\">\n<command>rm -r src</command>\n</call>";
        for thought in [
            "If a < b, then Vec<u8> is too short.".to_owned(),
            format!("I could say\n{draft}\nbut no, i < 3."),
            format!("```rust\nlet a: Vec<u8>;\n```\n{draft}\nNo.\n{draft}\nNo."),
        ] {
            assert_eq!(parted(&format!("{thought}\n</think>\n\n{call}")), both(&thought, call));
            assert_eq!(parted(&format!("{thought}</think>\n{call}")), both(&thought, call));
        }
    }

    #[test]
    fn a_file_that_speaks_of_the_tag_stays_whole() {
        let inner = "text < more\n</think>\nmore";
        let escaped = "text < more\\n</think>\\nmore";
        let protocol = "a </call>\n</think>\n<call tool=\"x\"> b";
        for reply in [
            format!("<call tool=\"write_file\">\n<path>a.md</path>\n<content>\n{inner}\n</content>\n</call>"),
            format!("<call tool=\"write_file\">\n<path>a.md</path>\n<content>\n{protocol}\n</content>\n</call>"),
            format!(
                "I write it.\n<function=write_file>\n<parameter=path>\na.md\n</parameter>\n<parameter=content>\n{inner}\n</parameter>\n</function>"
            ),
            format!(
                "<tool_call>\n{{\"name\": \"write_file\", \"arguments\": {{\"path\": \"a\", \"content\": \"{escaped}\"}}}}\n</tool_call>"
            ),
            format!("{{\"tool\": \"write_file\", \"arguments\": {{\"path\": \"a\", \"content\": \"{escaped}\"}}}}"),
            format!(
                "Now:\n```json\n{{\"name\": \"write_file\", \"arguments\": {{\"path\": \"a\", \"content\": \"{inner}\"}}}}\n```"
            ),
            format!("As it stands:\n```\n{inner}\n```\nDone."),
            "The tag `</think>` closes thoughts of <model>.".to_owned(),
            // Cut in the middle of the argument.
            format!("<call tool=\"write_file\">\n<path>a.md</path>\n<content>\n{inner}"),
            // Broken JSON, which nobody can read as a call.
            format!("<tool_call>\n{{\"name\": \"write_file\", \"arguments\": {{\"content\": \"{inner}"),
        ] {
            assert_eq!(parted(&reply), None);
        }
    }

    #[test]
    fn a_file_that_speaks_of_the_tag_stays_whole_behind_thoughts_too() {
        let call = "<call tool=\"write_file\">\n<path>a.md</path>\n<content>\nx\n</think>\ny\n</content>\n</call>";
        assert_eq!(parted(&format!("hm < hm\n</think>\n{call}")), both("hm < hm", call));
    }

    #[test]
    fn a_call_that_ends_the_reply_is_kept_with_a_tag_behind_it() {
        assert_eq!(
            parted("<call tool=\"glob\">\n<pattern>*</pattern>\n</call>\n</think>\n"),
            None
        );
    }
}
