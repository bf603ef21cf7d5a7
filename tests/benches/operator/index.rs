//! The scheduler alone, without an API: what one freed node costs, by the number of tasks and of nodes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reconciler::agentic_task::facts::TaskObject;
use reconciler::agentic_task::index::Index;
use reconciler::agentic_task::plan::{What, plan};
use reconciler::cache::{Cached, Key};
use schemas::phase::Event;
use schemas::{AgenticTask, FleetNode};
use serde_json::json;

use crate::site::manifest;
use crate::{ratio, say};

const NODES: usize = 1_000;

fn task(base: &AgenticTask, version: u64, status: serde_json::Value) -> TaskObject {
    let mut task = base.clone();
    task.metadata.resource_version = Some(version.to_string());
    task.status = serde_json::from_value(status).unwrap();
    Arc::new(Cached::of(task))
}

/// Gives every task a place, one end at a time, and returns the mean time of an end with the pass that follows it.
fn run(tasks: usize, nodes: usize) -> Duration {
    let mut index = Index::default();
    for n in 0..nodes {
        let name = format!("node-{n}");
        let node: FleetNode = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode", "metadata": { "name": name },
            "spec": { "nodeName": name, "roles": ["worker"] },
            "status": { "phase": "Ready", "capability": { "slots": 1, "totalRAMGB": 16 } },
        }))
        .unwrap();
        index.set_node(&name, Some(&node));
        index.set_alive(&name, true, None);
    }
    let bases: Vec<AgenticTask> = (0..tasks)
        .map(|n| {
            let mut task: AgenticTask = schemas::yaml::parse(&manifest(n, "Write it.")).unwrap();
            task.metadata.namespace = Some("n".into());
            task.metadata.uid = Some(format!("uid-{n}"));
            task
        })
        .collect();
    let key = |n: usize| Key::new("n", format!("task-{n:05}"));
    for (n, base) in bases.iter().enumerate() {
        index.set_task(
            &key(n),
            Some(task(base, 1, json!({ "phase": "Pending" }))),
            Duration::ZERO,
        );
    }
    let mut running: VecDeque<usize> = VecDeque::new();
    let mut placed = 0;
    let mut pass = |index: &mut Index, running: &mut VecDeque<usize>| {
        for step in plan(index, Duration::ZERO).steps {
            let What::Apply {
                event: Event::Assign { node },
                ..
            } = &step.what
            else {
                panic!("{:?}", step.what)
            };
            let n: usize = step.key.name["task-".len()..].parse().unwrap();
            let status = json!({ "phase": "Scheduled", "assignedNode": node });
            index.set_task(&step.key, Some(task(&bases[n], 2, status)), Duration::ZERO);
            running.push_back(n);
            placed += 1;
        }
    };
    pass(&mut index, &mut running);
    let ends = tasks - nodes;
    let begin = Instant::now();
    for _ in 0..ends {
        let n = running.pop_front().unwrap();
        let ended = task(&bases[n], 3, json!({ "phase": "Succeeded" }));
        index.set_task(&key(n), Some(ended), Duration::ZERO);
        pass(&mut index, &mut running);
    }
    let took = begin.elapsed() / u32::try_from(ends).unwrap();
    assert_eq!(placed, tasks, "every task had a place");
    took
}

/// Prints the cost of one event with twice the tasks, and with twice the nodes.
pub fn measure(_: &tokio::runtime::Runtime) {
    let (few, many, wide) = (run(10_000, NODES), run(20_000, NODES), run(20_000, 2 * NODES));
    for (what, time) in [
        ("10000 tasks", few),
        ("20000 tasks", many),
        ("20000 tasks, twice the nodes", wide),
    ] {
        say(
            &format!("one end and the place that it frees, {what}"),
            &format!("{:.1} µs", time.as_secs_f64() * 1e6),
        );
    }
    ratio("twice the tasks, for each event", many, few, "≤ 1.1");
    ratio("twice the nodes, for each event", wide, many, "≤ 1.1");
}
