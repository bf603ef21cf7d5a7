#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::clock::ManualClock;
use kube::api::DynamicObject;
use serde_json::{Value, json};

struct World {
    metrics: Arc<Metrics>,
    tasks: Arc<Cache<AgenticTask>>,
    queues: Arc<Cache<TaskQueue>>,
    nodes: Arc<Cache<FleetNode>>,
    workloads: Arc<Cache<Workload>>,
    clock: Arc<ManualClock>,
    version: std::cell::Cell<u64>,
}

fn world(leads: bool) -> World {
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
    let shared: Arc<dyn Clock> = clock.clone();
    let world = World {
        metrics: Arc::default(),
        tasks: Arc::default(),
        queues: Arc::default(),
        nodes: Arc::default(),
        workloads: Arc::default(),
        clock,
        version: 0.into(),
    };
    let leadership = if leads {
        Leadership::always(shared.clone())
    } else {
        Leadership::never(shared.clone())
    };
    let watch: Arc<Watch> = Arc::default();
    watch.observe(&world.nodes, &Arc::default(), "n", &shared);
    observe(
        &world.metrics,
        &Sources {
            tasks: &world.tasks,
            workloads: &world.workloads,
            queues: &world.queues,
            nodes: &world.nodes,
            watch: &watch,
            leadership: &leadership,
            clock: &shared,
            heard: &shared,
        },
    );
    world
}

impl World {
    fn object(&self, kind: &str, name: &str, spec: Value, status: Value) -> DynamicObject {
        self.version.set(self.version.get() + 1);
        let mut object = json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": kind,
            "metadata": { "name": name, "namespace": "n", "uid": name, "resourceVersion": self.version.get().to_string() },
            "spec": spec, "status": status
        });
        if kind == "FleetNode" {
            object["metadata"].as_object_mut().unwrap().remove("namespace");
        }
        serde_json::from_value(object).unwrap()
    }

    fn task(&self, name: &str, kind: &str, status: Value) {
        let spec = json!({ "kind": kind, "payload": {}, "timeoutSeconds": 600 });
        self.tasks.observe(self.object("AgenticTask", name, spec, status));
    }

    fn pass(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        telemetry::metrics::sum(&self.metrics.render(), name, labels)
    }
}

const CLAIM: &str = "2026-01-01T00:00:00Z";

fn done(verdict: &str) -> Value {
    json!({
        "phase": "Succeeded", "verdict": verdict, "startedAt": CLAIM, "finishedAt": "2026-01-01T00:01:00Z",
        "usage": { "promptTokens": 100, "cachedPromptTokens": 40, "completionTokens": 7, "turns": 3 }
    })
}

#[test]
fn an_end_is_counted_once_and_only_by_the_replica_that_leads() {
    for leads in [true, false] {
        let world = world(leads);
        let times = f64::from(u8::from(leads));
        world.task("old", "verify", done("GATE-PASS"));
        assert_eq!(world.sum(TASKS_ENDED, &[]), 0.0, "it ended before this process began");
        world.task("new", "verify", json!({ "phase": "Running", "startedAt": CLAIM }));
        world.task("new", "verify", done("GATE-FAIL"));
        world.task("new", "verify", done("GATE-FAIL"));
        assert_eq!(
            world.sum(
                TASKS_ENDED,
                &[("kind", "verify"), ("verdict", "GATE-FAIL"), ("reason", "none")]
            ),
            times
        );
        assert_eq!(world.sum(GATE_VERDICTS, &[("verdict", "GATE-FAIL")]), times);
        assert_eq!(world.sum(CODER_TURNS, &[]), 3.0 * times);
        assert_eq!(world.sum(CODER_TOKENS, &[("sort", "prompt")]), 100.0 * times);
        assert_eq!(
            world.sum("foreman_task_duration_seconds_sum", &[("kind", "verify")]),
            60.0 * times
        );
        assert_eq!(world.sum(LEADER, &[]), times);
        assert_eq!(
            world.sum(TASKS, &[("phase", "Succeeded")]),
            2.0,
            "objects are told by every replica"
        );
    }
}

