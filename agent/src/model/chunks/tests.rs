#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use serde_json::json;

fn assemble(chunks: &[Value]) -> Reply {
    let mut assembler = Assembler::default();
    for chunk in chunks {
        assembler.push_event(&chunk.to_string(), &|| {}).unwrap();
    }
    assembler.finish(70)
}

fn delta(delta: Value) -> Value {
    json!({"choices": [{"index": 0, "delta": delta}]})
}

#[test]
fn calls_are_assembled_from_numbered_pieces() {
    let reply = assemble(&[
        delta(json!({"role": "assistant", "content": null})),
        delta(
            json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "read_file", "arguments": ""}}]}),
        ),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "{\"pa"}}]})),
        delta(json!({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "glob", "arguments": "{}"}}]})),
        delta(json!({"tool_calls": [{"index": 0, "function": {"arguments": "th\":\"x\"}"}}]})),
        json!({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}),
        json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}}),
    ]);
    let seen: Vec<(&str, &str)> = reply
        .calls
        .iter()
        .map(|call| (call.name.as_str(), call.arguments.as_str()))
        .collect();
    assert_eq!(seen, [("read_file", "{\"path\":\"x\"}"), ("glob", "{}")]);
    assert_eq!(reply.finish, Finish::ToolCalls);
    assert_eq!(
        reply.usage,
        Usage {
            prompt: 9,
            cached: 5,
            completion: 4,
            estimated: false
        }
    );
}

#[test]
fn whole_calls_that_all_say_index_zero_stay_apart() {
    let whole = |id: &str, name: &str| {
        delta(json!({"tool_calls": [{"index": 0, "id": id, "function": {"name": name, "arguments": {"path": id}}}]}))
    };
    let reply = assemble(&[whole("a", "read_file"), whole("b", "read_file")]);
    let seen: Vec<&str> = reply.calls.iter().map(|call| call.arguments.as_str()).collect();
    assert_eq!(seen, ["{\"path\":\"a\"}", "{\"path\":\"b\"}"]);
}

#[test]
fn whole_calls_without_ids_under_one_index_stay_apart() {
    let whole = |path: &str| {
        let arguments = format!("{{\"path\":\"{path}\"}}");
        delta(json!({"tool_calls": [{"index": 0, "function": {"name": "read_file", "arguments": arguments}}]}))
    };
    let reply = assemble(&[whole("a"), whole("b")]);
    let seen: Vec<&str> = reply.calls.iter().map(|call| call.arguments.as_str()).collect();
    assert_eq!(seen, ["{\"path\":\"a\"}", "{\"path\":\"b\"}"]);
}

#[test]
fn calls_without_number_or_id_are_joined_from_their_pieces_beside_text() {
    let reply = assemble(&[
        delta(json!({"content": "I look."})),
        delta(json!({"tool_calls": [{"function": {"name": "read_file", "arguments": "{\"pa"}}]})),
        delta(json!({"content": null, "tool_calls": [{"function": {"arguments": "th\":\"x\"}"}}]})),
        delta(json!({"content": null, "tool_calls": null})),
    ]);
    assert_eq!(reply.content, "I look.");
    assert_eq!(reply.calls.len(), 1);
    assert_eq!(reply.calls[0].arguments, "{\"path\":\"x\"}");
}

#[test]
fn a_flood_of_calls_is_refused() {
    let mut assembler = Assembler::default();
    let calls: Vec<Value> = (0..10_000)
        .map(|index| json!({"index": index, "id": "same", "function": {"name": "glob", "arguments": ""}}))
        .collect();
    let refused = assembler.push(&delta(json!({"tool_calls": calls})), &|| {});
    assert_eq!(refused, Err(ChunkError::TooManyCalls));
}

#[test]
fn absurd_and_broken_counts_do_no_harm() {
    let usage = json!({"prompt_tokens": u64::MAX, "completion_tokens": "many"});
    let reply = assemble(&[delta(json!({"content": "hi"})), json!({"choices": [], "usage": usage})]);
    assert_eq!(reply.usage.prompt, MOST_TOKENS);
    assert!(reply.usage.estimated && reply.usage.completion < 10);
}

