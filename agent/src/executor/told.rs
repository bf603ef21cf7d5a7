//! What a run says of itself while it goes on: conditions of its task, each written when what it says changes.

use std::convert::Infallible;

use k8s_openapi::jiff::Timestamp;
use schemas::conditions::{self, Said};
use serde_json::json;
use tokio::sync::watch;

use super::Run;
use crate::daemon::claim::{self, Written};

/// One thing that may hold a run up: a condition that is True where it does not.
#[derive(Clone, Copy, Debug)]
pub struct Hold {
    /// The condition.
    pub condition: &'static str,
    /// Its reason and message where nothing holds the run up any more.
    pub over: (&'static str, &'static str),
    /// Its reason where something does.
    pub reason: &'static str,
}

/// The gate's Pod finds no node.
pub const GATE_SCHEDULED: Hold = Hold {
    condition: "GateScheduled",
    over: ("Scheduled", "the gate's Pod has a node"),
    reason: "Unschedulable",
};
/// The model server does not answer.
pub const MODEL_REACHABLE: Hold = Hold {
    condition: "ModelReachable",
    over: ("Answers", "the model server answers"),
    reason: "NoAnswer",
};

/// What a task was told of a hold.
pub struct Told {
    hold: Hold,
    /// Why the run is held up, as the task's status says; empty where that was over, none where nothing was said.
    said: Option<String>,
}

impl Told {
    /// Goes on from what an earlier claim of the task said.
    pub fn of(hold: Hold, run: &Run) -> Self {
        let status = run.task.status.as_ref();
        let mut conditions = status
            .and_then(|status| status.conditions.as_ref())
            .into_iter()
            .flatten();
        let stands = conditions.find(|found| found.type_ == hold.condition && found.status == "False");
        Self {
            hold,
            said: stands.map(|found| found.message.clone()),
        }
    }

    /// Says why the run is held up, or, where that was said before, that it no longer is. Returns whether the task is
    /// still this run's.
    pub async fn tell(&mut self, run: &Run, why: &str) -> bool {
        let hold = self.hold;
        let said = match (&self.said, why) {
            (None, "") => return true,
            (Some(said), why) if said == why => return true,
            (Some(_), "") => Said::new(hold.condition, true, hold.over.0, hold.over.1),
            (_, why) => {
                tracing::warn!(task = run.held.name, condition = hold.condition, why, "the run waits");
                Said::new(hold.condition, false, hold.reason, why)
            }
        };
        let written = claim::patch_status_by(&run.services.client, &run.held, |live| {
            let before = live.status.as_ref().and_then(|status| status.conditions.clone());
            let mut list = before.unwrap_or_default();
            conditions::set(&mut list, said.clone(), live.metadata.generation, Timestamp::now());
            json!({ "conditions": list })
        });
        match written.await {
            Ok(Written::Done(_)) => self.said = Some(why.to_owned()).filter(|why| !why.is_empty()),
            Ok(Written::Lost) => return false,
            Err(error) => {
                tracing::warn!(%error, task = run.held.name, condition = hold.condition, "failed to say what the run waits for");
            }
        }
        true
    }

    /// Says what is heard of the hold for as long as the run goes on; nothing is known of it before the first word.
    pub async fn keep(mut self, run: &Run, mut heard: watch::Receiver<Option<String>>) -> Infallible {
        while heard.changed().await.is_ok() {
            let now = heard.borrow_and_update().clone();
            if let Some(why) = now
                && !self.tell(run, &why).await
            {
                break;
            }
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::{Arc, Mutex};

    use axum::Json;
    use axum::extract::Request;
    use axum::http::Method;
    use schemas::AgenticTask;
    use serde_json::Value;

    use super::*;
    use crate::daemon::claim::Held;
    use crate::executor::sample;

    /// An API that keeps one task, and what was written to it.
    fn api(task: AgenticTask) -> (kube::Client, Arc<Mutex<Vec<Value>>>) {
        let written: Arc<Mutex<Vec<Value>>> = Arc::default();
        let (kept, into) = (Arc::new(Mutex::new(task)), written.clone());
        let app = axum::Router::new().fallback(move |request: Request| {
            let (kept, into) = (kept.clone(), into.clone());
            async move {
                if request.method() == Method::PATCH {
                    let body = axum::body::to_bytes(request.into_body(), usize::MAX).await.unwrap();
                    let patch: Value = serde_json::from_slice(&body).unwrap();
                    let conditions = patch["status"]["conditions"].clone();
                    let status = &mut kept.lock().unwrap().status;
                    status.as_mut().unwrap().conditions = serde_json::from_value(conditions.clone()).unwrap();
                    into.lock().unwrap().push(conditions);
                }
                Json(kept.lock().unwrap().clone())
            }
        });
        (kube::Client::new(app, "default"), written)
    }

    fn said(written: &Mutex<Vec<Value>>) -> Vec<String> {
        let written = written.lock().unwrap();
        let word = |list: &Value| {
            let found = &list[0];
            format!("{} {}: {}", found["type"], found["status"], found["message"]).replace('"', "")
        };
        written.iter().map(word).collect()
    }

    #[tokio::test]
    async fn each_news_of_the_model_server_is_written_once() {
        let held = Held::sample(1);
        let (client, written) = api(sample::task(&held));
        let folder = tempfile::tempdir().unwrap();
        let run = sample::run(folder.path(), client, held);
        let mut told = Told::of(MODEL_REACHABLE, &run);
        for why in ["", "refused", "refused", "loading", "", ""] {
            assert!(told.tell(&run, why).await);
        }
        let expected = [
            "ModelReachable False: refused",
            "ModelReachable False: loading",
            "ModelReachable True: the model server answers",
        ];
        assert_eq!(said(&written), expected);
    }

    #[tokio::test]
    async fn what_an_earlier_claim_said_is_taken_back() {
        let held = Held::sample(1);
        let mut task = sample::task(&held);
        let mut list = Vec::new();
        let away = Said::new(MODEL_REACHABLE.condition, false, MODEL_REACHABLE.reason, "refused");
        conditions::set(&mut list, away, None, Timestamp::UNIX_EPOCH);
        task.status.as_mut().unwrap().conditions = Some(list);
        let (client, written) = api(task.clone());
        let folder = tempfile::tempdir().unwrap();
        let mut run = sample::run(folder.path(), client, held);
        run.task = task;
        let mut told = Told::of(MODEL_REACHABLE, &run);
        assert!(told.tell(&run, "refused").await);
        assert_eq!(said(&written), [""; 0], "it stands there already");
        assert!(told.tell(&run, "").await);
        assert_eq!(said(&written), ["ModelReachable True: the model server answers"]);
    }
}