#[test]
fn a_task_is_stuck_when_it_is_over_its_own_limit() {
    let world = world(true);
    world.task("waits", "verify", json!({ "phase": "Pending" }));
    world.task(
        "unclaimed",
        "verify",
        json!({ "phase": "Scheduled", "assignedNode": "a" }),
    );
    world.task("runs", "freeform", json!({ "phase": "Running" }));
    world.task("proves", "verify", json!({ "phase": "Running" }));
    world.pass(301);
    assert_eq!(world.sum(STUCK_TASKS, &[("phase", "Scheduled")]), 1.0);
    assert_eq!(world.sum(STUCK_TASKS, &[("phase", "Running")]), 0.0);
    // The same run goes on in another phase.
    world.task("runs", "freeform", json!({ "phase": "Verifying" }));
    world.task("proves", "verify", json!({ "phase": "Verifying" }));
    world.pass(600);
    assert_eq!(
        world.sum(STUCK_TASKS, &[("phase", "Verifying")]),
        1.0,
        "a verifier has time for every try of its gate"
    );
    assert_eq!(
        world.sum(STUCK_TASKS, &[("phase", "Pending")]),
        0.0,
        "what waits may wait"
    );
    assert_eq!(world.sum(OLDEST_TASK, &[("phase", "Pending")]), 901.0);
    world.task("runs", "freeform", json!({ "phase": "Succeeded" }));
    assert_eq!(world.sum(STUCK_TASKS, &[("phase", "Verifying")]), 0.0);
    world.pass(schemas::agentic_task::VERIFY_SECONDS.unsigned_abs());
    assert_eq!(world.sum(STUCK_TASKS, &[("phase", "Verifying")]), 1.0);
}

#[test]
fn queues_nodes_and_workloads_are_told_as_they_are() {
    let world = world(true);
    let condition =
        json!([{ "type": "Fetched", "status": "False", "reason": "x", "message": "", "lastTransitionTime": CLAIM }]);
    let queue = world.object(
        "TaskQueue",
        "q",
        json!({ "git": { "url": "https://git.example/t" } }),
        json!({ "invalidFileCount": 4, "conditions": condition }),
    );
    world.queues.observe(queue);
    let spec = json!({ "nodeName": "a" });
    let beat = |time: &str| world.object("FleetNode", "a", spec.clone(), json!({ "lastHeartbeatTime": time }));
    world.nodes.observe(beat("2020-01-01T00:00:00Z"));
    world.pass(30);
    assert_eq!(
        world.sum(INVALID_FILES, &[("queue_namespace", "n"), ("queue", "q")]),
        4.0
    );
    assert_eq!(world.sum(QUEUE_FETCHED, &[("queue", "q")]), 0.0);
    let told = |name: &str| {
        world
            .metrics
            .render()
            .lines()
            .any(|line| line.starts_with(&format!("{name}{{")))
    };
    assert!(told(QUEUE_FETCHED) && told(INVALID_FILES));
    let rests = world.object(
        "TaskQueue",
        "q",
        json!({ "git": { "url": "https://git.example/t" }, "suspend": true }),
        json!({ "invalidFileCount": 4, "conditions": condition }),
    );
    world.queues.observe(rests);
    assert!(
        !told(QUEUE_FETCHED) && !told(INVALID_FILES),
        "nobody is called for a queue that rests"
    );
    assert_eq!(world.sum(HEARTBEAT_AGE, &[("node", "a")]), 30.0, "by when it was seen");
    assert_eq!(world.sum(NODE_ALIVE, &[("node", "a")]), 1.0);
    world.pass(100);
    assert_eq!(world.sum(NODE_ALIVE, &[("node", "a")]), 0.0);
    world.nodes.observe(beat("2020-01-01T00:02:00Z"));
    assert_eq!(world.sum(HEARTBEAT_AGE, &[("node", "a")]), 0.0);
    let spec = json!({ "intent": "x" });
    let rounds = json!([{ "run": 1, "round": 1 }, { "run": 1, "round": 2 }]);
    for phase in ["Dispatched", "Completed"] {
        let status = json!({ "phase": phase, "run": 1, "rounds": rounds });
        world
            .workloads
            .observe(world.object("Workload", "w", spec.clone(), status));
    }
    assert_eq!(world.sum("foreman_workload_rounds_sum", &[("phase", "Completed")]), 2.0);
    assert_eq!(world.sum(WORKLOADS, &[("phase", "Completed")]), 1.0);
}

#[test]
fn no_series_is_rendered_that_is_not_described_with_its_labels() {
    let world = world(true);
    world.task("t", "verify", json!({ "phase": "Running", "startedAt": CLAIM }));
    world.task("t", "verify", done("GO"));
    world
        .metrics
        .count(API_REQUESTS, &[("cause", "a"), ("verb", "b"), ("resource", "c")]);
    let mut seen = 0;
    for line in world.metrics.render().lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let described = TABLE
            .iter()
            .find(|described| described.series().iter().any(|series| series == name));
        let described = described.unwrap_or_else(|| panic!("{name} is not described"));
        let names: Vec<&str> = labels
            .trim_end_matches('}')
            .split("\",")
            .filter_map(|label| label.split_once("=\"").map(|(key, _)| key))
            .filter(|key| *key != "le")
            .collect();
        assert_eq!(names, described.labels, "{line}");
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
    for described in TABLE {
        assert!(
            !described.help.ends_with('.') && !described.help.is_empty(),
            "{}",
            described.name
        );
        assert!(
            !described
                .labels
                .iter()
                .any(|label| *label == "task" || *label == "name")
        );
        assert_eq!(
            described.name.ends_with("_total"),
            described.kind == telemetry::metrics::Kind::Counter,
            "{}",
            described.name
        );
    }
}
