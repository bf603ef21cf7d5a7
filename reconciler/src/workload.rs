//! The Workload controller: runs, rounds, the ledger.

pub mod apply;
pub mod heads;
pub mod observe;
pub mod plan;
pub mod status;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use schemas::{AgenticTask, Workload};

use crate::cache::{Cache, Key};
use crate::clock::Clock;
use crate::work_queue::{Next, WorkQueue};
use crate::writer::{self, Writer};
use observe::Links;

/// What the controller works with.
pub struct Context {
    /// Writes.
    pub writer: Writer,
    /// Workloads.
    pub workloads: Arc<Cache<Workload>>,
    /// Tasks.
    pub tasks: Arc<Cache<AgenticTask>>,
    /// Which tasks and Workloads belong to which Workload.
    pub links: Arc<Links>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// How long a task that ended is kept, once its evidence is stored.
    pub task_ttl: Duration,
}

/// Why a Workload could not be brought forward.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A write failed.
    #[error(transparent)]
    Apply(#[from] writer::Error),
}

/// Queues a Workload whenever it, one of its tasks, or one that it depends on changes.
pub fn observe(
    queue: &Arc<WorkQueue<Key>>,
    links: &Arc<Links>,
    workloads: &Cache<Workload>,
    tasks: &Cache<AgenticTask>,
) {
    let (adds, map) = (queue.clone(), links.clone());
    workloads.subscribe(move |change| map.set_workload(change, &|key| adds.add(key)));
    let (adds, map) = (queue.clone(), links.clone());
    tasks.subscribe(move |change| map.set_task(change, &|key| adds.add(key)));
}

/// Brings one Workload a step forward.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Next {
    match step(&ctx, &key).await {
        Ok(next) => next,
        Err(error) => {
            tracing::warn!(workload = %key, %error, "the Workload was not brought forward");
            Next::Failed(error.to_string())
        }
    }
}

async fn step(ctx: &Context, key: &Key) -> Result<Next, Error> {
    let Some(mut observed) = observe::observe(ctx, key) else {
        return Ok(Next::Wait);
    };
    let valid = validate::validate(&observed);
    let mut plan = plan::plan(&observed, &valid, ctx.clock.now(), ctx.task_ttl);
    observed.taken = observe::taken(ctx, plan.creates.iter().map(|(key, _)| key));
    if !observed.taken.is_empty() {
        plan = plan::plan(&observed, &valid, ctx.clock.now(), ctx.task_ttl);
    }
    let applied = apply::apply(ctx, &observed, plan).await;
    if let Err(Error::Apply(error)) = &applied
        && let Some(refusal) = error.refusal()
    {
        // Where this is refused too, the log alone has it.
        status::refused(ctx, &observed, &refusal).await?;
    }
    applied
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::convert::Infallible;
    use std::sync::Mutex;

    use kube::Client;
    use kube::api::DynamicObject;
    use kube::client::Body;
    use serde_json::json;

    use super::*;
    use crate::clock::SystemClock;
    use crate::leader::Leadership;

    /// A context over an API that answers every request with this code, and what it was asked.
    fn context(code: u16) -> (Context, Arc<Mutex<Vec<String>>>) {
        let answer = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "Conflict", "code": code });
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        let api = tower::service_fn(move |request: http::Request<Body>| {
            log.lock()
                .unwrap()
                .push(format!("{} {}", request.method(), request.uri().path()));
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            let response = http::Response::builder().status(code).body(body).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let ctx = Context {
            writer: Writer::new(Client::new(api, "n"), Leadership::always(clock.clone())),
            workloads: Arc::default(),
            tasks: Arc::default(),
            links: Arc::default(),
            clock,
            task_ttl: Duration::from_secs(60),
        };
        (ctx, asked)
    }

    fn seen<K>(cache: &Cache<K>, object: serde_json::Value)
    where
        K: kube::Resource + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        cache.observe(serde_json::from_value::<DynamicObject>(object).unwrap());
    }

    /// Brings a Workload forward beside these tasks.
    async fn brought_forward(code: u16, tasks: &[serde_json::Value]) -> (Next, Vec<String>) {
        let (ctx, asked) = context(code);
        for task in tasks {
            seen(&ctx.tasks, task.clone());
        }
        let object = json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Workload",
            "metadata": { "name": "w", "namespace": "n", "uid": "u", "resourceVersion": "7", "generation": 1 },
            "spec": { "intent": "do it", "pipeline": [{ "name": "code", "kind": "freeform", "agentRef": { "name": "c" }, "payload": {} }] }
        });
        seen(&ctx.workloads, object);
        let next = reconcile(Arc::new(ctx), Key::new("n", "w")).await;
        let asked = asked.lock().unwrap().clone();
        (next, asked)
    }

    #[tokio::test]
    async fn a_lost_race_is_a_value_and_an_error_a_failure() {
        assert_eq!(brought_forward(409, &[]).await.0, Next::Lost);
        assert!(matches!(brought_forward(500, &[]).await.0, Next::Failed(_)));
    }

    #[tokio::test]
    async fn a_task_that_somebody_else_made_under_a_name_that_is_wanted_is_not_written_to() {
        let theirs = json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgenticTask",
            "metadata": { "name": "w-code", "namespace": "n", "uid": "theirs", "resourceVersion": "3" },
            "spec": { "kind": "freeform", "payload": {} },
            "status": { "phase": "Succeeded", "verdict": "GATE-PASS" },
        });
        let at = |rest: &str| format!("/apis/foreman.llmkube.dev/v1alpha1/namespaces/n/{rest}");
        let (_, asked) = brought_forward(409, &[]).await;
        assert_eq!(asked[0], format!("POST {}", at("agentictasks")));
        // All that is written is that the name is taken.
        let (_, asked) = brought_forward(409, &[theirs]).await;
        assert_eq!(asked, [format!("PATCH {}", at("workloads/w/status"))]);
    }
}
