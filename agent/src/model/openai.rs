//! The client of OpenAI-compatible servers: llama.cpp, Ollama, vLLM, LM Studio, LiteLLM, cloud.

mod answer;
mod clocks;

use std::path::PathBuf;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::chunks::{Assembler, CALLS, ChunkError, read_chunk};
use super::http::{below, build_client, chain, parse_base_url, unreachable};
use super::retry::Backoff;
use super::sse::SseParser;
use super::wire::build_body;
use super::{ModelError, Protocol, Provider, Reply, Request, Secret, Sink};
use crate::tools::output::one_line;
use answer::{begins_like_a_document, begins_like_a_stream, content_type, html_title, looks_like_html, refused};
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

/// Longest look whether a server is there.
const LOOK: Duration = Duration::from_secs(10);

/// What is known of one request while it is under way.
struct Turn<'a> {
    clocks: Clocks,
    /// How many of the retries are used up, those for waiting longer included.
    attempt: u32,
    sink: Sink<'a>,
}

/// Speaks to one endpoint.
#[derive(Clone, Debug)]
pub struct OpenAi {
    endpoint: Endpoint,
    client: reqwest::Client,
    url: Url,
    /// Where the server lists its models: it answers that also while a model is busy.
    models: Url,
}

impl OpenAi {
    /// Sets the client up; reads the CA bundle, opens no connection.
    pub fn new(endpoint: Endpoint) -> Result<Self, ModelError> {
        let base = parse_base_url(&endpoint.base_url)?;
        let client = build_client(&base, endpoint.ca_bundle.as_ref(), endpoint.connect_timeout)?;
        let url = below(&base, "chat/completions");
        let models = below(&base, "models");
        Ok(Self {
            endpoint,
            client,
            url,
            models,
        })
    }

    async fn attempt(&self, request: &Request, turn: &mut Turn<'_>) -> Result<Reply, ModelError> {
        let body = build_body(&self.endpoint.model, request).to_string();
        let prompt_bytes = body.len();
        let mut asked = std::pin::pin!(self.ask(body));
        let response = loop {
            if let Ok(response) = timeout_at(turn.clocks.turn(), &mut asked).await {
                break response?;
            }
            if !self.waits_longer(turn).await {
                return Err(self.turn_over(&turn.clocks, false));
            }
        };
        self.listen(response, prompt_bytes, turn).await
    }

    /// Decides whether a reply that did not begin in time is waited for longer: where the server is there, it loads its
    /// model, reads a long prompt or serves others first, and a new question would begin all that anew. The last question
    /// of all is a new one, for the old one may have been lost.
    async fn waits_longer(&self, turn: &mut Turn<'_>) -> bool {
        if turn.attempt + 1 >= self.endpoint.max_retries || !self.is_there().await {
            return false;
        }
        turn.attempt += 1;
        turn.clocks.wait_longer(Instant::now());
        (turn.sink)();
        tracing::info!(url = %self.url, "the reply has not begun, and the server is there; it is waited for longer");
        true
    }

    /// Tells whether the server answers, whatever it is. A gateway that says that nobody is behind it is none.
    async fn is_there(&self) -> bool {
        let patience = self.endpoint.turn_timeout.min(LOOK);
        let mut get = self.client.get(self.models.clone()).timeout(patience);
        if let Some(key) = &self.endpoint.api_key {
            get = get.bearer_auth(key.reveal());
        }
        let answer = get.send().await;
        answer.is_ok_and(|answer| !matches!(answer.status().as_u16(), 502..=504))
    }

    /// Tells whether a reply that had begun was being written when its turn was over. Servers hold a native call back
    /// until it is whole, so that a silence says nothing where the server is there; else it hangs, and the model is not
    /// to blame.
    async fn was_writing(&self, is_quiet: bool) -> bool {
        !is_quiet || self.is_there().await
    }

