//! What a model server really offers: who it is, what it serves, how large its window is, and which protocol works.
//!
//! Servers say these things in different places, and some say them wrongly through their OpenAI-compatible
//! side (Ollama serves a window of its own choice there), so that each is asked in its own language too.

mod asker;
mod trial;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use futures::future::join_all;
use serde::Serialize;
use serde_json::{Map, Value};

use super::http::{below, build_client, parse_base_url};
use super::{ModelError, Protocol, Secret};
use crate::tools::output::one_line;
use asker::Asker;

/// Names the program that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerKind {
    /// llama.cpp's `llama-server`.
    LlamaCpp,
    /// Ollama.
    Ollama,
    /// vLLM.
    Vllm,
    /// LM Studio.
    LmStudio,
    /// LiteLLM's proxy.
    LiteLlm,
    /// Something else that speaks the same protocol.
    Other,
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LlamaCpp => "llama.cpp",
            Self::Ollama => "Ollama",
            Self::Vllm => "vLLM",
            Self::LmStudio => "LM Studio",
            Self::LiteLlm => "LiteLLM",
            Self::Other => "OpenAI-compatible server",
        })
    }
}

/// The ports at which local servers listen unless told otherwise.
pub const LOCAL_PORTS: [(u16, ServerKind); 5] = [
    (8080, ServerKind::LlamaCpp),
    (11434, ServerKind::Ollama),
    (8000, ServerKind::Vllm),
    (1234, ServerKind::LmStudio),
    (4000, ServerKind::LiteLlm),
];

/// Tells whether something works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "result", content = "reason")]
pub enum Ability {
    /// A request of the kind brought what it should.
    Works,
    /// It did not; the text says what came instead.
    Fails(String),
    /// Nothing was asked, or what came says nothing about the model: a warning says why.
    NotTried,
}

/// Holds the window of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Tokens that one request may use, prompt and reply together.
    pub tokens: u32,
    /// Where the number comes from.
    pub source: String,
    /// False where the server may serve less than the number.
    pub certain: bool,
}

/// Says what to probe.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// The base URL.
    pub base_url: String,
    /// The model to look at; the first served where absent.
    pub model: Option<String>,
    /// The key.
    pub api_key: Option<Secret>,
    /// PEM certificates to trust as well.
    pub ca_bundle: Option<PathBuf>,
    /// Limit of each small question.
    pub patience: Duration,
    /// Limit of all questions to the model itself together; `None` asks it nothing.
    pub try_model: Option<Duration>,
    /// Extra variables of the server's chat template, as runs will send them: they may turn thinking off.
    pub chat_template_kwargs: Map<String, Value>,
}

impl ProbeSettings {
    /// Probes a base URL with default patience, the model included.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: None,
            api_key: None,
            ca_bundle: None,
            patience: Duration::from_secs(5),
            try_model: Some(Duration::from_secs(60)),
            chat_template_kwargs: Map::new(),
        }
    }
}

/// Holds what a probe found.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeReport {
    /// The base URL, completed.
    pub base_url: String,
    /// Who serves.
    pub kind: ServerKind,
    /// The models served, by name.
    pub models: Vec<String>,
    /// The model looked at.
    pub model: Option<String>,
    /// Its window.
    pub window: Option<Window>,
    /// Native tool calls.
    pub native_tools: Ability,
    /// Calls as plain text.
    pub text: Ability,
    /// Replies forced into a schema.
    pub json_schema: Ability,
    /// The best protocol that works.
    pub protocol: Protocol,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// Whether the server could not answer when its model was tried, and may soon: it starts, or loads the model.
    #[serde(skip)]
    pub is_away: bool,
}

impl ProbeReport {
    /// Tells whether nothing that comes later can make the window better known than it is.
    pub fn has_settled_window(&self) -> bool {
        let tells_once_loaded = matches!(
            self.kind,
            ServerKind::Ollama | ServerKind::LmStudio | ServerKind::LlamaCpp
        );
        self.knows_window() || !tells_once_loaded
    }

    /// Tells whether the window is known, and not only guessed or bounded.
    pub fn knows_window(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.certain)
    }

    /// Tells whether the protocol was chosen by what the model did: it works, and each better one does not.
    pub fn has_proven_protocol(&self) -> bool {
        let abilities = [&self.native_tools, &self.text, &self.json_schema];
        let settled = abilities
            .into_iter()
            .find(|ability| !matches!(ability, Ability::Fails(_)));
        settled == Some(&Ability::Works)
    }

    /// Says why this endpoint cannot be used with a window of at least `floor` tokens; `None` where it can.
    ///
    /// A window that is not certain refuses nothing: a server may load the model with another one.
    pub fn refusal(&self, floor: u32) -> Option<String> {
        let window = self.window.as_ref().filter(|window| window.certain)?;
        if window.tokens >= floor {
            return None;
        }
        let advice = match self.kind {
            ServerKind::LlamaCpp => "start llama-server with a larger -c (it is shared by all slots)",
            ServerKind::Ollama => {
                "set OLLAMA_CONTEXT_LENGTH for the server, or num_ctx in the model's Modelfile; /v1 takes no num_ctx"
            }
            ServerKind::Vllm => "start vLLM with a larger --max-model-len",
            ServerKind::LmStudio => "load the model with a larger context length",
            _ => "serve the model with a larger context",
        };
        Some(format!(
            "{} serves a window of {} tokens ({}), at least {floor} are needed: {advice}",
            self.base_url, window.tokens, window.source
        ))
    }
}

