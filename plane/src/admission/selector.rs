//! Label and field selectors.

use serde_json::Value;

/// A label selector, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {}

/// A field selector, parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {}

impl LabelSelector {
    /// Parses the text of `labelSelector=`.
    ///
    /// # Errors
    /// kube-apiserver's message (400).
    pub fn parse(text: &str) -> Result<Self, String> {
        let _ = text;
        Ok(Self {})
    }
    /// Matches an object's `metadata.labels`.
    pub fn matches(&self, object: &Value) -> bool {
        let _ = object;
        true
    }
    /// Says whether it selects everything.
    pub fn is_empty(&self) -> bool {
        true
    }
}

impl FieldSelector {
    /// Parses the text of `fieldSelector=`.
    ///
    /// # Errors
    /// kube-apiserver's message (400).
    pub fn parse(text: &str) -> Result<Self, String> {
        let _ = text;
        Ok(Self {})
    }
    /// Refuses fields that the kind does not select by. `selectable` holds JSON
    /// paths without a leading dot besides `metadata.name` and `metadata.namespace`.
    ///
    /// # Errors
    /// kube-apiserver's message (400).
    pub fn check(&self, api_version: &str, kind: &str, selectable: &[&str]) -> Result<(), String> {
        let _ = (api_version, kind, selectable);
        Ok(())
    }
    /// Matches an object's fields.
    pub fn matches(&self, object: &Value) -> bool {
        let _ = object;
        true
    }
    /// Says whether it selects everything.
    pub fn is_empty(&self) -> bool {
        true
    }
}

/// Returns the fields by which a built-in kind can be selected.
pub fn builtin_selectable(api_version: &str, kind: &str) -> &'static [&'static str] {
    let _ = (api_version, kind);
    &[]
}
