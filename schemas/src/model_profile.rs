//! The kind ModelProfile: what is particular about a model.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::{StuckLoopDetection, plain_conditions_schema};

/// What is particular about a model.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "ModelProfile",
    plural = "modelprofiles",
    shortname = "mp",
    status = "ModelProfileStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Reads-Restricted","type":"boolean","jsonPath":".spec.restrictReadsInForcingPhase"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ModelProfileSpec {
    /// Whether reading is refused once the model is told to finish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restrict_reads_in_forcing_phase: Option<bool>,
    /// When a run counts as stuck.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stuck_loop_detection: Option<StuckLoopDetection>,
    /// Text added to the system prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_prompt_addendum: Option<String>,
}

/// What the operator found out about a ModelProfile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelProfileStatus {
    /// Conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "plain_conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
    /// Generation that the conditions are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}
