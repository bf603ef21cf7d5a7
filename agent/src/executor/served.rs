//! What the model servers of this node's Agents serve, asked again and again in the background.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kube::Client;
use kube::api::{Api, ListParams};
use schemas::Agent;
use tokio::sync::watch::{self, Receiver};
use tokio_util::sync::CancellationToken;

use super::endpoint;
use crate::capability::Served;
use crate::config::Config;
use crate::model::Secret;
use crate::model::probe::ProbeReport;

/// How long an answer of every server is believed.
const BELIEVED: Duration = Duration::from_secs(180);

/// What the servers serve, as far as it is known by now.
#[derive(Debug)]
pub struct Serving(Receiver<Option<Served>>);

impl Serving {
    /// Stands for a node that asks no model server.
    pub fn nothing() -> Self {
        Self(watch::channel(Some(Served::default())).1)
    }

    /// Waits until the servers were asked for the first time.
    pub async fn known(&mut self) {
        let _ = self.0.wait_for(Option::is_some).await;
    }

    /// Returns what is known now.
    pub fn now(&mut self) -> Served {
        self.0.borrow_and_update().clone().unwrap_or_default()
    }

    /// Waits until something else is known than what was returned last.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Begins to ask the servers, until `stop`.
pub fn watch(client: Client, config: Arc<Config>, stop: CancellationToken) -> Serving {
    ask_every(BELIEVED, client, config, stop)
}

fn ask_every(every: Duration, client: Client, config: Arc<Config>, stop: CancellationToken) -> Serving {
    let (tell, heard) = watch::channel(None);
    tokio::spawn(async move {
        let mut answers = Answers::default();
        let mut in_vain = 0;
        loop {
            let looked = async {
                if let Some(endpoints) = endpoints(&client, &config).await {
                    answers.take(ask_all(endpoints, &config).await);
                }
                let served = answers.served();
                tell.send_if_modified(|known| known.replace(served.clone()) != Some(served));
                in_vain = if answers.lack_some() { in_vain + 1 } else { 0 };
                let pause = if answers.0.is_empty() {
                    every.min(config.heartbeat_interval)
                } else {
                    pause(every, config.heartbeat_interval, in_vain)
                };
                // Spread, for a thousand nodes may have started together.
                tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            };
            tokio::select! {
                () = looked => {}
                () = stop.cancelled() => return,
                () = tell.closed() => return,
            }
        }
    });
    Serving(heard)
}

/// Returns how long to wait after some servers have not answered so many times in a row, from the start on: they may be
/// about to start, or not be there for long.
fn pause(every: Duration, first: Duration, in_vain: u32) -> Duration {
    match in_vain {
        0 => every,
        times => first.saturating_mul(2u32.saturating_pow(times - 1)).min(every),
    }
}

/// What one server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    models: Vec<String>,
    /// Its window, and whether it is certain.
    window: Option<(i64, bool)>,
}

impl Answer {
    fn of(report: ProbeReport) -> Self {
        Self {
            window: report.window.map(|window| (i64::from(window.tokens), window.certain)),
            models: report.models,
        }
    }
}

/// The last good answer of each server; none where it never gave one.
#[derive(Debug, Default)]
struct Answers(BTreeMap<String, Option<Answer>>);

impl Answers {
    /// Takes the answers of all servers that Agents name now; a server that is silent is believed what it said before.
    fn take(&mut self, answers: Vec<(String, Option<Answer>)>) {
        let mut before = std::mem::take(&mut self.0);
        for (url, answer) in answers {
            let kept = self.0.entry(url.clone()).or_default();
            let last = kept.take().or_else(|| before.remove(&url).flatten());
            *kept = match (answer, last) {
                (Some(mut new), Some(last)) => {
                    // A model that is not loaded for the moment is loaded again with the window that it had.
                    let known = last.window.filter(|(_, certain)| *certain);
                    if !new.window.is_some_and(|(_, certain)| certain) {
                        new.window = known.or(new.window);
                    }
                    Some(new)
                }
                (new, last) => new.or(last),
            };
        }
    }

    fn lack_some(&self) -> bool {
        self.0.values().any(Option::is_none)
    }

    fn served(&self) -> Served {
        let mut served = Served::default();
        for answer in self.0.values().flatten() {
            for model in &answer.models {
                if !served.models.contains(model) {
                    served.models.push(model.clone());
                }
            }
            let tokens = answer.window.map(|(tokens, _)| tokens);
            served.max_context_tokens = served.max_context_tokens.max(tokens);
        }
        served.models.truncate(100);
        served
    }
}

