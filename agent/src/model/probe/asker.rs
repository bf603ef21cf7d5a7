//! The questions of a probe, one for each kind of server.

use serde_json::{Value, json};
use url::Url;

use super::{ProbeSettings, ServerKind, Window};
use crate::model::ModelError;
use crate::model::http::{below, read_capped, unreachable};
use crate::model::refusal::Refusal;
use crate::tools::output::one_line;

pub(super) struct Asker<'a> {
    pub(super) client: reqwest::Client,
    pub(super) settings: &'a ProbeSettings,
    pub(super) base: Url,
}

pub(super) struct Identity {
    pub(super) kind: ServerKind,
    pub(super) window: Option<Window>,
    pub(super) warnings: Vec<String>,
}

impl Asker<'_> {
    /// The address of the server's own side, beside the OpenAI-compatible one.
    fn own(&self, path: &str) -> Url {
        let mut root = self.base.clone();
        let above = self.base.path().trim_end_matches('/');
        root.set_path(above.strip_suffix("/v1").unwrap_or(above));
        below(&root, path)
    }

    /// Lists the models that are served.
    pub(super) async fn list(&self) -> Result<Vec<Value>, ModelError> {
        let listed = self.get(below(&self.base, "models")).await?;
        Ok(listed
            .get("data")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default())
    }

    pub(super) async fn get(&self, url: Url) -> Result<Value, ModelError> {
        self.ask(self.client.get(url.clone()), url).await
    }

    async fn ask(&self, mut request: reqwest::RequestBuilder, url: Url) -> Result<Value, ModelError> {
        let address = url.to_string();
        if let Some(key) = &self.settings.api_key {
            request = request.bearer_auth(key.reveal());
        }
        let response = request
            .timeout(self.settings.patience)
            .send()
            .await
            .map_err(|error| unreachable(address.clone(), error))?;
        let status = response.status();
        let text = read_capped(response, 4 * 1024 * 1024, self.settings.patience).await;
        if !status.is_success() {
            return Err(Refusal::of_body(&text).into_error(address, status.as_u16(), None));
        }
        serde_json::from_str(&text).map_err(|error| ModelError::Malformed {
            url: address,
            reason: format!("it is not JSON: {error}"),
            snippet: one_line(&text, 120),
        })
    }

    pub(super) async fn identify(&self, models: &[Value], model: Option<&str>) -> Identity {
        let (props, version, studio, litellm) = tokio::join!(
            self.get(self.own("props")),
            self.get(self.own("api/version")),
            self.get(self.own("api/v0/models")),
            self.get(self.own("model/info")),
        );
        let entry = models
            .iter()
            .find(|entry| entry.get("id").and_then(Value::as_str) == model)
            .or_else(|| models.first());
        let owner = entry
            .and_then(|entry| entry.get("owned_by"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        let known = |kind, window| Identity {
            kind,
            window,
            warnings: Vec::new(),
        };
        if let Some(tokens) = props
            .as_ref()
            .ok()
            .and_then(|props| tokens_at(props, "/default_generation_settings/n_ctx"))
        {
            return known(ServerKind::LlamaCpp, certain(tokens, "/props: n_ctx of one slot"));
        }
        if version.as_ref().is_ok_and(|version| version.get("version").is_some()) && owner != "vllm" {
            return self.identify_ollama(model).await;
        }
        let max_model_len = entry.and_then(|entry| tokens_at(entry, "/max_model_len"));
        if owner == "vllm" || max_model_len.is_some() {
            return known(
                ServerKind::Vllm,
                max_model_len.and_then(|tokens| certain(tokens, "/v1/models: max_model_len")),
            );
        }
        if let Some(entry) = studio.ok().as_ref().and_then(|list| named(list, "id", model)) {
            let loaded = tokens_at(entry, "/loaded_context_length")
                .and_then(|tokens| certain(tokens, "/api/v0/models: loaded_context_length"));
            let most = tokens_at(entry, "/max_context_length").map(|tokens| Window {
                tokens,
                source: "/api/v0/models: max_context_length; the model is not loaded yet, and may be loaded with less"
                    .into(),
                certain: false,
            });
            return known(ServerKind::LmStudio, loaded.or(most));
        }
        if let Some(entry) = litellm.ok().as_ref().and_then(|list| named(list, "model_name", model)) {
            let tokens = ["/model_info/max_input_tokens", "/model_info/max_tokens"]
                .iter()
                .find_map(|at| tokens_at(entry, at));
            let window = tokens.map(|tokens| Window {
                tokens,
                source: "/model/info: what the proxy's table says of the model".into(),
                certain: false,
            });
            return known(ServerKind::LiteLlm, window);
        }
        let trained = entry.and_then(|entry| {
            [
                "/meta/n_ctx",
                "/context_length",
                "/context_window",
                "/max_context_length",
                "/meta/n_ctx_train",
            ]
            .iter()
            .find_map(|at| tokens_at(entry, at))
        });
        let window = trained.map(|tokens| Window {
            tokens,
            source: "/v1/models: the model's own limit".into(),
            certain: false,
        });
        known(
            if owner == "llamacpp" {
                ServerKind::LlamaCpp
            } else {
                ServerKind::Other
            },
            window,
        )
    }

    /// Ollama serves the window with which the model is loaded: what runs says so, a Modelfile may, and otherwise it is the server's default.
    async fn identify_ollama(&self, model: Option<&str>) -> Identity {
        const DEFAULT: u32 = 4096;
        let name = model.unwrap_or_default();
        let show = self.own("api/show");
        let (running, shown) = tokio::join!(
            self.get(self.own("api/ps")),
            self.ask(
                self.client
                    .post(show.clone())
                    .header(reqwest::header::CONTENT_TYPE, "application/json")
                    .body(json!({"model": name}).to_string()),
                show
            ),
        );
        let same = |entry: &&Value| {
            ["name", "model"].iter().any(|key| {
                entry
                    .get(*key)
                    .and_then(Value::as_str)
                    .is_some_and(|id| id == name || id.strip_suffix(":latest") == Some(name))
            })
        };
        let loaded = running
            .ok()
            .as_ref()
            .and_then(|list| list.get("models"))
            .and_then(Value::as_array)
            .and_then(|list| list.iter().find(same))
            .and_then(|entry| tokens_at(entry, "/context_length"));
        if let Some(tokens) = loaded {
            return Identity {
                kind: ServerKind::Ollama,
                window: certain(tokens, "/api/ps: context_length of the loaded model"),
                warnings: Vec::new(),
            };
        }
        let shown = shown.ok();
        let parameters = shown
            .as_ref()
            .and_then(|shown| shown.get("parameters"))
            .and_then(Value::as_str)
            .unwrap_or_default();
        let set = parameters
            .lines()
            .find_map(|line| line.trim().strip_prefix("num_ctx"))
            .and_then(|value| value.trim().parse().ok());
        let most = shown
            .as_ref()
            .and_then(|shown| shown.get("model_info"))
            .and_then(Value::as_object)
            .and_then(|info| {
                info.iter()
                    .find(|(key, _)| key.ends_with(".context_length"))
                    .and_then(|(_, value)| value.as_u64())
                    .and_then(|tokens| u32::try_from(tokens).ok())
            });
        let warnings = vec![format!(
            "Ollama's /v1 takes no num_ctx: unless OLLAMA_CONTEXT_LENGTH is set, it serves its own default{}",
            most.map(|most| format!(" of the {most} tokens that the model could"))
                .unwrap_or_default()
        )];
        match set {
            Some(tokens) => Identity {
                kind: ServerKind::Ollama,
                window: certain(tokens, "/api/show: num_ctx of the Modelfile"),
                warnings: Vec::new(),
            },
            None => {
                let window = Window {
                    tokens: most.map_or(DEFAULT, |most| most.min(DEFAULT)),
                    source: "Ollama's default; the model is not loaded, so that its window is not known yet".into(),
                    certain: false,
                };
                Identity {
                    kind: ServerKind::Ollama,
                    window: Some(window),
                    warnings,
                }
            }
        }
    }
}

fn certain(tokens: u32, source: &str) -> Option<Window> {
    Some(Window {
        tokens,
        source: source.to_owned(),
        certain: true,
    })
}

fn tokens_at(value: &Value, pointer: &str) -> Option<u32> {
    let tokens = value.pointer(pointer)?;
    let tokens = tokens
        .as_u64()
        .or_else(|| tokens.as_f64().map(|tokens| tokens as u64))?;
    u32::try_from(tokens).ok().filter(|tokens| *tokens > 0)
}

fn named<'a>(list: &'a Value, key: &str, model: Option<&str>) -> Option<&'a Value> {
    let data = list.get("data")?.as_array()?;
    data.iter()
        .find(|entry| entry.get(key).and_then(Value::as_str) == model)
        .or_else(|| data.first().filter(|entry| entry.get(key).is_some()))
}
