//! What a person waits for, measured in a release build beside a peer where there is one: `cargo xtask bench [NAME]…`.
//!
//! Numbers of different runs do not compare; ratios of one run do.
#![allow(clippy::unwrap_used, clippy::panic)]
#![allow(
    dead_code,
    reason = "the modules of the integration tests serve here too, and not all of each is used"
)]

#[path = "../tests/foreman.rs"]
mod foreman;
#[path = "../tests/sample.rs"]
mod sample;
#[path = "../tests/served.rs"]
mod served;
#[path = "../tests/watch.rs"]
mod watch;

mod chosen;
#[path = "thread/idle.rs"]
mod idle;
#[path = "thread/plane.rs"]
mod plane;
#[path = "thread/queue.rs"]
mod queue;
#[path = "thread/verdict.rs"]
mod verdict;
#[path = "thread/worktree.rs"]
mod worktree;

use std::time::Duration;

fn main() {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let [what, folder] = asked.as_slice()
        && what == plane::SERVE
    {
        plane::serve(&runtime, folder.as_ref());
        return;
    }
    let all: [(&str, chosen::Measure); 5] = [
        ("plane", plane::measure),
        ("worktree", worktree::measure),
        ("queue", queue::measure),
        ("idle", idle::measure),
        ("verdict", verdict::measure),
    ];
    chosen::measure(&all, &asked, &runtime);
}

/// Prints one line of a measurement.
fn say(what: &str, found: &str) {
    println!("  {what:<52} {found}");
}

/// Returns the value that `share` of the values do not exceed.
fn quantile(values: &mut [Duration], share: f64) -> Duration {
    values.sort();
    let place = (values.len() as f64 * share).ceil() as usize;
    values[place.clamp(1, values.len()) - 1]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
