//! The objects of a gate: a Job that fetches and runs, a ConfigMap with its plan, and, where packages
//! are needed, a Job before it that fills their cache.
//!
//! Both Jobs have the same shape. The init container [`INIT_CONTAINER`] is Foreman's own image: it copies
//! the program into an emptyDir and fetches the exact commit, and is the only one that sees clone
//! credentials. The main container [`MAIN_CONTAINER`] is the gate's image and starts that program.
//! Every path of a volume is an argument, so that a runner without mounts can put its own in place.
//! Networks are annotations: see [`crate::network`].

pub mod parts;
mod pod;

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{ConfigMap, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemas::{labels, names};
use sha2::{Digest, Sha256};

use crate::binding::is_hex;
use crate::cache::CacheKey;
use crate::definition::ResolvedGate;
use crate::network::{KIND_LABEL, Network};
use crate::plan::{PLAN_KEY, PLAN_MAX, Plan};

/// Name of the container that fetches.
pub const INIT_CONTAINER: &str = "fetch";
/// Name of the container that runs the steps, or prepare.
pub const MAIN_CONTAINER: &str = "gate";
/// Name of the program, as the entry point of [`crate::IMAGE`].
pub const PROGRAM: &str = "foreman-gate";
/// Annotation: commit under test.
pub const HEAD_ANNOTATION: &str = "foreman.llmkube.dev/head-sha";
/// Annotation: commit whose gate it is.
pub const BASE_ANNOTATION: &str = "foreman.llmkube.dev/base-sha";
/// Annotation: digest of the gate.
pub const DIGEST_ANNOTATION: &str = "foreman.llmkube.dev/gate-digest";
/// Label: which try of this epoch a Job is.
pub const TRY_LABEL: &str = "foreman.llmkube.dev/try";

/// Work folder of the containers.
pub const WORK_PATH: &str = "/workspace";
/// Folder with the program and the fetched objects; read-only in the main container.
pub const TOOLS_PATH: &str = "/foreman/tools";
/// Folder with the plan.
pub const PLAN_PATH: &str = "/foreman/plan";
/// Home of the steps.
pub const HOME_PATH: &str = "/foreman/home";
/// Folder with the logs of the steps.
pub const EVIDENCE_PATH: &str = "/foreman/evidence";
/// Folder with the cache.
pub const CACHE_PATH: &str = "/foreman/cache";
/// Folder with clone credentials.
pub const CREDENTIALS_PATH: &str = "/foreman/credentials";
/// Folder with the CA bundle.
pub const CA_PATH: &str = "/foreman/ca";
/// Folder that a `file://` repository is shown at.
pub const SOURCE_PATH: &str = "/foreman/source";
/// Key of the CA bundle beside the plan.
const CA_KEY: &str = "ca.crt";
/// Bytes of a CA bundle: it shares an object with the plan.
const CA_MAX: usize = 384 << 10;
/// File of the termination message.
pub const TERMINATION_PATH: &str = "/dev/termination-log";

/// What a gate is asked to run on, and how its Jobs are set up.
#[derive(Clone, Debug, PartialEq)]
pub struct GateRequest {
    /// Name of the task.
    pub task_name: String,
    /// UID of the task.
    pub task_uid: String,
    /// Epoch of the claim.
    pub epoch: i64,
    /// Which try of this epoch it is, from 1.
    pub attempt: i64,
    /// Namespace of the Jobs.
    pub namespace: String,
    /// Labels that are added, such as queue and workload.
    pub labels: BTreeMap<String, String>,
    /// Repository that the head is fetched from.
    pub repository: String,
    /// Branch on which the head was pushed.
    pub branch: String,
    /// Commit under test.
    pub head_sha: String,
    /// Commit whose gate it is.
    pub base_sha: String,
    /// Folders below which a `file://` repository may lie.
    pub file_roots: Vec<PathBuf>,
    /// Secret with clone credentials, and its key that holds a token; `token` means all of the keys `username` and
    /// `password`, or `token`, or `ssh-privatekey` and `known_hosts`.
    pub credentials: Option<(String, String)>,
    /// PEM certificates that the fetch trusts besides the system's; they travel beside the plan.
    pub ca_bundle: Option<String>,
    /// Where the cache lies; unset means that nothing is prepared.
    pub cache: Option<CacheMount>,
    /// Service account of the Pods; its token is not mounted.
    pub service_account: Option<String>,
    /// Runtime class of the Pods.
    pub runtime_class: Option<String>,
    /// Image of the init container; unset means [`crate::IMAGE`].
    pub program_image: Option<String>,
    /// Seconds after which an ended Job may be removed.
    pub ttl_seconds: i32,
    /// User and group that the containers run as.
    pub user: i64,
}

/// Where the cache of a gate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheMount {
    /// PersistentVolumeClaim.
    pub claim: String,
    /// Folder in it.
    pub key: CacheKey,
}

