//! What a coder's Pod is given: the task, its Agent, its claim, and the objects of the API that the run reads.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::{Method, Response, StatusCode};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::Api;
use kube::client::Body;
use kube::{Client, ResourceExt};
use schemas::agentic_task::{Claim, FailureReason};
use schemas::{Agent, AgenticTask, ModelProfile, Workload};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::executor::{Run, endpoint, source, verifier};
use crate::model::replay::session_path;
use crate::outcome::Outcome;

const OURS: &str = "/apis/foreman.llmkube.dev/v1alpha1";

/// What a coder's Pod is given.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Payload {
    /// The task as it was claimed.
    pub task: AgenticTask,
    /// Its Agent.
    pub agent: Option<Agent>,
    /// The claim.
    pub claim: Claim,
    /// The claim's secret: the credential to store evidence with.
    pub secret: String,
    /// Objects that the run may read, by their paths in the API; no other is there.
    pub objects: BTreeMap<String, Value>,
    /// What the node was told that the run depends on.
    pub settings: Settings,
    /// Recorded sessions by path, where they stand in for a model.
    pub sessions: BTreeMap<PathBuf, String>,
    /// PEM certificates that are trusted besides the system's.
    pub ca_bundle: Option<String>,
}

/// What the node was told that the run depends on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Name of the node.
    pub node: String,
    /// Base URL of `owner/name` repositories.
    pub git_remote_url: Option<String>,
    /// Base URL of the evidence store.
    pub evidence_url: Option<String>,
    /// Endpoint that replaces an Agent's.
    pub inference_base_url: Option<String>,
    /// Host that replaces the host of an Agent's endpoint.
    pub inference_host: Option<String>,
    /// Author's name and address, committer's name and address.
    pub identities: [String; 4],
    /// Whether commits carry a sign-off.
    pub sign_off: bool,
    /// Whether Agents of `provider: cloud-proxy` may be run.
    pub allow_cloud_providers: bool,
    /// Whether model commands may run without a sandbox.
    pub unsafe_no_sandbox: bool,
    /// Roots of `file://` repositories.
    pub file_roots: Vec<PathBuf>,
}

impl Settings {
    fn of(config: &Config) -> Self {
        let who = &config.identities;
        Self {
            node: config.node_name.clone(),
            git_remote_url: config.git_remote_url.clone(),
            evidence_url: config.evidence_url.clone(),
            inference_base_url: config.inference_base_url.clone(),
            inference_host: config.inference_host.clone(),
            identities: [
                &who.author_name,
                &who.author_email,
                &who.committer_name,
                &who.committer_email,
            ]
            .map(Clone::clone),
            sign_off: who.sign_off,
            allow_cloud_providers: config.allow_cloud_providers,
            unsafe_no_sandbox: config.unsafe_no_sandbox,
            file_roots: config.git.file_roots.clone(),
        }
    }
}

fn failed(what: &str, error: impl std::fmt::Display) -> Outcome {
    Outcome::failed(
        FailureReason::InfrastructureError,
        format!("failed to read {what}: {error}"),
    )
}

fn value(object: &impl Serialize) -> Value {
    let mut value = serde_json::to_value(object).unwrap_or_default();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    value
}

/// Reads all that a run of `agent` will want to read; `base` is the commit that its work is bound to.
pub async fn gather(run: &Run, agent: &Agent, workload: Option<&Workload>, base: &str) -> Result<Payload, Outcome> {
    let config = &run.services.config;
    let namespace = &run.held.namespace;
    let ours = format!("{OURS}/namespaces/{namespace}");
    let mut objects = BTreeMap::new();
    if let Some(workload) = workload {
        objects.insert(format!("{ours}/workloads/{}", workload.name_any()), value(workload));
        objects.insert(format!("{ours}/agentictasks"), siblings(run, workload).await?);
    }
    if let Some(name) = &run.task.spec.feedback_from
        && let Some(earlier) = source::task(run, name).await?
    {
        objects.insert(format!("{ours}/agentictasks/{name}"), value(&earlier));
    }
    if let Some(name) = agent.spec.model_profile_ref.as_deref().filter(|name| !name.is_empty()) {
        let api: Api<ModelProfile> = Api::all(run.services.client.clone());
        let found = run
            .read(&api, name)
            .await
            .map_err(|error| failed(&format!("ModelProfile {name}"), error))?;
        if let Some(profile) = found {
            objects.insert(format!("{OURS}/modelprofiles/{name}"), value(&profile));
        }
    }
    let provider = agent.spec.provider_config.as_ref();
    if let Some(reference) = provider.and_then(|provider| provider.api_key_secret_ref.as_ref()) {
        let api: Api<Secret> = Api::namespaced(run.services.client.clone(), namespace);
        let found = run
            .read(&api, &reference.name)
            .await
            .map_err(|error| failed(&format!("Secret {}", reference.name), error))?;
        if let Some(secret) = found {
            let path = format!("/api/v1/namespaces/{namespace}/secrets/{}", reference.name);
            objects.insert(path, value(&only(secret, &reference.key)));
        }
    }
    let ca_bundle =
        verifier::ca_bundle(config).map_err(|detail| Outcome::failed(FailureReason::InfrastructureError, detail))?;
    let mut task = run.task.clone();
    task.spec.base_sha = Some(base.to_owned());
    Ok(Payload {
        task,
        agent: Some(agent.clone()),
        claim: run.held.claim.clone(),
        secret: run.held.secret.expose().to_owned(),
        objects,
        settings: Settings::of(config),
        sessions: sessions(run, agent, &source::stem(&run.task, workload))?,
        ca_bundle,
    })
}

