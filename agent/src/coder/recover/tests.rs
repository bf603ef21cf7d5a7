#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use proptest::prelude::*;
use serde_json::json;

fn calls(text: &str) -> Vec<(String, Value)> {
    find_calls(text, &crate::tools::all_specs())
        .into_iter()
        .map(|found| (found.name, Value::Object(found.arguments)))
        .collect()
}

#[test]
fn every_form_of_a_call_is_found() {
    let read = || vec![("read_file".to_owned(), json!({"path": "a.rs"}))];
    let forms = [
        "<call tool=\"read_file\">\n<path>a.rs</path>\n</call>",
        "I look.\n<call name='read_file'><path> a.rs </path></call> done",
        "<tool_call>\n{\"name\": \"read_file\", \"arguments\": {\"path\": \"a.rs\"}}\n</tool_call>",
        "{\"name\": \"read_file\", \"arguments\": {\"path\": \"a.rs\"}}\n</tool_call>",
        "<tool_call>{\"name\": \"functions.ReadFile\", \"parameters\": \"{\\\"path\\\": \\\"a.rs\\\"}\"}",
        "<tool_call><function=read_file><parameter=path>\na.rs</parameter></function></tool_call>",
        "<tool_call>read_file\n<arg_key>path</arg_key>\n<arg_value>a.rs</arg_value>\n</tool_call>",
        "First:\n```json\n{\"tool\": \"read-file\", \"args\": {\"path\": \"a.rs\",}}\n```\nthen more",
        "[TOOL_CALLS][{\"name\": \"read_file\", \"arguments\": {\"path\": \"a.rs\"}}]",
        "{\"tool_calls\": [{\"type\": \"function\", \"function\": {\"name\": \"read_file\", \"arguments\": \"{\\\"path\\\": \\\"a.rs\\\"}\"}}]}",
        "{\"thought\": \"x\", \"tool\": \"read_file\", \"path\": \"a.rs\"}",
    ];
    for form in forms {
        assert_eq!(calls(form), read(), "{form}");
    }
}

#[test]
fn text_that_only_speaks_of_tools_is_no_call() {
    for text in [
        "I would use read_file.",
        "```json\n{\"name\": \"serde\", \"version\": \"1\"}\n```",
        "{\"a\": 1}",
        "```rust\nfn a() {}\n```",
        "",
    ] {
        assert_eq!(calls(text), vec![], "{text}");
    }
}

#[test]
fn bodies_come_out_as_they_stand_even_with_tags_and_json_inside() {
    let text = "<call tool=\"write_file\">\n<path>x.html</path>\n<content>\n<p>\"a\\n\"</p>\n</content>\nstill </call> inside {\"name\": \"bash\"}\n</content>\n</call>\n<call tool=\"bash\"><command>ls</command></call>";
    let found = calls(text);
    assert_eq!(found.len(), 2);
    assert_eq!(
        found[0].1["content"],
        json!("<p>\"a\\n\"</p>\n</content>\nstill </call> inside {\"name\": \"bash\"}\n")
    );
    assert_eq!(found[1], ("bash".to_owned(), json!({"command": "ls"})));
}

#[test]
fn an_empty_body_and_a_missing_end_are_read() {
    assert_eq!(
        calls(
            "<call tool=\"str_replace\"><path>a</path><old_string>\nx\n</old_string><new_string></new_string></call>"
        )[0]
        .1,
        json!({"path": "a", "old_string": "x\n", "new_string": ""})
    );
    assert_eq!(
        calls("<call tool=\"bash\"><command>ls -l")[0].1,
        json!({"command": "ls -l"})
    );
    assert_eq!(
        calls("<call tool=\"nonsense\"><a>1</a></call>")[0],
        ("nonsense".to_owned(), json!({"a": "1"}))
    );
}

#[test]
fn broken_json_is_mended() {
    assert_eq!(
        read_json("{\"command\": \"printf 'a\nb' | grep \\d\",}"),
        Some(json!({"command": "printf 'a\nb' | grep \\d"}))
    );
    assert_eq!(read_json("{\"command\": \"ls"), None);
}

/// Each of these is read again and again to its end by a search that does not remember what it saw.
#[test]
fn a_megabyte_of_marks_is_read_in_one_go() {
    let fill = |piece: &str| piece.repeat((1 << 20) / piece.len());
    let json = |piece: &str| piece.repeat((1 << 17) / piece.len());
    let counted = |piece: fn(usize) -> String| (0..60_000).map(piece).collect::<String>();
    let replies = [
        fill("<"),
        format!("<call tool=\"bash\">{}", fill("<")),
        format!("<call tool=\"bash\">x{}", fill("<a><")),
        format!("<call tool=\"bash\">{}", fill("<a></a>x")),
        format!("<call tool=\"bash\">{}", fill("<a></a>  ")),
        format!("<call tool=\"bash\">{}", counted(|at| format!("<a{at}></a{at}>x"))),
        format!("<call tool=\"bash\">{}", counted(|at| format!("<a{at}>"))),
        fill("<call tool=\"bash\"><b></call>"),
        fill("<call tool=\"bash\">"),
        fill("<call "),
        fill("</call>"),
        fill("<tool_call>"),
        json("<tool_call>{"),
        format!("<tool_call>{}", json("{\"a\":")),
        format!("<tool_call>{}", json("[")),
        format!("<tool_call>{}", json("{\",")),
        format!("[TOOL_CALLS]{}", json("[{")),
        fill("<function=bash>"),
        json("<function=bash><parameter=a>{"),
        json("<tool_call>a<arg_key>"),
        json("```json\n{```"),
        fill("```"),
        format!("{{\"a\": \"{}", json("\\")),
        format!("{{{}", json(",  ")),
    ];
    for reply in replies {
        let tools = crate::tools::all_specs();
        find_calls(&reply, &tools);
        looks_like_call(&reply);
        read_json(&reply);
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_breaks_the_search(text in "(<call tool=\"?[a-z_]{0,9}\"?>|</call>|<tool_call>|</tool_call>|<[a-z]{1,4}>|</[a-z]{1,4}>|\\{|\\}|\\[|\"name\":\"bash\"|\"arguments\":|,|```json\n|```|é|\\\\|\"|<function=|<parameter=|\n| ){0,30}") {
        find_calls(&text, &crate::tools::all_specs());
        read_json(&text);
    }
}
