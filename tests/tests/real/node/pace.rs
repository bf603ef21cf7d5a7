//! How long a task takes from the push of its file to its verdict, where model and check take no time: part by part, and
//! beside what a Pod of the same image takes to start.

use std::time::{Duration, Instant};

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;
use kube::api::PostParams;
use schemas::agentic_task::Phase;
use schemas::workload::WorkloadPhase;
use schemas::{AgenticTask, Workload, labels};
use serde_json::json;

use super::outside::{Outside, Seen, gate, runs};
use crate::real::site::is_in;

const TASKS: usize = 6;
/// From one part's end to the next.
const PARTS: [&str; 11] = [
    "push → coder's task",
    "→ assigned",
    "→ branch pushed",
    "→ verifier's task assigned",
    "→ gate's Pod made",
    "→ Pod scheduled",
    "→ steps run",
    "→ Pod ended",
    "→ Job ended",
    "→ verdict of the task",
    "→ Workload completed",
];

/// Those in which the cluster schedules, runs and ends the Pod and its Job.
const CLUSTERS: std::ops::RangeInclusive<usize> = 5..=8;

fn median(mut of: Vec<Duration>) -> f64 {
    of.sort();
    of[of.len() / 2].as_secs_f64()
}

/// Waits until a branch of ours is on the server that was not there before, and returns when that was.
async fn pushed(outside: &Outside, before: usize) -> Instant {
    loop {
        if outside.branches() > before {
            return Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Makes a Job of the gate's image that does nothing, and returns how long its Pod took to start and it to end.
async fn empty_job(outside: &Outside, seen: &mut Seen, name: &str) -> [Duration; 2] {
    let job: Job = serde_json::from_value(json!({
        "metadata": { "name": name },
        "spec": { "backoffLimit": 0, "template": { "spec": {
            "restartPolicy": "Never", "automountServiceAccountToken": false,
            "initContainers": [{ "name": "first", "image": super::outside::IMAGE, "command": ["true"] }],
            "containers": [{ "name": "second", "image": super::outside::IMAGE, "command": ["true"] }],
        } } },
    }))
    .unwrap();
    let begin = Instant::now();
    outside.api::<Job>().create(&PostParams::default(), &job).await.unwrap();
    let over = |job: &Job| {
        job.name_any() == name
            && job
                .status
                .as_ref()
                .is_some_and(|status| status.completion_time.is_some())
    };
    seen.jobs.saw("an empty Job's end", over).await;
    let own = |pod: &Pod| pod.labels().get("job-name").is_some_and(|job| job == name);
    let began = |pod: &Pod| own(pod) && (runs(pod) || succeeded(pod));
    seen.pods.saw("an empty Job's Pod", began).await;
    [
        seen.pods.when(began).unwrap() - begin,
        seen.jobs.when(over).unwrap() - begin,
    ]
}

fn succeeded(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Succeeded")
}

/// Returns by the node's own clock, which knows seconds, how long it took to the first container's start, how long that
/// one ran, and how long the second one did.
fn in_pod(pod: &Pod) -> [Duration; 3] {
    let status = pod.status.clone().unwrap();
    let times = |list: Option<Vec<ContainerStatus>>| {
        let state = list.unwrap()[0].state.clone().unwrap().terminated.unwrap();
        (state.started_at.unwrap().0, state.finished_at.unwrap().0)
    };
    let (fetch, steps) = (times(status.init_container_statuses), times(status.container_statuses));
    let made = pod.metadata.creation_timestamp.clone().unwrap().0;
    [
        made.duration_until(fetch.0),
        fetch.0.duration_until(fetch.1),
        steps.0.duration_until(steps.1),
    ]
    .map(|took| Duration::try_from(took).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a real node"]
async fn a_task_goes_from_push_to_verdict_and_says_where_its_time_went() {
    let mut gate = gate("true", 120);
    // A twentieth of a processor, which is enough elsewhere, would be what is measured: the Pod's start comes out of it.
    gate["resources"]["cpu"] = json!("1");
    let mut outside = Outside::open(&gate, &[]).await;
    let mut seen = Seen::of(&outside);
    let mut parts: Vec<Vec<Duration>> = vec![Vec::new(); PARTS.len()];
    let (mut all, mut ours, mut starts, mut empty) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut within: [Vec<Duration>; 3] = Default::default();
    for number in 0..TASKS {
        let name = format!("paced-{number}");
        let before = outside.branches();
        outside.ask(&[&name]);
        let push = Instant::now();
        let branch = pushed(&outside, before).await;
        let of = |found: &str| found.contains(&name);
        let done = |workload: &Workload| {
            let phase = workload.status.as_ref().and_then(|status| status.phase);
            of(&workload.name_any()) && phase == Some(WorkloadPhase::Completed)
        };
        seen.workloads.saw("a Workload's end", done).await;
        let task = |step: &'static str, phase: Phase| {
            let name = name.clone();
            move |task: &AgenticTask| {
                let found = task.name_any();
                found.contains(&name) && found.ends_with(step) && is_in(task, phase)
            }
        };
        let own = |pod: &Pod| pod.labels().get(labels::TASK).is_some_and(|task| of(task));
        let scheduled = |pod: &Pod| own(pod) && pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let over = |pod: &Pod| own(pod) && succeeded(pod);
        // Steps that take no time are seen when they are over, where they are not seen to run.
        let began = |pod: &Pod| over(pod) || own(pod) && runs(pod);
        let complete = |job: &Job| {
            let own = job.labels().get(labels::TASK).is_some_and(|task| of(task));
            own && job
                .status
                .as_ref()
                .is_some_and(|status| status.completion_time.is_some())
        };
        seen.jobs.saw("a Job's end", complete).await;
        let pod = seen.pods.saw("a Pod's end", over).await;
        for (at, took) in in_pod(&pod).into_iter().enumerate() {
            within[at].push(took);
        }
        let times = [
            seen.tasks.when(|task| of(&task.name_any())),
            seen.tasks.when(task("-code", Phase::Scheduled)),
            Some(branch),
            seen.tasks.when(task("-verify", Phase::Scheduled)),
            seen.pods.when(own),
            seen.pods.when(scheduled),
            seen.pods.when(began),
            seen.pods.when(over),
            seen.jobs.when(complete),
            seen.tasks.when(task("-verify", Phase::Succeeded)),
            seen.workloads.when(done),
        ];
        let mut last = push;
        let mut own_time = Duration::ZERO;
        for (at, (part, time)) in parts.iter_mut().zip(times).enumerate() {
            let time = time.unwrap();
            let took = time.saturating_duration_since(last);
            if !CLUSTERS.contains(&at) {
                own_time += took;
            }
            part.push(took);
            last = time;
        }
        all.push(last - push);
        ours.push(own_time);
        let [start, end] = empty_job(&outside, &mut seen, &format!("empty-{number}")).await;
        starts.push(start);
        empty.push(end);
    }
    outside.assert_each_done_once(&mut seen).await;
    for (name, part) in PARTS.iter().zip(parts) {
        println!("{name:<30} p50 {:.2} s", median(part));
    }
    for (name, took) in ["until it fetches", "it fetches", "its steps run"].iter().zip(within) {
        println!("in the Pod, {name:<18} p50 {:.0} s", median(took));
    }
    let [all, empty] = [all, empty].map(median);
    println!("push → verdict                 p50 {all:.2} s");
    println!("of it outside of the Pod's Job p50 {:.2} s", median(ours));
    println!("an empty Job's Pod starts      p50 {:.2} s", median(starts));
    println!("an empty Job ends              p50 {empty:.2} s");
    println!("beyond an empty Job            p50 {:.2} s (goal ≤ 2 s)", all - empty);
}
