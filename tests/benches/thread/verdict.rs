//! From the commit of a task file to its verdict, with a model that answers at once and a check that takes no time.

use std::time::{Duration, Instant};

use crate::sample::Sample;
use crate::watch::ended;
use crate::{milliseconds, quantile, say};

const TASKS: usize = 50;

/// Prints p50 and p95 over 50 tasks, one after the other. Replayed words and a gate of `true` leave Foreman's own share.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    let sample = Sample::with_gate("steps:\n  - name: nothing\n    command: \"true\"\n");
    let up = sample.up();
    runtime.block_on(async {
        let client = up.client().await;
        let mut times: Vec<Duration> = Vec::new();
        for n in 0..TASKS {
            let name = format!("task{n}");
            sample.record(&name, 1, "note.txt", &format!("{n}\n"));
            let begin = Instant::now();
            sample.task(&name, "Write the note.\n");
            let done = ended(&client, &name, 1).await;
            times.push(begin.elapsed());
            let verdict = done.status.unwrap().verdict.map(|verdict| verdict.to_string());
            assert_eq!(verdict.as_deref(), Some("GATE-PASS"));
        }
        say(
            &format!("from `git commit` to the verdict, {TASKS} tasks, p50"),
            &milliseconds(quantile(&mut times, 0.5)),
        );
        say("the same, p95", &milliseconds(quantile(&mut times, 0.95)));
    });
}
