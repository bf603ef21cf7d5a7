//! The objects of a coder's Job: a pure builder.

use std::collections::BTreeMap;

use gate::network::{KIND_LABEL, Network};
use k8s_openapi::ByteString;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, HostPathVolumeSource, KeyToPath, PodSecurityContext,
    PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, Secret, SecretVolumeSource, SecurityContext,
    Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemas::labels;
use schemas::shared::FreeForm;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::inside::{PROGRAM, WORD};
use super::payload::Payload;
use crate::daemon::claim::ClaimSecret;

/// Name of the one container.
pub const CONTAINER: &str = "coder";
/// Image that is run where neither Agent nor node names one.
pub const IMAGE: &str = concat!("ghcr.io/foreman-ci/foreman-agent:", env!("CARGO_PKG_VERSION"));
/// Beginning of the names of Jobs and payloads, by which policies know them.
pub const PREFIX: &str = "coder-";
/// Value of the label that says what a Job is for.
pub const KIND: &str = "coder";
/// Key of the payload.
pub const PAYLOAD_KEY: &str = "payload.json";
/// Bytes of a payload: what a Secret holds, with room for the rest of the object.
pub const PAYLOAD_MAX: usize = 960 << 10;

const PAYLOAD_PATH: &str = "/foreman/payload";
const CREDENTIALS_PATH: &str = "/foreman/credentials";
const WORK_PATH: &str = "/workspace";
const TMP_PATH: &str = "/tmp";
const TERMINATION_PATH: &str = "/dev/termination-log";
/// User that the container runs as.
const USER: i64 = 65_532;
/// Seconds that a Job is given beside its limits, so that the node agent's own word comes first.
const MARGIN_SECONDS: u64 = 120;

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
    /// Folders below which a `file://` repository may lie.
    pub file_roots: Vec<String>,
    /// Image that the Agent names.
    pub image: Option<String>,
    /// Image that the node names.
    pub default_image: Option<String>,
    /// Service account of the Pod; its token is not mounted.
    pub service_account: Option<String>,
    /// Resources as the Agent says them, GPUs among the limits.
    pub resources: FreeForm,
    /// Secret and key with the credential for fetches and pushes.
    pub credentials: Option<(String, String)>,
    /// Seconds that the container may take to start.
    pub startup_seconds: u64,
    /// Seconds that it may run.
    pub run_seconds: u64,
    /// Seconds for which an ended Job stays.
    pub ttl_seconds: i32,
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
        expected: &'static str,
    },
    /// The payload does not fit a Secret.
    #[error("failed to build the coder's Job: its payload has {0} bytes; at most {PAYLOAD_MAX} are allowed")]
    TooLong(usize),
}

