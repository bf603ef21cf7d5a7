//! The client against a server that misbehaves in every way we know of.

#![allow(clippy::unwrap_used, clippy::panic)]

mod patience;

use super::*;
use crate::model::{Category, Finish, Message, Speaker};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use futures::stream;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

const GOOD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"hel\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"lo\"},\"finish_reason\":\"stop\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";

/// A stream as proxies send it: a byte order mark, comments, other fields, lines that end by CRLF, data on two lines.
const COMMENTED: &str = "\u{feff}: waiting\r\nid: 1\r\nevent: message\r\ndata: {\"choices\":[{\"delta\":\r\ndata: {\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}\r\n\r\n: waiting\r\n\r\ndata: [DONE]\r\n\r\n";

/// Serves `answer` with the number of the request, from 0; returns the base URL and the counter.
async fn serve<F>(answer: F) -> (String, Arc<AtomicUsize>)
where
    F: Fn(usize, HeaderMap, Bytes) -> Response + Clone + Send + Sync + 'static,
{
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let handler = move |headers: HeaderMap, body: Bytes| {
        let number = counted.fetch_add(1, Ordering::SeqCst);
        let response = answer(number, headers, body);
        async move { response }
    };
    let app = Router::new().route("/v1/chat/completions", post(handler));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (format!("http://{address}"), count)
}

fn stream_of(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response()
}

