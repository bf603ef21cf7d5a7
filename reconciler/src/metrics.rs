//! What the operator tells of itself, and the counting of what it asks of the Kubernetes API.

mod describe;
mod observe;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, Request};
use kube::Client;
use kube::client::Body;
use telemetry::metrics::Metrics as Registry;

use crate::clock::lock;

pub use describe::*;
pub use observe::{Sources, observe};

/// The operator's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    api: Answers,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new(TABLE);
        registry.set(BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        Self {
            registry,
            api: Answers::default(),
        }
    }
}

impl std::ops::Deref for Metrics {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.registry
    }
}

impl Metrics {
    /// Counts requests that change something in the Kubernetes API.
    pub fn api_writes(&self) -> u64 {
        let text = self.render();
        let of = |verb: &&str| telemetry::metrics::sum(&text, API_REQUESTS, &[("verb", verb)]);
        ["create", "update", "patch", "delete"].iter().map(of).sum::<f64>() as u64
    }

    /// Counts requests that read from the Kubernetes API, watches left out.
    pub fn api_reads(&self) -> u64 {
        let text = self.render();
        let of = |verb: &&str| telemetry::metrics::sum(&text, API_REQUESTS, &[("verb", verb)]);
        ["get", "list"].iter().map(of).sum::<f64>() as u64
    }

    /// Returns for how long the Kubernetes API has answered nothing but failures; `None` while it answers.
    pub fn api_failing_for(&self) -> Option<Duration> {
        self.api.failing_for()
    }

    /// Returns for how long the Kubernetes API has been away since the start, in sum.
    pub fn api_away(&self) -> Duration {
        self.api.away_at(self.api.start.elapsed())
    }
}

/// Whether the API answers.
#[derive(Debug)]
struct Answers {
    start: Instant,
    heard: Mutex<Heard>,
}

/// What was heard of the API, by the time after the start.
#[derive(Debug, Default)]
struct Heard {
    /// Since when every request failed; `None` while it answers.
    failing_since: Option<Duration>,
    /// How long it was away before that, in sum.
    away: Duration,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            start: Instant::now(),
            heard: Mutex::default(),
        }
    }
}

impl Answers {
    fn heard(&self, answered: bool) {
        self.heard_at(answered, self.start.elapsed());
    }

    fn heard_at(&self, answered: bool, at: Duration) {
        let mut heard = lock(&self.heard);
        if answered {
            if let Some(since) = heard.failing_since.take() {
                heard.away += at.saturating_sub(since);
            }
        } else {
            heard.failing_since.get_or_insert(at);
        }
    }

    fn failing_for(&self) -> Option<Duration> {
        let since = lock(&self.heard).failing_since?;
        Some(self.start.elapsed().saturating_sub(since))
    }

    fn away_at(&self, at: Duration) -> Duration {
        let heard = lock(&self.heard);
        heard.away
            + heard
                .failing_since
                .map_or(Duration::ZERO, |since| at.saturating_sub(since))
    }
}

/// A request that has not been answered; dropped as such, it counts as a failure.
struct Silence<'a> {
    metrics: &'a Metrics,
    cause: &'static str,
    answered: bool,
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.metrics.api.heard(false);
            let labels = [("cause", self.cause), ("kind", "silence")];
            self.metrics.count(API_FAILURES, &labels);
        }
    }
}

/// Wraps a client so that each request is counted under `cause`.
pub fn counted(client: Client, metrics: Arc<Metrics>, cause: &'static str) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = tower::service_fn(move |request: Request<Body>| {
        let (verb, resource) = verb_and_resource(request.method(), request.uri());
        metrics.count(
            API_REQUESTS,
            &[("cause", cause), ("verb", verb), ("resource", resource)],
        );
        let (client, metrics) = (client.clone(), metrics.clone());
        async move {
            // Who asked may give up first: that, too, is no answer.
            let mut silence = Silence {
                metrics: &metrics,
                cause,
                answered: false,
            };
            let answer = client.send(request).await;
            silence.answered = true;
            // What is refused was answered: only silence and the server's own failures count.
            let failed = match &answer {
                Ok(answer) if answer.status().is_server_error() => Some("server"),
                Ok(_) => None,
                Err(_) => Some("network"),
            };
            metrics.api.heard(failed.is_none());
            if let Some(kind) = failed {
                metrics.count(API_FAILURES, &[("cause", cause), ("kind", kind)]);
            }
            answer
        }
    });
    Client::new(service, namespace)
}

