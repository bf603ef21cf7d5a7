//! Every metric of a node agent. No label names a task: their number is bounded by kinds, verdicts and Agents.

use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use schemas::agentic_task::TaskKind;
use telemetry::metrics::{Description, Kind, LONG, Metrics as Registry, SLOW};

use crate::model::{Category, ModelError, Protocol, Provider, Reply, Request, Sink};
use crate::outcome::Outcome;

/// Version of the program.
pub const BUILD_INFO: &str = "foreman_agent_build_info";
/// Whether this process holds its node's name.
pub const NAME_HELD: &str = "foreman_agent_name_held";
/// Places for tasks.
pub const SLOTS: &str = "foreman_agent_slots";
/// Tasks in hand.
pub const RUNNING: &str = "foreman_agent_running_tasks";
/// Heartbeats, by result.
pub const HEARTBEATS: &str = "foreman_agent_heartbeats_total";
/// When the last heartbeat was written.
pub const LAST_HEARTBEAT: &str = "foreman_agent_last_heartbeat_timestamp_seconds";
/// Claims, by result.
pub const CLAIMS: &str = "foreman_agent_claims_total";
/// Tasks that ended here.
pub const TASKS_ENDED: &str = "foreman_agent_tasks_ended_total";
/// How long tasks took here.
pub const TASK_SECONDS: &str = "foreman_agent_task_duration_seconds";
/// Tries of gates, by what they came to.
pub const GATE_TRIES: &str = "foreman_agent_gate_tries_total";
/// Turns of coders.
pub const CODER_TURNS: &str = "foreman_agent_coder_turns_total";
/// Calls of tools.
pub const TOOL_CALLS: &str = "foreman_agent_tool_calls_total";
/// Tokens of coders.
pub const CODER_TOKENS: &str = "foreman_agent_coder_tokens_total";
/// How long models took to answer.
pub const MODEL_SECONDS: &str = "foreman_agent_model_request_duration_seconds";
/// Requests to models that brought no reply.
pub const MODEL_FAILURES: &str = "foreman_agent_model_failures_total";
/// Bytes of evidence that were sent.
pub const EVIDENCE_BYTES: &str = "foreman_agent_evidence_sent_bytes_total";
/// Claims of which evidence is missing.
pub const EVIDENCE_FAILURES: &str = "foreman_agent_evidence_failures_total";

const fn describe(name: &'static str, kind: Kind, labels: &'static [&'static str], help: &'static str) -> Description {
    Description {
        name,
        kind,
        labels,
        help,
    }
}

/// All metrics of a node agent.
pub const TABLE: &[Description] = &[
    describe(
        BUILD_INFO,
        Kind::Gauge,
        &["version"],
        "Always 1; the label names the version of the agent",
    ),
    describe(
        NAME_HELD,
        Kind::Gauge,
        &[],
        "1 while this process holds its node's name, 0 while it waits for another to let go",
    ),
    describe(
        SLOTS,
        Kind::Gauge,
        &[],
        "Tasks that the node takes at once; verifiers have as many places beside them",
    ),
    describe(RUNNING, Kind::Gauge, &["kind"], "Tasks in hand, by kind"),
    describe(
        HEARTBEATS,
        Kind::Counter,
        &["result"],
        "Heartbeats, by result: written, failed",
    ),
    describe(
        LAST_HEARTBEAT,
        Kind::Gauge,
        &[],
        "When the last heartbeat was written, in seconds since 1970 by the node's clock",
    ),
    describe(
        CLAIMS,
        Kind::Counter,
        &["result"],
        "Claims of tasks, by result: held, lost (another writer was faster), failed",
    ),
    describe(
        TASKS_ENDED,
        Kind::Counter,
        &["kind", "verdict", "reason"],
        "Runs of tasks that ended here, by kind, verdict and failureReason; a claim that was given back is none",
    ),
    describe(
        TASK_SECONDS,
        Kind::Histogram(LONG),
        &["kind"],
        "Seconds from a claim to the end of its run, by kind",
    ),
    describe(
        GATE_TRIES,
        Kind::Counter,
        &["verdict"],
        "Tries of gates, by what they came to: GATE-PASS, GATE-FAIL, GATE-ERROR, refused",
    ),
    describe(CODER_TURNS, Kind::Counter, &[], "Turns of coders that ended here"),
    describe(
        TOOL_CALLS,
        Kind::Counter,
        &[],
        "Calls of tools by coders that ended here",
    ),
    describe(
        CODER_TOKENS,
        Kind::Counter,
        &["sort"],
        "Tokens of coders that ended here: prompt, cached (a part of prompt), completion",
    ),
    describe(
        MODEL_SECONDS,
        Kind::Histogram(SLOW),
        &["agent"],
        "Seconds from a request to a model to the end of its reply, by Agent; recorded sessions are left out",
    ),
    describe(
        MODEL_FAILURES,
        Kind::Counter,
        &["agent", "category"],
        "Requests to a model that brought no reply, by Agent and category",
    ),
    describe(EVIDENCE_BYTES, Kind::Counter, &[], "Bytes of evidence that were stored"),
    describe(
        EVIDENCE_FAILURES,
        Kind::Counter,
        &[],
        "Ends of runs of which evidence is missing, because it could not be stored",
    ),
];

/// The metrics of a node agent.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new(TABLE);
        registry.set(BUILD_INFO, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        registry.set(NAME_HELD, &[], 0.0);
        Self(registry)
    }
}

