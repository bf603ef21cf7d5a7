//! Which model server local commands use.

use std::time::Duration;

use agent::model::probe::{ProbeReport, ProbeSettings, discover_local, probe};
use agent::model::{Protocol, Secret};

/// A model server that was named or found.
#[derive(Clone, Debug)]
pub struct Server {
    /// Base URL.
    pub base_url: String,
    /// Model, where one was named or the server has but one.
    pub model: Option<String>,
    /// What the probe found, or why it failed.
    pub report: Result<ProbeReport, String>,
    /// Whether the environment named it.
    pub named: bool,
}

/// Reads an environment variable that is not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

/// Returns the key for model servers that the environment holds.
pub fn api_key() -> Option<String> {
    variable("FOREMAN_MODEL_API_KEY")
}

/// Uses the server that `FOREMAN_MODEL_URL` names, else the first found on the usual local ports.
pub async fn find(ask_the_model: bool) -> Option<Server> {
    let named = variable("FOREMAN_MODEL_URL");
    let wanted = variable("FOREMAN_MODEL");
    let base_url = match &named {
        Some(url) => url.clone(),
        None => discover_local().await.into_iter().next()?.base_url,
    };
    Some(look(base_url, wanted, named.is_some(), ask_the_model).await)
}

/// Asks one server what it serves.
pub async fn look(base_url: String, model: Option<String>, named: bool, ask_the_model: bool) -> Server {
    let mut settings = ProbeSettings::new(base_url.clone());
    settings.model.clone_from(&model);
    settings.api_key = api_key().map(Secret::new);
    settings.try_model = ask_the_model.then_some(Duration::from_secs(20));
    let report = probe(&settings).await.map_err(|error| error.to_string());
    let model = model.or_else(|| report.as_ref().ok().and_then(|report| report.model.clone()));
    Server {
        base_url,
        model,
        report,
        named,
    }
}

/// Describes a server in one line.
pub fn describe(server: &Server) -> String {
    match &server.report {
        Err(why) => format!("{}: {why}", server.base_url),
        Ok(report) => {
            let window = match &report.window {
                Some(window) => format!("{} tokens ({})", window.tokens, window.source),
                None => "unknown".into(),
            };
            format!(
                "{} at {}, model {}, window {window}, tool calls {}",
                report.kind,
                server.base_url,
                server.model.as_deref().unwrap_or("none"),
                match report.protocol {
                    Protocol::Native => "native",
                    Protocol::JsonSchema => "as JSON",
                    Protocol::Text => "as text",
                }
            )
        }
    }
}
