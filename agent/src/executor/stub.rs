//! The stub executor: sleeps and succeeds, for smoke tests.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use schemas::agentic_task::TaskKind;
use schemas::shared::Verdict;

use super::{Executor, Run};
use crate::outcome::Outcome;

/// Sleeps and succeeds.
pub struct Stub {
    /// Time to sleep.
    pub sleep: Duration,
}

/// Returns what a stub may say of a task of this kind: never that a gate passed.
pub fn verdict(kind: TaskKind) -> Verdict {
    match kind {
        TaskKind::Verify | TaskKind::Integrate | TaskKind::Reconcile => Verdict::Skipped,
        TaskKind::IssueFix | TaskKind::Freeform | TaskKind::Review => Verdict::Go,
    }
}

impl Executor for Stub {
    fn run<'a>(&'a self, run: &'a Run) -> BoxFuture<'a, Outcome> {
        async move {
            tokio::select! {
                () = tokio::time::sleep(self.sleep) => {}
                () = run.cancel.cancelled() => {}
            }
            let kind = run.task.spec.kind;
            let mut outcome = Outcome::ended(
                verdict(kind),
                "the stub executor slept; nothing was run and nothing was changed",
            );
            outcome.result.insert("kind".into(), serde_json::json!(kind.as_str()));
            outcome.extra("executor", serde_json::json!("stub"));
            outcome
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stub_never_says_that_a_gate_passed() {
        for kind in [
            TaskKind::IssueFix,
            TaskKind::Verify,
            TaskKind::Review,
            TaskKind::Freeform,
            TaskKind::Integrate,
            TaskKind::Reconcile,
        ] {
            assert_ne!(verdict(kind), Verdict::GatePass, "{kind:?}");
        }
        assert_ne!(verdict(TaskKind::Verify), Verdict::Go);
    }
}
