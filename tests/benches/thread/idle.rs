//! The memory of `foreman up` with nothing to do.

use crate::sample::Sample;
use crate::say;

/// Prints the resident memory of an idle `foreman up`, and its peak.
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
    let status = std::fs::read_to_string(format!("/proc/{}/status", up.pid())).unwrap();
    for (line, what) in [("VmRSS:", "resident memory, idle"), ("VmHWM:", "resident memory, peak")] {
        let found = status.lines().find_map(|text| text.strip_prefix(line)).unwrap();
        let kib: f64 = found.trim().trim_end_matches(" kB").parse().unwrap();
        say(what, &format!("{:.1} MiB", kib / 1024.0));
    }
}
