//! What `foreman up` costs with nothing to do: its memory, and its reads and writes with 10,000 task files.

use std::fmt::Write as _;
use std::time::Duration;

use crate::foreman::Up;
use crate::sample::Sample;
use crate::say;

const FILES: usize = 10_000;
const TICKS: f64 = 20.0;

/// Prints the memory of an idle `foreman up`, then what 10,000 task files that wait for a missing Agent cost a tick.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    let sample = Sample::new();
    let up = sample.up();
    runtime.block_on(async {
        crate::watch::queue(&up.client().await, "the first tick", |queue| {
            queue
                .status
                .as_ref()
                .is_some_and(|status| status.observed_revision.is_some())
        })
        .await;
    });
    memory(&up);
    drop(up);
    runtime.block_on(waiting_files());
}

/// Prints resident memory and its peak.
fn memory(up: &Up) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", up.pid())).unwrap();
    for (line, what) in [("VmRSS:", "resident memory, idle"), ("VmHWM:", "resident memory, peak")] {
        let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
        let kib: f64 = found.trim().trim_end_matches(" kB").parse().unwrap();
        say(what, &format!("{:.1} MiB", kib / 1024.0));
    }
}

/// Commits 10,000 task files, lets everything settle and counts over the next ticks.
async fn waiting_files() {
    let sample = Sample::new();
    let mut files: Vec<(String, String)> = (0..FILES)
        .map(|n| {
            let text = format!("---\nagent: nobody\n---\nWrite note {n}.\n");
            (format!(".foreman/tasks/d{:02}/t{n}.md", n / 1000), text)
        })
        .collect();
    let queue = std::fs::read_to_string(sample.repository().join(".foreman/queue.yaml")).unwrap();
    files.push((
        ".foreman/queue.yaml".into(),
        queue.replace("interval: 60s", "interval: 200ms"),
    ));
    let files: Vec<(&str, &str)> = files
        .iter()
        .map(|(path, text)| (path.as_str(), text.as_str()))
        .collect();
    sample.commit(&files);
    let up = sample.up();
    let mut before = up.metrics().await;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let now = up.metrics().await;
        if counted(&now, "foreman_task_files_parsed_total", "") >= FILES as f64 && writes(&now) == writes(&before) {
            break;
        }
        before = now;
    }
    before = up.metrics().await;
    let ticks = |text: &str| counted(text, "foreman_queue_ticks_total", "");
    let mut after = before.clone();
    while ticks(&after) < ticks(&before) + TICKS {
        tokio::time::sleep(Duration::from_millis(200)).await;
        after = up.metrics().await;
    }
    let mut found = String::new();
    for (what, name, label) in [
        ("listings", "foreman_git_requests_total", "\"list\""),
        ("fetches", "foreman_git_requests_total", "\"fetch\""),
        ("files read", "foreman_task_files_parsed_total", ""),
    ] {
        let moved = counted(&after, name, label) - counted(&before, name, label);
        write!(found, "{moved} {what}, ").unwrap();
    }
    write!(found, "{} writes", writes(&after) - writes(&before)).unwrap();
    say(
        &format!("{FILES} task files, {} idle ticks", ticks(&after) - ticks(&before)),
        &found,
    );
    memory(&up);
}

/// Sums the series of a counter whose labels include `label`.
fn counted(metrics: &str, name: &str, label: &str) -> f64 {
    let series = metrics.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
    });
    series
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

fn writes(metrics: &str) -> f64 {
    let verbs = ["create", "update", "patch", "delete"];
    let of = |verb: &&str| counted(metrics, "foreman_api_requests_total", &format!("verb=\"{verb}\""));
    verbs.iter().map(of).sum()
}
