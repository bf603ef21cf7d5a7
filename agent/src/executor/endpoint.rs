//! Which model server an Agent asks, and how.

mod trials;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::api::Api;
use kube::{Client, ResourceExt};
use schemas::agent::{AgentSpec, ModelProvider};
use schemas::agentic_task::FailureReason;
use schemas::shared::{LocalRef, SecretKeyRef};
use schemas::{Agent, AgenticTask};

use super::Run;
use crate::coder::Ending;
use crate::config::{Config, host_and_port};
use crate::model::news::News;
use crate::model::openai::{Endpoint, OpenAi};
use crate::model::probe::{ProbeReport, ProbeSettings, Window, probe};
use crate::model::replay::Replay;
use crate::model::retry::{PATIENCE, Patience};
use crate::model::{Protocol, Provider, Secret};
use crate::outcome::Outcome;
use trials::Trials;

/// The base URL that asks for recorded sessions in place of a model.
pub const REPLAY: &str = "replay:";
/// Smallest context window that a coder is run with, in tokens.
pub const WINDOW_FLOOR: u32 = crate::coder::CONTEXT_FLOOR;
/// Longest trial of a model before a run.
const TRIAL_LIMIT: Duration = Duration::from_secs(300);

/// A model to ask.
pub struct Asked {
    /// How it is asked.
    pub provider: Box<dyn Provider>,
    /// Window that is really served, where that is known.
    pub window: Option<u32>,
    /// How tool calls travel.
    pub protocol: Protocol,
    /// What was found out about the model, by name; none for a recording.
    pub finding: Option<Finding>,
}

/// Names what was found out about a model, so that the end of a run can speak against it.
#[derive(Clone, Debug)]
pub struct Finding(String);

impl Finding {
    /// Takes note of how a run with this model ended: some ends let the next run look at the model anew.
    pub fn learn(&self, ending: Ending) {
        remembered().learn(&self.0, ending);
    }
}

/// Returns the base URL that an Agent's references resolve to, with the node's overrides, which are for models in the
/// house: a proxy to a cloud is asked where the Agent says.
pub fn base_url(agent: &Agent, config: &Config) -> Option<String> {
    let own = agent
        .spec
        .provider_config
        .as_ref()
        .and_then(|provider| provider.base_url.clone());
    if own.as_deref().is_some_and(|url| url.starts_with(REPLAY)) || agent.spec.provider == ModelProvider::CloudProxy {
        return own;
    }
    if let Some(url) = &config.inference_base_url {
        return Some(url.clone());
    }
    let service = agent.spec.inference_service_ref.as_ref().and_then(LocalRef::named);
    let url = own.or_else(|| {
        let namespace = agent.namespace().unwrap_or_default();
        service.map(|name| format!("http://{name}.{namespace}.svc:8080/v1"))
    })?;
    Some(match &config.inference_host {
        Some(host) => with_host(&url, host).unwrap_or(url),
        None => url,
    })
}

fn with_host(url: &str, host: &str) -> Option<String> {
    let mut url = url::Url::parse(url).ok()?;
    let (name, port) = host_and_port(host)?;
    url.set_host(Some(&name)).ok()?;
    url.set_port(port.or(url.port())).ok()?;
    Some(url.to_string())
}

fn remembered() -> &'static Trials {
    static TRIALS: OnceLock<Trials> = OnceLock::new();
    TRIALS.get_or_init(Trials::default)
}

fn settings(url: &str, config: &Config) -> ProbeSettings {
    let mut settings = ProbeSettings::new(url);
    settings.ca_bundle.clone_from(&config.ca_bundle);
    settings
}

/// Asks an endpoint what it serves, without asking its model anything.
pub async fn look(url: &str, key: Option<Secret>, config: &Config) -> Option<ProbeReport> {
    let mut settings = settings(url, config);
    settings.api_key = key;
    settings.try_model = None;
    settings.patience = Duration::from_secs(3);
    probe(&settings).await.ok()
}

