//! The writes of a pass: one status patch per transition, lost when the task changed meanwhile.

use schemas::phase::Event;

use super::Context;
use super::facts::{TaskObject, status_of};
use super::plan::{Step, What};
use super::retry::Retry;
use super::status::build_patch;
use crate::cache::Key;
use crate::events::{self, Warning};
use crate::metrics::{ASSIGNMENTS, LOST_CLAIMS};
use crate::writer::{self, Outcome, Refusal};

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
        What::Retry { id, retry } => match carry_out(ctx, key, &task.0, id, retry).await {
            Ok(done) => {
                answer = done;
                &answer
            }
            Err(first) => return first,
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
        Err(error) => failed(ctx, key, &task.0, &error, "a transition was not written").await,
    }
}

/// Does what comes before a retry request can be answered; the error is what came of that where the task is to be looked
/// at again first.
async fn carry_out(ctx: &Context, key: &Key, task: &TaskObject, id: &str, retry: &Retry) -> Result<What, Written> {
    let answer = match retry {
        Retry::Answer(answer) => answer.clone(),
        // The answer to either write brings the task here again, or a look a little later does.
        Retry::Wait => return Err(Written::Lost),
        Retry::Cancel(patch) => match ctx.writer.patch(&ctx.tasks, key, patch.clone()).await {
            Ok(Outcome::Done | Outcome::Lost) => return Err(Written::Lost),
            Err(error) => {
                let what = "a task that is to run again was not cancelled";
                return Err(failed(ctx, key, task, &error, what).await);
            }
        },
        Retry::Create(next, object) => match ctx.writer.create(&ctx.tasks, next, object.clone()).await {
            Ok(Outcome::Done) => {
                tracing::info!(task = %key, next = %next, "the task runs again");
                Ok(next.name.clone())
            }
            Ok(Outcome::Lost) => return Err(Written::Lost),
            Err(error) if error.is_invalid() => Err(error.to_string()),
            Err(error) => {
                let what = "the task that runs instead was not made";
                return Err(failed(ctx, key, task, &error, what).await);
            }
        },
    };
    Ok(What::Retry {
        id: id.to_owned(),
        retry: Retry::Answer(answer),
    })
}

/// Tells of a write that failed, also to people where they have to change something first.
async fn failed(ctx: &Context, key: &Key, task: &TaskObject, error: &writer::Error, what: &str) -> Written {
    tracing::warn!(task = %key, %error, category = error.category(), "{what}");
    if let Some(refusal) = error.refusal() {
        tell(ctx, key, task.uid(), &refusal).await;
    }
    Written::Failed
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use kube::Client;
    use kube::client::Body;
    use schemas::AgenticTask;
    use serde_json::json;

    use super::*;
    use crate::agentic_task::plan::TaskObjectRef;
    use crate::cache::Cached;
    use crate::clock::{Clock, SystemClock, lock};
    use crate::leader::Leadership;
    use crate::writer::Writer;

    /// A context over an API that answers every request with this code, and what it was asked.
    fn context(code: u16) -> (Context, Arc<Mutex<Vec<String>>>) {
        let message = "agentictasks is forbidden: User \"u\" cannot create resource \"agentictasks\"";
        let answer = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "Forbidden", "code": code });
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let api = tower::service_fn(move |request: http::Request<Body>| {
            lock(&log).push(format!("{} {}", request.method(), request.uri().path()));
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            std::future::ready(Ok::<_, Infallible>(
                http::Response::builder().status(code).body(body).unwrap(),
            ))
        });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let ctx = Context {
            writer: Writer::new(Client::new(api, "n"), Leadership::always(clock.clone())),
            tasks: Arc::default(),
            clock,
            metrics: Arc::default(),
            scheduler: Arc::default(),
            health: telemetry::health::Health::new(Arc::new(|| Duration::ZERO)),
        };
        (ctx, asked)
    }

    #[tokio::test]
    async fn a_retry_that_is_refused_is_a_failure_and_told() {
        let task: AgenticTask = serde_json::from_value(json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": "t", "namespace": "n", "uid": "u", "resourceVersion": "1" },
            "spec": { "kind": "freeform", "payload": {} }, "status": { "phase": "Succeeded" }
        }))
        .unwrap();
        let key = Key::new("n", "t");
        let made = json!({ "metadata": {}, "spec": { "kind": "freeform", "payload": {} } });
        let cancelled = json!({ "metadata": { "annotations": { "c": "1" } } });
        for retry in [Retry::Create(Key::new("n", "t-x2"), made), Retry::Cancel(cancelled)] {
            for (code, written, told) in [(403, Written::Failed, true), (409, Written::Lost, false)] {
                let (ctx, asked) = context(code);
                let step = Step {
                    key: key.clone(),
                    task: TaskObjectRef(Arc::new(Cached::of(task.clone()))),
                    what: What::Retry {
                        id: "r".into(),
                        retry: retry.clone(),
                    },
                };
                assert_eq!(write(&ctx, &step).await, written, "{code} {retry:?}");
                let events = lock(&asked).iter().any(|request| request.ends_with("/events"));
                assert_eq!(events, told, "{code} {retry:?}");
            }
        }
    }
}
