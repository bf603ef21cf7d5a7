//! How objects of a custom kind are kept: in one version, as the schema of that version has them.

use std::sync::Arc;

use serde_json::Value;

use super::api_version;
use crate::admission::schema::Structural;

/// The schema of a version as a definition has it, whether the version is served or not.
#[derive(Debug)]
pub struct Schema {
    /// The `apiVersion` of its objects.
    pub api_version: String,
    /// The schema as it was written.
    pub raw: Arc<Value>,
    /// The schema, unless it does not compile.
    pub compiled: Option<Arc<Structural>>,
}

impl Schema {
    /// Compiles the schema of a version of a definition.
    pub fn of(group: &str, version: &Value) -> Option<Schema> {
        let name = version["name"].as_str()?;
        let raw = &version["schema"]["openAPIV3Schema"];
        let compiled = match Structural::from_openapi(raw) {
            Ok(schema) => Some(Arc::new(schema)),
            Err(errors) => {
                tracing::error!(%group, %name, ?errors, "a stored CRD's schema does not compile; the version is not served");
                None
            }
        };
        Some(Schema {
            api_version: api_version(group, name),
            raw: Arc::new(raw.clone()),
            compiled,
        })
    }
}

impl super::Kind {
    /// Tells whether objects are kept as another definition of the kind has them: in the same version, with the same
    /// schemas.
    pub fn keeps_as(&self, other: &Self) -> bool {
        self.stored == other.stored
            && self.schemas.len() == other.schemas.len()
            && self
                .schemas
                .iter()
                .zip(&other.schemas)
                .all(|(a, b)| a.api_version == b.api_version && a.raw == b.raw)
    }
}
