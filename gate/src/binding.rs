//! What a verdict is true of.

use serde::{Deserialize, Serialize};

/// The triple that a verdict is true of, and what its report must list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Binding {
    /// Commit under test, 40 hex digits.
    pub head: String,
    /// Commit it is compared with and whose gate it is, 40 hex digits.
    pub base: String,
    /// Digest of the gate, 64 hex digits.
    pub digest: String,
    /// Steps that the report must list, in order; unset where only the digest is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<ExpectedStep>>,
    /// Memory limit of the steps, named when they are killed at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<String>,
}

/// A step that a report must list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExpectedStep {
    /// Name.
    pub name: String,
    /// Whether a failure is only remarked.
    pub advisory: bool,
}

/// Tells whether `text` is `length` lower-case hex digits.
pub fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}
