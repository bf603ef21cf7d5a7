//! What a reply asks for: its calls, checked one by one, or the reason why there is none.

use std::collections::HashSet;

use crate::coder::recover;
use crate::model::{Finish, Protocol, RawCall, Reply};
use crate::tools::Call;
use crate::tools::output::one_line;
use crate::tools::schema::ToolSpec;

/// Most calls of one reply that are run.
pub const CALLS_PER_REPLY: usize = 12;
/// Longest id of a server that is kept, in bytes.
const ID: usize = 128;

/// Holds one call of a reply after the check.
#[derive(Clone, Debug, PartialEq)]
pub enum Asked {
    /// It fits its tool.
    Sound(Call),
    /// It does not; the text teaches.
    Wrong {
        /// The server's id of the call; empty where it was found in text.
        id: String,
        /// The name as written.
        name: String,
        /// What is wrong and what is expected.
        lesson: String,
    },
}

/// Says what a reply amounts to.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Calls, sound or not.
    Calls {
        /// The calls.
        asked: Vec<Asked>,
        /// True where they came as the server's own tool calls.
        native: bool,
        /// How many more the reply held than are run.
        left_out: usize,
    },
    /// Text without a call.
    Text,
    /// Marks of a call that nobody can read.
    Garbled,
    /// Cut before a call was whole, at the limit of output tokens or otherwise.
    Cut,
    /// Thoughts, and nothing said.
    ReasoningOnly,
    /// Nothing.
    Empty,
}

/// Reads a reply.
pub fn read(reply: &Reply, protocol: Protocol, tools: &[ToolSpec], turn: u32) -> Content {
    // A limit, a filter or something else ended it: what is not whole is half of what the model meant.
    let ended_early = !matches!(reply.finish, Finish::Stop | Finish::ToolCalls);
    if !reply.calls.is_empty() {
        let cut = ended_early
            && reply
                .calls
                .last()
                .is_some_and(|call| recover::read_json(&call.arguments).is_none());
        let whole = if cut {
            &reply.calls[..reply.calls.len() - 1]
        } else {
            &reply.calls[..]
        };
        if whole.is_empty() {
            return Content::Cut;
        }
        let native = protocol == Protocol::Native;
        let mut ids = HashSet::new();
        let asked = whole
            .iter()
            .take(CALLS_PER_REPLY)
            .enumerate()
            .map(|(at, call)| {
                let id = match native {
                    false => String::new(),
                    true => answered_under(&call.id, &mut ids, turn, at),
                };
                check_native(call, id, tools)
            })
            .collect();
        let left_out = whole.len().saturating_sub(CALLS_PER_REPLY);
        return Content::Calls {
            asked,
            native,
            left_out,
        };
    }
    let unclosed = ended_early && recover::is_unclosed(&reply.content);
    let mut found = match call_in_thoughts(reply) {
        Some(call) => recover::find_calls(call, tools),
        None => recover::find_calls(&reply.content, tools),
    };
    if unclosed {
        found.pop();
    }
    if !found.is_empty() {
        let left_out = found.len().saturating_sub(CALLS_PER_REPLY);
        let asked = found
            .into_iter()
            .take(CALLS_PER_REPLY)
            .map(|call| check(String::new(), call.name, call.arguments, tools))
            .collect();
        return Content::Calls {
            asked,
            native: false,
            left_out,
        };
    }
    if unclosed || reply.finish == Finish::Length {
        return Content::Cut;
    }
    match (reply.content.trim().is_empty(), reply.reasoning.trim().is_empty()) {
        (true, true) => Content::Empty,
        (true, false) => Content::ReasoningOnly,
        _ if recover::looks_like_call(&reply.content) => Content::Garbled,
        _ => Content::Text,
    }
}

/// Returns the call with which thoughts end that nothing follows: a model that forgot to close its thoughts stopped there
/// and waits for the answer. Calls further up are drafts.
pub fn call_in_thoughts(reply: &Reply) -> Option<&str> {
    let is_all = reply.calls.is_empty() && reply.content.trim().is_empty();
    let stopped = matches!(reply.finish, Finish::Stop | Finish::ToolCalls);
    let call = recover::call_at_the_end(&reply.reasoning);
    call.filter(|_| is_all && stopped)
}