    fn turn_over(&self, clocks: &Clocks, begun: bool) -> ModelError {
        ModelError::TurnTimeout {
            url: self.url.to_string(),
            seconds: clocks.seconds(),
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
        match response.status().is_success() {
            true => Ok(response),
            false => Err(refused(url(), response).await),
        }
    }

    /// Reads the reply to its end.
    async fn listen(
        &self,
        response: reqwest::Response,
        prompt_bytes: usize,
        turn: &mut Turn<'_>,
    ) -> Result<Reply, ModelError> {
        let url = || self.url.to_string();
        let sink = turn.sink;
        let kind = content_type(&response);
        let mut stream = response.bytes_stream();
        let mut received = 0usize;
        let mut head = Vec::new();
        let mut assembler = Assembler::default();
        let mut streams = kind.contains("event-stream");
        let mut whole = Vec::new();
        let mut parser = SseParser::new(self.endpoint.max_reply_bytes.saturating_mul(2));
        loop {
            let (until, over) = turn.clocks.next();
            let piece = match timeout_at(until, stream.next()).await {
                Err(_) => match over {
                    Over::Turn if assembler.size() > 0 => {
                        let begun = self.was_writing(turn.clocks.is_quiet(Instant::now())).await;
                        return Err(self.turn_over(&turn.clocks, begun));
                    }
                    Over::Turn => {
                        if self.waits_longer(turn).await {
                            continue;
                        }
                        return Err(self.turn_over(&turn.clocks, false));
                    }
                    Over::Silence => {
                        return Err(ModelError::Idle {
                            url: url(),
                            seconds: turn.clocks.silence().as_secs(),
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
                    .map_err(|error| self.chunk_error(error, &head, received))?;
            }
            let now = Instant::now();
            turn.clocks.see(assembler.size(), assembler.is_whole(), now);
            // Where pieces come without a pause, nobody waits for the clock.
            if now >= turn.clocks.turn() && !assembler.is_whole() {
                return Err(self.turn_over(&turn.clocks, assembler.size() > 0));
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
                if let Err(error @ ChunkError::Server(_)) = assembler.push_event(&event, sink) {
                    return Err(self.chunk_error(error, &head, received));
                }
            }
            if !assembler.is_whole() {
                return Err(ModelError::Cut {
                    url: url(),
                    received,
                    reason: "the server closed before it said that the reply is whole".into(),
                });
            }
            return self.finish(assembler, &head, prompt_bytes);
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
        if begins_like_a_stream(&text) {
            // A stream without its content type.
            let mut parser = SseParser::new(usize::MAX);
            let mut assembler = Assembler::default();
            let mut events = parser.feed(bytes).map_err(|_| self.too_large())?;
            events.extend(parser.finish());
            for event in events {
                assembler
                    .push_event(&event, sink)
                    .map_err(|error| self.chunk_error(error, bytes, bytes.len()))?;
            }
            if assembler.is_whole() {
                return self.finish(assembler, bytes, prompt_bytes);
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
        let value = read_chunk(text.trim_start_matches('\u{feff}'))
            .map_err(|error| malformed(format!("it is not JSON: {error}")))?;
        let mut assembler = Assembler::default();
        assembler
            .push(&value, sink)
            .map_err(|error| self.chunk_error(error, bytes, bytes.len()))?;
        self.finish(assembler, bytes, prompt_bytes)
    }

    /// Returns the reply; where the server gave no answer at all, the model is not to blame.
    fn finish(&self, assembler: Assembler, head: &[u8], prompt_bytes: usize) -> Result<Reply, ModelError> {
        if assembler.has_choice() {
            return Ok(assembler.finish(prompt_bytes));
        }
        Err(ModelError::Malformed {
            url: self.url.to_string(),
            reason: "it holds no reply".into(),
            snippet: one_line(&String::from_utf8_lossy(head), 120),
        })
    }

    fn too_large(&self) -> ModelError {
        ModelError::TooLarge {
            url: self.url.to_string(),
            limit: self.endpoint.max_reply_bytes,
        }
    }

    fn chunk_error(&self, error: ChunkError, head: &[u8], received: usize) -> ModelError {
        let url = self.url.to_string();
        match error {
            ChunkError::Malformed(reason) => ModelError::Malformed {
                url,
                reason,
                snippet: one_line(&String::from_utf8_lossy(head), 120),
            },
            ChunkError::TooManyCalls => ModelError::TooManyCalls { url, limit: CALLS },
            ChunkError::Server(refusal) => {
                let status = refusal.status.unwrap_or(500);
                refusal.into_error(url, status, None)
            }
            ChunkError::GivenUp(word) => ModelError::Cut {
                url,
                received,
                reason: format!("the server gave the reply up: {}", one_line(&word, 40)),
            },
        }
    }
}

impl Provider for OpenAi {
    fn complete<'a>(&'a self, request: &'a Request, sink: Sink<'a>) -> BoxFuture<'a, Result<Reply, ModelError>> {
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                let clocks = Clocks::start(&self.endpoint, request, Instant::now());
                let mut turn = Turn { clocks, attempt, sink };
                let error = match self.attempt(request, &mut turn).await {
                    Ok(reply) => return Ok(reply),
                    Err(error) => error,
                };
                attempt = turn.attempt;
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