fn verb_and_resource<'a>(method: &Method, uri: &'a http::Uri) -> (&'static str, &'a str) {
    let mut parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
    // /api/v1/… and /apis/<group>/<version>/…
    parts.drain(..parts.len().min(if parts.first() == Some(&"apis") { 3 } else { 2 }));
    if parts.first() == Some(&"namespaces") && parts.len() > 2 {
        parts.drain(..2);
    }
    let resource = parts.first().copied().unwrap_or("");
    let named = parts.len() > 1;
    let verb = match *method {
        Method::GET if uri.query().is_some_and(|query| query.contains("watch=")) => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "other",
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn verbs_and_resources_are_read_from_the_request() {
        let of = |method: Method, uri: &str| {
            let uri: http::Uri = uri.parse().unwrap();
            let (verb, resource) = verb_and_resource(&method, &uri);
            (verb, resource.to_owned())
        };
        let expected = [
            (
                Method::GET,
                "/apis/foreman.llmkube.dev/v1alpha1/namespaces/a/workloads?limit=5",
                "list",
                "workloads",
            ),
            (
                Method::GET,
                "/apis/foreman.llmkube.dev/v1alpha1/workloads?watch=true",
                "watch",
                "workloads",
            ),
            (
                Method::PATCH,
                "/apis/foreman.llmkube.dev/v1alpha1/namespaces/a/workloads/b/status",
                "patch",
                "workloads",
            ),
            (Method::POST, "/api/v1/namespaces/a/events", "create", "events"),
            (Method::GET, "/api/v1/namespaces/a", "get", "namespaces"),
            (Method::DELETE, "/api/v1/namespaces/a/pods/b", "delete", "pods"),
        ];
        for (method, uri, verb, resource) in expected {
            assert_eq!(of(method, uri), (verb, resource.to_owned()), "{uri}");
        }
    }

    #[test]
    fn the_time_without_an_api_is_counted_while_it_lasts_and_afterwards() {
        let answers = Answers::default();
        let at = Duration::from_secs;
        assert_eq!(answers.away_at(at(5)), at(0));
        answers.heard_at(false, at(10));
        answers.heard_at(false, at(15));
        assert_eq!(answers.away_at(at(18)), at(8));
        answers.heard_at(true, at(20));
        answers.heard_at(true, at(25));
        assert_eq!(answers.away_at(at(30)), at(10));
        answers.heard_at(false, at(40));
        assert_eq!(answers.away_at(at(41)), at(11));
    }

    #[test]
    fn an_api_that_answers_again_is_no_longer_failing() {
        let answers = Answers::default();
        assert_eq!(answers.failing_for(), None);
        answers.heard(false);
        let first = lock(&answers.heard).failing_since;
        answers.heard(false);
        assert!(answers.failing_for().is_some());
        assert_eq!(lock(&answers.heard).failing_since, first, "the first failure counts");
        answers.heard(true);
        assert_eq!(answers.failing_for(), None);
    }

    #[tokio::test]
    async fn who_gives_up_before_there_is_an_answer_counts_a_silence() {
        let answers = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let arrived = Arc::new(tokio::sync::Notify::new());
        let (answering, arriving) = (answers.clone(), arrived.clone());
        let service = tower::service_fn(move |_: Request<Body>| {
            let answers = answering.load(std::sync::atomic::Ordering::Acquire);
            arriving.notify_one();
            async move {
                if !answers {
                    std::future::pending::<()>().await;
                }
                Ok::<_, std::convert::Infallible>(http::Response::new(Body::empty()))
            }
        });
        let metrics = Arc::new(Metrics::default());
        let client = counted(Client::new(service, "n"), metrics.clone(), "test");
        let ask = || {
            let request = Request::get("/api/v1/namespaces/n/pods").body(Body::empty()).unwrap();
            client.send(request)
        };
        let silences = || {
            let labels = [("cause", "test"), ("kind", "silence")];
            telemetry::metrics::sum(&metrics.render(), API_FAILURES, &labels)
        };
        tokio::select! {
            _ = ask() => panic!("nobody answers"),
            () = arrived.notified() => {}
        }
        assert_eq!(silences(), 1.0);
        assert!(metrics.api_failing_for().is_some());
        answers.store(true, std::sync::atomic::Ordering::Release);
        ask().await.unwrap();
        assert_eq!((silences(), metrics.api_failing_for()), (1.0, None));
    }
}
