//! The writes of a pass: one status patch per transition, lost when the task changed meanwhile.

use schemas::phase::Event;

use super::Context;
use super::facts::status_of;
use super::plan::{Step, What};
use super::retry::Retry;
use super::status::build_patch;
use crate::cache::Key;
use crate::events::{self, Warning};
use crate::metrics::{ASSIGNMENTS, LOST_CLAIMS};
use crate::writer::{Outcome, Refusal};

/// What came of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is written, or nothing had to be.
    Done,
    /// Somebody else was faster, or something comes first.
    Lost,
    /// The API refused it, or did not answer.
    Failed,
}

/// Writes one step.
pub async fn write(ctx: &Context, step: &Step) -> Written {
    let Step { key, task, what } = step;
    let answer;
    let what = match what {
        What::Retry { id, retry } => match carry_out(ctx, key, id, retry).await {
            Some(done) => {
                answer = done;
                &answer
            }
            None => return Written::Lost,
        },
        what => what,
    };
    let patch = match build_patch(&task.0, what, ctx.clock.now()) {
        Ok(Some(patch)) => patch,
        Ok(None) => return Written::Done,
        Err(error) => {
            tracing::error!(task = %key, %error, "the scheduler planned an illegal transition");
            return Written::Done;
        }
    };
    let version = task.0.meta().resource_version.as_deref();
    match ctx.writer.patch_status(&ctx.tasks, key, version, patch).await {
        Ok(Outcome::Done) => {
            if let What::Apply { event, message, cause } = what {
                match event {
                    Event::Assign { node } => {
                        ctx.metrics.count(ASSIGNMENTS, &[]);
                        tracing::info!(task = %key, node, "assigned");
                    }
                    // It was given back, or never claimed: nothing was lost.
                    Event::LoseClaim { .. } if status_of(&task.0).claim.is_none() => {
                        tracing::info!(task = %key, message, "the task is pending again");
                    }
                    Event::LoseClaim { .. } => {
                        ctx.metrics.count(LOST_CLAIMS, &[("cause", cause)]);
                        tracing::warn!(task = %key, message, "the claim is dead; the task is pending again");
                    }
                    _ => tracing::info!(task = %key, message, cause, "task changed"),
                }
            }
            Written::Done
        }
        Ok(Outcome::Lost) => Written::Lost,
        Err(error) => {
            tracing::warn!(task = %key, %error, category = error.category(), "a transition was not written");
            if let Some(refusal) = error.refusal() {
                tell(ctx, key, task.0.uid(), &refusal).await;
            }
            Written::Failed
        }
    }
}

/// Does what comes before a retry request can be answered; `None` when the task is to be looked at again first.
async fn carry_out(ctx: &Context, key: &Key, id: &str, retry: &Retry) -> Option<What> {
    let answer = match retry {
        Retry::Answer(answer) => answer.clone(),
        // The answer to either write brings the task here again, or a look a little later does.
        Retry::Wait => return None,
        Retry::Cancel(patch) => {
            if let Err(error) = ctx.writer.patch(&ctx.tasks, key, patch.clone()).await {
                tracing::warn!(task = %key, %error, category = error.category(), "a task that is to run again was not cancelled");
            }
            return None;
        }
        Retry::Create(next, object) => match ctx.writer.create(&ctx.tasks, next, object.clone()).await {
            Ok(Outcome::Done) => {
                tracing::info!(task = %key, next = %next, "the task runs again");
                Ok(next.name.clone())
            }
            Ok(Outcome::Lost) => return None,
            Err(error) if error.is_invalid() => Err(error.to_string()),
            Err(error) => {
                tracing::warn!(task = %key, %error, category = error.category(), "the task that runs instead was not made");
                return None;
            }
        },
    };
    Some(What::Retry {
        id: id.to_owned(),
        retry: Retry::Answer(answer),
    })
}

/// Records an Event about a refused status, which cannot say so itself.
async fn tell(ctx: &Context, key: &Key, uid: &str, refusal: &Refusal) {
    let warning = Warning {
        kind: "AgenticTask",
        of: key,
        uid,
        reason: refusal.reason,
        message: &refusal.message,
        once: &refusal.message,
    };
    events::warn(&ctx.writer, &warning, ctx.clock.now()).await;
}
