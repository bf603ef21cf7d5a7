//! What the operator asks of others, counted by cause.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use http::{Method, Request};
use kube::Client;
use kube::client::Body;

use crate::clock::lock;

/// Requests to the Kubernetes API, by cause, verb and resource.
pub const API_REQUESTS: &str = "foreman_api_requests_total";
/// Requests to Git servers, by operation: list, fetch, push.
pub const GIT_REQUESTS: &str = "foreman_git_requests_total";
/// Turns of a queue's repository poll, by result: unchanged, changed, failed.
pub const TICKS: &str = "foreman_queue_ticks_total";
/// Task files that were read and parsed.
pub const FILES_PARSED: &str = "foreman_task_files_parsed_total";
/// Reconciles by controller and result.
pub const RECONCILES: &str = "foreman_reconciles_total";
/// Tasks that the scheduler placed.
pub const ASSIGNMENTS: &str = "foreman_assignments_total";
/// Claims that were declared dead, by cause.
pub const LOST_CLAIMS: &str = "foreman_lost_claims_total";
/// Verdicts that were reported, by state.
pub const REPORTS: &str = "foreman_reports_total";
/// Requests to the evidence store, by result.
pub const EVIDENCE: &str = "foreman_evidence_requests_total";

const HELP: [(&str, &str); 9] = [
    (
        API_REQUESTS,
        "Requests to the Kubernetes API, by cause, verb and resource.",
    ),
    (GIT_REQUESTS, "Requests to Git servers, by operation."),
    (TICKS, "Turns of the repository poll, by result."),
    (FILES_PARSED, "Task files that were read and parsed."),
    (RECONCILES, "Reconciles, by controller and result."),
    (ASSIGNMENTS, "Tasks that the scheduler placed on a node."),
    (LOST_CLAIMS, "Claims that were declared dead, by cause."),
    (REPORTS, "Verdicts that were reported, by state."),
    (EVIDENCE, "Requests to the evidence store, by result."),
];

type Series = (&'static str, Vec<(&'static str, String)>);

/// Counters with labels.
#[derive(Debug, Default)]
pub struct Metrics {
    counters: Mutex<BTreeMap<Series, u64>>,
}

impl Metrics {
    /// Adds `count` to a series.
    pub fn add(&self, name: &'static str, labels: &[(&'static str, &str)], count: u64) {
        let series = (
            name,
            labels.iter().map(|(key, value)| (*key, (*value).to_owned())).collect(),
        );
        *lock(&self.counters).entry(series).or_default() += count;
    }

    /// Adds one to a series.
    pub fn count(&self, name: &'static str, labels: &[(&'static str, &str)]) {
        self.add(name, labels, 1);
    }

    /// Sums the series of `name` whose labels include all of `labels`.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        lock(&self.counters)
            .iter()
            .filter(|((series, have), _)| {
                *series == name
                    && labels
                        .iter()
                        .all(|(key, value)| have.iter().any(|(k, v)| k == key && v == value))
            })
            .map(|(_, count)| count)
            .sum()
    }

    /// Counts requests that change something in the Kubernetes API.
    pub fn api_writes(&self) -> u64 {
        ["create", "update", "patch", "delete"]
            .iter()
            .map(|verb| self.sum(API_REQUESTS, &[("verb", verb)]))
            .sum()
    }

    /// Counts requests that read from the Kubernetes API, watches left out.
    pub fn api_reads(&self) -> u64 {
        ["get", "list"]
            .iter()
            .map(|verb| self.sum(API_REQUESTS, &[("verb", verb)]))
            .sum()
    }

    /// Renders all series in the Prometheus text format.
    pub fn render(&self) -> String {
        let counters = lock(&self.counters).clone();
        let mut text = String::new();
        for (name, help) in HELP {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} counter");
            for ((_, labels), count) in counters.iter().filter(|((series, _), _)| *series == name) {
                let labels: Vec<String> = labels
                    .iter()
                    .map(|(key, value)| {
                        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
                        format!("{key}=\"{value}\"")
                    })
                    .collect();
                if labels.is_empty() {
                    let _ = writeln!(text, "{name} {count}");
                } else {
                    let _ = writeln!(text, "{name}{{{}}} {count}", labels.join(","));
                }
            }
        }
        text
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
        let client = client.clone();
        async move { client.send(request).await }
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
    fn rendering_escapes_labels_and_sums_by_subset() {
        let metrics = Metrics::default();
        metrics.count(GIT_REQUESTS, &[("operation", "list"), ("cause", "a\"b")]);
        metrics.add(GIT_REQUESTS, &[("operation", "fetch"), ("cause", "c")], 2);
        assert_eq!(metrics.sum(GIT_REQUESTS, &[]), 3);
        assert_eq!(metrics.sum(GIT_REQUESTS, &[("operation", "fetch")]), 2);
        let text = metrics.render();
        assert!(
            text.contains("foreman_git_requests_total{operation=\"list\",cause=\"a\\\"b\"} 1"),
            "{text}"
        );
    }
}