/// Lists the servers that Agents name, each with the key that goes there; `None` where Agents cannot be read.
async fn endpoints(client: &Client, config: &Config) -> Option<Vec<(String, Option<Secret>)>> {
    let agents: Api<Agent> = match &config.task_namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let agents = agents.list(&ListParams::default()).await.ok()?;
    let mut endpoints = Vec::new();
    for agent in agents.items {
        let Some(url) = endpoint::base_url(&agent, config).filter(|url| !url.starts_with(endpoint::REPLAY)) else {
            continue;
        };
        let endpoint = (url, endpoint::readable_key(client, &agent).await);
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    Some(endpoints)
}

async fn ask_all(endpoints: Vec<(String, Option<Secret>)>, config: &Config) -> Vec<(String, Option<Answer>)> {
    join_all(endpoints.into_iter().map(|(url, key)| async move {
        let report = endpoint::look(&url, key, config).await;
        (url, report.map(Answer::of))
    }))
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Mutex;

    use axum::Router;
    use axum::extract::Request;
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use axum::routing::get;
    use serde_json::json;

    use super::*;

    fn answer(model: &str, window: Option<(i64, bool)>) -> Option<Answer> {
        Some(Answer {
            models: vec![model.to_owned()],
            window,
        })
    }

    #[test]
    fn the_last_good_answer_of_each_server_stands_until_it_gives_another() {
        let mut answers = Answers::default();
        let (a, b) = ("a".to_owned(), "b".to_owned());
        answers.take(vec![(a.clone(), answer("m", Some((32_768, true)))), (b.clone(), None)]);
        assert!(answers.lack_some());
        assert_eq!(answers.served().models, ["m"]);

        answers.take(vec![(a.clone(), None), (b.clone(), answer("n", None))]);
        assert!(!answers.lack_some());
        let served = answers.served();
        assert_eq!(
            (served.models, served.max_context_tokens),
            (vec!["m".into(), "n".into()], Some(32_768))
        );

        // Not loaded for the moment: a guess.
        answers.take(vec![(a.clone(), answer("o", Some((4096, false)))), (b.clone(), None)]);
        let served = answers.served();
        assert_eq!(
            (served.models, served.max_context_tokens),
            (vec!["o".into(), "n".into()], Some(32_768))
        );

        answers.take(vec![(a, answer("o", Some((8192, true))))]);
        let served = answers.served();
        assert_eq!(
            (served.models, served.max_context_tokens),
            (vec!["o".into()], Some(8192)),
            "no Agent names b any more, and a was started anew"
        );
    }

    #[test]
    fn servers_that_never_answered_are_asked_sooner_and_ever_less_often() {
        let seconds = |in_vain| pause(BELIEVED, Duration::from_secs(30), in_vain).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 99].map(seconds), [180, 30, 60, 120, 180, 180]);
    }

    #[test]
    fn a_server_that_one_agent_may_ask_and_another_may_not_has_answered() {
        let mut answers = Answers::default();
        answers.take(vec![("a".into(), answer("m", None)), ("a".into(), None)]);
        assert_eq!(answers.served().models, ["m"]);
    }

    /// A model server that answers only with the key, and serves the model that it is told to, if any.
    async fn model_server(model: Arc<Mutex<Option<&'static str>>>) -> String {
        let list = move |request: Request| {
            let keyed = request
                .headers()
                .get("authorization")
                .is_some_and(|key| key == "Bearer s3cret");
            let model = *model.lock().unwrap();
            async move {
                match model {
                    Some(model) if keyed => axum::Json(json!({ "data": [{ "id": model }] })).into_response(),
                    Some(_) => StatusCode::UNAUTHORIZED.into_response(),
                    None => StatusCode::SERVICE_UNAVAILABLE.into_response(),
                }
            }
        };
        let app = Router::new().route("/v1/models", get(list));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        url
    }

    /// An API of one Agent and of the Secret with its key.
    fn api(url: &str) -> Client {
        let agent = json!({
            "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "Agent",
            "metadata": { "name": "coder", "namespace": "default" },
            "spec": {
                "role": "coder", "tools": ["bash"],
                "providerConfig": { "baseURL": url, "apiKeySecretRef": { "name": "key", "key": "api-key" } },
            },
        });
        let list = json!({ "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "AgentList", "metadata": {}, "items": [agent] });
        // s3cret
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "key" }, "data": { "api-key": "czNjcmV0" } });
        let answer = move |request: Request| {
            let answer = match request.uri().path() {
                path if path.ends_with("/agents") => list.clone(),
                path if path.ends_with("/namespaces/default/secrets/key") => secret.clone(),
                path => panic!("{path} was asked"),
            };
            async move { axum::Json(answer) }
        };
        Client::new(Router::new().fallback(answer), "default")
    }

    #[tokio::test]
    async fn servers_are_asked_with_the_agents_key_again_and_again() {
        let model = Arc::new(Mutex::new(None));
        let url = model_server(model.clone()).await;
        let config = Arc::new(crate::config::tests::parse(&["--fleet-node-name=n"]));
        let stop = CancellationToken::new();
        let mut serving = ask_every(Duration::from_millis(1), api(&url), config, stop.clone());
        serving.known().await;
        assert_eq!(serving.now(), Served::default(), "the server is not ready yet");
        for name in ["old", "new"] {
            *model.lock().unwrap() = Some(name);
            tokio::time::timeout(Duration::from_secs(20), serving.changed())
                .await
                .unwrap();
            assert_eq!(serving.now().models, [name]);
        }
        stop.cancel();
    }
}
