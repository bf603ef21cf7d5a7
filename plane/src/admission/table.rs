//! `meta.k8s.io/v1` tables, as kubectl prints them.

use serde_json::Value;

/// What a row carries beside its cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// The object itself.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`; `None` when it is unknown.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "None" => Some(Self::None),
            "" | "Metadata" => Some(Self::Metadata),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The columns of one kind.
#[derive(Clone, Debug)]
pub struct Columns {}

impl Columns {
    /// Compiles `additionalPrinterColumns` of a CRD version (an array, or null for Name and Age).
    ///
    /// # Errors
    /// The JSON path that cannot be read.
    pub fn from_crd(columns: &Value) -> Result<Self, String> {
        let _ = columns;
        Ok(Self {})
    }
    /// Finds the columns of a built-in kind; any other kind gets Name and Created At.
    pub fn builtin(api_version: &str, kind: &str) -> Self {
        let _ = (api_version, kind);
        Self {}
    }
    /// Renders a table. `metadata` is the list's (or for one object its) metadata:
    /// resourceVersion, continue, remainingItemCount. `now` is RFC 3339.
    /// Watch events after the first carry no column definitions: see `with_definitions`.
    pub fn render(
        &self,
        objects: &[&Value],
        metadata: &Value,
        include: IncludeObject,
        with_definitions: bool,
        now: &str,
    ) -> Value {
        let _ = (objects, metadata, include, with_definitions, now);
        Value::Null
    }
}

/// Words an age as kubectl does: `5m`, `3h12m`, `2d`.
pub fn human_duration(seconds: i64) -> String {
    format!("{seconds}s")
}