/// Finds the model that `agent` asks for the run's task, and tells while its server does not answer.
pub async fn ask(run: &Run, agent: &Agent, stem: &str, round: u32, news: &News) -> Result<Asked, Outcome> {
    let config = &run.services.config;
    let Some(url) = base_url(agent, config) else {
        return Err(Outcome::failed(
            FailureReason::InferenceServiceUnavailable,
            format!(
                "Agent {} names no model server; set spec.providerConfig.baseURL",
                agent.name_any()
            ),
        ));
    };
    if url.starts_with(REPLAY) {
        return replay(run, stem, round);
    }
    if agent.spec.provider == ModelProvider::CloudProxy && !config.allow_cloud_providers {
        return Err(Outcome::failed(
            FailureReason::InferenceServiceUnavailable,
            format!(
                "Agent {} has provider cloud-proxy, and this node runs none (--allow-cloud-providers=false)",
                agent.name_any()
            ),
        ));
    }
    let key = key(run, agent).await?;
    let name = model(agent, &run.task);
    let mut settings = settings(&url, config);
    settings.model.clone_from(&name);
    settings.api_key.clone_from(&key);
    settings.chat_template_kwargs = agent.spec.chat_template_kwargs.clone().unwrap_or_default();
    // The trial may have to wait until the server has loaded the model, as the first turn would; the run needs time too.
    settings.try_model = Some(turn_limit(&agent.spec).min(TRIAL_LIMIT).min(run.limit / 4));
    let report = tokio::select! {
        biased;
        // The run itself says how a cancelled run ends.
        () = run.cancel.cancelled() => None,
        report = find_out(remembered(), &settings, PATIENCE, news) => report,
    };
    for warning in report.iter().flat_map(|report| &report.warnings) {
        tracing::warn!(url, warning, "the model server's answers leave something open");
    }
    if let Some(refusal) = report.as_ref().and_then(|report| report.refusal(WINDOW_FLOOR)) {
        return Err(Outcome::failed(FailureReason::InferenceServiceUnavailable, refusal));
    }
    let name = name
        .or_else(|| report.as_ref().and_then(|report| report.model.clone()))
        .unwrap_or_default();
    let mut endpoint = Endpoint::new(url, name);
    endpoint.api_key = key;
    endpoint.ca_bundle.clone_from(&config.ca_bundle);
    endpoint.turn_timeout = turn_limit(&agent.spec);
    endpoint.max_retries = agent.spec.max_retries.clamp(0, 20) as u32;
    let protocol = report.as_ref().map_or(Protocol::Native, |report| report.protocol);
    let provider = OpenAi::new(endpoint)
        .map_err(|error| Outcome::failed(FailureReason::InferenceServiceUnavailable, error.to_string()))?;
    Ok(Asked {
        provider: Box::new(provider),
        window: report.and_then(|report| usable_window(report.window.as_ref(), &agent.spec)),
        protocol,
        finding: Some(Finding(Trials::key(&settings))),
    })
}

/// Asks a server what it offers, and again while it is away: what is not known of it then would be guessed for the whole
/// run. The run's turns have a patience of their own.
async fn find_out(trials: &Trials, settings: &ProbeSettings, patience: Patience, news: &News) -> Option<ProbeReport> {
    let url = &settings.base_url;
    let since = Instant::now();
    let mut pause = patience.pause;
    loop {
        let (report, error) = match trials.probe(settings, Instant::now()).await {
            Ok(report) if !report.is_away => {
                news.answers();
                return Some(report);
            }
            Ok(report) => {
                let words = report.warnings.join("; ");
                (Some(report), words)
            }
            Err(error) if error.is_away() => (None, error.to_string()),
            Err(error) => {
                tracing::warn!(%error, url, "failed to probe the model server; going on with what the Agent says");
                return None;
            }
        };
        if since.elapsed() >= patience.whole {
            tracing::warn!(
                error,
                url,
                "the model server stays away; going on with what is known of it"
            );
            return report;
        }
        tracing::warn!(error, url, "the model server does not answer; it is asked again");
        news.is_away(&error, patience.whole);
        tokio::time::sleep(pause).await;
        pause = patience.after(pause);
    }
}

