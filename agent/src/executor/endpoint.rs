//! Which model server an Agent asks, and how.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::ResourceExt;
use kube::api::Api;
use schemas::agent::{AgentSpec, ModelProvider};
use schemas::agentic_task::FailureReason;
use schemas::shared::LocalRef;
use schemas::{Agent, AgenticTask};

use super::Run;
use crate::config::Config;
use crate::model::openai::{Endpoint, OpenAi};
use crate::model::probe::{ProbeReport, ProbeSettings, probe};
use crate::model::replay::Replay;
use crate::model::{Protocol, Provider, Secret};
use crate::outcome::Outcome;

/// The base URL that asks for recorded sessions in place of a model.
pub const REPLAY: &str = "replay:";
/// Smallest context window that a coder is run with, in tokens.
pub const WINDOW_FLOOR: u32 = crate::coder::CONTEXT_FLOOR;

/// A model to ask.
pub struct Asked {
    /// How it is asked.
    pub provider: Box<dyn Provider>,
    /// Window that is really served, where that is known.
    pub window: Option<u32>,
    /// How tool calls travel.
    pub protocol: Protocol,
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
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) => (name, Some(port.parse().ok()?)),
        None => (host, url.port()),
    };
    url.set_host(Some(name)).ok()?;
    url.set_port(port).ok()?;
    Some(url.to_string())
}

fn remembered() -> &'static Mutex<HashMap<String, ProbeReport>> {
    static REPORTS: OnceLock<Mutex<HashMap<String, ProbeReport>>> = OnceLock::new();
    REPORTS.get_or_init(Mutex::default)
}

fn settings(url: &str, config: &Config) -> ProbeSettings {
    let mut settings = ProbeSettings::new(url);
    settings.ca_bundle.clone_from(&config.ca_bundle);
    settings
}

/// Asks an endpoint what it serves, without asking its model anything.
pub async fn look(url: &str, config: &Config) -> Option<ProbeReport> {
    let mut settings = settings(url, config);
    settings.try_model = None;
    settings.patience = Duration::from_secs(3);
    probe(&settings).await.ok()
}

/// Finds the model that `agent` asks for the run's task.
pub async fn ask(run: &Run, agent: &Agent, stem: &str, round: u32) -> Result<Asked, Outcome> {
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
    let cached = remembered()
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(&cache_key(&url, name.as_deref()))
        .cloned();
    let report = match cached {
        Some(report) => Some(report),
        None => {
            let mut settings = settings(&url, config);
            settings.model.clone_from(&name);
            settings.api_key.clone_from(&key);
            match probe(&settings).await {
                Ok(report) => {
                    let mut all = remembered().lock().unwrap_or_else(PoisonError::into_inner);
                    all.insert(cache_key(&url, name.as_deref()), report.clone());
                    Some(report)
                }
                Err(error) => {
                    tracing::warn!(%error, url, "failed to probe the model server; going on with what the Agent says");
                    None
                }
            }
        }
    };
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
    let window = report.and_then(|report| report.window).map(|window| window.tokens);
    Ok(Asked {
        provider: Box::new(provider),
        window,
        protocol,
    })
}

/// Returns how long one turn may take.
fn turn_limit(spec: &AgentSpec) -> Duration {
    let whole = spec.request_timeout_seconds.max(1);
    Duration::from_secs(spec.request_turn_timeout_seconds.clamp(1, whole) as u64)
}

fn cache_key(url: &str, model: Option<&str>) -> String {
    format!("{url} {}", model.unwrap_or_default())
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
    })
}

async fn key(run: &Run, agent: &Agent) -> Result<Option<Secret>, Outcome> {
    let Some(reference) = agent
        .spec
        .provider_config
        .as_ref()
        .and_then(|provider| provider.api_key_secret_ref.clone())
    else {
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
    let bytes = found
        .and_then(|secret| secret.data)
        .and_then(|data| data.get(&reference.key).map(|bytes| bytes.0.clone()));
    match bytes {
        Some(bytes) => Ok(Some(Secret::new(String::from_utf8_lossy(&bytes).trim().to_owned()))),
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_turn_is_bounded_by_the_limit_that_is_named_for_it() {
        let limit = |turn| {
            turn_limit(&AgentSpec {
                request_turn_timeout_seconds: turn,
                request_timeout_seconds: 3600,
                ..AgentSpec::default()
            })
            .as_secs()
        };
        assert_eq!([4, 600, 99_999].map(limit), [4, 600, 3600]);
    }

    #[test]
    fn a_node_overrides_local_servers_and_no_proxy_to_a_cloud() {
        let config = crate::config::tests::parse(&["--inference-base-url-override", "http://gpu:8080/v1"]);
        let asked = |provider: &str| {
            let agent: Agent = serde_json::from_value(serde_json::json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent", "metadata": { "name": "a" },
                "spec": { "role": "coder", "tools": [], "provider": provider, "providerConfig": { "baseURL": "http://proxy/v1" } }
            }))
            .unwrap();
            base_url(&agent, &config).unwrap()
        };
        assert_eq!(asked("local"), "http://gpu:8080/v1");
        assert_eq!(asked("cloud-proxy"), "http://proxy/v1");
    }

    #[test]
    fn a_host_override_keeps_the_rest_of_the_address() {
        assert_eq!(
            with_host("http://a.svc:8080/v1", "gpu.lan").unwrap(),
            "http://gpu.lan:8080/v1"
        );
        assert_eq!(
            with_host("http://a.svc:8080/v1", "gpu.lan:9000").unwrap(),
            "http://gpu.lan:9000/v1"
        );
    }
}
