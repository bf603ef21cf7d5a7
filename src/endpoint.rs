//! Which model server local commands use.

use std::fmt;
use std::time::Duration;

use agent::model::probe::{Ability, Local, ProbeReport, ProbeSettings, discover_local, probe};
use agent::model::{ModelError, Protocol, Secret};

use crate::cli::Global;

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

/// Tells that no model server was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Base URLs of what asks for a key on the usual ports.
    asking: Vec<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "no model server answers on the usual ports (llama.cpp 8080, Ollama 11434, vLLM 8000, LM Studio 1234, LiteLLM 4000)",
        )?;
        match self.asking.as_slice() {
            [] => Ok(()),
            asking => write!(f, ", but {} asks for an API key", asking.join(", ")),
        }
    }
}

impl Missing {
    /// Says what to do.
    pub fn advice(&self) -> String {
        match self.asking.first() {
            Some(url) => {
                format!("set FOREMAN_MODEL_URL={url} and FOREMAN_MODEL_API_KEY if that is your model server")
            }
            None => "start one, or set FOREMAN_MODEL_URL".into(),
        }
    }
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
pub async fn find(global: &Global, ask_the_model: bool) -> Result<Server, Missing> {
    let named = variable("FOREMAN_MODEL_URL");
    let wanted = variable("FOREMAN_MODEL");
    let base_url = match &named {
        Some(url) => url.clone(),
        None => choose(discover_local().await)?,
    };
    Ok(look(global, base_url, wanted, named.is_some(), ask_the_model).await)
}

/// Returns the base URL of the first server that lists its models.
fn choose(found: Vec<Local>) -> Result<String, Missing> {
    let (asking, open): (Vec<Local>, Vec<Local>) = found.into_iter().partition(|local| local.asks_for_key);
    open.into_iter()
        .next()
        .map(|local| local.base_url)
        .ok_or_else(|| Missing {
            asking: asking.into_iter().map(|local| local.base_url).collect(),
        })
}

/// Asks one server what it serves.
pub async fn look(
    global: &Global,
    base_url: String,
    model: Option<String>,
    named: bool,
    ask_the_model: bool,
) -> Server {
    let mut settings = ProbeSettings::new(base_url.clone());
    settings.model.clone_from(&model);
    settings.api_key = api_key().map(Secret::new);
    settings.ca_bundle.clone_from(&global.ca_bundle);
    settings.try_model = ask_the_model.then_some(Duration::from_secs(30));
    let report = probe(&settings).await.map_err(|error| match error {
        ModelError::Auth { .. } => format!("{error} (FOREMAN_MODEL_API_KEY)"),
        error => error.to_string(),
    });
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
                calls(report),
            )
        }
    }
}

/// Says how tool calls travel, as far as that was seen.
fn calls(report: &ProbeReport) -> &'static str {
    let seen = [&report.native_tools, &report.text, &report.json_schema].contains(&&Ability::Works);
    match report.protocol {
        Protocol::Native if !seen => "not tried yet",
        Protocol::Native => "native",
        Protocol::JsonSchema => "as JSON",
        Protocol::Text => "as text",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use agent::model::probe::ServerKind;

    use super::*;

    fn local(port: u16, asks_for_key: bool) -> Local {
        Local {
            base_url: format!("http://127.0.0.1:{port}/v1"),
            kind: ServerKind::LlamaCpp,
            models: Vec::new(),
            asks_for_key,
        }
    }

    #[test]
    fn a_server_that_asks_for_a_key_is_named_where_no_other_is_there() {
        assert_eq!(
            choose(vec![local(1, true), local(2, false)]),
            Ok("http://127.0.0.1:2/v1".into())
        );
        let missing = choose(vec![local(1, true)]).unwrap_err();
        let said = format!("{missing}; {}", missing.advice());
        assert!(said.contains("http://127.0.0.1:1/v1 asks for an API key"), "{said}");
        assert!(
            said.contains("FOREMAN_MODEL_URL=http://127.0.0.1:1/v1") && said.contains("FOREMAN_MODEL_API_KEY"),
            "{said}"
        );
        let missing = choose(Vec::new()).unwrap_err();
        assert!(!missing.to_string().contains("key"), "{missing}");
    }

    #[tokio::test]
    async fn the_certificates_that_are_named_are_those_that_a_model_server_is_asked_with() {
        let global = Global {
            ca_bundle: Some("/nowhere/ca.pem".into()),
            ..Global::default()
        };
        let server = look(&global, "https://127.0.0.1:1".into(), None, true, false).await;
        let why = server.report.unwrap_err();
        assert!(why.contains("/nowhere/ca.pem"), "{why}");
    }
}
