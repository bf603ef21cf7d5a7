#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use axum::Router;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::json;

/// Serves JSON at paths; everything else is 404.
async fn serve(answers: Vec<(&'static str, Value)>, chat: fn(Value) -> axum::response::Response) -> (u16, String) {
    let mut app = Router::new();
    for (path, answer) in answers {
        let answer = answer.to_string();
        let handler = move || {
            let answer = answer.clone();
            async move { ([("content-type", "application/json")], answer) }
        };
        app = if path == "/api/show" {
            app.route(path, post(handler))
        } else {
            app.route(path, get(handler))
        };
    }
    let app = app.route(
        "/v1/chat/completions",
        post(move |body: axum::Json<Value>| async move { chat(body.0) }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address.port(), format!("http://{address}"))
}

fn refuse(_: Value) -> axum::response::Response {
    (StatusCode::BAD_REQUEST, "{\"error\":{\"message\":\"no\"}}").into_response()
}

fn whole(message: Value) -> axum::response::Response {
    let answer = json!({"choices": [{"message": message, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 1}});
    ([("content-type", "application/json")], answer.to_string()).into_response()
}

fn models(entry: Value) -> (&'static str, Value) {
    ("/v1/models", json!({"data": [entry]}))
}

async fn look(answers: Vec<(&'static str, Value)>) -> ProbeReport {
    let (_, url) = serve(answers, refuse).await;
    probe(&ProbeSettings {
        try_model: None,
        ..ProbeSettings::new(url)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn every_kind_of_server_is_known_and_its_true_window_found() {
    let show = json!({"model_info": {"qwen2.context_length": 131072}, "parameters": "stop x\nnum_ctx    16384"});
    let bare_show = json!({"model_info": {"qwen2.context_length": 131072}});
    let cases = vec![
        (
            vec![
                models(json!({"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx_train": 131072}})),
                (
                    "/props",
                    json!({"default_generation_settings": {"n_ctx": 8192}, "total_slots": 4}),
                ),
            ],
            ServerKind::LlamaCpp,
            Some((8192, true)),
        ),
        (
            vec![
                models(json!({"id": "q:7b"})),
                ("/api/version", json!({"version": "0.9"})),
                ("/api/ps", json!({"models": [{"name": "q:7b", "context_length": 4096}]})),
                ("/api/show", show.clone()),
            ],
            ServerKind::Ollama,
            Some((4096, true)),
        ),
        (
            vec![
                models(json!({"id": "q:7b"})),
                ("/api/version", json!({"version": "0.9"})),
                ("/api/ps", json!({"models": []})),
                ("/api/show", show),
            ],
            ServerKind::Ollama,
            Some((16384, true)),
        ),
        (
            vec![
                models(json!({"id": "q:7b"})),
                ("/api/version", json!({"version": "0.9"})),
                ("/api/ps", json!({"models": []})),
                ("/api/show", bare_show),
            ],
            ServerKind::Ollama,
            Some((4096, false)),
        ),
        (
            vec![models(json!({"id": "m", "owned_by": "vllm", "max_model_len": 32768}))],
            ServerKind::Vllm,
            Some((32768, true)),
        ),
        (
            vec![
                models(json!({"id": "m"})),
                (
                    "/api/v0/models",
                    json!({"data": [{"id": "m", "max_context_length": 99999, "loaded_context_length": 4096}]}),
                ),
            ],
            ServerKind::LmStudio,
            Some((4096, true)),
        ),
        (
            vec![
                models(json!({"id": "m"})),
                (
                    "/model/info",
                    json!({"data": [{"model_name": "m", "model_info": {"max_input_tokens": 200000}}]}),
                ),
            ],
            ServerKind::LiteLlm,
            Some((200000, false)),
        ),
        (vec![models(json!({"id": "m"}))], ServerKind::Other, None),
    ];
    for (answers, kind, window) in cases {
        let report = look(answers).await;
        assert_eq!(report.kind, kind);
        assert_eq!(
            report.window.as_ref().map(|window| (window.tokens, window.certain)),
            window,
            "{kind}"
        );
        assert_eq!(
            report.warnings.is_empty(),
            window.is_some_and(|(_, certain)| certain),
            "{kind}: {:?}",
            report.warnings
        );
    }
}

#[tokio::test]
async fn a_window_below_the_floor_is_refused_with_advice() {
    let report = look(vec![
        models(json!({"id": "m"})),
        ("/props", json!({"default_generation_settings": {"n_ctx": 2048}})),
    ])
    .await;
    let refusal = report.refusal(8192).unwrap();
    assert!(
        refusal.contains("2048") && refusal.contains("llama-server"),
        "{refusal}"
    );
    assert_eq!(report.refusal(2048), None);
}

#[tokio::test]
async fn a_window_that_is_only_guessed_is_warned_about_and_not_refused() {
    let report = look(vec![
        models(json!({"id": "q:7b"})),
        ("/api/version", json!({"version": "0.9"})),
        ("/api/ps", json!({"models": []})),
    ])
    .await;
    assert_eq!(report.window.as_ref().map(|window| window.tokens), Some(4096));
    assert_eq!(report.refusal(8192), None);
    assert!(
        report.warnings.iter().any(|warning| warning.contains("not certain")),
        "{:?}",
        report.warnings
    );
}

#[tokio::test]
async fn the_best_protocol_that_really_works_is_chosen() {
    fn native(_: Value) -> axum::response::Response {
        whole(
            json!({"tool_calls": [{"id": "1", "function": {"name": "report", "arguments": "{\"word\": \"ready\"}"}}]}),
        )
    }
    fn text(body: Value) -> axum::response::Response {
        match body.get("tools") {
            Some(_) => whole(json!({"content": "I would call report."})),
            None => whole(json!({"content": "<call tool=\"report\">\n<word>ready</word>\n</call>"})),
        }
    }
    fn schema(body: Value) -> axum::response::Response {
        match body.get("response_format") {
            Some(_) => whole(json!({"content": "{\"tool\": \"report\", \"arguments\": {\"word\": \"ready\"}}"})),
            None => refuse(body),
        }
    }
    fn nothing(_: Value) -> axum::response::Response {
        whole(json!({"content": "hello"}))
    }
    type Chat = fn(Value) -> axum::response::Response;
    let cases: [(Chat, Protocol, bool); 4] = [
        (native, Protocol::Native, true),
        (text, Protocol::Text, true),
        (schema, Protocol::JsonSchema, true),
        (nothing, Protocol::Text, false),
    ];
    for (chat, protocol, works) in cases {
        let (_, url) = serve(vec![models(json!({"id": "m", "max_model_len": 9000}))], chat).await;
        let report = probe(&ProbeSettings::new(url)).await.unwrap();
        assert_eq!(report.protocol, protocol);
        let abilities = [&report.native_tools, &report.text, &report.json_schema];
        assert_eq!(abilities.contains(&&Ability::Works), works, "{report:?}");
        assert_eq!(report.warnings.is_empty(), works, "{report:?}");
    }
}

#[tokio::test]
async fn servers_are_found_by_their_list_of_models_and_by_nothing_else() {
    let (model_port, url) = serve(vec![models(json!({"id": "m"}))], refuse).await;
    let (other_port, _) = serve(vec![("/", json!({}))], refuse).await;
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let ports =
        [model_port, other_port, closed, silent.local_addr().unwrap().port()].map(|port| (port, ServerKind::Other));
    let found = discover(&ports, Duration::from_millis(300)).await;
    assert_eq!(
        found,
        [Local {
            base_url: format!("{url}/v1"),
            kind: ServerKind::Other,
            models: vec!["m".into()],
            asks_for_key: false,
        }]
    );
}

#[tokio::test]
async fn a_local_server_that_asks_for_a_key_is_found_and_gets_none() {
    let keys = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = keys.clone();
    let app = Router::new().fallback(move |headers: axum::http::HeaderMap| {
        seen.lock().unwrap().extend(headers.get("authorization").cloned());
        async { (StatusCode::UNAUTHORIZED, "{\"error\":\"no key\"}") }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let found = discover(&[(port, ServerKind::Vllm)], Duration::from_secs(20)).await;
    assert_eq!(
        found,
        [Local {
            base_url: format!("http://127.0.0.1:{port}/v1"),
            kind: ServerKind::Vllm,
            models: Vec::new(),
            asks_for_key: true,
        }]
    );
    assert!(keys.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_model_is_warned_about_and_a_missing_server_is_an_error() {
    let (_, url) = serve(vec![models(json!({"id": "m", "max_model_len": 9000}))], refuse).await;
    let report = probe(&ProbeSettings {
        model: Some("other".into()),
        try_model: None,
        ..ProbeSettings::new(url)
    })
    .await
    .unwrap();
    assert!(
        report.warnings[0].contains("does not list the model \"other\"; it lists: m"),
        "{:?}",
        report.warnings
    );
    let gone = probe(&ProbeSettings::new("http://127.0.0.1:1")).await.unwrap_err();
    assert!(matches!(gone, ModelError::Unreachable { .. }), "{gone}");
}
