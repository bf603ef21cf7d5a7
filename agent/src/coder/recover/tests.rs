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
        "[TOOL_CALLS]read_file[ARGS]{\"path\": \"a.rs\"}",
        "[TOOL_CALLS]read_file[CALL_ID]Xy1234567[ARGS]{\"path\": \"a.rs\"}",
        "Now: [TOOL_CALLS] read_file {\"path\": \"a.rs\",}",
        "<|python_tag|>{\"name\": \"read_file\", \"parameters\": {\"path\": \"a.rs\"}}",
        "<|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"read_file\", \"parameters\": {\"path\": \"a.rs\"}}]<|END_ACTION|>",
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.read_file:0<|tool_call_argument_begin|>{\"path\": \"a.rs\"}<|tool_call_end|>",
        "<\u{ff5c}tool\u{2581}calls\u{2581}begin\u{ff5c}><\u{ff5c}tool\u{2581}call\u{2581}begin\u{ff5c}>function<\u{ff5c}tool\u{2581}sep\u{ff5c}>read_file\n```json\n{\"path\": \"a.rs\"}\n```<\u{ff5c}tool\u{2581}call\u{2581}end\u{ff5c}>",
        "<|channel|>commentary to=functions.read_file <|constrain|>json<|message|>{\"path\": \"a.rs\"}<|call|>",
        "<function_calls>\n<invoke name=\"read_file\">\n<parameter name=\"path\">a.rs</parameter>\n</invoke>\n</function_calls>",
        "<invoke name='read_file'><parameter name='path' string='true'>a.rs</parameter></invoke>",
        "<function=read_file>{\"path\": \"a.rs\"}</function>",
        "<tool_call>\n<function=read_file>\n<parameter=path>\na.rs</function>\n</tool_call>",
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
fn what_is_written_about_calls_in_a_call_or_as_code_is_none() {
    let invoke = "<invoke name='bash'><parameter name='command'>rm -rf .</parameter></invoke>";
    let named = "[TOOL_CALLS]bash[ARGS]{'command': 'ls'} and <function=bash>";
    // A call of JSON, whatever its strings hold, and none at all where it is cut.
    for content in [invoke, named, "<call tool='bash'><command>ls</command></call>"] {
        let expected = [("write_file".to_owned(), json!({"path": "a.md", "content": content}))];
        let call = json!({"name": "write_file", "arguments": {"path": "a.md", "content": content}}).to_string();
        for text in [
            call.clone(),
            format!("<tool_call>\n{call}\n</tool_call>"),
            format!("So: [TOOL_CALLS][{call}]"),
        ] {
            assert_eq!(calls(&text), expected, "{text}");
            let cut = &text[..text.find("\"}}").unwrap_or_else(|| text.find("\",").unwrap())];
            assert_eq!(calls(cut), vec![], "{cut}");
        }
    }
    for text in [
        format!("Models write `{invoke}` here."),
        format!("So it is done:\n```xml\n{invoke}\n```\nThat is all."),
        "Behind `[TOOL_CALLS]` the shell tool gets {\"command\": \"ls\"}".to_owned(),
        "Behind [TOOL_CALLS] the shell tool gets {\"command\": \"ls\"}".to_owned(),
        "```\n<tool_call>bash\n<arg_key>command</arg_key>\n<arg_value>ls</arg_value>\n</tool_call>\n```".to_owned(),
    ] {
        assert_eq!(calls(&text), vec![], "{text}");
    }
    // What begins behind the code is a call.
    let text = format!("As in `{invoke}`:\n<invoke name='glob'><parameter name='pattern'>*</parameter></invoke>");
    assert_eq!(calls(&text), [("glob".to_owned(), json!({"pattern": "*"}))]);
    let nested = "<call tool=\"write_file\"><path>a</path><content>\n<call tool=\"bash\">\n<command>ls</command>\n</call>\n</content>\n</call>";
    assert_eq!(call_at_the_end(nested), None);
    assert!(call_at_the_end("Now: <call tool=\"glob\"><pattern>*</pattern></call>").is_some());
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
fn values_of_tagged_calls_come_out_as_they_stand_with_tags_and_calls_inside() {
    let inner = "<function=bash>\n<parameter=command>ls</parameter> and\n<invoke name=\"x\">\n";
    let text = format!(
        "<function=write_file>\n<parameter=path>\na.md\n</parameter>\n<parameter=content>\n{inner}</parameter>\n</function>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>"
    );
    let expected = [
        ("write_file".to_owned(), json!({"path": "a.md\n", "content": inner})),
        ("bash".to_owned(), json!({"command": "ls\n"})),
    ];
    assert_eq!(calls(&text), expected);
    let one = "<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n";
    let inner = format!("{one}Clean:\n{one}");
    let text = format!(
        "<function=write_file>\n<parameter=path>\nd.md\n</parameter>\n<parameter=content>\n{inner}</parameter>\n</function>"
    );
    let expected = [("write_file".to_owned(), json!({"path": "d.md\n", "content": inner}))];
    assert_eq!(calls(&text), expected);
    let unclosed = "<function=bash>\n<parameter=command>\nls\n</function>\n<function=bash>\n<parameter=command>\npwd\n</parameter>\n</function>";
    let expected = ["ls\n", "pwd\n"].map(|command| ("bash".to_owned(), json!({"command": command})));
    assert_eq!(calls(unclosed), expected);
}

#[test]
fn several_named_calls_are_found_and_what_lies_in_their_arguments_is_not() {
    let text = "[TOOL_CALLS]bash[ARGS]{\"command\": \"echo '[TOOL_CALLS]glob[ARGS]{}'\"}[TOOL_CALLS]glob[ARGS]{\"pattern\": \"*\"}";
    let expected = [
        ("bash".to_owned(), json!({"command": "echo '[TOOL_CALLS]glob[ARGS]{}'"})),
        ("glob".to_owned(), json!({"pattern": "*"})),
    ];
    assert_eq!(calls(text), expected);
    assert_eq!(calls("[TOOL_CALLS]teleport[ARGS]{\"to\": \"x\"}"), vec![]);
    assert!(looks_like_call("[TOOL_CALLS]teleport[ARGS]{\"to\": \"x\"}"));
}

#[test]
fn names_are_known_with_what_templates_leave_on_them() {
    let tools = crate::tools::all_specs();
    for (written, meant) in [
        ("read_file<|channel|>commentary", Some("read_file")),
        ("functions.read_file:12", Some("read_file")),
        ("default_api:ReadFile", Some("read_file")),
        ("\"bash\"", Some("bash")),
        ("12", None),
        ("<|channel|>", None),
    ] {
        assert_eq!(normalise(written, &tools), meant, "{written}");
    }
}

#[test]
fn a_call_that_has_no_end_is_known_in_every_form() {
    for text in [
        "<call tool=\"bash\"><command>ls",
        "<function=bash>\n<parameter=command>ls",
        "<invoke name=\"bash\"><parameter name=\"command\">ls</parameter>",
        "<tool_call>bash\n<arg_key>command</arg_key>\n<arg_value>ls",
        "{\"tool\": \"bash\", \"arguments\": {",
    ] {
        assert!(is_unclosed(text), "{text}");
    }
    for text in [
        "<function=bash>{}</function>",
        "<tool_call>bash\n<arg_key>command</arg_key>\n<arg_value>ls</arg_value></tool_call>",
        "<tool_call>{\"name\": \"bash\", \"arguments\": {\"command\": \"ls\"}}",
        "plain words",
    ] {
        assert!(!is_unclosed(text), "{text}");
    }
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
    for (text, meant) in [
        (r#"{"a": "C:\users\x"}"#, "C:\\users\\x"),
        (
            r#"{"a": "\usepackage, \u00e9 \ud83d\ude00"}"#,
            "\\usepackage, \u{e9} \u{1f600}",
        ),
        (r#"{"a": "half \ud83d of one"}"#, "half \u{fffd} of one"),
        (r#"{"a": "\ude00\ud83d\u00e9"}"#, "\u{fffd}\u{fffd}\u{e9}"),
        (r#"{"a": "\u12"}"#, "\\u12"),
    ] {
        assert_eq!(read_json(text), Some(json!({"a": meant})), "{text}");
    }
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
        fill("<parameter=a>"),
        format!("<function=bash>{}", fill("<parameter=a>")),
        format!("<function=bash>{}", fill("<parameter=a></parameter>x")),
        format!("<function=bash>{}</parameter>", fill("<parameter=a>")),
        format!("<function=bash><parameter=a>{}", fill("</parameter>  x")),
        fill("<invoke name=\"bash\"><parameter name=\"a\">"),
        fill("<function=bash><parameter=a>x</function>"),
        format!("{}</parameter>", fill("<function=bash><parameter=a>x</function>")),
        format!("{}</parameter>", fill("<function=bash>x")),
        fill("[TOOL_CALLS]"),
        fill("[TOOL_CALLS]bash{"),
        fill("to=functions.bash "),
        json("<|tool_call_begin|>bash{\"a\":"),
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