/// Keeps the one key of a Secret that the Agent names, and nothing that may hold the others, as annotations do.
fn only(secret: Secret, key: &str) -> Secret {
    let value = secret.data.and_then(|mut data| data.remove(key));
    Secret {
        metadata: ObjectMeta {
            name: secret.metadata.name,
            namespace: secret.metadata.namespace,
            ..ObjectMeta::default()
        },
        data: value.map(|value| BTreeMap::from([(key.to_owned(), value)])),
        ..Secret::default()
    }
}

/// Lists the tasks of the same Workload, by no more than who they are.
async fn siblings(run: &Run, workload: &Workload) -> Result<Value, Outcome> {
    let items: Vec<Value> = source::siblings(run, workload)
        .await?
        .iter()
        .map(|task| {
            json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
                "metadata": { "name": task.name_any(), "uid": task.uid() },
                "spec": { "kind": task.spec.kind, "payload": {} },
            })
        })
        .collect();
    Ok(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTaskList",
        "metadata": { "resourceVersion": "1" }, "items": items,
    }))
}

/// Reads the recorded session of this round, where the Agent asks for one.
fn sessions(run: &Run, agent: &Agent, stem: &str) -> Result<BTreeMap<PathBuf, String>, Outcome> {
    let config = &run.services.config;
    let replays = endpoint::base_url(agent, config).is_some_and(|url| url.starts_with(endpoint::REPLAY));
    let Some(folder) = config.replay_sessions.as_ref().filter(|_| replays) else {
        return Ok(BTreeMap::new());
    };
    let round = u32::try_from(run.task.spec.round.unwrap_or(1).max(1)).unwrap_or(1);
    let inside = session_path(Path::new(""), stem, round);
    let plain = inside
        .components()
        .all(|part| matches!(part, std::path::Component::Normal(_)));
    if !plain {
        return Ok(BTreeMap::new());
    }
    match std::fs::read_to_string(folder.join(&inside)) {
        Ok(text) => Ok(BTreeMap::from([(inside, text)])),
        // The run itself says which session is missing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(failed("the recorded session", error)),
    }
}

/// Makes a client that knows these objects alone and the task as it was claimed, and can change nothing.
///
/// The claim stands as long as the Pod does: the node agent that holds it takes the Job away when it is lost.
pub fn client(mut objects: BTreeMap<String, Value>, task: &AgenticTask, namespace: &str) -> Client {
    let path = format!("{OURS}/namespaces/{namespace}/agentictasks/{}", task.name_any());
    objects.insert(path, value(task));
    let objects = Arc::new(objects);
    let service = tower::service_fn(move |request: http::Request<Body>| {
        let found = (request.method() == Method::GET)
            .then(|| objects.get(request.uri().path()).cloned())
            .flatten();
        std::future::ready(Ok::<_, Infallible>(answer(found, request.method())))
    });
    Client::new(service, namespace)
}

fn answer(found: Option<Value>, method: &Method) -> Response<Body> {
    let (status, body) = match found {
        Some(object) => (StatusCode::OK, object),
        None => {
            let (code, reason) = if *method == Method::GET {
                (StatusCode::NOT_FOUND, "NotFound")
            } else {
                (StatusCode::FORBIDDEN, "Forbidden")
            };
            let message = "a coder's Pod knows no more of the API than its payload";
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": message, "reason": reason, "code": code.as_u16(),
            });
            (code, status)
        }
    };
    let mut response = Response::new(Body::from(body.to_string().into_bytes()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use crate::daemon::claim::{self, Held};
    use kube::api::PostParams;
    use schemas::AgenticTaskStatus;

    #[tokio::test]
    async fn the_api_of_a_pod_knows_what_it_was_given_and_changes_nothing() {
        let task = json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": "t", "namespace": "n" }, "spec": { "kind": "freeform", "payload": {} },
        });
        let objects = BTreeMap::from([(format!("{OURS}/namespaces/n/agentictasks/t"), task)]);
        let tasks: Api<AgenticTask> = Api::namespaced(client(objects, &AgenticTask::default(), "n"), "n");
        assert!(tasks.get_opt("t").await.unwrap().is_some());
        assert!(tasks.get_opt("other").await.unwrap().is_none());
        let made = tasks.create(&PostParams::default(), &AgenticTask::default()).await;
        assert!(matches!(made, Err(kube::Error::Api(status)) if status.code == 403));
    }

    #[tokio::test]
    async fn the_claim_of_a_run_in_a_pod_is_not_lost() {
        let held = Held::sample(2);
        let mut task = AgenticTask::default();
        task.metadata.name = Some(held.name.clone());
        task.metadata.uid = Some(held.uid.clone());
        task.status = Some(AgenticTaskStatus {
            claim: Some(held.claim.clone()),
            ..AgenticTaskStatus::default()
        });
        let client = client(BTreeMap::new(), &task, &held.namespace);
        assert!(!claim::is_lost(&client, &held).await);
    }

    #[test]
    fn only_the_key_that_the_agent_names_travels() {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": { "name": "model", "annotations": { "applied": "other: Yg==" } },
            "data": { "key": "YQ==", "other": "Yg==" },
        }))
        .unwrap();
        let kept = value(&only(secret, "key"));
        assert_eq!(kept["data"], json!({ "key": "YQ==" }));
        assert!(!kept.to_string().contains("Yg=="), "{kept}");
    }

    #[test]
    fn a_payload_comes_out_as_it_went_in() {
        let mut payload = Payload::default();
        payload.task.metadata.name = Some("t".into());
        payload.settings.identities = ["a", "b", "c", "d"].map(str::to_owned);
        payload.sessions.insert("t/round-1.jsonl".into(), "{}\n".into());
        let text = serde_json::to_string(&payload).unwrap();
        let back: Payload = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}
