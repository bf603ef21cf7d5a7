//! The objects of a coder's Job: a pure builder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use gate::job::parts::{CREDENTIALS, SOURCE, TMP_PATH};
use gate::job::parts::{credentials, folder_of_host, locked_down, mount, not_root, scratch, source_folder};
use gate::job::{BASE_ANNOTATION, CREDENTIALS_PATH, TERMINATION_PATH, WORK_PATH};
use gate::network::{CODER, KIND_LABEL, Network};
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, KeyToPath, LocalObjectReference, PodSpec, PodTemplateSpec, ResourceRequirements, Secret,
    SecretVolumeSource, Toleration, Volume,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemas::agent::Execution;
use schemas::shared::{FreeForm, LocalRef};
use schemas::{labels, names};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::payload::Payload;
use crate::daemon::claim::ClaimSecret;

/// Name of the program that a coder's Pod runs, as a container calls it.
pub const PROGRAM: &str = "foreman-agent";
/// First argument by which it knows what is asked.
pub const WORD: &str = "run-claim";
/// Name of the one container.
pub const CONTAINER: &str = "coder";
/// Image that is run where neither Agent nor node names one.
pub const IMAGE: &str = concat!("ghcr.io/foreman-ci/foreman-agent:", env!("CARGO_PKG_VERSION"));
/// Beginning of the names of Jobs and payloads, by which policies know them.
pub const PREFIX: &str = "coder-";
/// Key of the payload.
pub const PAYLOAD_KEY: &str = "payload.json";
/// Bytes of a payload: what a Secret holds, with room for the rest of the object.
pub const PAYLOAD_MAX: usize = 960 << 10;

const PAYLOAD_PATH: &str = "/foreman/payload";
/// User that the container runs as.
const USER: i64 = 65_532;
/// Seconds that a Job is given beside its limits, so that the node agent's own word comes first.
const MARGIN_SECONDS: u64 = 120;

/// Seconds for which an ended Job stays at the least: what the run came to is read from it, and an agent that starts anew
/// must find it.
const LEAST_TTL_SECONDS: i32 = 120;

/// What a coder's Job is built from.
#[derive(Clone, Debug)]
pub struct CoderRequest {
    /// Name of the task.
    pub task_name: String,
    /// UID of the task.
    pub task_uid: String,
    /// Epoch of the claim.
    pub epoch: i64,
    /// Secret of the claim: nobody else can tell the Job's name before it is there.
    pub secret: ClaimSecret,
    /// Namespace of the Job.
    pub namespace: String,
    /// Labels of Job, Pod and payload, the node's among them.
    pub labels: BTreeMap<String, String>,
    /// Repository of the work.
    pub repository: String,
    /// Base commit of the work.
    pub base: String,
    /// Folders below which a `file://` repository may lie.
    pub file_roots: Vec<PathBuf>,
    /// What the Agent says of its Jobs.
    pub execution: Execution,
    /// Image that the node names for Agents that do not.
    pub default_image: Option<String>,
    /// Service account that the node names for Agents that do not.
    pub default_account: Option<String>,
    /// Secret and key with the credential for fetches and pushes.
    pub credentials: Option<(String, String)>,
    /// Seconds that the container may take to start, and those that it may run then.
    pub limits: Limits,
    /// Seconds for which an ended Job stays where the Agent does not say.
    pub ttl_seconds: i32,
}

/// How long a coder's Job may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Seconds that the container may take to start.
    pub startup_seconds: u64,
    /// Seconds that it may run, from its start.
    pub run_seconds: u64,
}

impl Limits {
    /// Reads an Agent's limits; `startup` is the node's word for Agents without one.
    pub fn of(execution: &Execution, startup: Duration) -> Self {
        let at_least_one = |seconds: i64| u64::try_from(seconds).unwrap_or(0).max(1);
        Self {
            startup_seconds: execution
                .startup_timeout_seconds
                .map_or(startup.as_secs().max(1), at_least_one),
            run_seconds: at_least_one(execution.active_deadline_seconds),
        }
    }