fn check_native(call: &RawCall, id: String, tools: &[ToolSpec]) -> Asked {
    let arguments = if call.arguments.trim().is_empty() {
        Some(serde_json::json!({}))
    } else {
        recover::read_json(&call.arguments)
    };
    // Some models, and some servers, write them as text within the text.
    let arguments = match arguments {
        Some(serde_json::Value::String(inner)) => recover::read_json(&inner),
        arguments => arguments,
    };
    let lesson = match arguments {
        Some(serde_json::Value::Object(arguments)) => {
            return check(id, call.name.clone(), arguments, tools);
        }
        Some(_) => "its arguments are JSON, but not an object".to_owned(),
        None => match serde_json::from_str::<serde_json::Value>(&call.arguments) {
            Err(error) => format!(
                "its arguments are not valid JSON ({error}); they begin {:?}",
                one_line(&call.arguments, 80)
            ),
            Ok(_) => "its arguments are JSON, but not an object".to_owned(),
        },
    };
    Asked::Wrong {
        id,
        name: one_line(&call.name, 60),
        lesson: format!("failed to read the call: {lesson}. Send the call again with a JSON object."),
    }
}

/// Returns the id of a call to which the server gave none.
pub fn call_id(turn: u32, at: usize) -> String {
    format!("call_{turn}_{at}")
}

/// Returns the id under which a call is answered. Each answer names its call, and every further request carries the id:
/// one that is missing, given twice, endless or not plain is replaced.
fn answered_under(given: &str, used: &mut HashSet<String>, turn: u32, at: usize) -> String {
    let is_plain = !given.is_empty() && given.len() <= ID && given.bytes().all(|byte| byte.is_ascii_graphic());
    let own = (0..).map(|more| call_id(turn, at + more * CALLS_PER_REPLY));
    let mut ids = is_plain.then(|| given.to_owned()).into_iter().chain(own);
    ids.find(|id| used.insert(id.clone())).unwrap_or_default()
}