/// Builds Job and payload.
pub fn build(request: &CoderRequest, payload: &Payload) -> Result<CoderObjects, BuildError> {
    let name = name(request);
    let resources = resources(&request.resources)?;
    let source = source(request)?;
    let text = serde_json::to_vec(payload).map_err(|error| BuildError::Invalid {
        field: "payload",
        found: error.to_string(),
        expected: "what JSON can say",
    })?;
    if text.len() > PAYLOAD_MAX {
        return Err(BuildError::TooLong(text.len()));
    }
    let metadata = metadata(request, &name);
    let mut annotations = BTreeMap::new();
    annotations.extend([Network::Fetch.annotation(CONTAINER)]);
    let seconds = request.startup_seconds + request.run_seconds + MARGIN_SECONDS;
    let job = Job {
        metadata: metadata.clone(),
        spec: Some(JobSpec {
            suspend: Some(true),
            active_deadline_seconds: Some(i64::try_from(seconds).unwrap_or(i64::MAX)),
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            ttl_seconds_after_finished: Some(request.ttl_seconds),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: metadata.labels.clone(),
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod(request, &name, resources, source.as_deref())),
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
            (labels::TASK, request.task_name.clone()),
            (labels::EPOCH, request.epoch.to_string()),
            (KIND_LABEL, KIND.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(request.namespace.clone()),
        labels: Some(all),
        ..ObjectMeta::default()
    }
}

/// Reads what the Agent says of resources; without a word of it, enough for a coder is asked for.
fn resources(said: &FreeForm) -> Result<ResourceRequirements, BuildError> {
    let invalid = |found: String| BuildError::Invalid {
        field: "execution.resources",
        found,
        expected: "requests and limits, as in a container",
    };
    let mut found: ResourceRequirements =
        serde_json::from_value(Value::Object(said.clone())).map_err(|error| invalid(error.to_string()))?;
    if found.claims.is_some() {
        return Err(invalid("claims".into()));
    }
    let quantity = |text: &str| Quantity(text.to_owned());
    let limits = found.limits.get_or_insert_default();
    limits.entry("memory".into()).or_insert_with(|| quantity("4Gi"));
    let requests = found.requests.get_or_insert_default();
    requests.entry("cpu".into()).or_insert_with(|| quantity("500m"));
    requests.entry("memory".into()).or_insert_with(|| quantity("512Mi"));
    Ok(found)
}

/// Returns the folder of a `file://` repository, which must lie below an allowed root.
fn source(request: &CoderRequest) -> Result<Option<String>, BuildError> {
    let Some(path) = request.repository.strip_prefix("file://") else {
        return Ok(None);
    };
    let path = path.trim_end_matches('/');
    let below = |root: &str| {
        let root = root.trim_end_matches('/');
        !root.is_empty() && (path == root || path.strip_prefix(root).is_some_and(|rest| rest.starts_with('/')))
    };
    let plain = path.starts_with('/') && !path.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."));
    if plain && request.file_roots.iter().any(|root| below(root)) {
        return Ok(Some(path.to_owned()));
    }
    Err(BuildError::Invalid {
        field: "repository",
        found: request.repository.clone(),
        expected: "a folder below one of --file-root",
    })
}

fn pod(request: &CoderRequest, name: &str, resources: ResourceRequirements, source: Option<&str>) -> PodSpec {
    let runtime_default = SeccompProfile {
        type_: "RuntimeDefault".to_owned(),
        localhost_profile: None,
    };
    let mut volumes = vec![Volume {
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
    }];
    let mut mounts = vec![
        mount("payload", PAYLOAD_PATH, true),
        mount("work", WORK_PATH, false),
        mount("tmp", TMP_PATH, false),
    ];
    for name in ["work", "tmp"] {
        volumes.push(Volume {
            name: name.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        });
    }
    let mut args: Vec<String> = [WORD, "--payload"].map(str::to_owned).into();
    args.push(format!("{PAYLOAD_PATH}/{PAYLOAD_KEY}"));
    args.extend(["--work", WORK_PATH, "--termination-log", TERMINATION_PATH].map(str::to_owned));
    if let Some((secret, key)) = &request.credentials {
        args.extend(["--credentials", CREDENTIALS_PATH].map(str::to_owned));
        mounts.push(mount("credentials", CREDENTIALS_PATH, true));
        // `token` stands for all keys that are known.
        let items = (key != "token").then(|| {
            vec![KeyToPath {
                key: key.clone(),
                path: "token".to_owned(),
                mode: None,
            }]
        });
        volumes.push(Volume {
            name: "credentials".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.clone()),
                items,
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    if let Some(path) = source {
        // Under its own name, since its address is that name.
        mounts.push(mount("source", path, false));
        volumes.push(Volume {
            name: "source".to_owned(),
            host_path: Some(HostPathVolumeSource {
                path: path.to_owned(),
                type_: Some("Directory".to_owned()),
            }),
            ..Volume::default()
        });
    }
    let image = request.image.clone().or_else(|| request.default_image.clone());
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        service_account_name: request.service_account.clone(),
        termination_grace_period_seconds: Some(10),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(runtime_default.clone()),
            ..PodSecurityContext::default()
        }),
        containers: vec![Container {
            name: CONTAINER.to_owned(),
            image: Some(image.unwrap_or_else(|| IMAGE.to_owned())),
            image_pull_policy: Some("IfNotPresent".to_owned()),
            command: Some(vec![PROGRAM.to_owned()]),
            args: Some(args),
            env: Some(
                [("HOME", WORK_PATH), ("TMPDIR", TMP_PATH), ("GIT_CONFIG_NOSYSTEM", "1")]
                    .map(|(name, value)| EnvVar {
                        name: name.to_owned(),
                        value: Some(value.to_owned()),
                        ..EnvVar::default()
                    })
                    .into(),
            ),
            volume_mounts: Some(mounts),
            resources: Some(resources),
            termination_message_path: Some(TERMINATION_PATH.to_owned()),
            termination_message_policy: Some("File".to_owned()),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    add: None,
                }),
                privileged: Some(false),
                read_only_root_filesystem: Some(true),
                run_as_non_root: Some(true),
                seccomp_profile: Some(runtime_default),
                ..SecurityContext::default()
            }),
            ..Container::default()
        }],
        volumes: Some(volumes),
        ..PodSpec::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

#[cfg(test)]
#[path = "build/tests.rs"]
mod tests;