/// Returns the window to reckon with. A guess that no run could be made with gives way to what the Agent says, or else to
/// the smallest that a run is made with.
fn usable_window(window: Option<&Window>, spec: &AgentSpec) -> Option<u32> {
    let window = window?;
    if window.certain || window.tokens >= WINDOW_FLOOR {
        return Some(window.tokens);
    }
    let said = spec.context_window_tokens.is_some_and(|tokens| tokens > 0);
    (!said).then_some(WINDOW_FLOOR)
}

/// Returns how long one turn may take.
fn turn_limit(spec: &AgentSpec) -> Duration {
    let whole = spec.request_timeout_seconds.max(1);
    Duration::from_secs(spec.request_turn_timeout_seconds.clamp(1, whole) as u64)
}

fn model(agent: &Agent, task: &AgenticTask) -> Option<String> {
    let provider = agent.spec.provider_config.as_ref();
    task.spec
        .model_ref
        .clone()
        .or_else(|| provider.and_then(|provider| provider.model.clone()))
        .or_else(|| agent.spec.model.clone())
        .filter(|model| !model.is_empty())
}

fn replay(run: &Run, stem: &str, round: u32) -> Result<Asked, Outcome> {
    let Some(folder) = &run.services.config.replay_sessions else {
        return Err(Outcome::failed(
            FailureReason::InferenceServiceUnavailable,
            "the Agent asks for a recorded session and this node was started without --replay-sessions",
        ));
    };
    let provider = Replay::find(folder, stem, round)
        .map_err(|error| Outcome::failed(FailureReason::InferenceServiceUnavailable, error.to_string()))?;
    let protocol = provider.header().protocol;
    Ok(Asked {
        provider: Box::new(provider),
        window: None,
        protocol,
        finding: None,
    })
}

/// Returns where an Agent's key for its model server is.
fn key_ref(agent: &Agent) -> Option<&SecretKeyRef> {
    agent.spec.provider_config.as_ref()?.api_key_secret_ref.as_ref()
}

fn key_in(secret: Option<KubeSecret>, reference: &SecretKeyRef) -> Option<Secret> {
    let bytes = secret?.data?.remove(&reference.key)?;
    Some(Secret::new(String::from_utf8_lossy(&bytes.0).trim().to_owned()))
}

/// Reads the key of an Agent's model server, where it has one that can be read.
pub async fn readable_key(client: &Client, agent: &Agent) -> Option<Secret> {
    let reference = key_ref(agent)?;
    let secrets: Api<KubeSecret> = Api::namespaced(client.clone(), &agent.namespace().unwrap_or_default());
    key_in(secrets.get_opt(&reference.name).await.ok().flatten(), reference)
}

async fn key(run: &Run, agent: &Agent) -> Result<Option<Secret>, Outcome> {
    let Some(reference) = key_ref(agent) else {
        return Ok(None);
    };
    let namespace = run.task.namespace().unwrap_or_default();
    let secrets: Api<KubeSecret> = Api::namespaced(run.services.client.clone(), &namespace);
    let found = run.read(&secrets, &reference.name).await.map_err(|error| {
        Outcome::failed(
            FailureReason::InfrastructureError,
            format!("failed to read Secret {}: {error}", reference.name),
        )
    })?;
    match key_in(found, reference) {
        Some(key) => Ok(Some(key)),
        None if reference.optional == Some(true) => Ok(None),
        None => Err(Outcome::failed(
            FailureReason::AuthUnavailable,
            format!(
                "Secret {} has no key {:?}, which Agent {} names",
                reference.name,
                reference.key,
                agent.name_any()
            ),
        )),
    }
}

#[cfg(test)]
mod tests;
