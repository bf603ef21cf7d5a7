//! The client of OpenAI-compatible servers: llama.cpp, Ollama, vLLM, LM Studio, LiteLLM, cloud.

mod clocks;

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, LOCATION, RETRY_AFTER};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::http::{below, build_client, chain, parse_base_url, read_capped, unreachable};
use super::retry::{Backoff, parse_retry_after};
use super::sse::SseParser;
use super::wire::{Assembler, CALLS, ChunkError, build_body, error_message};
use super::{ModelError, Protocol, Provider, Reply, Request, Secret, Sink};
use crate::tools::output::one_line;
use clocks::{Clocks, Over};

/// Says where a model is served and how patient to be with it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// The base URL; `/v1` is added where it has no path.
    pub base_url: String,
    /// The model's name as the server knows it.
    pub model: String,
    /// The key, sent as a bearer token to this host only.
    pub api_key: Option<Secret>,
    /// PEM certificates to trust in addition to the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Protocol to insist on; `None` leaves the choice to the session's settings.
    pub protocol: Option<Protocol>,
    /// Limit of connecting.
    pub connect_timeout: Duration,
    /// Limit of one whole request (`requestTurnTimeoutSeconds`).
    pub turn_timeout: Duration,
    /// Limit between two pieces of a reply that has begun; where absent, it follows from the turn's limit.
    pub idle_timeout: Option<Duration>,
    /// Limit of waiting for the counts once the reply is whole, where the server leaves the stream open.
    pub closing_timeout: Duration,
    /// How often a failed request is sent again (`maxRetries`).
    pub max_retries: u32,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// Longest reply taken, in bytes.
    pub max_reply_bytes: usize,
}

impl Endpoint {
    /// Describes an endpoint with the published defaults.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            api_key: None,
            ca_bundle: None,
            protocol: None,
            connect_timeout: Duration::from_secs(10),
            turn_timeout: Duration::from_secs(120),
            idle_timeout: None,
            closing_timeout: Duration::from_secs(2),
            max_retries: 3,
            backoff: Backoff::default(),
            max_reply_bytes: 1024 * 1024,
        }
    }
}

/// Speaks to one endpoint.
#[derive(Clone, Debug)]
pub struct OpenAi {
    endpoint: Endpoint,
    client: reqwest::Client,
    url: Url,
}

impl OpenAi {
    /// Sets the client up; reads the CA bundle, opens no connection.
    pub fn new(endpoint: Endpoint) -> Result<Self, ModelError> {
        let base = parse_base_url(&endpoint.base_url)?;
        let client = build_client(&base, endpoint.ca_bundle.as_ref(), endpoint.connect_timeout)?;
        let url = below(&base, "chat/completions");
        Ok(Self { endpoint, client, url })
    }

    async fn attempt(&self, request: &Request, sink: Sink<'_>) -> Result<Reply, ModelError> {
        let body = build_body(&self.endpoint.model, request).to_string();
        let mut clocks = Clocks::start(&self.endpoint, request, Instant::now());
        let prompt_bytes = body.len();
        match timeout_at(clocks.turn(), self.ask(body)).await {
            Ok(response) => self.listen(response?, prompt_bytes, &mut clocks, sink).await,
            Err(_) => Err(self.turn_over(false)),
        }
    }

    fn turn_over(&self, begun: bool) -> ModelError {
        ModelError::TurnTimeout {
            url: self.url.to_string(),
            seconds: self.endpoint.turn_timeout.as_secs(),
            begun,
        }
    }

