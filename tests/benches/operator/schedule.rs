//! Pending tasks and simulated nodes: how fast places are given, and what that costs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use schemas::agentic_task::Phase;
use schemas::{AgenticTask, FleetNode};
use serde_json::json;

use crate::site::{Site, manifest, parallel};
use crate::{ratio, requests, say, seconds};

/// Nodes, and the smaller number of tasks; the larger one is twice that.
const NODES: usize = 1_000;
const TASKS: usize = 10_000;
const AT_ONCE: usize = 32;
const LABEL: &str = "bench=schedule";

fn node_name(n: usize) -> String {
    format!("bench-{n:04}")
}

/// Reads a size that somebody with less time sets smaller.
fn number(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |value| value.parse().unwrap())
}

/// Says that every node lives.
async fn heartbeat(nodes: &Api<FleetNode>, count: usize) {
    let api = nodes.clone();
    parallel((0..count).collect(), AT_ONCE, move |n| {
        let api = api.clone();
        async move {
            let status = json!({ "status": {
                "phase": "Ready", "lastHeartbeatTime": Timestamp::now().to_string(),
                "capability": { "slots": 1, "totalRAMGB": 64 },
            } });
            api.patch_status(&node_name(n), &PatchParams::default(), &Patch::Merge(status))
                .await
                .unwrap();
        }
    })
    .await;
}

/// What one run found.
struct Found {
    all: Duration,
    processor: Duration,
}

async fn run(site: &Site, tasks: usize, nodes_wanted: usize) -> Found {
    let namespace = site.namespace().await;
    let nodes: Api<FleetNode> = Api::all(site.client.clone());
    let api = nodes.clone();
    parallel((0..nodes_wanted).collect(), AT_ONCE, move |n| {
        let api = api.clone();
        async move {
            let name = node_name(n);
            let node = serde_json::from_value(json!({
                "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode",
                "metadata": { "name": name, "labels": { "bench": "schedule" } },
                "spec": { "nodeName": name, "roles": ["worker"] },
            }));
            api.create(&PostParams::default(), &node.unwrap()).await.unwrap();
        }
    })
    .await;
    let pending: Api<AgenticTask> = Api::namespaced(site.client.clone(), &namespace);
    let api = pending.clone();
    let begin = Instant::now();
    parallel((0..tasks).collect(), AT_ONCE, move |n| {
        let api = api.clone();
        async move {
            let task: AgenticTask = schemas::yaml::parse(&manifest(n, "Write the note.")).unwrap();
            api.create(&PostParams::default(), &task).await.unwrap();
        }
    })
    .await;
    let rate = tasks as f64 / begin.elapsed().as_secs_f64();
    say(
        &format!("{tasks} tasks created by a bare client"),
        &format!("{rate:.0}/s"),
    );

    // Nobody is alive yet: every task is admitted and waits.
    let operator = site.operator(&namespace);
    let begin = Instant::now();
    let mut events = watcher(pending.clone(), watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut admitted: HashSet<String> = HashSet::new();
    while admitted.len() < tasks {
        if let Some(Ok(watcher::Event::Apply(task) | watcher::Event::InitApply(task))) = events.next().await
            && task.status.as_ref().is_some_and(|status| status.phase.is_some())
        {
            admitted.insert(task.name_any());
        }
    }
    let rate = tasks as f64 / begin.elapsed().as_secs_f64();
    say(&format!("{tasks} tasks admitted"), &format!("{rate:.0}/s"));

    let before = operator.counters().await;
    let begin = Instant::now();
    let used_before = operator.processor_time();
    let over = Arc::new(AtomicBool::new(false));
    let (beats, ended) = (nodes.clone(), over.clone());
    let beating = tokio::spawn(async move {
        while !ended.load(Ordering::Relaxed) {
            heartbeat(&beats, nodes_wanted).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
        }
    });
    // Each node ends what it is given at once, so that every end is an event that frees one place.
    let limit = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let mut assigned: HashMap<String, String> = HashMap::new();
    let mut first = None;
    while assigned.len() < tasks {
        let Some(Ok(watcher::Event::Apply(task) | watcher::Event::InitApply(task))) = events.next().await else {
            continue;
        };
        let name = task.name_any();
        let status = task.status.unwrap_or_default();
        if status.phase != Some(Phase::Scheduled) || assigned.contains_key(&name) {
            continue;
        }
        assigned.insert(name.clone(), status.assigned_node.unwrap());
        if assigned.len() == nodes_wanted {
            first = Some(begin.elapsed());
        }
        let (api, limit) = (pending.clone(), limit.clone());
        tokio::spawn(async move {
            let _permit = limit.acquire_owned().await.unwrap();
            let end = json!({ "status": { "phase": "Succeeded", "verdict": "GO" } });
            api.patch_status(&name, &PatchParams::default(), &Patch::Merge(end))
                .await
                .unwrap();
        });
    }
    let all = begin.elapsed();
    let processor = operator.processor_time() - used_before;
    over.store(true, Ordering::Relaxed);
    say(
        &format!("the first {nodes_wanted} of {tasks} assigned to {nodes_wanted} nodes"),
        &seconds(first.unwrap()),
    );
    let rate = tasks as f64 / all.as_secs_f64();
    say(
        &format!("all {tasks} assigned, each node one at a time"),
        &format!("{}: {rate:.0} assignments/s", seconds(all)),
    );
    let used: HashSet<&String> = assigned.values().collect();
    say("processor time of the operator for that", &seconds(processor));
    say("nodes that had work", &used.len().to_string());
    requests("in all", &before, &operator.counters().await, tasks);
    say(
        &format!("memory of the operator with {tasks} tasks, at most"),
        &format!("{:.0} MiB", operator.memory("VmHWM")),
    );
    beating.abort();
    operator.kill();
    let mine = ListParams::default().labels(LABEL);
    nodes.delete_collection(&DeleteParams::default(), &mine).await.unwrap();
    site.clear(&namespace).await;
    Found { all, processor }
}

/// Prints the throughput for both numbers of tasks, and the ratio of their times.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        let site = Site::open().await;
        let (tasks, nodes) = (
            number("FOREMAN_BENCH_TASKS", TASKS),
            number("FOREMAN_BENCH_NODES", NODES),
        );
        let few = run(&site, tasks, nodes).await;
        let many = run(&site, 2 * tasks, nodes).await;
        let what = format!("{} to {tasks} tasks", 2 * tasks);
        ratio(&format!("time of {what}"), many.all, few.all, "≤ 2.2");
        ratio(
            &format!("processor time of the operator, {what}"),
            many.processor,
            few.processor,
            "≤ 2.2",
        );
    });
}