/// The objects of a gate. The Job is made first and waits, suspended, since it owns the plan: what is left of a gate whose
/// agent was killed goes with it. It begins when the plan is there and prepare has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct GateObjects {
    /// The plan that both Jobs read; whoever makes it names the Job as its owner.
    pub config_map: ConfigMap,
    /// The Job that fills the cache, where there is something to fill.
    pub prepare_job: Option<Job>,
    /// The Job that runs the steps, suspended.
    pub job: Job,
    /// The plan, as it stands in the ConfigMap.
    pub plan: Plan,
}

/// Why no Job can be built.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum JobError {
    /// A part of the request cannot be used.
    #[error("failed to build the gate's Job: {field} is {found:?}; expected {expected}")]
    Invalid {
        /// Part of the request.
        field: &'static str,
        /// What was found.
        found: String,
        /// What was expected.
        expected: String,
    },
    /// The plan does not fit a ConfigMap.
    #[error("failed to build the gate's Job: its plan has {0} bytes; at most {PLAN_MAX} are allowed")]
    PlanTooLong(usize),
}

/// Which Job is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum JobKind {
    Gate,
    Prepare,
}

impl JobKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Gate => "gate",
            Self::Prepare => "prepare",
        }
    }
}

/// Builds the objects of a gate.
pub fn build_job(gate: &ResolvedGate, request: &GateRequest) -> Result<GateObjects, JobError> {
    check(request)?;
    let source =
        parts::source_folder(&request.repository, &request.file_roots).map_err(|expected| JobError::Invalid {
            field: "repository",
            found: request.repository.clone(),
            expected,
        })?;
    let plan = Plan::new(
        gate.clone(),
        &request.repository,
        &request.branch,
        &request.head_sha,
        &request.base_sha,
    );
    let text = serde_json::to_string(&plan).unwrap_or_default();
    if text.is_empty() || text.len() > PLAN_MAX {
        return Err(JobError::PlanTooLong(text.len()));
    }
    if let Some(pem) = request.ca_bundle.as_ref().filter(|pem| pem.len() > CA_MAX) {
        return Err(JobError::Invalid {
            field: "ca_bundle",
            found: format!("{} bytes", pem.len()),
            expected: format!("at most {CA_MAX} bytes: the authorities besides the system's alone"),
        });
    }
    let config_map = ConfigMap {
        metadata: metadata(request, &plan, "gate", &name(request, "gate")),
        data: Some(
            [(PLAN_KEY.to_owned(), text)]
                .into_iter()
                .chain(request.ca_bundle.clone().map(|pem| (CA_KEY.to_owned(), pem)))
                .collect(),
        ),
        immutable: Some(true),
        ..ConfigMap::default()
    };
    let prepare_job = (gate.prepare.is_some() && request.cache.is_some())
        .then(|| build_one(JobKind::Prepare, &plan, request, source.as_deref()));
    Ok(GateObjects {
        config_map,
        prepare_job,
        job: build_one(JobKind::Gate, &plan, request, source.as_deref()),
        plan,
    })
}

