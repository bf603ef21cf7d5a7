//! What a Job in the Jobs' namespace may be, and which objects are refused when they are written.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::daemon::claim::ClaimSecret;
use agent::executor::job::build::{CoderObjects, CoderRequest, Limits, build};
use agent::executor::job::payload::Payload;
use gate::cache::CacheKey;
use gate::definition::{ResolvedGate, ResolvedPrepare, ResolvedResources, ResolvedStep, Source};
use gate::job::{CacheMount, GateObjects, GateRequest, build_job};
use schemas::agent::Execution;
use serde_json::Value;

use super::cluster::{Cluster, Release};

mod coders;
mod gates;
mod written;

/// Builds the objects of a gate as an agent on `node` does.
pub fn gate_objects(release: &Release, node: &str, task: &str) -> GateObjects {
    let gate = ResolvedGate {
        image: "docker.io/library/rust:1".into(),
        prepare: Some(ResolvedPrepare {
            command: "cargo fetch".into(),
            allow_hosts: vec!["index.crates.io".into()],
            timeout_seconds: 600,
            cache_key: vec!["Cargo.lock".into()],
        }),
        steps: vec![ResolvedStep {
            name: "test".into(),
            command: "cargo test".into(),
            timeout_seconds: 600,
            advisory: false,
        }],
        protected: vec![".foreman/**".into()],
        pinned: Vec::new(),
        resources: ResolvedResources::default(),
        deadline_seconds: 1800,
        source: Source::File,
    };
    let request = GateRequest {
        task_name: task.into(),
        task_uid: "0b0c9f0e-3a52-4b7d-9d2e-0c6d3c2b1a00".into(),
        epoch: 1,
        attempt: 1,
        namespace: release.jobs.clone(),
        labels: BTreeMap::from([(schemas::labels::NODE.to_owned(), node.to_owned())]),
        repository: "https://git.example.com/team/repo".into(),
        branch: "foreman/work".into(),
        head_sha: "a".repeat(40),
        base_sha: "b".repeat(40),
        file_roots: Vec::new(),
        credentials: Some(("clone".into(), "token".into())),
        ca_bundle: None,
        cache: Some(CacheMount {
            claim: format!("{}-gate-cache", release.name),
            key: CacheKey {
                repository: "0".repeat(16),
                key: "1".repeat(32),
            },
        }),
        service_account: Some("foreman-gate".into()),
        runtime_class: None,
        program_image: None,
        ttl_seconds: 3600,
        user: 65532,
    };
    build_job(&gate, &request).unwrap()
}

/// Tries to create an object without keeping it; returns the refusal.
pub fn refusal(cluster: &Cluster, object: &Value) -> Option<String> {
    let said = cluster.call(&["create", "--dry-run=server", "--filename", "-"], &object.to_string());
    (said.code != Some(0)).then_some(said.err)
}

/// Builds the objects of a coder's Job as an agent on `node` does.
pub fn coder_objects(release: &Release, node: &str, task: &str) -> CoderObjects {
    objects_of(release, node, task, Execution::default())
}

fn objects_of(release: &Release, node: &str, task: &str, execution: Execution) -> CoderObjects {
    let request = CoderRequest {
        task_name: task.into(),
        task_uid: "0b0c9f0e-3a52-4b7d-9d2e-0c6d3c2b1a00".into(),
        epoch: 1,
        secret: ClaimSecret::new(rand::random()),
        namespace: release.jobs.clone(),
        labels: BTreeMap::from([(schemas::labels::NODE.to_owned(), node.to_owned())]),
        repository: "https://git.example.com/team/repo".into(),
        base: "b".repeat(40),
        file_roots: Vec::new(),
        limits: Limits::of(&execution, Duration::from_secs(300)),
        execution,
        default_image: Some("example/agent:1".into()),
        default_account: Some("foreman-coder".into()),
        credentials: Some(("clone".into(), "token".into())),
        ttl_seconds: 600,
    };
    build(&request, &Payload::default()).unwrap()
}

fn pod(job: &mut Value) -> &mut Value {
    &mut job["spec"]["template"]["spec"]
}

fn push(job: &mut Value, at: &str, item: Value) {
    pod(job).pointer_mut(at).unwrap().as_array_mut().unwrap().push(item);
}

fn put(job: &mut Value, at: &str, name: &str, item: Value) {
    pod(job).pointer_mut(at).unwrap()[name] = item;
}
