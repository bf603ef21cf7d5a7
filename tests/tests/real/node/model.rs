//! A model server that always asks for the same: it writes `notes.txt`, and hands in. Told to look around, it first reads
//! what it should not.

use axum::Json;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};

/// Serves at an address of this machine; returns the base URL.
pub async fn serve(address: &str) -> String {
    let app = axum::Router::new()
        .route(
            "/v1/models",
            get(|| async { Json(json!({ "data": [{ "id": "steady", "context_length": 65536 }] })) }),
        )
        .route(
            "/v1/chat/completions",
            post(|Json(body): Json<Value>| async move { answer(&body) }),
        );
    let listener = tokio::net::TcpListener::bind((address, 0)).await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    url
}

fn answer(body: &Value) -> Response {
    let offers = |name: &str| {
        let mut tools = body["tools"].as_array().into_iter().flatten();
        tools.any(|tool| tool["function"]["name"] == name)
    };
    let messages = body["messages"].as_array().into_iter().flatten();
    let done = messages.filter(|message| message["role"] == "tool").count();
    let looks = body["messages"].to_string().contains("Look around");
    let (name, arguments) = if offers("report") {
        ("report", json!({ "word": "ready" }))
    } else if looks && done == 0 {
        let command = "(id; cat /foreman/*/* /workspace/*.* /proc/1/environ; echo looked) >around 2>&1";
        ("bash", json!({ "command": command }))
    } else if done > usize::from(looks) {
        (
            "submit_result",
            json!({ "verdict": "GO", "summary": "wrote it", "commit_message": "Write notes" }),
        )
    } else {
        ("write_file", json!({ "path": "notes.txt", "content": "by a model\n" }))
    };
    let call = json!({ "index": 0, "id": "call-1", "type": "function",
        "function": { "name": name, "arguments": arguments.to_string() } });
    let chunks = [
        json!({ "choices": [{ "index": 0, "delta": { "role": "assistant", "tool_calls": [call] } }] }),
        json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "tool_calls" }] }),
        json!({ "choices": [], "usage": { "prompt_tokens": 7, "completion_tokens": 2 } }),
    ];
    let mut text: String = chunks.iter().map(|chunk| format!("data: {chunk}\n\n")).collect();
    text.push_str("data: [DONE]\n\n");
    ([("content-type", "text/event-stream")], text).into_response()
}
