//! The kind Agent: who works, with which model, tools and limits.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::shared::{
    FreeForm, LocalRef, RequiredCapability, SecretKeyRef, StuckLoopDetection, conditions_schema, free_form_list_schema,
    free_form_map_schema, free_form_schema,
};

/// An agent's role, model, tools and limits.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "Agent",
    plural = "agents",
    shortname = "ag",
    namespaced,
    status = "AgentStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Role","type":"string","jsonPath":".spec.role"}"#,
    printcolumn = r#"{"name":"Model","type":"string","jsonPath":".spec.model"}"#,
    printcolumn = r#"{"name":"InferenceService","type":"string","jsonPath":".spec.inferenceServiceRef.name"}"#,
    printcolumn = r#"{"name":"Validated","type":"string","jsonPath":".status.conditions[?(@.type==\"Validated\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct AgentSpec {
    /// Seconds that one bash command may take.
    #[serde(default = "default_bash_timeout")]
    #[schemars(range(min = 1))]
    pub bash_timeout_seconds: i64,
    /// Arguments for the model's chat template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form_map_schema")]
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// How the context is kept small: a window of observations, or the whole session.
    #[serde(default)]
    pub context_strategy: ContextStrategy,
    /// Context window in tokens; unset means 32768 or what the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub context_window_tokens: Option<i64>,
    /// Where a run happens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<Execution>,
    /// Inference service that serves the model; unset without providerConfig means a deterministic agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference_service_ref: Option<LocalRef>,
    /// Tasks that may run at once over all nodes; unset means no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub max_concurrent_tasks: Option<i64>,
    /// Iterations against an envtest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_envtest_iterations: Option<i64>,
    /// Tokens that one reply may have; unset means 8192.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub max_output_tokens: Option<i64>,
    /// Retries of one model call.
    #[serde(default = "default_max_retries")]
    #[schemars(range(min = 0, max = 20))]
    pub max_retries: i64,
    /// Model turns of one run.
    #[serde(default = "default_max_turns")]
    #[schemars(range(min = 1, max = 500))]
    pub max_turns: i64,
    /// Servers of the Model Context Protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mcp: Option<Mcp>,
    /// Name of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Name of a ModelProfile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_profile_ref: Option<String>,
    /// Turns whose tool output stays whole; unset means 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 50))]
    pub observation_window_turns: Option<i64>,
    /// Whether the model runs in the house or behind a proxy to a cloud.
    #[serde(default)]
    pub provider: ModelProvider,
    /// Endpoint of an OpenAI-compatible server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_config: Option<ProviderConfig>,
    /// Seconds that a whole model request may take.
    #[serde(default = "default_request_timeout")]
    #[schemars(range(min = 1))]
    pub request_timeout_seconds: i64,
    /// Seconds that one turn may take.
    #[serde(default = "default_turn_timeout")]
    #[schemars(range(min = 1))]
    pub request_turn_timeout_seconds: i64,
    /// What a node must offer to run this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub required_capability: Option<RequiredCapability>,
    /// Role.
    pub role: AgentRole,
    /// When a run counts as stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_loop_detection: Option<StuckLoopDetection>,
    /// System prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// Sampling temperature, `0` to `2.9…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^[0-2](\.[0-9]+)?$"))]
    pub temperature: Option<String>,
    /// Names of the tools that the agent may call.
    #[schemars(length(min = 1))]
    pub tools: Vec<String>,
    /// Whether and how images are given to the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<Vision>,
}

impl AgentSpec {
    /// Says whether the agent has no model and runs its first tool directly.
    pub fn is_deterministic(&self) -> bool {
        self.provider_config.is_none() && self.inference_service_ref.as_ref().and_then(LocalRef::named).is_none()
    }
}

fn default_bash_timeout() -> i64 {
    30
}
fn default_max_retries() -> i64 {
    3
}
fn default_max_turns() -> i64 {
    50
}
fn default_request_timeout() -> i64 {
    3600
}
fn default_turn_timeout() -> i64 {
    120
}
fn default_deadline() -> i64 {
    3600
}

