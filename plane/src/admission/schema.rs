//! Structural schemas: pruning, defaults, validation.

mod cel;
mod celcheck;
mod celvalue;
mod correlate;
pub mod format;
pub mod node;
mod parse;
mod pattern;
mod places;
pub(in crate::admission) mod prune;
mod rule;
mod rules;
mod value;

use serde_json::Value;

use self::node::Node;
use super::error::{ErrorKind, FieldError};

/// Where errors in a CRD's schema are shown when the CRD has one version.
pub const SCHEMA_PATH: &str = "spec.validation.openAPIV3Schema";

/// A custom resource's schema, compiled.
#[derive(Debug)]
pub struct Structural {
    root: Node,
    rules: bool,
}

impl Structural {
    /// Compiles `openAPIV3Schema` of a CRD version; paths in errors start at [`SCHEMA_PATH`].
    ///
    /// # Errors
    /// Everything that makes kube-apiserver refuse the CRD: not structural, a
    /// rule that does not compile, a default that is not valid.
    pub fn from_openapi(schema: &Value) -> Result<Structural, Vec<FieldError>> {
        Self::from_openapi_at(schema, SCHEMA_PATH)
    }

    /// Compiles a schema that stands at `path` of its CRD, e.g. `spec.versions[1].schema.openAPIV3Schema`.
    ///
    /// # Errors
    /// See [`Structural::from_openapi`].
    pub fn from_openapi_at(schema: &Value, path: &str) -> Result<Structural, Vec<FieldError>> {
        let mut errors = Vec::new();
        let root = parse::parse(schema, path, &mut errors);
        if errors.is_empty() {
            check_defaults(&root, path, true, &mut errors);
            celcheck::check(&root, path, &mut errors);
        }
        if errors.is_empty() {
            Ok(Structural {
                rules: root.has_rules(),
                root,
            })
        } else {
            Err(errors)
        }
    }

    /// Returns the schema's root.
    pub fn root(&self) -> &Node {
        &self.root
    }

    /// Removes what the schema does not know and returns the removed paths, sorted.
    ///
    /// Floats without a fraction become integers, as the server's decoder and encoder leave them.
    /// `apiVersion`, `kind` and `metadata` stay at the root and in embedded resources;
    /// of metadata goes what `ObjectMeta` does not know.
    pub fn prune(&self, object: &mut Value) -> Vec<String> {
        prune::whole_numbers(object);
        prune::prune_root(&self.root, object)
    }

    /// Fills in defaults, after dropping nulls where none may stand.
    pub fn default(&self, object: &mut Value) {
        prune::default_root(&self.root, object);
    }

    /// Validates `new`; with `old` it is an update: transition rules run, and
    /// errors in what did not change are forgiven as kube-apiserver forgives them.
    ///
    /// Metadata is checked by [`super::names::validate_metadata`].
    pub fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
        self.validate_reporting(Vec::new(), new, old).0
    }

    /// Validates like [`Structural::validate`], after `before` (what is wrong with metadata), and
    /// returns beside the errors the texts of `Warning` headers: rules that failed and are
    /// forgiven because nothing changed.
    pub fn validate_reporting(
        &self,
        mut before: Vec<FieldError>,
        new: &Value,
        old: Option<&Value>,
    ) -> (Vec<FieldError>, Vec<String>) {
        before.extend(value::validate(&self.root, new, old));
        self.finish(before, new, old)
    }

    /// Validates an update through the status subresource: the schema below `status`
    /// only, and every rule. Returns errors and the texts of `Warning` headers.
    pub fn validate_status(&self, before: Vec<FieldError>, new: &Value, old: &Value) -> (Vec<FieldError>, Vec<String>) {
        let mut errors = Vec::new();
        if let (Some(node), Some(status)) = (self.root.properties.get("status"), new.get("status")) {
            errors = value::validate(node, status, old.get("status"));
            for error in errors.iter_mut() {
                // A failed branch of anyOf and its kin has no path of its own.
                error.path = if error.path.is_empty() {
                    "status".to_owned()
                } else {
                    format!("status.{}", error.path)
                };
            }
        }
        errors.splice(0..0, before);
        self.finish(errors, new, Some(old))
    }

    fn finish(&self, mut errors: Vec<FieldError>, new: &Value, old: Option<&Value>) -> (Vec<FieldError>, Vec<String>) {
        let mut warnings = Vec::new();
        places::embedded(&self.root, new, "", &mut errors);
        let mut before = Vec::new();
        if let Some(old) = old {
            places::list_types(&self.root, old, "", &mut before);
        }
        if before.is_empty() {
            places::list_types(&self.root, new, "", &mut errors);
        }
        if self.rules {
            let blocking = |e: &FieldError| {
                matches!(
                    e.kind,
                    ErrorKind::NotSupported
                        | ErrorKind::Required
                        | ErrorKind::TooLong
                        | ErrorKind::TooMany
                        | ErrorKind::TypeInvalid
                )
            };
            if errors.iter().any(blocking) {
                errors.push(FieldError::invalid(
                    "",
                    Value::Null,
                    "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
                ));
            } else {
                errors.extend(rules::validate(&self.root, new, old, &mut warnings));
            }
        }
        (errors, warnings)
    }
}

/// Defaults must survive pruning and satisfy the schema they stand in.
fn check_defaults(node: &Node, path: &str, root: bool, errors: &mut Vec<FieldError>) {
    if let Some(default) = &node.default {
        let at = format!("{path}.default");
        if root {
            errors.push(FieldError::forbidden(at.clone(), "must not be set at the root"));
        }
        let mut pruned = default.clone();
        prune::default_root(node, &mut pruned);
        for error in value::validate(node, &pruned, None) {
            let below = if error.path.is_empty() {
                at.clone()
            } else {
                format!("{at}.{}", error.path)
            };
            errors.push(FieldError { path: below, ..error });
        }
    }
    for (key, child) in &node.properties {
        check_defaults(child, &format!("{path}.properties[{key}]"), false, errors);
    }
    if let Some(items) = &node.items {
        check_defaults(items, &format!("{path}.items"), false, errors);
    }
    if let Some(additional) = node.additional.node() {
        check_defaults(additional, &format!("{path}.additionalProperties"), false, errors);
    }
}

#[cfg(test)]
pub(in crate::admission) mod tests;
