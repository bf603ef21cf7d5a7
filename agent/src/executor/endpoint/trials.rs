//! What trials of models found, remembered for a while: the next run need not ask the model again.
//!
//! Only the protocol is remembered. Which window is served is asked before every run, for a server may have been started
//! anew with another one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::WINDOW_FLOOR;
use crate::coder::Ending;
use crate::model::probe::{ProbeReport, ProbeSettings, probe};
use crate::model::{ModelError, Protocol};

/// How long the finding of a trial is believed.
const BELIEVED: Duration = Duration::from_secs(300);

/// The protocols that trials found, by model.
#[derive(Debug, Default)]
pub(super) struct Trials(Mutex<HashMap<String, (Protocol, Instant)>>);

impl Trials {
    /// Returns the name under which the finding for these settings is remembered.
    pub(super) fn key(settings: &ProbeSettings) -> String {
        let variables = serde_json::Value::Object(settings.chat_template_kwargs.clone());
        let model = settings.model.as_deref().unwrap_or_default();
        format!("{} {model} {variables}", settings.base_url)
    }

    /// Forgets what was found, after a run whose end speaks against it.
    pub(super) fn learn(&self, key: &str, ending: Ending) {
        if matches!(
            ending,
            Ending::NoToolCall
                | Ending::FormatErrors
                | Ending::EmptyReplies
                | Ending::ReasoningOnly
                | Ending::ModelUnavailable
                | Ending::ContextExhausted
        ) {
            self.lock().remove(key);
        }
    }

    /// Asks a server what it offers; its model is asked only where nothing is remembered of it.
    pub(super) async fn probe(&self, settings: &ProbeSettings, now: Instant) -> Result<ProbeReport, ModelError> {
        let key = Self::key(settings);
        if let Some(protocol) = self.get(&key, now) {
            let mut briefly = settings.clone();
            briefly.try_model = None;
            let mut report = probe(&briefly).await?;
            // A model that is not loaded any more shows its window only after a trial.
            if report.has_settled_window() {
                report.protocol = protocol;
                return Ok(report);
            }
        }
        let report = probe(settings).await?;
        if report.has_proven_protocol() && report.has_settled_window() && report.refusal(WINDOW_FLOOR).is_none() {
            self.lock().insert(key, (report.protocol, now));
        }
        Ok(report)
    }

    fn get(&self, key: &str, now: Instant) -> Option<Protocol> {
        let mut all = self.lock();
        all.retain(|_, (_, at)| now.saturating_duration_since(*at) < BELIEVED);
        all.get(key).map(|(protocol, _)| *protocol)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Protocol, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::{get, post};
    use serde_json::json;

    use super::*;

    /// A llama.cpp server that may be started anew with another window; counts what its model was asked.
    #[derive(Default)]
    struct Server {
        window: AtomicU32,
        asked: AtomicUsize,
    }

    async fn serve(window: u32, words: &'static str) -> (ProbeSettings, Arc<Server>) {
        let server = Arc::new(Server::default());
        server.window.store(window, Ordering::SeqCst);
        let (shown, asked) = (server.clone(), server.clone());
        let props = move || {
            let window = shown.window.load(Ordering::SeqCst);
            async move { axum::Json(json!({"default_generation_settings": {"n_ctx": window}})) }
        };
        let chat = move || {
            asked.asked.fetch_add(1, Ordering::SeqCst);
            let call = json!({"id": "1", "function": {"name": words, "arguments": "{\"word\": \"ready\"}"}});
            async move { axum::Json(json!({"choices": [{"message": {"tool_calls": [call]}, "finish_reason": "stop"}]})) }
        };
        let app = Router::new()
            .route(
                "/v1/models",
                get(|| async { axum::Json(json!({"data": [{"id": "m"}]})) }),
            )
            .route("/props", get(props))
            .route("/v1/chat/completions", post(chat));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = ProbeSettings::new(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move { axum::serve(listener, app).await });
        (settings, server)
    }

    #[tokio::test]
    async fn a_server_that_was_started_with_a_larger_window_is_seen_by_the_next_run() {
        let (settings, server) = serve(4096, "report").await;
        let (trials, now) = (Trials::default(), Instant::now());
        let refused = trials.probe(&settings, now).await.unwrap();
        assert!(refused.refusal(WINDOW_FLOOR).is_some());
        for window in [16_384, 32_768] {
            server.window.store(window, Ordering::SeqCst);
            let report = trials.probe(&settings, now).await.unwrap();
            assert_eq!(report.refusal(WINDOW_FLOOR), None);
            assert_eq!(report.window.unwrap().tokens, window);
        }
    }

    #[tokio::test]
    async fn a_model_is_tried_again_after_a_while_and_after_a_run_that_speaks_against_the_finding() {
        let (settings, server) = serve(16_384, "report").await;
        let (trials, now) = (Trials::default(), Instant::now());
        let asked = || server.asked.load(Ordering::SeqCst);
        for at in [now, now + BELIEVED / 2] {
            assert_eq!(trials.probe(&settings, at).await.unwrap().protocol, Protocol::Native);
            assert_eq!(asked(), 1, "it is remembered");
        }
        trials.learn(&Trials::key(&settings), Ending::Submitted);
        trials.probe(&settings, now).await.unwrap();
        assert_eq!(asked(), 1);
        trials.learn(&Trials::key(&settings), Ending::NoToolCall);
        trials.probe(&settings, now).await.unwrap();
        assert_eq!(asked(), 2);
        trials.probe(&settings, now + BELIEVED).await.unwrap();
        assert_eq!(asked(), 3);
    }

    #[tokio::test]
    async fn a_trial_that_found_no_protocol_is_made_anew_before_every_run() {
        let (settings, server) = serve(16_384, "something_else").await;
        let trials = Trials::default();
        for times in [3, 6] {
            let report = trials.probe(&settings, Instant::now()).await.unwrap();
            assert_eq!(report.protocol, Protocol::Text);
            assert_eq!(server.asked.load(Ordering::SeqCst), times);
        }
    }
}