/// What an agent does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AgentRole {
    /// Writes changes.
    #[default]
    Coder,
    /// Runs the gate.
    Verifier,
    /// Reads changes.
    Reviewer,
    /// Decomposes work.
    Planner,
}

impl AgentRole {
    /// Returns the published spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Coder => "coder",
            Self::Verifier => "verifier",
            Self::Reviewer => "reviewer",
            Self::Planner => "planner",
        }
    }
}

/// How the context is kept small.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ContextStrategy {
    /// Old observations become stubs.
    #[default]
    Window,
    /// The whole session is kept until the cap.
    Session,
}

/// Where the model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ModelProvider {
    /// In the house.
    #[default]
    Local,
    /// Behind a proxy to a cloud; `providerConfig.baseURL` names it, whatever a node is told of local servers.
    CloudProxy,
}

/// How a run is executed; what is beside the mode is about its Job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Execution {
    /// Seconds that the Job's container may run, once it has started.
    #[serde(default = "default_deadline")]
    pub active_deadline_seconds: i64,
    /// Image of the Job; unset means the node agent's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Secrets to pull the image with, besides those of the service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<LocalRef>>,
    /// In the node agent's process, or in a Job.
    #[serde(default)]
    pub mode: ExecutionMode,
    /// Labels of the cluster's nodes that the Job's Pod may run on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Requests and limits of the Job's container, GPUs among the limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form_schema")]
    pub resources: Option<FreeForm>,
    /// RuntimeClass of the Job's Pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_class_name: Option<String>,
    /// Service account of the Job's Pod, whose token is not mounted; unset means the one that the node agent was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_name: Option<String>,
    /// Seconds that the Job's container may take to start; unset means what the node agent was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub startup_timeout_seconds: Option<i64>,
    /// Taints of the cluster's nodes that the Job's Pod tolerates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "free_form_list_schema")]
    pub tolerations: Option<Vec<FreeForm>>,
    /// Seconds for which the ended Job stays; unset means what the node agent was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i64>,
}

impl Default for Execution {
    fn default() -> Self {
        Self {
            active_deadline_seconds: default_deadline(),
            image: None,
            image_pull_secrets: None,
            mode: ExecutionMode::default(),
            node_selector: None,
            resources: None,
            runtime_class_name: None,
            service_account_name: None,
            startup_timeout_seconds: None,
            tolerations: None,
            ttl_seconds_after_finished: None,
        }
    }
}

/// In which process a run happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExecutionMode {
    /// In the node agent's process.
    #[default]
    InProcess,
    /// In a Job of its own.
    Job,
}

/// Model Context Protocol settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Mcp {
    /// Longest duration of one call, such as `30s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_timeout: Option<String>,
    /// Whether MCP tools are offered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Bytes of one result that reach the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_result_bytes: Option<i64>,
    /// Servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers: Option<Vec<McpServer>>,
}

/// One MCP server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpServer {
    /// Tools of the server that may be called; unset means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_tools: Option<Vec<String>>,
    /// Headers sent with each call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<McpHeader>>,
    /// Name, part of the tools' names.
    pub name: String,
    /// Transport.
    pub transport: McpTransport,
    /// Address.
    pub url: String,
}

/// How an MCP server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum McpTransport {
    /// Streamable HTTP.
    Http,
}

/// A header whose value may come from a Secret.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct McpHeader {
    /// Name.
    pub name: String,
    /// Source of the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<SecretKeyRef>,
}

/// Endpoint of an OpenAI-compatible server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProviderConfig {
    /// Secret that holds the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretKeyRef>,
    /// Base URL, such as `http://127.0.0.1:8080/v1`.
    #[serde(default, rename = "baseURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub base_url: Option<String>,
    /// Model name that the server knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub model: Option<String>,
}

/// Whether and how images are given to the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vision {
    /// Whether images are sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Bytes of one image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_image_bytes: Option<i64>,
    /// Number of images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_images: Option<i64>,
}

/// What the operator found out about an Agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Conditions: Validated, NotSupportedYet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
    /// Generation that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
