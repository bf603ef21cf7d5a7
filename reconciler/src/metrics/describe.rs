//! Every metric of the operator. No label names a task: their number is bounded by kinds, controllers, queues and nodes.

use telemetry::metrics::{Description, FAST, Kind, LONG};

/// Version of the program.
pub const BUILD_INFO: &str = "foreman_build_info";
/// Whether this process leads.
pub const LEADER: &str = "foreman_leader";
/// Requests to the Kubernetes API, by cause, verb and resource.
pub const API_REQUESTS: &str = "foreman_api_requests_total";
/// Requests to the Kubernetes API that brought no answer, or a failure of the server.
pub const API_FAILURES: &str = "foreman_api_failures_total";
/// Requests to Git servers, by operation: list, fetch, push.
pub const GIT_REQUESTS: &str = "foreman_git_requests_total";
/// Turns of a queue's repository poll, by result: unchanged, changed, failed.
pub const TICKS: &str = "foreman_queue_ticks_total";
/// Task files that were read and parsed.
pub const FILES_PARSED: &str = "foreman_task_files_parsed_total";
/// Files of a queue that cannot be used.
pub const INVALID_FILES: &str = "foreman_queue_invalid_files";
/// Whether a queue's repository could be read at the last look.
pub const QUEUE_FETCHED: &str = "foreman_queue_fetched";
/// Reconciles by controller and result.
pub const RECONCILES: &str = "foreman_reconciles_total";
/// How long reconciles take, by controller.
pub const RECONCILE_SECONDS: &str = "foreman_reconcile_duration_seconds";
/// Keys that wait in a controller's queue.
pub const QUEUE_DEPTH: &str = "foreman_work_queue_depth";
/// Tasks by phase.
pub const TASKS: &str = "foreman_tasks";
/// How long the task that has been longest in a phase has been there.
pub const OLDEST_TASK: &str = "foreman_oldest_task_age_seconds";
/// Tasks that are longer in a phase than they should be.
pub const STUCK_TASKS: &str = "foreman_stuck_tasks";
/// Workloads by phase.
pub const WORKLOADS: &str = "foreman_workloads";
/// Tasks that the scheduler placed.
pub const ASSIGNMENTS: &str = "foreman_assignments_total";
/// Claims that were declared dead, by cause.
pub const LOST_CLAIMS: &str = "foreman_lost_claims_total";
/// Tasks that came to their end, by kind, verdict and reason.
pub const TASKS_ENDED: &str = "foreman_tasks_ended_total";
/// Verdicts of gates.
pub const GATE_VERDICTS: &str = "foreman_gate_verdicts_total";
/// How long tasks took from their first claim to their end.
pub const TASK_SECONDS: &str = "foreman_task_duration_seconds";
/// Rounds of Workloads that ended.
pub const ROUNDS: &str = "foreman_workload_rounds";
/// Turns of coders.
pub const CODER_TURNS: &str = "foreman_coder_turns_total";
/// Tokens of coders, by sort.
pub const CODER_TOKENS: &str = "foreman_coder_tokens_total";
/// Verdicts that were reported, by state.
pub const REPORTS: &str = "foreman_reports_total";
/// Requests to the evidence store, by result.
pub const EVIDENCE: &str = "foreman_evidence_requests_total";
/// Bytes that were stored as evidence.
pub const EVIDENCE_BYTES: &str = "foreman_evidence_stored_bytes_total";
/// How long ago a node's last heartbeat was seen.
pub const HEARTBEAT_AGE: &str = "foreman_node_heartbeat_age_seconds";
/// Whether a node takes part, by its lease or its heartbeat.
pub const NODE_ALIVE: &str = "foreman_node_alive";

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Description {
    Description {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Description {
    Description {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn histogram(
    name: &'static str,
    labels: &'static [&'static str],
    buckets: &'static [f64],
    help: &'static str,
) -> Description {
    Description {
        name,
        kind: Kind::Histogram(buckets),
        labels,
        help,
    }
}

/// All metrics of the operator. Those of objects are told by every replica, those of work by the one that leads.
pub const TABLE: &[Description] = &[
    gauge(
        BUILD_INFO,
        &["version"],
        "Always 1; the label names the version of the operator",
    ),
    gauge(
        LEADER,
        &[],
        "1 while this replica leads, else 0; the sum over all replicas is to be 1",
    ),
    counter(
        API_REQUESTS,
        &["cause", "verb", "resource"],
        "Requests to the Kubernetes API, by the part that asked, verb and resource",
    ),
    counter(
        API_FAILURES,
        &["cause", "kind"],
        "Requests to the Kubernetes API that nobody answered in time (silence), that did not get through (network), or that ended with a failure of its own (server)",
    ),
    counter(
        GIT_REQUESTS,
        &["operation"],
        "Requests to Git servers: list, fetch, push",
    ),
    counter(
        TICKS,
        &["result"],
        "Looks at the repositories of queues: unchanged, changed, failed",
    ),
    counter(FILES_PARSED, &[], "Task files that were read and parsed"),
    gauge(
        INVALID_FILES,
        &["queue_namespace", "queue"],
        "Task files of a queue that cannot be used now",
    ),
    gauge(
        QUEUE_FETCHED,
        &["queue_namespace", "queue"],
        "1 where the last look at a queue's repository succeeded, else 0",
    ),
    counter(
        RECONCILES,
        &["controller", "result"],
        "Reconciles, by controller and result: done, lost (another writer was faster), failed",
    ),
    histogram(
        RECONCILE_SECONDS,
        &["controller"],
        FAST,
        "How long reconciles take, by controller",
    ),
    gauge(
        QUEUE_DEPTH,
        &["controller"],
        "Objects that wait to be reconciled, by controller",
    ),
    gauge(TASKS, &["phase"], "AgenticTasks, by phase"),
    gauge(
        OLDEST_TASK,
        &["phase"],
        "Seconds for which the task that is longest in a phase that is no end has been there, as seen by this process",
    ),
    gauge(
        STUCK_TASKS,
        &["phase"],
        "Tasks that are longer in a phase than they should be: Scheduled over 5 minutes without a claim, Running or Verifying over their own limit and 5 minutes",
    ),
    gauge(WORKLOADS, &["phase"], "Workloads, by phase"),
    counter(ASSIGNMENTS, &[], "Tasks that the scheduler placed on a node"),
    counter(LOST_CLAIMS, &["cause"], "Claims that were declared dead, by cause"),
    counter(
        TASKS_ENDED,
        &["kind", "verdict", "reason"],
        "Tasks that came to their end while this replica led, by kind, verdict and failureReason",
    ),
    counter(
        GATE_VERDICTS,
        &["verdict"],
        "Verdicts of gates seen while this replica led: GATE-PASS, GATE-FAIL, GATE-ERROR, or none",
    ),
    histogram(
        TASK_SECONDS,
        &["kind"],
        LONG,
        "Seconds from a task's first claim to its end, by kind",
    ),
    histogram(
        ROUNDS,
        &["phase"],
        &[1.0, 2.0, 3.0, 5.0, 8.0],
        "Rounds that Workloads took, by how they ended",
    ),
    counter(CODER_TURNS, &[], "Turns of coders, as their tasks said at their end"),
    counter(
        CODER_TOKENS,
        &["sort"],
        "Tokens of coders, as their tasks said at their end: prompt, cached (a part of prompt), completion",
    ),
    counter(REPORTS, &["state"], "Verdicts that were reported, by state"),
    counter(
        EVIDENCE,
        &["verb", "result"],
        "Requests to the evidence store: new, same, refused, failed",
    ),
    counter(EVIDENCE_BYTES, &[], "Bytes that were newly stored as evidence"),
    gauge(
        HEARTBEAT_AGE,
        &["node"],
        "Seconds since a node's heartbeat was last seen to change, by this process's clock",
    ),
    gauge(
        NODE_ALIVE,
        &["node"],
        "1 while a node counts as alive by its lease or its heartbeat, else 0",
    ),
];
