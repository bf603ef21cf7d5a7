//! The heartbeat: says at intervals and at every change what this node can do and does.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use schemas::fleet_node::{Capability, NodePhase};
use tokio_util::sync::CancellationToken;

use super::Shutdown;
use super::desk::Desk;
use super::registration::{self, Beat};
use crate::capability::{self, Probe};
use crate::config::{Config, Mode};
use crate::executor::served::{Serving, watch};
use crate::probes::Probes;

/// How long one turn may take, questions to model servers included, before it counts as stuck.
const TURN_LIMIT: std::time::Duration = std::time::Duration::from_secs(1800);

/// Beats until the agent has drained, or until another took the node's name, which `lost` says.
pub(super) async fn beat(
    client: Client,
    config: Arc<Config>,
    desk: Arc<Desk>,
    repositories: crate::executor::Repositories,
    probes: Probes,
    shutdown: Shutdown,
    lost: CancellationToken,
) {
    let mut probe = Probe::new();
    let mut models = match config.mode {
        Mode::Native => watch(client.clone(), config.clone(), shutdown.stop.clone()),
        _ => Serving::nothing(),
    };
    let mut draining = false;
    loop {
        let turn = probes.health.begin("the heartbeat", TURN_LIMIT);
        tokio::select! {
            () = models.known() => {}
            // Draining is said at once, whatever a model server keeps us waiting for.
            () = shutdown.stop.cancelled() => draining = true,
        }
        // Whoever has the name now speaks for the node.
        if lost.is_cancelled() {
            return;
        }
        let served = models.now();
        let capability: Capability = capability::capability(&probe.look(), &served, &config.capability, config.slots);
        // Made before the look, so that no change falls between the two.
        let changed = desk.changed.notified();
        let tasks = desk.names();
        let cached = repositories.list();
        let phase = if draining {
            NodePhase::Draining
        } else {
            NodePhase::Ready
        };
        let beat = Beat {
            phase,
            capability: &capability,
            tasks: &tasks,
            repositories: &cached,
        };
        let now = Timestamp::now();
        let mut written = registration::heartbeat(&client, &config.node_name, &beat, now).await;
        if matches!(&written, Err(kube::Error::Api(status)) if status.code == 404) {
            match registration::register(&client, &config).await {
                Ok(_) => written = registration::heartbeat(&client, &config.node_name, &beat, now).await,
                Err(error) => tracing::warn!(%error, "failed to register again; trying again at the next heartbeat"),
            }
        }
        probes.beat(written.is_ok(), now.as_second() as f64);
        if let Err(error) = written {
            tracing::warn!(%error, "failed to write the heartbeat; trying again at the next");
        }
        drop(turn);
        if draining {
            probes.drains();
        }
        // The last word names no task: those that were given back are somebody else's.
        if draining && tasks.is_empty() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(config.heartbeat_interval) => {}
            () = changed => {}
            () = models.changed() => {}
            () = lost.cancelled() => return,
            () = shutdown.drain.cancelled(), if !draining => draining = true,
            () = shutdown.stop.cancelled(), if !draining => draining = true,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Mutex;
    use std::time::Duration;

    use axum::extract::{Request, State};
    use axum::http::{Method, StatusCode};
    use axum::response::IntoResponse;
    use serde_json::{Value, json};

    use super::*;

    /// An API of one FleetNode, which somebody deleted, and what it was asked.
    #[derive(Default)]
    struct Kept {
        may_create: bool,
        node: Option<Value>,
        asked: Vec<String>,
    }

    async fn serve(State(kept): State<Arc<Mutex<Kept>>>, request: Request) -> impl IntoResponse {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
        let mut kept = kept.lock().unwrap();
        let part = if path.ends_with("/status") { " status" } else { "" };
        kept.asked.push(format!("{method}{part}"));
        if method == Method::POST && kept.may_create {
            kept.node = Some(serde_json::from_slice(&body).unwrap());
        }
        match &kept.node {
            Some(node) => axum::Json(node.clone()).into_response(),
            None => {
                let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404 });
                (StatusCode::NOT_FOUND, axum::Json(status)).into_response()
            }
        }
    }

    /// Beats until the agent drains, and returns what the API was asked.
    async fn beat_over(kept: Kept) -> Vec<String> {
        let stands = CancellationToken::new();
        beat_over_with(kept, stands).await
    }

    async fn beat_over_with(kept: Kept, lost: CancellationToken) -> Vec<String> {
        let kept = Arc::new(Mutex::new(kept));
        let app = axum::Router::new().fallback(serve).with_state(kept.clone());
        let args = ["--fleet-node-name=n", "--agent-mode=stub", "--heartbeat-interval=1h"];
        let config = Arc::new(crate::config::tests::parse(&args));
        let shutdown = Shutdown::default();
        shutdown.drain.cancel();
        let beats = beat(
            Client::new(app, "default"),
            config.clone(),
            Arc::default(),
            crate::executor::Repositories::default(),
            Probes::new(&config),
            shutdown,
            lost,
        );
        tokio::time::timeout(Duration::from_secs(20), beats).await.unwrap();
        std::mem::take(&mut kept.lock().unwrap().asked)
    }

    #[tokio::test]
    async fn a_node_that_cannot_be_registered_again_is_tried_once_a_beat() {
        let turn = ["PATCH status", "GET", "POST"];
        assert_eq!(beat_over(Kept::default()).await, [turn, turn].concat());
    }

    #[tokio::test]
    async fn an_agent_that_lost_its_name_writes_nothing_over_its_successor() {
        let lost = CancellationToken::new();
        lost.cancel();
        let none: [&str; 0] = [];
        assert_eq!(beat_over_with(Kept::default(), lost).await, none);
    }

    #[tokio::test]
    async fn a_node_that_was_deleted_is_registered_again_and_beats_at_once() {
        let kept = Kept {
            may_create: true,
            ..Kept::default()
        };
        let turn = ["PATCH status", "GET", "POST", "PATCH status"];
        assert_eq!(beat_over(kept).await, [&turn[..], &turn[..1]].concat());
    }
}
