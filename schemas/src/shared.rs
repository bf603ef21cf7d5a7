//! The structures that several kinds share.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A free-form JSON object.
pub type FreeForm = Map<String, Value>;

/// Renders the schema of a free-form object, which pruning leaves alone.
pub fn free_form_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true })
}

/// Renders the schema of a list of free-form objects.
pub fn free_form_list_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
    })
}

/// Renders the schema of a map whose values are free-form objects.
pub fn free_form_map_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "additionalProperties": { "type": "object", "x-kubernetes-preserve-unknown-fields": true }
    })
}

/// Renders the schema of a list of conditions merged by their type.
pub fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = plain_conditions_schema(generator);
    schema.insert("x-kubernetes-list-type".into(), "map".into());
    schema.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    schema
}

/// Renders the schema of a list of conditions that is replaced as a whole.
pub fn plain_conditions_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 }
            }
        }
    })
}

/// Renders the schema of a list whose items pruning and typing leave alone.
pub fn untyped_list_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "items": { "x-kubernetes-preserve-unknown-fields": true } })
}

/// A reference to an object of the same namespace by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct LocalRef {
    /// Name of the object; empty means none.
    #[serde(default)]
    pub name: String,
}

impl LocalRef {
    /// Makes a reference to `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Returns the name unless it is empty.
    pub fn named(&self) -> Option<&str> {
        Some(self.name.as_str()).filter(|name| !name.is_empty())
    }
}

/// A key of a Secret of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Key within the Secret.
    pub key: String,
    /// Name of the Secret.
    #[serde(default)]
    pub name: String,
    /// Whether the key may be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optional: Option<bool>,
}

/// The kind of accelerator that a requirement asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WantedAccelerator {
    /// Apple Metal.
    Metal,
    /// NVIDIA CUDA.
    Cuda,
    /// Vulkan.
    Vulkan,
    /// Any, none included.
    #[default]
    Any,
}

/// What a node must offer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequiredCapability {
    /// Accelerator that the node must have.
    #[serde(default)]
    pub accelerator: WantedAccelerator,
    /// Least context window in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_context_tokens: Option<i64>,
    /// Least RAM in GiB.
    #[serde(default, rename = "minRAMGB", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub min_ram_gb: Option<i64>,
    /// Labels that the FleetNode must carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Whether the node must list the model as installed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requires_model_installed: Option<bool>,
    /// Roles of which the node must advertise all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<Vec<String>>,
}

/// The language that picks a gate preset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum GateLanguage {
    /// Go.
    Go,
    /// Python.
    Python,
    /// Rust.
    Rust,
    /// Node.js.
    Node,
    /// No preset: only the commands that are given.
    Generic,
}

/// Commands that replace those of the preset.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateCommands {
    /// Builds the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
    /// Checks that generated files are current.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codegen_check: Option<String>,
    /// Checks formatting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Lints the code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lint: Option<String>,
    /// Runs the tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<String>,
}

/// Where tests lie relative to the code that they cover.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TestLayout {
    /// Root of the source files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_root: Option<String>,
    /// Root of the test files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_root: Option<String>,
}

/// What the gate of a task runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GateProfile {
    /// Commands that replace those of the preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commands: Option<GateCommands>,
    /// Image in which the steps run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Language that picks the preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<GateLanguage>,
    /// File name extensions that count as source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_extensions: Option<Vec<String>>,
    /// Where tests lie relative to the code that they cover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_layout: Option<TestLayout>,
}

/// A kind of change that a coder may approve on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SelfGo {
    /// Code.
    CodeFix,
    /// Documentation.
    Docs,
    /// Packaging.
    Packaging,
    /// Configuration.
    Config,
    /// CI policy.
    CiPolicy,
    /// Release policy.
    ReleasePolicy,
}

/// Which verdicts a coder may give on its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VerdictPolicy {
    /// Kinds of change that the coder may call GO.
    #[serde(default, rename = "selfGO", skip_serializing_if = "Option::is_none")]
    pub self_go: Option<Vec<SelfGo>>,
}

/// Thresholds at which a run that gets nowhere is ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StuckLoopDetection {
    /// Prompt tokens at which the run ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub context_hard_cap: Option<i64>,
    /// Prompt tokens at which the model is told to finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub context_soft_cap: Option<i64>,
    /// Turns without an edit after which the run ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 200))]
    pub edit_free_turns_limit: Option<i64>,
    /// Times that one call may be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub repeated_tool_threshold: Option<i64>,
}

/// What a piece of work may spend.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Rounds of code and gate; a fix after a GATE-FAIL is one more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 20))]
    pub rounds: Option<i64>,
    /// Model turns in one round.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub turns: Option<i64>,
    /// Prompt and completion tokens over all rounds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<i64>,
    /// Wall time of one task in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub seconds: Option<i64>,
}

/// Tokens and calls that work has used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Tokens sent to the model.
    #[serde(default)]
    pub prompt_tokens: i64,
    /// Tokens of the prompt that the server had cached.
    #[serde(default)]
    pub cached_prompt_tokens: i64,
    /// Tokens that the model wrote.
    #[serde(default)]
    pub completion_tokens: i64,
    /// Model turns.
    #[serde(default)]
    pub turns: i64,
    /// Tool calls.
    #[serde(default)]
    pub tool_calls: i64,
    /// Whether the server gave no figures and these are estimates.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub estimated: bool,
}

impl Usage {
    /// Adds `other` to these figures.
    pub fn add(&mut self, other: &Usage) {
        self.prompt_tokens += other.prompt_tokens;
        self.cached_prompt_tokens += other.cached_prompt_tokens;
        self.completion_tokens += other.completion_tokens;
        self.turns += other.turns;
        self.tool_calls += other.tool_calls;
        self.estimated |= other.estimated;
    }
}

/// The size of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DiffStat {
    /// Files that differ.
    pub files: i64,
    /// Lines added.
    pub insertions: i64,
    /// Lines removed.
    pub deletions: i64,
}

/// What a model's or gate's run left in the evidence store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvidenceRef {
    /// Name, such as `transcript` or `gate-log`.
    pub name: String,
    /// Where it can be read.
    pub url: String,
    /// Size in bytes.
    #[serde(default)]
    pub bytes: i64,
}

/// The outcome of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// A coder or reviewer approves.
    #[serde(rename = "GO")]
    Go,
    /// A coder declined, or a reviewer found it not good enough.
    #[serde(rename = "NO-GO")]
    NoGo,
    /// The run ended before a verdict.
    #[serde(rename = "INCOMPLETE")]
    Incomplete,
    /// The gate proved the change.
    #[serde(rename = "GATE-PASS")]
    GatePass,
    /// The gate refuted the change.
    #[serde(rename = "GATE-FAIL")]
    GateFail,
    /// The gate could not tell.
    #[serde(rename = "GATE-ERROR")]
    GateError,
    /// The task never ran.
    Skipped,
}

impl Verdict {
    /// Returns the published spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Go => "GO",
            Self::NoGo => "NO-GO",
            Self::Incomplete => "INCOMPLETE",
            Self::GatePass => "GATE-PASS",
            Self::GateFail => "GATE-FAIL",
            Self::GateError => "GATE-ERROR",
            Self::Skipped => "Skipped",
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