impl std::ops::Deref for Metrics {
    type Target = Registry;

    fn deref(&self) -> &Registry {
        &self.0
    }
}

impl Metrics {
    /// Counts a run that ended and was written down.
    pub fn count_end(&self, kind: TaskKind, outcome: &Outcome, seconds: f64) {
        let kind = kind.as_str();
        let reason = outcome.failure.as_ref().map(|reason| reason.as_str());
        self.count(
            TASKS_ENDED,
            &[
                ("kind", kind),
                ("verdict", outcome.verdict.map_or("none", |verdict| verdict.as_str())),
                ("reason", reason.as_deref().unwrap_or("none")),
            ],
        );
        self.observe(TASK_SECONDS, &[("kind", kind)], seconds.max(0.0));
        let of = |count: i64| u64::try_from(count).unwrap_or(0);
        if let Some(usage) = &outcome.usage {
            self.add(CODER_TURNS, &[], of(usage.turns));
            self.add(TOOL_CALLS, &[], of(usage.tool_calls));
            for (sort, count) in [
                ("prompt", usage.prompt_tokens),
                ("cached", usage.cached_prompt_tokens),
                ("completion", usage.completion_tokens),
            ] {
                self.add(CODER_TOKENS, &[("sort", sort)], of(count));
            }
        }
        let bytes: i64 = outcome.evidence.iter().map(|item| item.bytes).sum();
        self.add(EVIDENCE_BYTES, &[], of(bytes));
        if outcome.evidence_error.is_some() {
            self.count(EVIDENCE_FAILURES, &[]);
        }
    }
}

/// A provider whose answers are measured.
pub struct Measured {
    /// Who is asked.
    pub inner: Box<dyn Provider>,
    /// Where the time goes.
    pub metrics: std::sync::Arc<Metrics>,
    /// Name of the Agent.
    pub agent: String,
}

impl Provider for Measured {
    fn complete<'a>(&'a self, request: &'a Request, sink: Sink<'a>) -> BoxFuture<'a, Result<Reply, ModelError>> {
        async move {
            let begun = Instant::now();
            let reply = self.inner.complete(request, sink).await;
            if self.inner.replays() {
                return reply;
            }
            match &reply {
                Ok(_) => self
                    .metrics
                    .observe(MODEL_SECONDS, &[("agent", &self.agent)], begun.elapsed().as_secs_f64()),
                Err(error) => self.metrics.count(
                    MODEL_FAILURES,
                    &[("agent", &self.agent), ("category", named(error.category()))],
                ),
            }
            reply
        }
        .boxed()
    }

    fn protocol(&self) -> Option<Protocol> {
        self.inner.protocol()
    }

    fn model(&self) -> String {
        self.inner.model()
    }

    fn replays(&self) -> bool {
        self.inner.replays()
    }
}

fn named(category: Category) -> &'static str {
    match category {
        Category::Unavailable => "unavailable",
        Category::Auth => "auth",
        Category::Timeout => "timeout",
        Category::Protocol => "protocol",
        Category::ContextOverflow => "context-overflow",
        Category::Endless => "endless",
        Category::TooManyCalls => "too-many-calls",
        Category::Recording => "recording",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;
    use schemas::shared::{EvidenceRef, Usage, Verdict};

    #[test]
    fn an_end_counts_its_verdict_its_tokens_and_its_evidence() {
        let metrics = Metrics::default();
        let mut outcome = Outcome::ended(Verdict::Go, "done");
        outcome.usage = Some(Usage {
            prompt_tokens: 90,
            cached_prompt_tokens: 50,
            completion_tokens: 8,
            turns: 4,
            tool_calls: 5,
            estimated: false,
        });
        outcome.evidence.push(EvidenceRef {
            name: "transcript".into(),
            url: "http://x".into(),
            bytes: 1000,
        });
        metrics.count_end(TaskKind::Freeform, &outcome, 12.0);
        outcome.evidence_error = Some("the store is away".into());
        metrics.count_end(TaskKind::Freeform, &outcome, 1.0);
        let text = metrics.render();
        let sum = |name: &str, labels: &[(&str, &str)]| telemetry::metrics::sum(&text, name, labels);
        assert_eq!(
            sum(
                TASKS_ENDED,
                &[("kind", "freeform"), ("verdict", "GO"), ("reason", "none")]
            ),
            2.0
        );
        assert_eq!(sum(CODER_TURNS, &[]), 8.0);
        assert_eq!(sum(CODER_TOKENS, &[("sort", "cached")]), 100.0);
        assert_eq!(sum(EVIDENCE_BYTES, &[]), 2000.0);
        assert_eq!(sum(EVIDENCE_FAILURES, &[]), 1.0);
        assert_eq!(sum("foreman_agent_task_duration_seconds_sum", &[]), 13.0);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(
                TABLE
                    .iter()
                    .any(|described| described.series().iter().any(|s| s == name)),
                "{name} is not described"
            );
        }
    }
}
