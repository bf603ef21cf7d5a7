//! A gate with every default filled in.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::pinned::Pinned;

/// A gate with every default filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResolvedGate {
    /// Image in which prepare and steps run.
    pub image: String,
    /// What fills the caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepare: Option<ResolvedPrepare>,
    /// Steps, in order.
    pub steps: Vec<ResolvedStep>,
    /// Globs of protected paths.
    pub protected: Vec<String>,
    /// Parts of manifests that must be as the base has them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pinned: Vec<Pinned>,
    /// Requests and limits.
    pub resources: ResolvedResources,
    /// Seconds that the whole Job may take.
    pub deadline_seconds: i64,
    /// Where it is written.
    pub source: Source,
}

/// What fills the caches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResolvedPrepare {
    /// Command, run as `sh -c` in the tree of the base commit.
    pub command: String,
    /// Hosts that it may reach.
    pub allow_hosts: Vec<String>,
    /// Seconds that it may take.
    pub timeout_seconds: i64,
    /// Files whose content the cache is keyed by; none means all manifests and lock files of the tree.
    pub cache_key: Vec<String>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResolvedStep {
    /// Name, unique in its gate.
    pub name: String,
    /// Command, run as `sh -c` in the work tree.
    pub command: String,
    /// Seconds that it may take.
    pub timeout_seconds: i64,
    /// Whether a failure is only remarked.
    pub advisory: bool,
}

/// Requests and limits, as Kubernetes quantities.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ResolvedResources {
    /// Processors asked for.
    pub cpu_request: String,
    /// Memory asked for.
    pub memory_request: String,
    /// Processors at most.
    pub cpu_limit: String,
    /// Memory at most.
    pub memory_limit: String,
}

/// Where a gate is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The task's `gateProfile`.
    Profile,
    /// `.foreman/gate.yaml` at the base commit.
    File,
    /// The preset of a language.
    Preset(String),
}

impl Source {
    /// Names the place for an error message.
    pub(super) fn place(&self) -> &'static str {
        match self {
            Self::Profile => "the task's gateProfile",
            Self::File => super::GATE_FILE,
            Self::Preset(_) => "the gate's preset",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile => f.write_str("gateProfile"),
            Self::File => f.write_str(super::GATE_FILE),
            Self::Preset(language) => write!(f, "preset {language}"),
        }
    }
}

impl ResolvedGate {
    /// Returns the SHA-256, in hex, of the gate as canonical JSON.
    ///
    /// Where it is written is left out: that does not change what a verdict says.
    pub fn digest(&self) -> String {
        let Ok(value) = serde_json::to_value(self) else {
            return String::new();
        };
        let Value::Object(mut fields) = value else {
            return String::new();
        };
        fields.shift_remove("source");
        fields.insert("format".to_owned(), Value::String(crate::FORMAT.to_owned()));
        hex::encode(Sha256::digest(canonical(Value::Object(fields)).to_string()))
    }
}

/// Sorts the keys of every object.
fn canonical(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<(String, Value)> = fields.into_iter().collect();
            sorted.sort_by(|one, other| one.0.cmp(&other.0));
            Value::Object(
                sorted
                    .into_iter()
                    .map(|(key, value)| (key, canonical(value)))
                    .collect::<Map<_, _>>(),
            )
        }
        Value::Array(items) => Value::Array(items.into_iter().map(canonical).collect()),
        other => other,
    }
}