fn check(id: String, name: String, arguments: serde_json::Map<String, serde_json::Value>, tools: &[ToolSpec]) -> Asked {
    let spec = recover::normalise(&name, tools).and_then(|known| tools.iter().find(|tool| tool.name == known));
    let Some(spec) = spec else {
        let known = tools.iter().map(|tool| tool.name).collect::<Vec<_>>().join(", ");
        let name = one_line(&name, 60);
        let lesson = format!("failed to find a tool named {name:?}; the tools are: {known}");
        return Asked::Wrong { id, name, lesson };
    };
    match spec.check(&arguments) {
        Ok(arguments) => Asked::Sound(Call {
            id,
            tool: spec.name.to_owned(),
            arguments,
        }),
        Err(problems) => {
            let lesson = format!(
                "failed to run {}: {}. It takes {}.",
                spec.name,
                problems.join("; "),
                spec.signature()
            );
            Asked::Wrong {
                id,
                name: spec.name.to_owned(),
                lesson,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn read_reply(content: &str, reasoning: &str, calls: &[(&str, &str)], finish: Finish) -> Content {
        let calls = calls
            .iter()
            .map(|(name, arguments)| RawCall {
                id: String::new(),
                name: (*name).into(),
                arguments: (*arguments).into(),
            })
            .collect();
        let reply = Reply {
            content: content.into(),
            reasoning: reasoning.into(),
            calls,
            finish,
            ..Reply::default()
        };
        read(&reply, Protocol::Native, &crate::tools::all_specs(), 3)
    }

    #[test]
    fn what_is_not_a_call_is_told_apart() {
        let cases = [
            ("", "", Finish::Stop, Content::Empty),
            (" \n", "hm", Finish::Stop, Content::ReasoningOnly),
            ("All done!", "", Finish::Stop, Content::Text),
            ("half a sen", "", Finish::Length, Content::Cut),
            ("", "thinking and thin", Finish::Length, Content::Cut),
            (
                "<tool_call>{\"name\": }</tool_call>",
                "",
                Finish::Stop,
                Content::Garbled,
            ),
            ("<call tool=\"bash\"><command>ls", "", Finish::Length, Content::Cut),
        ];
        for (content, reasoning, finish, expected) in cases {
            assert_eq!(
                read_reply(content, reasoning, &[], finish.clone()),
                expected,
                "{content:?} {reasoning:?}"
            );
        }
        assert_eq!(
            read_reply("", "", &[("bash", "{\"command\": \"l")], Finish::Length),
            Content::Cut
        );
    }

    #[test]
    fn whole_calls_before_a_cut_one_are_kept() {
        let Content::Calls {
            asked,
            native,
            left_out: 0,
        } = read_reply(
            "",
            "",
            &[("bash", "{\"command\": \"ls\"}"), ("bash", "{\"comm")],
            Finish::Length,
        )
        else {
            panic!()
        };
        assert!(native);
        assert_eq!(asked.len(), 1);
        assert!(matches!(&asked[0], Asked::Sound(call) if call.id == "call_3_0" && call.tool == "bash"));
    }

    #[test]
    fn calls_that_share_an_id_are_answered_under_ids_of_their_own() {
        let call = |path: &str| RawCall {
            id: "call_0".into(),
            name: "read_file".into(),
            arguments: format!("{{\"path\": \"{path}\"}}"),
        };
        let reply = Reply {
            content: "Two files.".into(),
            calls: vec![call("a"), call("b")],
            ..Reply::default()
        };
        let Content::Calls { asked, .. } = read(&reply, Protocol::Native, &crate::tools::all_specs(), 3) else {
            panic!()
        };
        let ids: Vec<&str> = asked
            .iter()
            .map(|asked| match asked {
                Asked::Sound(call) => call.id.as_str(),
                Asked::Wrong { lesson, .. } => panic!("{lesson}"),
            })
            .collect();
        assert_eq!(ids, ["call_0", "call_3_1"]);
    }

    #[test]
    fn every_answer_has_an_id_of_its_own_whatever_ids_the_server_gave() {
        let long = "x".repeat(1 << 20);
        let given = ["call_3_1", "", "call_3_1", "a b", "a\u{e9}", &long, "functions.bash:0"];
        let mut used = HashSet::new();
        let ids: Vec<String> = given
            .iter()
            .enumerate()
            .map(|(at, given)| answered_under(given, &mut used, 3, at))
            .collect();
        assert_eq!(
            ids,
            [
                "call_3_1",
                "call_3_13",
                "call_3_2",
                "call_3_3",
                "call_3_4",
                "call_3_5",
                "functions.bash:0"
            ]
        );
    }

    #[test]
    fn arguments_that_are_text_within_text_are_read() {
        let twice = serde_json::to_string("{\"command\": \"ls\"}").unwrap();
        let Content::Calls { asked, .. } = read_reply("", "", &[("bash", &twice)], Finish::ToolCalls) else {
            panic!()
        };
        assert!(
            matches!(&asked[0], Asked::Sound(call) if call.arguments["command"] == "ls"),
            "{asked:?}"
        );
    }

    #[test]
    fn a_call_of_another_template_that_was_cut_is_not_run() {
        for content in [
            "<tool_call>write_file\n<arg_key>path</arg_key>\n<arg_value>a</arg_value>\n<arg_key>content</arg_key>\n<arg_value>half",
            "<invoke name=\"write_file\"><parameter name=\"path\">a</parameter><parameter name=\"content\">half",
            "[TOOL_CALLS]write_file[ARGS]{\"path\": \"a\", \"content\": \"half",
        ] {
            assert_eq!(read_reply(content, "", &[], Finish::Length), Content::Cut, "{content}");
        }
        let half = "<call tool=\"write_file\"><path>a</path><content>half";
        for finish in [Finish::ContentFilter, Finish::Other("stopped".into())] {
            assert_eq!(read_reply(half, "", &[], finish.clone()), Content::Cut);
            let calls = [("write_file", "{\"path\": \"a\", \"content\": \"half")];
            assert_eq!(read_reply("", "", &calls, finish.clone()), Content::Cut);
            assert_eq!(read_reply("Done.", "", &[], finish), Content::Text);
        }
    }

    #[test]
    fn a_call_that_ends_thoughts_which_nothing_follows_is_meant_and_one_within_them_is_not() {
        let call = "<tool_call>\n{\"name\": \"glob\", \"arguments\": {\"pattern\": \"*\"}}\n</tool_call>";
        let draft = "<tool_call>\n{\"name\": \"bash\", \"arguments\": {\"command\": \"rm -r src\"}}\n</tool_call>";
        let thoughts = format!("I could say {draft}, but no.\n{call}\n");
        let Content::Calls { asked, native, .. } = read_reply("", &thoughts, &[], Finish::Stop) else {
            panic!()
        };
        assert!(!native && asked.len() == 1, "{asked:?}");
        assert!(
            matches!(&asked[0], Asked::Sound(call) if call.tool == "glob"),
            "{asked:?}"
        );
        let drafted = format!("I could say {draft}, but no.");
        assert_eq!(read_reply("", &drafted, &[], Finish::Stop), Content::ReasoningOnly);
        assert_eq!(read_reply("", &thoughts, &[], Finish::Length), Content::Cut);
        assert_eq!(read_reply("Done.", &thoughts, &[], Finish::Stop), Content::Text);
    }

    #[test]
    fn wrong_calls_teach() {
        let lesson = |name: &str, arguments: &str| match read_reply("", "", &[(name, arguments)], Finish::ToolCalls) {
            Content::Calls { asked, .. } => match &asked[0] {
                Asked::Wrong { lesson, .. } => lesson.clone(),
                Asked::Sound(call) => panic!("{call:?}"),
            },
            other => panic!("{other:?}"),
        };
        assert!(lesson("teleport", "{}").contains("the tools are: read_file, write_file"));
        assert!(lesson("bash", "{}").contains("`command`: missing; expected a string. It takes bash(command)."));
        assert!(lesson("bash", "{\"command\": ").contains("not valid JSON"));
        assert!(lesson("bash", "[1]").contains("not an object"));
        assert!(lesson("bash", "\"ls\"").contains("not an object"));
    }
}
