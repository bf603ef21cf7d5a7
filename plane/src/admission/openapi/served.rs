//! What is served, as the documents name it.

use serde_json::{Value, json};

use crate::admission::builtin::definitions;

/// One resource that is served.
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

impl Served<'_> {
    /// Returns the path of the group version, e.g. `api/v1` or `apis/batch/v1`.
    pub fn root(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }

    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Names the definition: the group's labels in reverse, version, kind.
    pub(super) fn definition(&self) -> String {
        if let Some(name) = definitions::name_of(&self.api_version(), self.kind) {
            return name.to_owned();
        }
        let mut labels: Vec<&str> = self.group.split('.').collect();
        labels.reverse();
        format!("{}.{}.{}", labels.join("."), self.version, self.kind)
    }

    pub(super) fn gvk(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

/// The two versions of OpenAPI.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Dialect {
    /// Version 2, which is swagger.
    V2,
    /// Version 3.
    V3,
}

impl Dialect {
    /// Refers to a definition.
    pub(super) fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}
