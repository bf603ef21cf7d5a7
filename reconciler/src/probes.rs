//! What is told of the operator itself: metrics, readiness, life. Every replica answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use telemetry::health::{Health, Said};
use telemetry::http::Probed;

use crate::clock::lock;
use crate::evidence::Evidence;
use crate::metrics::Metrics;

/// For how long what a write to the evidence store came to counts.
const EVIDENCE_EVERY: Duration = Duration::from_secs(10);
/// How long such a write may take.
const EVIDENCE_PATIENCE: Duration = Duration::from_secs(2);
/// For how long the API may fail before this replica is not ready.
const API_PATIENCE: Duration = Duration::from_secs(10);

/// When the evidence store was tried, and what it came to.
type Tried = Arc<Mutex<Option<(Duration, Result<String, String>)>>>;

/// What the probes answer from.
#[derive(Clone)]
pub struct Probes {
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    evidence: Option<Evidence>,
    tried: Tried,
}

impl Probes {
    /// Answers from `metrics` and `health`; with a store of evidence, readiness asks for it as well.
    pub fn new(metrics: Arc<Metrics>, health: Arc<Health>, evidence: Option<Evidence>) -> Self {
        let tried = Tried::default();
        let asked = metrics.clone();
        health.part("api", move || match asked.api_failing_for() {
            Some(failing) if failing >= API_PATIENCE => Err(format!(
                "the Kubernetes API has not answered for {} s; see the log for the error",
                failing.as_secs()
            )),
            _ => Ok(String::new()),
        });
        if evidence.is_some() {
            let seen = tried.clone();
            health.part("evidence", move || match &*lock(&seen) {
                Some((_, result)) => result.clone(),
                None => Err("not tried yet".into()),
            });
        }
        Self {
            metrics,
            health,
            evidence,
            tried,
        }
    }

    /// Returns what stands for the operator's health.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    async fn try_evidence(&self) {
        let Some(evidence) = &self.evidence else { return };
        let now = self.health.elapsed();
        let fresh = |at: Duration| now.saturating_sub(at) < EVIDENCE_EVERY;
        if lock(&self.tried).as_ref().is_some_and(|(at, _)| fresh(*at)) {
            return;
        }
        let result = match tokio::time::timeout(EVIDENCE_PATIENCE, evidence.check_writable()).await {
            Ok(Ok(())) => Ok(String::new()),
            Ok(Err(error)) => Err(format!("the store cannot be written: {error}")),
            Err(_) => Err(format!("a write took over {} s", EVIDENCE_PATIENCE.as_secs())),
        };
        *lock(&self.tried) = Some((now, result));
    }
}

impl Probed for Probes {
    fn metrics(&self) -> String {
        self.metrics.render()
    }

    fn live(&self) -> Said {
        self.health.live()
    }

    async fn ready(&self) -> Said {
        self.try_evidence().await;
        self.health.ready()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use axum::Router;
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use telemetry::http::router;
    use tower::ServiceExt;

    use crate::evidence::redact::Redactor;

    async fn get(router: &Router, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn health(now: &Arc<Mutex<Duration>>) -> Arc<Health> {
        let now = now.clone();
        Health::new(Arc::new(move || *lock(&now)))
    }

    #[tokio::test]
    async fn a_store_that_cannot_be_written_is_named_and_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("evidence");
        let evidence = Evidence::open(&dir, Redactor::default()).unwrap();
        let now = Arc::new(Mutex::new(Duration::ZERO));
        let app = router(Probes::new(Arc::default(), health(&now), Some(evidence)));
        assert_eq!(get(&app, "/readyz").await.0, 200);
        // A file where the folder was: not even root can write below it.
        std::fs::remove_dir_all(&dir).unwrap();
        std::fs::write(&dir, "").unwrap();
        assert_eq!(get(&app, "/readyz").await.0, 200, "not tried again so soon");
        *lock(&now) += EVIDENCE_EVERY;
        let (status, text) = get(&app, "/readyz").await;
        assert_eq!(status, 503);
        assert!(
            text.contains("[-] evidence: the store cannot be written") && text.contains("[+] api ok"),
            "{text}"
        );
        assert_eq!(get(&app, "/livez").await.0, 200, "a restart would not help");
        std::fs::remove_file(&dir).unwrap();
        *lock(&now) += EVIDENCE_EVERY;
        assert_eq!(get(&app, "/readyz").await.0, 200);
    }

    #[tokio::test]
    async fn stuck_work_ends_life_and_not_readiness() {
        let now = Arc::new(Mutex::new(Duration::ZERO));
        let health = health(&now);
        let app = router(Probes::new(Arc::default(), health.clone(), None));
        let _work = health.begin("controller Workload", Duration::from_secs(1));
        *lock(&now) = Duration::from_secs(2);
        let (status, text) = get(&app, "/livez").await;
        assert_eq!(status, 503);
        assert!(text.contains("controller Workload"), "{text}");
        assert_eq!(get(&app, "/healthz").await.0, 503);
        assert_eq!(get(&app, "/readyz").await.0, 200);
    }
}
