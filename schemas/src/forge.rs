//! The kind Forge: a GitHub, Forgejo or Gitea server.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::{LocalRef, SecretKeyRef, conditions_schema};

/// A GitHub, Forgejo or Gitea server.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "foreman.llmkube.dev",
    version = "v1alpha1",
    kind = "Forge",
    plural = "forges",
    namespaced,
    status = "ForgeStatus",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".spec.type"}"#,
    printcolumn = r#"{"name":"URL","type":"string","jsonPath":".spec.url"}"#,
    printcolumn = r#"{"name":"Product","type":"string","jsonPath":".status.product"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ForgeSpec {
    /// Product.
    #[serde(rename = "type")]
    pub forge_type: ForgeType,
    /// Base URL.
    #[schemars(regex(pattern = r"^https?://"))]
    pub url: String,
    /// Secret with `token`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalRef>,
    /// PEM bundle of certificate authorities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Secret that signs webhooks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_secret_ref: Option<SecretKeyRef>,
    /// Prefix of commit status contexts.
    #[serde(default = "default_context_prefix")]
    pub status_context_prefix: String,
}

fn default_context_prefix() -> String {
    "foreman".to_owned()
}

/// A forge's product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ForgeType {
    /// GitHub or GitHub Enterprise Server.
    Github,
    /// Forgejo.
    Forgejo,
    /// Gitea.
    Gitea,
}

/// What is known about a forge.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ForgeStatus {
    /// Product that was detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What the token may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permissions: Option<Vec<String>>,
    /// Requests left in the current window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_remaining: Option<i64>,
    /// When the window ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_resets_at: Option<Time>,
    /// Conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Option<Vec<Condition>>,
}
