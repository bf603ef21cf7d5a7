//! A claimed task for tests, over an API of whatever they serve.
#![allow(clippy::unwrap_used, clippy::panic)]
use std::path::Path;
use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kube::Client;
use schemas::{AgenticTask, AgenticTaskStatus};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Repositories, Run, Services};
use crate::daemon::claim::Held;
use crate::evidence::Spool;
use crate::probes::Probes;

/// Returns the task that `held` claims, as it stands in the API.
pub(crate) fn task(held: &Held) -> AgenticTask {
    let mut task = AgenticTask::default();
    task.metadata.name = Some(held.name.clone());
    task.metadata.namespace = Some(held.namespace.clone());
    task.metadata.uid = Some(held.uid.clone());
    task.status = Some(AgenticTaskStatus {
        claim: Some(held.claim.clone()),
        epoch: Some(held.claim.epoch),
        ..AgenticTaskStatus::default()
    });
    task
}

/// Returns the answer of an API that refuses.
pub(crate) fn failure(code: StatusCode) -> Response {
    let reason = if code == StatusCode::NOT_FOUND {
        "NotFound"
    } else {
        "Other"
    };
    let status =
        json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16() });
    (code, axum::Json(status)).into_response()
}

/// Makes a client of an API that answers everything alike.
pub(crate) fn answering(answer: impl Fn() -> Response + Clone + Send + Sync + 'static) -> Client {
    let app = axum::Router::new().fallback(move || std::future::ready(answer()));
    Client::new(app, "default")
}

/// Makes the run of a claim that works below `folder`, where repositories may lie as well.
pub(crate) fn run(folder: &Path, client: Client, held: Held) -> Run {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let mut config = crate::config::tests::parse(&["--fleet-node-name=n", "--agent-mode=stub"]);
    config.workspace_dir = folder.join("workspace");
    config.git.file_roots = vec![folder.to_owned()];
    let config = Arc::new(config);
    let http = reqwest::Client::new();
    Run {
        services: Services {
            client,
            git: git::Git::new(config.workspace_dir.join("mirrors"), config.git.clone()),
            repositories: Repositories::default(),
            sandbox: sandbox::Sandbox::without_confinement(),
            http: http.clone(),
            probes: Probes::new(&config),
            config,
        },
        limit: task(&held).spec.limit(),
        task: task(&held),
        agent: None,
        began: Instant::now(),
        cancel: CancellationToken::new(),
        spool: Spool::open(&folder.join("evidence"), None, &held, http).unwrap(),
        held,
    }
}
