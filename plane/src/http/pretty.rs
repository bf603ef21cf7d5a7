//! Answers for people's eyes: indented where they are asked for so, or where a person's program asks.

use axum::body::{Body, HttpBody as _};
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderValue, header};
use http_body_util::BodyExt as _;
use serde_json::Value;

use super::query::Query;

/// Programs that people type requests into; kube-apiserver knows the same.
const PEOPLES: [&str; 3] = ["curl", "Wget", "Mozilla/5.0"];

/// Tells whether the answer is to be indented: `pretty` says so or, where it is not given, the User-Agent.
pub fn wanted(request: &Request) -> bool {
    let query = Query::parse(request.uri().query().unwrap_or(""));
    if query.is_given("pretty") {
        return query.flag("pretty");
    }
    let agent = request.headers().get(header::USER_AGENT);
    let agent = agent.and_then(|value| value.to_str().ok()).unwrap_or("");
    PEOPLES.iter().any(|known| agent.starts_with(known))
}

/// Indents an answer in JSON; what is sent in pieces (watches, long lists) stays as it is.
pub async fn indent(response: Response) -> Response {
    let json = HeaderValue::from_static("application/json");
    let whole = response.body().size_hint().exact().is_some();
    if !whole || response.headers().get(header::CONTENT_TYPE) != Some(&json) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Ok(bytes) = body.collect().await.map(http_body_util::Collected::to_bytes) else {
        return Response::from_parts(parts, Body::empty());
    };
    let read: Option<Value> = serde_json::from_slice(&bytes).ok();
    let Some(mut text) = read.and_then(|value| serde_json::to_string_pretty(&value).ok()) else {
        return Response::from_parts(parts, Body::from(bytes));
    };
    text.push('\n');
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(text))
}
