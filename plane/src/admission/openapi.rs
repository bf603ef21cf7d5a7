//! OpenAPI v2 and v3 documents.

use serde_json::Value;

/// One resource that is served, for the documents.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// Group; empty for the core group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Plural resource name.
    pub plural: &'a str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// `openAPIV3Schema` of a CRD version; `None` for a built-in kind.
    pub schema: Option<&'a Value>,
}

/// Builds `/openapi/v2`.
pub fn v2(served: &[Served<'_>]) -> Value {
    let _ = served;
    Value::Null
}
/// Builds the index `/openapi/v3`; `hash` gives the hash of a path's document.
pub fn v3_index(served: &[Served<'_>]) -> Value {
    let _ = served;
    Value::Null
}
/// Builds the document of one group version, e.g. `api/v1` or `apis/batch/v1`.
pub fn v3_group_version(path: &str, served: &[Served<'_>]) -> Option<Value> {
    let _ = (path, served);
    None
}
