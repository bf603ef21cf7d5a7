//! The operator as a process on a real kube-apiserver, beside `kubectl` and a bare client in the same run.
//!
//! `cargo xtask real up` starts the servers; `FOREMAN_REAL_KUBECONFIG` and `FOREMAN_KUBECTL` name them. Numbers of
//! different runs do not compare; ratios of one run do.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(
    dead_code,
    reason = "the modules of the integration tests serve here too, and not all of each is used"
)]

#[path = "../tests/foreman.rs"]
mod foreman;
#[path = "../tests/operator.rs"]
mod operator;

mod chosen;
#[path = "operator/files.rs"]
mod files;
#[path = "operator/index.rs"]
mod index;
#[path = "operator/repository.rs"]
mod repository;
#[path = "operator/schedule.rs"]
mod schedule;
#[path = "operator/site.rs"]
mod site;

use std::time::Duration;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all: [(&str, chosen::Measure); 4] = [
        ("index", index::measure),
        ("files", files::measure),
        ("repository", repository::measure),
        ("schedule", schedule::measure),
    ];
    chosen::measure(&all, &asked, &runtime);
}

/// Prints one line of a measurement.
fn say(what: &str, found: &str) {
    println!("  {what:<68} {found}");
}

fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}

fn median(times: &[Duration]) -> Duration {
    let mut times = times.to_vec();
    times.sort();
    times[times.len() / 2]
}

/// Prints how often `part` goes into `whole`, beside what is aimed at.
fn ratio(what: &str, whole: Duration, part: Duration, goal: &str) {
    let found = whole.as_secs_f64() / part.as_secs_f64();
    say(what, &format!("{found:.2} (goal {goal})"));
}

/// Prints the operator's requests between two looks at its counters, by cause, for each of `tasks` tasks.
fn requests(until: &str, before: &site::Counters, after: &site::Counters, tasks: usize) {
    let mut total = 0.0;
    for (series, count) in after {
        let Some(labels) = series.strip_prefix("foreman_api_requests_total") else {
            continue;
        };
        let more = count - before.get(series).copied().unwrap_or(0.0);
        if more < 1.0 {
            continue;
        }
        total += more;
        say(
            &format!("  requests {labels}"),
            &format!("{:.3} a task", more / tasks as f64),
        );
    }
    say(
        &format!("  requests {until}"),
        &format!("{:.2} a task", total / tasks as f64),
    );
}
