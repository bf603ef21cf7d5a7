//! What the coder loop says to a model and hears from it, whoever the model is.
//!
//! A [`Provider`] answers a [`Request`] with a [`Reply`]. [`openai::OpenAi`] speaks to servers of the
//! OpenAI-compatible kind, [`replay::Replay`] plays a recorded session. [`probe`] asks a server what
//! it can do, so that the loop uses the best protocol that really works there.

pub mod chunks;
pub mod error;
pub mod http;
pub mod news;
pub mod openai;
pub mod probe;
mod refusal;
pub mod replay;
pub mod retry;
pub mod sse;
pub mod thoughts;
pub mod wire;

use std::fmt;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use error::{Category, ModelError};

use crate::tools::schema::ToolSpec;

/// Says who speaks in a [`Message`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Speaker {
    /// The rules of the run.
    System,
    /// The task, and what the loop says in between.
    User,
    /// The model.
    Assistant,
    /// The answer to one native tool call.
    Tool,
}

/// Holds one message of the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks.
    pub role: Speaker,
    /// The text.
    #[serde(default)]
    pub content: String,
    /// Native tool calls of an assistant message.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<RawCall>,
    /// The call that a tool message answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_id: Option<String>,
}

impl Message {
    /// Builds a message of text only.
    pub fn text(role: Speaker, content: impl Into<String>) -> Self {
        Self {
            role,
            content: content.into(),
            calls: Vec::new(),
            call_id: None,
        }
    }
}

/// Holds a tool call as the model wrote it, not yet checked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RawCall {
    /// The server's id of the call; empty where there is none.
    #[serde(default)]
    pub id: String,
    /// The name as written.
    pub name: String,
    /// The arguments as written: JSON text. In a session file an object is accepted as well.
    #[serde(default, deserialize_with = "arguments_text")]
    pub arguments: String,
}

fn arguments_text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(match Value::deserialize(deserializer)? {
        Value::String(text) => text,
        Value::Null => "{}".to_owned(),
        other => other.to_string(),
    })
}

/// Says why the server stopped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finish {
    /// The model was done.
    #[default]
    Stop,
    /// The model asks for tools.
    ToolCalls,
    /// The reply hit the limit of output tokens.
    Length,
    /// The server withheld the reply.
    ContentFilter,
    /// Something else, in the server's word.
    Other(String),
}

/// Counts the tokens of one reply, or of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt: u64,
    /// Tokens of the prompt that the server had cached.
    #[serde(default)]
    pub cached: u64,
    /// Tokens that the model wrote.
    #[serde(default)]
    pub completion: u64,
    /// True where at least one count is our estimate, because the server gave none.
    #[serde(default)]
    pub estimated: bool,
}

impl Usage {
    /// Adds another count.
    pub fn add(&mut self, other: Usage) {
        self.prompt = self.prompt.saturating_add(other.prompt);
        self.cached = self.cached.saturating_add(other.cached);
        self.completion = self.completion.saturating_add(other.completion);
        self.estimated |= other.estimated;
    }

    /// Returns prompt and completion together.
    pub fn total(&self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

/// Holds what the model answered.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Reply {
    /// The text, without reasoning.
    #[serde(default)]
    pub content: String,
    /// What the model thought aloud; never sent back.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reasoning: String,
    /// Native tool calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calls: Vec<RawCall>,
    /// Why it ended.
    #[serde(default)]
    pub finish: Finish,
    /// What it cost.
    #[serde(default)]
    pub usage: Usage,
}

/// Names how tool calls travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// The server's own `tool_calls`.
    #[default]
    Native,
    /// One JSON object per reply, forced by `response_format`.
    JsonSchema,
    /// Blocks of text that the system prompt describes; code stays outside JSON.
    Text,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::JsonSchema => "json-schema",
            Self::Text => "text",
        })
    }
}

/// Holds one question to a model.
#[derive(Clone, Debug)]
pub struct Request {
    /// The whole conversation that the model is to see.
    pub messages: Vec<Message>,
    /// The tools on offer, always in the same order.
    pub tools: Vec<ToolSpec>,
    /// How calls travel.
    pub protocol: Protocol,
    /// Upper bound of the reply, in tokens. Always sent.
    pub max_tokens: u32,
    /// Sampling temperature; the server's own where absent.
    pub temperature: Option<f64>,
    /// Extra variables of the server's chat template.
    pub chat_template_kwargs: Map<String, Value>,
}

/// Is called at each sign of life: a piece of text, of thoughts or of a call, or a request that is sent again.
pub type Sink<'a> = &'a (dyn Fn() + Send + Sync);

/// Answers requests: a model server, or a recording of one.
pub trait Provider: Send + Sync {
    /// Asks for one reply. Dropping the future abandons the request.
    fn complete<'a>(&'a self, request: &'a Request, sink: Sink<'a>) -> BoxFuture<'a, Result<Reply, ModelError>>;

    /// Returns the protocol that this provider insists on, if it does.
    fn protocol(&self) -> Option<Protocol> {
        None
    }

    /// Returns the name of the model as the journal is to record it.
    fn model(&self) -> String;

    /// Tells whether the model's words are played from a recording.
    fn replays(&self) -> bool {
        false
    }
}

/// Holds a secret that no log, error or object shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a secret in.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Hands the secret to the one place that must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Estimates how many tokens a text has where no server counts them: 3.5 bytes each, never zero.
pub fn estimate_tokens(bytes: usize) -> u64 {
    (bytes as u64).saturating_mul(2).div_ceil(7).max(1)
}