fn build_one(kind: JobKind, plan: &Plan, request: &GateRequest, source: Option<&str>) -> Job {
    let gate = &plan.gate;
    let (main_network, deadline) = match (kind, &gate.prepare) {
        (JobKind::Prepare, Some(prepare)) => (
            Network::AllowList(prepare.allow_hosts.clone()),
            // Fetching comes on top of the command's own timeout.
            (prepare.timeout_seconds + 300).min(gate.deadline_seconds.max(prepare.timeout_seconds)),
        ),
        _ => (Network::None, gate.deadline_seconds),
    };
    let metadata = metadata(request, plan, kind.as_str(), &name(request, kind.as_str()));
    let mut annotations = metadata.annotations.clone().unwrap_or_default();
    annotations.extend([
        Network::Fetch.annotation(INIT_CONTAINER),
        main_network.annotation(MAIN_CONTAINER),
    ]);
    Job {
        metadata: metadata.clone(),
        spec: Some(JobSpec {
            suspend: (kind == JobKind::Gate).then_some(true),
            active_deadline_seconds: Some(deadline),
            backoff_limit: Some(0),
            completions: Some(1),
            parallelism: Some(1),
            ttl_seconds_after_finished: Some(request.ttl_seconds),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: metadata.labels,
                    annotations: Some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod::build_pod(kind, plan, request, source, &name(request, "gate"))),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn metadata(request: &GateRequest, plan: &Plan, kind: &str, name: &str) -> ObjectMeta {
    let mut all = request.labels.clone();
    all.extend(
        [
            ("app.kubernetes.io/managed-by", "foreman".to_owned()),
            (labels::TASK_UID, request.task_uid.clone()),
            (labels::TASK, names::label_value(&request.task_name)),
            (labels::EPOCH, request.epoch.to_string()),
            (TRY_LABEL, request.attempt.to_string()),
            (KIND_LABEL, kind.to_owned()),
        ]
        .map(|(key, value)| (key.to_owned(), value)),
    );
    let mut annotations: BTreeMap<String, String> = [
        (HEAD_ANNOTATION, &plan.head),
        (BASE_ANNOTATION, &plan.base),
        (DIGEST_ANNOTATION, &plan.digest),
    ]
    .map(|(key, value)| (key.to_owned(), value.clone()))
    .into();
    annotations.extend(labels::left_alone());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(request.namespace.clone()),
        labels: Some(all),
        annotations: Some(annotations),
        ..ObjectMeta::default()
    }
}

/// Names a Job: unique in task, epoch and try, at most 63 characters.
fn name(request: &GateRequest, kind: &str) -> String {
    let hash = hex::encode(
        &Sha256::digest(format!(
            "{}/{}/{}/{kind}",
            request.task_uid, request.epoch, request.attempt
        ))[..4],
    );
    let room = 63 - kind.len() - hash.len() - 2;
    let task: String = request.task_name.replace('.', "-").chars().take(room).collect();
    format!("{kind}-{}-{hash}", task.trim_end_matches('-'))
}

fn check(request: &GateRequest) -> Result<(), JobError> {
    let invalid = |field, found: &str, expected: &str| {
        Err(JobError::Invalid {
            field,
            found: found.to_owned(),
            expected: expected.to_owned(),
        })
    };
    for (field, value) in [("head_sha", &request.head_sha), ("base_sha", &request.base_sha)] {
        if !is_hex(value, 40) {
            return invalid(field, value, "a commit of 40 hex digits");
        }
    }
    let label = |value: &str| {
        !value.is_empty()
            && value.len() <= 63
            && value
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
            && value.starts_with(|c: char| c.is_ascii_alphanumeric())
            && value.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !label(&request.task_uid) {
        return invalid("task_uid", &request.task_uid, "1 to 63 characters of a label's value");
    }
    if !names::is_object_name(&request.task_name) {
        return invalid("task_name", &request.task_name, "the name of an object");
    }
    if request.epoch < 0 || request.attempt < 1 {
        return invalid(
            "epoch or attempt",
            &format!("{}, {}", request.epoch, request.attempt),
            "counters from 0 and from 1",
        );
    }
    if request.user < 1 {
        return invalid("user", &request.user.to_string(), "a user that is not root");
    }
    let userinfo = request
        .repository
        .split_once("://")
        .is_some_and(|(scheme, rest)| scheme != "ssh" && rest.split('/').next().unwrap_or_default().contains('@'));
    // A folder of this host may be called anything that a person calls one.
    let is_local = request.repository.starts_with("file://");
    let odd = |c: char| c.is_control() || !is_local && c.is_whitespace();
    if userinfo || request.repository.chars().any(odd) {
        return invalid("repository", "(hidden)", "a URL without user name, password and spaces");
    }
    if let Some(cache) = &request.cache
        && !(is_hex(&cache.key.repository, 16) && is_hex(&cache.key.key, 32))
    {
        return invalid("cache key", &cache.key.folder(), "what cache_key() returns");
    }
    Ok(())
}

#[cfg(test)]
#[path = "job/tests.rs"]
mod tests;