/// Sends pieces, then stays silent for ever.
fn stuck_after(pieces: Vec<&'static str>) -> Response {
    let pieces = stream::iter(pieces.into_iter().map(|piece| Ok::<_, Infallible>(Bytes::from(piece))));
    let body = Body::from_stream(pieces.chain(stream::pending()));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

/// Sends pieces, then breaks the connection.
fn broken_after(pieces: Vec<&'static str>) -> Response {
    let pieces = stream::iter(pieces.into_iter().map(|piece| Ok(Bytes::from(piece))));
    let breaking = async {
        // What was sent before must have left, or the client sees no answer at all.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(std::io::Error::other("gone"))
    };
    let body = Body::from_stream(pieces.chain(stream::once(breaking)));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

fn client(base_url: &str) -> OpenAi {
    let mut endpoint = Endpoint::new(base_url, "m");
    endpoint.backoff = Backoff {
        base: Duration::from_millis(1),
        cap: Duration::from_millis(50),
    };
    endpoint.idle_timeout = Some(Duration::from_secs(20));
    endpoint.turn_timeout = Duration::from_secs(20);
    OpenAi::new(endpoint).unwrap()
}

fn request() -> Request {
    Request {
        messages: vec![Message::text(Speaker::User, "hi")],
        tools: crate::tools::all_specs(),
        protocol: Protocol::Native,
        max_tokens: 77,
        temperature: Some(0.5),
        chat_template_kwargs: serde_json::Map::from_iter([("enable_thinking".to_owned(), serde_json::json!(false))]),
    }
}

async fn ask(client: &OpenAi) -> Result<Reply, ModelError> {
    client.complete(&request(), &|| {}).await
}

#[tokio::test]
async fn a_streamed_reply_is_read_and_the_request_carries_what_it_must() {
    let seen = Arc::new(Mutex::new(None));
    let kept = Arc::clone(&seen);
    let (url, _) = serve(move |_, headers, body| {
        *kept.lock().unwrap() = Some((headers, body));
        stream_of(GOOD)
    })
    .await;
    let mut keyed = client(&url);
    keyed.endpoint.api_key = Some(Secret::new("s3cret"));
    let signs = AtomicUsize::new(0);
    let sink = || {
        signs.fetch_add(1, Ordering::Relaxed);
    };
    let reply = keyed.complete(&request(), &sink).await.unwrap();
    assert_eq!(
        (
            reply.content.as_str(),
            reply.finish.clone(),
            reply.usage.prompt,
            reply.usage.estimated
        ),
        ("hello", Finish::Stop, 7, false)
    );
    assert_eq!(signs.load(Ordering::Relaxed), 2, "one for each piece");
    let (headers, body) = seen.lock().unwrap().take().unwrap();
    assert_eq!(headers[header::AUTHORIZATION], "Bearer s3cret");
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (
            body["max_tokens"].clone(),
            body["temperature"].clone(),
            body["stream"].clone()
        ),
        (77.into(), 0.5.into(), true.into())
    );
    assert_eq!(body["chat_template_kwargs"]["enable_thinking"], false);
    assert_eq!(body["tools"][0]["function"]["name"], "read_file");
}

#[tokio::test]
async fn busy_and_broken_servers_are_asked_again_as_often_as_allowed() {
    let statuses = [
        StatusCode::TOO_MANY_REQUESTS,
        StatusCode::REQUEST_TIMEOUT,
        StatusCode::SERVICE_UNAVAILABLE,
    ];
    let (url, count) = serve(move |number, _, _| match statuses.get(number) {
        Some(status) => (
            *status,
            [(header::RETRY_AFTER, "0")],
            "{\"error\":{\"message\":\"busy\"}}",
        )
            .into_response(),
        None => stream_of(GOOD),
    })
    .await;
    assert_eq!(ask(&client(&url)).await.unwrap().content, "hello");
    assert_eq!(count.load(Ordering::SeqCst), 4);

    let (url, count) = serve(|_, _, _| (StatusCode::BAD_GATEWAY, "upstream gone").into_response()).await;
    let error = ask(&client(&url)).await.unwrap_err();
    assert!(error.to_string().contains("HTTP 502 upstream gone"), "{error}");
    assert_eq!(
        (count.load(Ordering::SeqCst), error.category()),
        (4, Category::Unavailable)
    );
}

#[tokio::test]
async fn an_answer_that_cannot_be_read_is_asked_for_again_and_named_when_it_stays_so() {
    type Answer = fn() -> Response;
    let cases: [(Answer, &str); 5] = [
        (|| "{\"choices\": [".into_response(), "it is not JSON"),
        (|| "".into_response(), "the answer is empty"),
        (|| stream_of("data: {\"choices\":[{\"del\n\n"), "an event is not JSON"),
        (
            || stream_of("data: {\"choices\":[]}\n\ndata: [DONE]\n\n"),
            "it holds no reply",
        ),
        (|| "{\"choices\":[],\"usage\":{}}".into_response(), "it holds no reply"),
    ];
    for (answer, words) in cases {
        let (url, count) = serve(move |number, _, _| if number == 0 { answer() } else { stream_of(GOOD) }).await;
        let reply = ask(&client(&url)).await.unwrap();
        assert_eq!((reply.content.as_str(), count.load(Ordering::SeqCst)), ("hello", 2));

        let (url, count) = serve(move |_, _, _| answer()).await;
        let error = ask(&client(&url)).await.unwrap_err();
        assert_eq!(error.category(), Category::Protocol, "{error}");
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(count.load(Ordering::SeqCst), 4, "{words}");
    }
}

#[tokio::test]
async fn what_asking_again_cannot_mend_is_asked_once_and_named() {
    type Answer = fn() -> Response;
    let cases: [(&str, Answer, Category, &str); 8] = [
        (
            "html",
            || axum::response::Html("<!DOCTYPE html><title>Sign in</title>").into_response(),
            Category::Protocol,
            "a web page (titled \"Sign in\")",
        ),
        (
            "html 404",
            || (StatusCode::NOT_FOUND, axum::response::Html("<html><title>None</title>")).into_response(),
            Category::Protocol,
            "/v1",
        ),
        (
            "auth",
            || (StatusCode::UNAUTHORIZED, "{\"error\":\"bad key\"}").into_response(),
            Category::Auth,
            "bad key; check the API key",
        ),
        (
            "a spent quota",
            || {
                let error = "{\"error\":{\"message\":\"You exceeded your current quota\",\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}";
                (StatusCode::TOO_MANY_REQUESTS, error).into_response()
            },
            Category::Auth,
            "what this key may spend is used up",
        ),
        (
            "bad request",
            || {
                (
                    StatusCode::BAD_REQUEST,
                    "{\"error\":{\"message\":\"no such\\u001b[2Jmodel\"}}",
                )
                    .into_response()
            },
            Category::Protocol,
            "no suchmodel",
        ),
        (
            "overflow",
            || {
                (
                    StatusCode::BAD_REQUEST,
                    "{\"error\":{\"message\":\"the request exceeds the available context size\"}}",
                )
                    .into_response()
            },
            Category::ContextOverflow,
            "exceeds",
        ),
        (
            "redirect",
            || {
                (
                    StatusCode::TEMPORARY_REDIRECT,
                    [(header::LOCATION, "http://elsewhere.example/v1")],
                )
                    .into_response()
            },
            Category::Unavailable,
            "elsewhere.example",
        ),
        (
            "a flood of calls",
            || {
                let call = serde_json::json!({"id": "", "function": {"name": "glob", "arguments": "{}"}});
                let message = serde_json::json!({"tool_calls": vec![call; 257]});
                serde_json::json!({"choices": [{"message": message}]})
                    .to_string()
                    .into_response()
            },
            Category::TooManyCalls,
            "more than 256 tool calls",
        ),
    ];
    for (name, answer, category, words) in cases {
        let (url, count) = serve(move |_, _, _| answer()).await;
        let error = ask(&client(&url)).await.unwrap_err();
        assert_eq!(error.category(), category, "{name}: {error}");
        assert!(error.to_string().contains(words), "{name}: {error}");
        assert!(!error.to_string().contains('\u{1b}'));
        assert_eq!(count.load(Ordering::SeqCst), 1, "{name}");
    }
}

#[tokio::test]
async fn a_cut_stream_is_asked_for_again_and_half_a_reply_is_never_taken() {
    let half = "data: {\"choices\":[{\"delta\":{\"content\":\"rm -rf\"}}]}\n\n";
    let (url, count) = serve(move |number, _, _| match number {
        0 => broken_after(vec![half]),
        1 => stream_of("data: {\"choices\":[{\"delta\":{\"content\":\"rm -rf\"}}]}\n\n"),
        2 => stream_of("data: {\"choices\":[{\"delta\":{\"content\":\"rm\"}}]}\n\ndata: {\"choi"),
        3 => stream_of("data: {\"choices\":[{\"delta\":{\"content\":\"rm\"},\"finish_reason\":\"abort\"}]}\n\n"),
        _ => stream_of(GOOD),
    })
    .await;
    let mut patient = client(&url);
    patient.endpoint.max_retries = 4;
    assert_eq!(ask(&patient).await.unwrap().content, "hello");
    assert_eq!(count.load(Ordering::SeqCst), 5);

    let (url, _) = serve(move |_, _, _| broken_after(vec![half])).await;
    let error = ask(&client(&url)).await.unwrap_err();
    assert!(matches!(error, ModelError::Cut { .. }), "{error}");
}

#[tokio::test]
async fn an_empty_reason_for_the_end_is_no_end() {
    let (url, _) = serve(|_, _, _| {
        stream_of("data: {\"choices\":[{\"delta\":{\"content\":\"hel\"},\"finish_reason\":\"\"}]}\n\n")
    })
    .await;
    let error = ask(&client(&url)).await.unwrap_err();
    assert!(matches!(error, ModelError::Cut { .. }), "{error}");
}

#[tokio::test]
async fn a_failure_that_llama_cpp_reports_within_the_stream_is_named() {
    let overflow = "error: {\"code\":400,\"message\":\"the request exceeds the available context size\",\"type\":\"exceed_context_size_error\"}\n\n";
    let begun = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\nerror: {\"code\":500,\"message\":\"Context size has been exceeded.\",\"type\":\"server_error\"}\n\n";
    for body in [overflow, begun] {
        for kind in ["text/event-stream", "text/plain"] {
            let (url, count) = serve(move |_, _, _| ([(header::CONTENT_TYPE, kind)], body).into_response()).await;
            let error = ask(&client(&url)).await.unwrap_err();
            assert_eq!(error.category(), Category::ContextOverflow, "{kind} {body}: {error}");
            assert_eq!(count.load(Ordering::SeqCst), 1);
        }
    }
    let (url, _) = serve(|_, _, _| stream_of("error: {\"code\":400,\"message\":\"no such grammar\"}\n\n")).await;
    let error = ask(&client(&url)).await.unwrap_err();
    assert!(error.to_string().contains("HTTP 400 no such grammar"), "{error}");
}

#[tokio::test]
async fn a_lying_content_type_hides_neither_a_reply_nor_an_error() {
    let whole = "{\"choices\":[{\"message\":{\"content\":\"hello\"},\"finish_reason\":\"stop\"}]}";
    for (kind, body) in [
        ("text/event-stream", whole),
        ("text/plain", whole),
        ("application/json", GOOD),
        ("text/plain", GOOD),
        ("text/plain", COMMENTED),
        ("text/event-stream", COMMENTED),
    ] {
        let (url, _) = serve(move |_, _, _| ([(header::CONTENT_TYPE, kind)], body).into_response()).await;
        assert_eq!(ask(&client(&url)).await.unwrap().content, "hello", "{kind} {body}");
    }
    for (kind, body, named) in [
        ("text/event-stream", "<html><title>Sign in</title>", "Sign in"),
        (
            "text/event-stream",
            "{\"error\":{\"message\":\"no such model\",\"code\":404}}",
            "no such model",
        ),
        (
            "application/json",
            "{\"error\":\"no such model\",\"code\":404}",
            "no such model",
        ),
        // What is compressed without being asked for cannot be read, and must not pass for an empty reply.
        ("application/json", "\u{1f}\u{8b}\u{8}", "not JSON"),
    ] {
        let (url, _) = serve(move |_, _, _| ([(header::CONTENT_TYPE, kind)], body).into_response()).await;
        let error = ask(&client(&url)).await.unwrap_err().to_string();
        assert!(error.contains(named), "{kind} {body}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named_after_all_attempts() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = ask(&client(&url)).await.unwrap_err();
    assert!(
        error.is_away() && error.to_string().contains(&url),
        "somebody may listen soon: {error}"
    );
    let nobody = ask(&client("http://nobody.invalid:8080/v1")).await.unwrap_err();
    assert!(
        matches!(nobody, ModelError::Unreachable { .. }) && !nobody.is_away(),
        "a name that nobody has stays one: {nobody}"
    );
}

#[tokio::test]
async fn an_answer_without_streaming_is_read_too() {
    let whole = "{\"choices\":[{\"message\":{\"content\":null,\"tool_calls\":[{\"id\":\"x\",\"function\":{\"name\":\"bash\",\"arguments\":\"{}\"}}]},\"finish_reason\":\"tool_calls\"}]}";
    let (url, _) = serve(move |_, _, _| ([(header::CONTENT_TYPE, "application/json")], whole).into_response()).await;
    let reply = ask(&client(&url)).await.unwrap();
    assert_eq!(
        (reply.calls[0].name.as_str(), reply.finish.clone()),
        ("bash", Finish::ToolCalls)
    );
    assert!(reply.usage.estimated);
}

#[test]
fn base_urls_are_completed_and_bad_ones_explained() {
    let seen = |text: &str| parse_base_url(text).map(|url| below(&url, "chat/completions").to_string());
    assert_eq!(
        seen("http://localhost:8080").unwrap(),
        "http://localhost:8080/v1/chat/completions"
    );
    assert_eq!(seen("http://h/v1/").unwrap(), "http://h/v1/chat/completions");
    assert_eq!(
        seen("https://h/openai/v1/chat/completions?x=1").unwrap(),
        "https://h/openai/v1/chat/completions"
    );
    assert!(seen("localhost:8080").unwrap_err().to_string().contains("http"));
    let error = seen("https://user:s3cret@h/v1").unwrap_err().to_string();
    assert!(error.contains("API key") && !error.contains("s3cret"), "{error}");
}

#[test]
fn a_secret_shows_in_no_debug_output() {
    let mut endpoint = Endpoint::new("http://h", "m");
    endpoint.api_key = Some(Secret::new("s3cret"));
    assert!(!format!("{endpoint:?}").contains("s3cret"));
}
