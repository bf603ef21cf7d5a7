#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::{Map, json};

use super::*;
use crate::model::probe::{ProbeSettings, ServerKind, probe};

/// A server of one model, whose window it knows once the model was asked something.
#[derive(Default)]
struct Server {
    loaded: AtomicBool,
    asked: Mutex<Vec<Value>>,
}

/// Serves like Ollama; `chat` answers requests to the model.
async fn serve(chat: impl Fn(&Value) -> Response + Clone + Send + Sync + 'static) -> (ProbeSettings, Arc<Server>) {
    let server = Arc::new(Server::default());
    let (running, asked) = (server.clone(), server.clone());
    let running = move || {
        let loaded = running.loaded.load(Ordering::SeqCst);
        let models = if loaded {
            json!([{"name": "m", "context_length": 32_768}])
        } else {
            json!([])
        };
        async move { axum::Json(json!({ "models": models })) }
    };
    let chat = move |body: axum::Json<Value>| {
        let answer = chat(&body.0);
        asked.loaded.store(true, Ordering::SeqCst);
        asked.asked.lock().unwrap().push(body.0);
        async move { answer }
    };
    let app = Router::new()
        .route(
            "/v1/models",
            get(|| async { axum::Json(json!({"data": [{"id": "m"}]})) }),
        )
        .route("/api/version", get(|| async { axum::Json(json!({"version": "0.9"})) }))
        .route(
            "/api/show",
            post(|| async { axum::Json(json!({"model_info": {"x.context_length": 131_072}})) }),
        )
        .route("/api/ps", get(running))
        .route("/v1/chat/completions", post(chat));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let settings = ProbeSettings::new(format!("http://{}", listener.local_addr().unwrap()));
    tokio::spawn(async move { axum::serve(listener, app).await });
    (settings, server)
}

fn whole(message: Value, finish: &str) -> Response {
    axum::Json(json!({"choices": [{"message": message, "finish_reason": finish}]})).into_response()
}

fn native(_: &Value) -> Response {
    let call = json!({"id": "1", "function": {"name": "report", "arguments": "{\"word\": \"ready\"}"}});
    whole(json!({ "tool_calls": [call] }), "tool_calls")
}

fn status(code: u16, words: &str) -> Response {
    let code = StatusCode::from_u16(code).unwrap();
    (
        code,
        [("retry-after", "0")],
        json!({"error": {"message": words}}).to_string(),
    )
        .into_response()
}

#[tokio::test]
async fn the_window_of_a_model_that_the_trial_has_loaded_is_read_once_it_is_loaded() {
    let (settings, _) = serve(native).await;
    let cold = probe(&ProbeSettings {
        try_model: None,
        ..settings.clone()
    })
    .await
    .unwrap();
    assert!(!cold.knows_window(), "{cold:?}");
    assert_eq!(cold.refusal(8192), None, "what is only guessed refuses nothing");

    let report = probe(&settings).await.unwrap();
    let window = report.window.clone().unwrap();
    assert_eq!((window.tokens, window.certain), (32_768, true));
    assert!(report.has_proven_protocol());
    assert_eq!(report.warnings, Vec::<String>::new());
    assert!(report.refusal(65_536).is_some());
}

#[tokio::test]
async fn a_server_that_cannot_answer_now_proves_nothing_about_its_model() {
    for (code, words) in [(404, "model not found"), (429, "slow down"), (503, "loading")] {
        let (settings, _) = serve(move |_| status(code, words)).await;
        let report = probe(&settings).await.unwrap();
        assert_eq!((report.kind, report.protocol), (ServerKind::Ollama, Protocol::Native));
        assert_eq!(report.native_tools, Ability::NotTried, "{code}");
        assert!(!report.has_proven_protocol());
        assert!(
            report.warnings.iter().any(|warning| warning.contains(words)),
            "{:?}",
            report.warnings
        );
    }
}

#[tokio::test]
async fn a_model_that_is_too_slow_for_the_trial_loses_neither_identity_nor_window() {
    let stuck = |_: &Value| {
        let body = axum::body::Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>());
        ([("content-type", "text/event-stream")], body).into_response()
    };
    let (settings, server) = serve(stuck).await;
    let report = probe(&ProbeSettings {
        try_model: Some(Duration::from_millis(50)),
        ..settings
    })
    .await
    .unwrap();
    assert!(
        server.asked.lock().unwrap().len() <= 2,
        "no other protocol is tried on a server that is too slow"
    );
    assert_eq!((report.kind, report.protocol), (ServerKind::Ollama, Protocol::Native));
    assert_eq!(report.window.unwrap().tokens, 32_768);
    assert_eq!(report.native_tools, Ability::NotTried);
    assert!(report.warnings[0].contains("is not known"), "{:?}", report.warnings);
}

#[tokio::test]
async fn a_model_that_thinks_gets_room_for_it_and_one_that_is_cut_is_not_judged() {
    let (settings, server) = serve(|_| whole(json!({"reasoning_content": "hm"}), "length")).await;
    let quiet = Map::from_iter([("enable_thinking".to_owned(), json!(false))]);
    let report = probe(&ProbeSettings {
        chat_template_kwargs: quiet,
        ..settings
    })
    .await
    .unwrap();
    assert_eq!(
        (report.protocol, &report.native_tools),
        (Protocol::Native, &Ability::NotTried)
    );
    assert!(!report.has_proven_protocol());
    let asked = server.asked.lock().unwrap().clone();
    assert!(asked[0]["max_tokens"].as_u64().unwrap() >= 4096);
    assert_eq!(asked[0]["chat_template_kwargs"]["enable_thinking"], false);
}

#[tokio::test]
async fn a_server_that_breaks_over_tools_alone_is_asked_in_text() {
    let (settings, _) = serve(|body| match body.get("tools") {
        Some(_) => status(500, "tools param requires --jinja flag"),
        None => whole(
            json!({"content": "<call tool=\"report\">\n<word>ready</word>\n</call>"}),
            "stop",
        ),
    })
    .await;
    let report = probe(&settings).await.unwrap();
    assert_eq!(report.protocol, Protocol::Text);
    assert!(report.has_proven_protocol(), "{report:?}");

    let (settings, _) = serve(|_| status(500, "out of memory")).await;
    let report = probe(&settings).await.unwrap();
    assert_eq!(
        (report.protocol, report.native_tools),
        (Protocol::Native, Ability::NotTried)
    );
}