/// Asks a server what it offers.
pub async fn probe(settings: &ProbeSettings) -> Result<ProbeReport, ModelError> {
    let base = parse_base_url(&settings.base_url)?;
    let client = build_client(&base, settings.ca_bundle.as_ref(), settings.patience)?;
    let asker = Asker { client, settings, base };
    let listed = asker.list().await?;
    let ids: Vec<String> = listed
        .iter()
        .filter_map(|model| model.get("id").and_then(Value::as_str))
        .map(|id| one_line(id, 200))
        .take(500)
        .collect();
    let mut warnings = Vec::new();
    let model = match &settings.model {
        Some(model) => {
            if !ids.iter().any(|id| id == model) {
                warnings.push(format!(
                    "the server does not list the model {model:?}; it lists: {}",
                    one_line(&ids.join(", "), 300)
                ));
            }
            Some(model.clone())
        }
        None => ids.first().cloned(),
    };
    let mut found = asker.identify(&listed, model.as_deref()).await;
    let mut report = ProbeReport {
        base_url: asker.base.to_string(),
        kind: found.kind,
        models: ids,
        model: model.clone(),
        window: found.window.clone(),
        native_tools: Ability::NotTried,
        text: Ability::NotTried,
        json_schema: Ability::NotTried,
        protocol: Protocol::Native,
        warnings: Vec::new(),
        is_away: false,
    };
    let tried = match (&model, settings.try_model) {
        (Some(model), Some(limit)) => asker.try_protocols(&mut report, model, limit).await?,
        (None, _) => vec!["the server lists no model".into()],
        (_, None) => Vec::new(),
    };
    if model.is_some() && settings.try_model.is_some() && !report.knows_window() {
        // Some servers know the window only once the model is loaded, which the trial has brought about.
        let listed = asker.list().await.unwrap_or(listed);
        let again = asker.identify(&listed, model.as_deref()).await;
        if again.kind == found.kind || again.window.as_ref().is_some_and(|window| window.certain) {
            report.kind = again.kind;
            report.window.clone_from(&again.window);
            found = again;
        }
    }
    warnings.extend(found.warnings);
    match &report.window {
        None => warnings.push("the server does not say how large its window is; set contextWindowTokens".into()),
        Some(window) if !window.certain => warnings.push(format!(
            "the window of {} tokens is not certain: {}",
            window.tokens, window.source
        )),
        Some(_) => {}
    }
    warnings.extend(tried);
    report.warnings = warnings;
    Ok(report)
}

/// Holds a local server that answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Local {
    /// Its base URL.
    pub base_url: String,
    /// Who usually listens there; a probe knows better.
    pub kind: ServerKind,
    /// The models it lists.
    pub models: Vec<String>,
    /// Whether it asks for a key before it lists any.
    pub asks_for_key: bool,
}

/// Looks for servers at the usual ports of this machine.
pub async fn discover_local() -> Vec<Local> {
    discover(&LOCAL_PORTS, Duration::from_millis(500)).await
}

/// Looks for servers at some ports of this machine, all at once.
pub async fn discover(ports: &[(u16, ServerKind)], patience: Duration) -> Vec<Local> {
    let look = |(port, kind): (u16, ServerKind)| async move {
        let settings = ProbeSettings {
            patience,
            ..ProbeSettings::new(format!("http://127.0.0.1:{port}"))
        };
        let base = parse_base_url(&settings.base_url).ok()?;
        let client = build_client(&base, None, patience).ok()?;
        let asker = Asker {
            client,
            settings: &settings,
            base,
        };
        let found = |models, asks_for_key| Local {
            base_url: asker.base.to_string(),
            kind,
            models,
            asks_for_key,
        };
        match asker.get(below(&asker.base, "models")).await {
            // Whoever listens there was not named by anybody: it gets no key to try.
            Err(ModelError::Auth { status: 401, .. }) => Some(found(Vec::new(), true)),
            Err(_) => None,
            Ok(listed) => {
                // Any web server may listen at 8080: only a list of models counts.
                let data = listed.get("data").and_then(Value::as_array)?;
                let ids = data.iter().filter_map(|model| model.get("id").and_then(Value::as_str));
                Some(found(ids.map(|id| one_line(id, 200)).collect(), false))
            }
        }
    };
    join_all(ports.iter().copied().map(look))
        .await
        .into_iter()
        .flatten()
        .collect()
}

#[cfg(test)]
mod tests;
