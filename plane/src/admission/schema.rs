//! Structural schemas: pruning, defaults, validation.

use super::error::FieldError;
use serde_json::Value;

/// A custom resource's schema, compiled.
#[derive(Debug)]
pub struct Structural {}

impl Structural {
    /// Compiles `openAPIV3Schema` of a CRD version; paths in errors start at
    /// `spec.validation.openAPIV3Schema`.
    ///
    /// # Errors
    /// Everything that makes kube-apiserver refuse the CRD: not structural, a
    /// rule that does not compile, a default that is not valid.
    pub fn from_openapi(schema: &Value) -> Result<Structural, Vec<FieldError>> {
        let _ = schema;
        Ok(Structural {})
    }
    /// Removes what the schema does not know and returns the removed paths, sorted.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        let _ = object;
        Vec::new()
    }
    /// Fills in defaults, after dropping nulls that a default replaces.
    pub fn default(&self, object: &mut Value) {
        let _ = object;
    }
    /// Validates `new`; with `old` it is an update: transition rules run, and
    /// errors in what did not change are forgiven as kube-apiserver forgives them.
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        let _ = (new, old);
        Vec::new()
    }
}
