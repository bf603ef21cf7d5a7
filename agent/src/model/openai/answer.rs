//! What an answer is that is no reply: a refusal, a redirection, a web page.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, LOCATION, RETRY_AFTER};

use crate::model::ModelError;
use crate::model::http::read_capped;
use crate::model::refusal::Refusal;
use crate::model::retry::parse_retry_after;
use crate::tools::output::one_line;

/// Returns the error that an answer without success is.
pub(super) async fn refused(url: String, response: reqwest::Response) -> ModelError {
    let status = response.status();
    if status.is_redirection() {
        let to = response
            .headers()
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("nowhere");
        return ModelError::Redirected {
            url,
            to: one_line(to, 200),
        };
    }
    let now = i64::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
    )
    .unwrap_or(0);
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| parse_retry_after(value, now));
    let kind = content_type(&response);
    let text = read_capped(response, 16 * 1024, Duration::from_secs(10)).await;
    let code = status.as_u16();
    if kind.contains("html") || looks_like_html(&text) {
        let message = html_title(&text);
        if code < 500 && !matches!(code, 401 | 402 | 403 | 408 | 429) {
            return ModelError::Html { url, title: message };
        }
        return Refusal::saying(message).into_error(url, code, retry_after);
    }
    Refusal::of_body(&text).into_error(url, code, retry_after)
}

/// Returns the content type of an answer, in lower case; empty where it has none.
pub(super) fn content_type(response: &reqwest::Response) -> String {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase()
}

/// Tells whether a body begins as no line of an event stream does.
pub(super) fn begins_like_a_document(piece: &[u8]) -> bool {
    matches!(piece.trim_ascii_start().first(), Some(b'{' | b'[' | b'<'))
}

/// Tells whether a text is an event stream, whatever its content type.
pub(super) fn begins_like_a_stream(text: &str) -> bool {
    let start = text.trim_start_matches('\u{feff}').trim_start();
    ["data:", "error:", "event:", "id:", "retry:", ":"]
        .iter()
        .any(|field| start.starts_with(field))
}

/// Tells whether a text is a web page.
pub(super) fn looks_like_html(text: &str) -> bool {
    let start: String = text
        .trim_start()
        .chars()
        .take(15)
        .collect::<String>()
        .to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

/// Returns how to name a web page: by its title, or by its beginning.
pub(super) fn html_title(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let title = lower.find("<title>").and_then(|start| {
        let end = lower[start..].find("</title>")?;
        text.get(start + 7..start + end)
    });
    match title {
        Some(title) => format!("titled {:?}", one_line(title, 80)),
        None => format!("beginning {:?}", one_line(text, 80)),
    }
}