    /// Seconds after which a Job ends whatever its agent says: the agent's own word comes first.
    fn deadline(self) -> i64 {
        let seconds = self.startup_seconds.saturating_add(self.run_seconds);
        i64::try_from(seconds.saturating_add(MARGIN_SECONDS)).unwrap_or(i64::MAX)
    }
}

/// The objects of a coder's Job.
#[derive(Clone, Debug)]
pub struct CoderObjects {
    /// The Job, suspended.
    pub job: Job,
    /// Its payload, of the same name.
    pub payload: Secret,
}

/// Why no Job can be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A part of the request cannot be used.
    #[error("failed to build the coder's Job: {field} is {found}; expected {expected}")]
    Invalid {
        /// Part of the request.
        field: &'static str,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The payload does not fit a Secret.
    #[error("failed to build the coder's Job: its payload has {0} bytes; at most {PAYLOAD_MAX} are allowed")]
    TooLong(usize),
}

/// Builds Job and payload.
pub fn build(request: &CoderRequest, payload: &Payload) -> Result<CoderObjects, BuildError> {
    let name = name(request);
    let pod = pod(request, &name)?;
    let text = serde_json::to_vec(payload).map_err(|error| BuildError::Invalid {
        field: "payload",
        found: error.to_string(),
        expected: "what JSON can say".into(),
    })?;
    if text.len() > PAYLOAD_MAX {
        return Err(BuildError::TooLong(text.len()));
    }
    let metadata = metadata(request, &name);
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.extend([Network::Fetch.annotation(CONTAINER)]);
    let ttl = request.execution.ttl_seconds_after_finished;
    let ttl = ttl.map_or(request.ttl_seconds, |ttl| i32::try_from(ttl.max(0)).unwrap_or(i32::MAX));
    let job = Job {
        metadata: metadata.clone(),
        spec: Some(JobSpec {
            suspend: Some(true),
            active_deadline_seconds: Some(request.limits.deadline()),
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            ttl_seconds_after_finished: Some(ttl.max(LEAST_TTL_SECONDS)),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: metadata.labels.clone(),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    };
    let payload = Secret {
        metadata,
        immutable: Some(true),
        data: Some(BTreeMap::from([(PAYLOAD_KEY.to_owned(), ByteString(text))])),
        ..Secret::default()
    };
    Ok(CoderObjects { job, payload })
}

/// Names Job and payload: whoever wants to mount another's payload would have to guess this before the Job is there,
/// and afterwards the name is taken.
fn name(request: &CoderRequest) -> String {
    let mut hash = Sha256::new();
    hash.update(b"name of the coder's Job\0");
    hash.update(request.secret.expose());
    let hash = hex::encode(&hash.finalize()[..10]);
    let room = 63 - PREFIX.len() - hash.len() - 1;
    let task: String = request.task_name.replace('.', "-").chars().take(room).collect();
    format!("{PREFIX}{}-{hash}", task.trim_end_matches('-'))
}

fn metadata(request: &CoderRequest, name: &str) -> ObjectMeta {
    let mut all = request.labels.clone();
    all.extend(
        [
            ("app.kubernetes.io/managed-by", "foreman".to_owned()),
            (labels::TASK_UID, request.task_uid.clone()),
            (labels::TASK, names::label_value(&request.task_name)),
            (labels::EPOCH, request.epoch.to_string()),
            (KIND_LABEL, CODER.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    let mut annotations = labels::left_alone();
    annotations.insert(BASE_ANNOTATION.to_owned(), request.base.clone());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(request.namespace.clone()),
        labels: Some(all),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

/// Reads what the Agent says of resources; without a word of it, enough for a coder is asked for.
fn resources(said: Option<&FreeForm>) -> Result<ResourceRequirements, BuildError> {
    let invalid = |found: String| BuildError::Invalid {
        field: "execution.resources",
        found,
        expected: "requests and limits, as in a container".into(),
    };
    let said = said.cloned().unwrap_or_default();
    let mut found: ResourceRequirements =
        serde_json::from_value(Value::Object(said)).map_err(|error| invalid(error.to_string()))?;
    if found.claims.is_some() {
        return Err(invalid("claims".into()));
    }
    // Of what the Agent says a word, nothing is added: a request above a limit of ours would be refused.
    let says = |name: &str, of: &ResourceRequirements| {
        [&of.limits, &of.requests]
            .into_iter()
            .flatten()
            .any(|said| said.contains_key(name))
    };
    let (cpu, memory) = (says("cpu", &found), says("memory", &found));
    let requests = found.requests.get_or_insert_default();
    if !cpu {
        requests.insert("cpu".into(), Quantity("500m".into()));
    }
    if !memory {
        requests.insert("memory".into(), Quantity("512Mi".into()));
        let limits = found.limits.get_or_insert_default();
        limits.insert("memory".into(), Quantity("4Gi".into()));
    }
    Ok(found)
}

fn tolerations(said: &[FreeForm]) -> Result<Vec<Toleration>, BuildError> {
    let read = |one: &FreeForm| serde_json::from_value(Value::Object(one.clone()));
    said.iter()
        .map(read)
        .collect::<Result<_, _>>()
        .map_err(|error| BuildError::Invalid {
            field: "execution.tolerations",
            found: error.to_string(),
            expected: "tolerations, as in a Pod".into(),
        })
}

fn pod(request: &CoderRequest, name: &str) -> Result<PodSpec, BuildError> {
    let said = &request.execution;
    let filled = |text: &Option<String>| text.clone().filter(|text| !text.trim().is_empty());
    let source = source_folder(&request.repository, &request.file_roots).map_err(|expected| BuildError::Invalid {
        field: "repository",
        found: request.repository.clone(),
        expected,
    })?;
    let mut volumes = vec![payload_volume(name), scratch("work"), scratch("tmp")];
    let mut mounts = vec![
        mount("payload", PAYLOAD_PATH, true),
        mount("work", WORK_PATH, false),
        mount("tmp", TMP_PATH, false),
    ];
    let mut args: Vec<String> = [WORD, "--payload"].map(str::to_owned).into();
    args.push(format!("{PAYLOAD_PATH}/{PAYLOAD_KEY}"));
    args.extend(["--work", WORK_PATH, "--termination-log", TERMINATION_PATH].map(str::to_owned));
    if let Some(credential) = &request.credentials {
        args.extend(["--credentials", CREDENTIALS_PATH].map(str::to_owned));
        mounts.push(mount(CREDENTIALS, CREDENTIALS_PATH, true));
        volumes.push(credentials(credential));
    }
    if let Some(path) = &source {
        // Under its own name, since its address is that name; pushes go there as well.
        mounts.push(mount(SOURCE, path, false));
        volumes.push(folder_of_host(path));
    }
    let pulls: Vec<LocalObjectReference> = said
        .image_pull_secrets
        .iter()
        .flatten()
        .filter_map(LocalRef::named)
        .map(|name| LocalObjectReference { name: name.to_owned() })
        .collect();
    Ok(PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: filled(&said.service_account_name).or_else(|| request.default_account.clone()),
        image_pull_secrets: Some(pulls).filter(|pulls| !pulls.is_empty()),
        node_selector: said.node_selector.clone().filter(|labels| !labels.is_empty()),
        tolerations: match said.tolerations.as_deref() {
            None | Some([]) => None,
            Some(said) => Some(tolerations(said)?),
        },
        runtime_class_name: filled(&said.runtime_class_name),
        termination_grace_period_seconds: Some(10),
        security_context: Some(not_root(USER)),
        containers: vec![Container {
            name: CONTAINER.to_owned(),
            image: filled(&said.image)
                .or_else(|| request.default_image.clone())
                .or_else(|| Some(IMAGE.to_owned())),
            command: Some(vec![PROGRAM.to_owned()]),
            args: Some(args),
            volume_mounts: Some(mounts),
            resources: Some(resources(said.resources.as_ref())?),
            ..locked_down(WORK_PATH)
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    })
}

fn payload_volume(name: &str) -> Volume {
    Volume {
        name: "payload".to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(name.to_owned()),
            items: Some(vec![KeyToPath {
                key: PAYLOAD_KEY.to_owned(),
                path: PAYLOAD_KEY.to_owned(),
                mode: None,
            }]),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
#[path = "build/tests.rs"]
mod tests;