#[test]
fn missing_counts_are_estimated_and_marked() {
    let reply = assemble(&[delta(json!({"content": "four words of text"}))]);
    assert!(reply.usage.estimated);
    assert_eq!(reply.usage.prompt, 20);
    assert_eq!(reply.usage.completion, 6);
}

#[test]
fn an_error_in_the_stream_and_a_foreign_answer_are_told_apart() {
    let mut assembler = Assembler::default();
    for chunk in [
        json!({"error": {"message": "slot is gone", "code": 503}}),
        json!({"object": "error", "message": "slot is gone", "code": 503}),
        json!([{"error": {"message": "slot is gone", "code": 503}}]),
    ] {
        let Err(ChunkError::Server(refusal)) = assembler.push(&chunk, &|| {}) else {
            panic!("{chunk}")
        };
        assert_eq!((refusal.message.as_str(), refusal.status), ("slot is gone", Some(503)));
    }
    assert!(matches!(
        assembler.push(&json!({"hello": 1}), &|| {}),
        Err(ChunkError::Malformed(_))
    ));
    assert!(matches!(
        assembler.push_event("{\"choices\": [", &|| {}),
        Err(ChunkError::Malformed(_))
    ));
}

#[test]
fn half_a_character_of_a_chunk_costs_that_character_and_not_the_reply() {
    let mut assembler = Assembler::default();
    for half in ["\\ud83d", "\\ude00"] {
        let event = format!("{{\"choices\":[{{\"delta\":{{\"content\":\"a{half}\"}}}}]}}");
        assembler.push_event(&event, &|| {}).unwrap();
    }
    assert_eq!(assembler.finish(1).content, "a\u{fffd}a\u{fffd}");
    assert!(Assembler::default().push_event("{\"choices\": [", &|| {}).is_err());
}

#[test]
fn thoughts_are_heard_under_either_name_also_where_the_other_is_null() {
    for part in [
        json!({"reasoning_content": "hm", "reasoning": null}),
        json!({"reasoning_content": null, "reasoning": "hm", "content": null}),
        json!({"reasoning_content": "", "reasoning": "hm"}),
    ] {
        assert_eq!(assemble(&[delta(part.clone())]).reasoning, "hm", "{part}");
    }
    let refused = assemble(&[delta(json!({"content": null, "refusal": "I will not."}))]);
    assert_eq!(refused.content, "I will not.");
}

#[test]
fn a_reply_that_the_server_gave_up_is_half_a_reply() {
    for reason in ["abort", "error"] {
        let mut assembler = Assembler::default();
        let begun = json!({"choices": [{"delta": {"content": "rm -rf"}, "finish_reason": reason}]});
        let pushed = assembler.push(&begun, &|| {});
        assert_eq!(pushed, Err(ChunkError::GivenUp(reason.to_owned())));
    }
}

#[test]
fn an_answer_without_a_choice_is_told_from_an_empty_one() {
    let pushed = |chunk: Value| {
        let mut assembler = Assembler::default();
        assembler.push(&chunk, &|| {}).map(|()| assembler.has_choice())
    };
    assert_eq!(pushed(json!({"choices": []})), Ok(false));
    assert_eq!(pushed(json!({"choices": null})), Ok(false));
    assert_eq!(
        pushed(json!({"choices": [{"delta": null, "message": {"content": ""}}]})),
        Ok(true)
    );
}

#[test]
fn every_piece_of_a_long_call_is_a_sign_of_life() {
    let signs = std::sync::atomic::AtomicUsize::new(0);
    let sink = || {
        signs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    };
    let mut assembler = Assembler::default();
    for arguments in ["{\"content\": \"", "one line", " and another\"}"] {
        let call = json!([{ "index": 0, "function": { "name": "write_file", "arguments": arguments } }]);
        assembler.push(&delta(json!({ "tool_calls": call })), &sink).unwrap();
    }
    assembler.push(&delta(json!({})), &sink).unwrap();
    assert_eq!(signs.into_inner(), 3);
}