    /// Sends the request and waits for the head of an answer that is no refusal.
    async fn ask(&self, body: String) -> Result<reqwest::Response, ModelError> {
        let url = || self.url.to_string();
        let mut post = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if let Some(key) = &self.endpoint.api_key {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", key.reveal())).map_err(|_| ModelError::Setup {
                    url: url(),
                    reason: "the API key holds characters that no HTTP header can carry".into(),
                })?;
            value.set_sensitive(true);
            post = post.header(AUTHORIZATION, value);
        }
        let response = post.send().await.map_err(|error| unreachable(url(), error))?;
        self.accept(response).await
    }

    /// Reads the reply to its end.
    async fn listen(
        &self,
        response: reqwest::Response,
        prompt_bytes: usize,
        clocks: &mut Clocks,
        sink: Sink<'_>,
    ) -> Result<Reply, ModelError> {
        let url = || self.url.to_string();
        let kind = content_type(&response);
        let mut stream = response.bytes_stream();
        let mut received = 0usize;
        let mut head = Vec::new();
        let mut assembler = Assembler::default();
        let mut streams = kind.contains("event-stream");
        let mut whole = Vec::new();
        let mut parser = SseParser::new(self.endpoint.max_reply_bytes.saturating_mul(2));
        loop {
            let (until, over) = clocks.next();
            let piece = match timeout_at(until, stream.next()).await {
                Err(_) => match over {
                    // One that fell silent long ago hangs; the model is not to blame.
                    Over::Turn => return Err(self.turn_over(assembler.size() > 0 && !clocks.is_quiet(Instant::now()))),
                    Over::Silence => {
                        return Err(ModelError::Idle {
                            url: url(),
                            seconds: clocks.silence().as_secs(),
                        });
                    }
                    Over::Closing => {
                        tracing::debug!("the reply is whole, and the server leaves the stream open");
                        break;
                    }
                },
                Ok(None) => break,
                Ok(Some(Err(error))) if assembler.is_whole() => {
                    tracing::debug!(error = %chain(&error.without_url()), "the connection broke after the reply was whole");
                    break;
                }
                Ok(Some(Err(error))) => {
                    return Err(ModelError::Cut {
                        url: url(),
                        received,
                        reason: chain(&error.without_url()),
                    });
                }
                Ok(Some(Ok(piece))) => piece,
            };
            received += piece.len();
            if head.len() < 256 {
                head.extend_from_slice(&piece[..piece.len().min(256 - head.len())]);
            }
            if streams && received == piece.len() && begins_like_a_document(&piece) {
                // No line of an event stream begins like this: the content type is wrong.
                streams = false;
            }
            if !streams {
                whole.extend_from_slice(&piece);
                if whole.len() > self.endpoint.max_reply_bytes {
                    return Err(self.too_large());
                }
                continue;
            }
            for event in parser.feed(&piece).map_err(|_| self.too_large())? {
                assembler
                    .push_event(&event, sink)
                    .map_err(|error| self.chunk_error(error, &head))?;
            }
            let now = Instant::now();
            clocks.see(assembler.size(), assembler.is_whole(), now);
            // Where pieces come without a pause, nobody waits for the clock.
            if now >= clocks.turn() && !assembler.is_whole() {
                return Err(self.turn_over(assembler.size() > 0));
            }
            // Chunks have their own overhead; a server that drips empty ones for ever is endless too.
            if assembler.size() > self.endpoint.max_reply_bytes
                || received > self.endpoint.max_reply_bytes.saturating_mul(64)
            {
                return Err(self.too_large());
            }
            if assembler.is_done() {
                break;
            }
        }
        if streams {
            if let Some(event) = parser.finish() {
                // Half an event is a cut stream, not a malformed one.
                if let Err(error @ ChunkError::Server { .. }) = assembler.push_event(&event, sink) {
                    return Err(self.chunk_error(error, &head));
                }
            }
            if !assembler.is_whole() {
                return Err(ModelError::Cut {
                    url: url(),
                    received,
                    reason: "the server closed before it said that the reply is whole".into(),
                });
            }
            return Ok(assembler.finish(prompt_bytes));
        }
        self.read_whole(&whole, &kind, prompt_bytes, sink)
    }

    fn read_whole(&self, bytes: &[u8], kind: &str, prompt_bytes: usize, sink: Sink<'_>) -> Result<Reply, ModelError> {
        let text = String::from_utf8_lossy(bytes);
        if kind.contains("html") || looks_like_html(&text) {
            return Err(ModelError::Html {
                url: self.url.to_string(),
                title: html_title(&text),
            });
        }
        let start = text.trim_start();
        if start.starts_with("data:") || start.starts_with("error:") {
            // A stream without its content type.
            let mut parser = SseParser::new(usize::MAX);
            let mut assembler = Assembler::default();
            let mut events = parser.feed(bytes).map_err(|_| self.too_large())?;
            events.extend(parser.finish());
            for event in events {
                assembler
                    .push_event(&event, sink)
                    .map_err(|error| self.chunk_error(error, bytes))?;
            }
            if assembler.is_whole() {
                return Ok(assembler.finish(prompt_bytes));
            }
            return Err(ModelError::Cut {
                url: self.url.to_string(),
                received: bytes.len(),
                reason: "the stream has no end mark".into(),
            });
        }
        let malformed = |reason: String| ModelError::Malformed {
            url: self.url.to_string(),
            reason,
            snippet: one_line(&text, 120),
        };
        if text.trim().is_empty() {
            return Err(malformed("the answer is empty".into()));
        }
        let value: serde_json::Value =
            serde_json::from_str(&text).map_err(|error| malformed(format!("it is not JSON: {error}")))?;
        let mut assembler = Assembler::default();
        assembler
            .push(&value, sink)
            .map_err(|error| self.chunk_error(error, bytes))?;
        Ok(assembler.finish(prompt_bytes))
    }

    /// Turns every status but success into its error.
    async fn accept(&self, response: reqwest::Response) -> Result<reqwest::Response, ModelError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let url = self.url.to_string();
        if status.is_redirection() {
            let to = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .unwrap_or("nowhere");
            return Err(ModelError::Redirected {
                url,
                to: one_line(to, 200),
            });
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
        let message = if kind.contains("html") || looks_like_html(&text) {
            if code < 500 && code != 401 && code != 403 && code != 408 && code != 429 {
                return Err(ModelError::Html {
                    url,
                    title: html_title(&text),
                });
            }
            html_title(&text)
        } else {
            serde_json::from_str::<serde_json::Value>(&text)
                .map(|value| error_message(value.get("error").unwrap_or(&value)))
                .unwrap_or_else(|_| one_line(&text, 300))
        };
        if code == 401 || code == 403 {
            return Err(ModelError::Auth {
                url,
                status: code,
                message,
            });
        }
        if (code == 400 || code == 413 || code == 500) && is_overflow(&message) {
            return Err(ModelError::ContextOverflow { url, message });
        }
        Err(ModelError::Status {
            url,
            status: code,
            message,
            retry_after,
        })
    }

    fn too_large(&self) -> ModelError {
        ModelError::TooLarge {
            url: self.url.to_string(),
            limit: self.endpoint.max_reply_bytes,
        }
    }

    fn chunk_error(&self, error: ChunkError, head: &[u8]) -> ModelError {
        let url = self.url.to_string();
        match error {
            ChunkError::Malformed(reason) => ModelError::Malformed {
                url,
                reason,
                snippet: one_line(&String::from_utf8_lossy(head), 120),
            },
            ChunkError::TooManyCalls => ModelError::TooManyCalls { url, limit: CALLS },
            ChunkError::Server { message, .. } if is_overflow(&message) => ModelError::ContextOverflow { url, message },
            ChunkError::Server { status, message } => ModelError::Status {
                url,
                status,
                message,
                retry_after: None,
            },
        }
    }
}

