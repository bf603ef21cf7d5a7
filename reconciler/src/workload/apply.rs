//! The writes of a step, in an order that a restart at any point leaves consistent.

use schemas::phase::Event;

use super::observe::Observed;
use super::plan::Plan;
use super::{Context, Error};
use crate::agentic_task::plan::What;
use crate::agentic_task::status::build_patch;
use crate::cache::Key;
use crate::work_queue::Next;
use crate::writer::{Outcome, status_patch};

/// Carries a plan out. A lost race is tried again with what the winner left.
pub async fn apply(ctx: &Context, observed: &Observed, plan: Plan) -> Result<Next, Error> {
    let Plan {
        rerun,
        creates,
        ends,
        cancels,
        pins,
        collects,
        status,
        wake,
    } = plan;
    let key = &observed.key;
    let mut lost = false;
    if let Some(patch) = rerun {
        lost |= ctx.writer.patch(&ctx.workloads, key, patch).await? == Outcome::Lost;
    }
    for (task, patch) in cancels.into_iter().chain(pins) {
        lost |= ctx.writer.patch(&ctx.tasks, &Key::of(task.meta()), patch).await? == Outcome::Lost;
    }
    for (task, end) in ends {
        let what = What::Apply {
            event: Event::End(end.reason),
            message: end.message,
            cause: "workload",
        };
        match build_patch(&task, &what, ctx.clock.now()) {
            Ok(Some(patch)) => {
                let version = task.meta().resource_version.as_deref();
                lost |= ctx
                    .writer
                    .patch_status(&ctx.tasks, &Key::of(task.meta()), version, patch)
                    .await?
                    == Outcome::Lost;
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(task = end.name, %error, "the task moved on by itself"),
        }
    }
    for (task_key, object) in creates {
        // Never over what is there: a task of this name that somebody else made stays theirs.
        lost |= ctx.writer.create(&ctx.tasks, &task_key, object).await? == Outcome::Lost;
    }
    for task in collects {
        let task_key = Key::of(task.meta());
        tracing::info!(task = %task_key, "collecting a task that ended long ago");
        lost |= ctx.writer.delete(&ctx.tasks, &task_key, task.uid()).await? == Outcome::Lost;
    }
    // The status comes last: it says what was done, never what is going to be.
    if let Some(status) = status
        && let Some(patch) = status_patch(observed.workload.status.as_ref(), &status)
    {
        let version = observed.cached.meta().resource_version.as_deref();
        lost |= ctx.writer.patch_status(&ctx.workloads, key, version, patch).await? == Outcome::Lost;
    }
    if lost {
        tracing::debug!(workload = %key, "a write lost a race; the step is planned anew");
        return Ok(Next::Lost);
    }
    Ok(wake.map_or(Next::Wait, Next::After))
}