fn content_type(response: &reqwest::Response) -> String {
    response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
        .to_ascii_lowercase()
}

fn begins_like_a_document(piece: &[u8]) -> bool {
    matches!(piece.trim_ascii_start().first(), Some(b'{' | b'<'))
}

fn looks_like_html(text: &str) -> bool {
    let start: String = text
        .trim_start()
        .chars()
        .take(15)
        .collect::<String>()
        .to_ascii_lowercase();
    start.starts_with("<!doctype html") || start.starts_with("<html")
}

fn html_title(text: &str) -> String {
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

fn is_overflow(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    let about_context = message.contains("context") || message.contains("maximum") || message.contains("prompt");
    about_context
        && [
            "exceed",
            "too long",
            "too large",
            "maximum context",
            "context length",
            "context size",
            "n_ctx",
        ]
        .iter()
        .any(|words| message.contains(words))
}

impl Provider for OpenAi {
    fn complete<'a>(&'a self, request: &'a Request, sink: Sink<'a>) -> BoxFuture<'a, Result<Reply, ModelError>> {
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                let error = match self.attempt(request, sink).await {
                    Ok(reply) => return Ok(reply),
                    Err(error) => error,
                };
                if !error.retries() || attempt >= self.endpoint.max_retries {
                    return Err(error);
                }
                attempt += 1;
                let asked = match &error {
                    ModelError::Status { retry_after, .. } => *retry_after,
                    _ => None,
                };
                let wait = self.endpoint.backoff.wait(attempt, asked, rand::random::<f64>());
                tracing::warn!(attempt, wait_ms = wait.as_millis() as u64, error = %error, "the model request failed and is sent again");
                sink();
                tokio::time::sleep(wait).await;
            }
        })
    }

    fn protocol(&self) -> Option<Protocol> {
        self.endpoint.protocol
    }

    fn model(&self) -> String {
        self.endpoint.model.clone()
    }
}

#[cfg(test)]
mod tests;
