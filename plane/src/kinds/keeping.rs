//! How objects of a custom kind are kept: in one version, as the schema of that version has them.
//!
//! What was stored before the definition changed is read as the schema has it now, as kube-apiserver reads it: what the
//! schema does not know any more is left out, and defaults that it did not have are filled in. What was written since
//! then is so already, and is handed out as it is stored.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::{Kind, api_version, lock};
use crate::admission::schema::Structural;
use crate::object::{Unreadable, read};
use crate::storage::{Entry, Version};

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

/// How objects of a kind are kept; nothing is to be known of a built-in kind.
#[derive(Debug, Default)]
pub struct Keeping {
    /// The schemas of all versions.
    pub schemas: Vec<Schema>,
    /// The change of the definition since which they stand: what was written later is as they have it.
    pub since: Version,
    /// Earlier changes whose objects were found to be so too.
    found: Arc<Mutex<HashSet<Version>>>,
}

impl Keeping {
    /// Keeps objects by these schemas since a change.
    pub fn new(schemas: Vec<Schema>, since: Version) -> Keeping {
        Keeping {
            schemas,
            since,
            found: Arc::default(),
        }
    }

    fn schema(&self, api_version: &str) -> Option<&Structural> {
        let of = |schema: &&Schema| schema.api_version == api_version;
        self.schemas.iter().find(of)?.compiled.as_deref()
    }
}

impl Kind {
    /// Takes over from the kind as it was before a change of its definition what is still true.
    pub(super) fn follow(&mut self, before: &Kind) {
        if self.keeps_as(before) {
            self.keeping.since = before.keeping.since;
            self.keeping.found = Arc::clone(&before.keeping.found);
        }
    }

    /// Tells whether a stored object has to be looked at, since it is older than the schema.
    pub fn is_older(&self, entry: &Entry) -> bool {
        entry.version <= self.keeping.since && !lock(&self.keeping.found).contains(&entry.version)
    }

    /// Returns a stored object as its schema has it now, where that is not how it is stored. It is in the version in
    /// which it was stored.
    pub fn renewed(&self, entry: &Entry) -> Result<Option<Value>, Unreadable> {
        if !self.is_older(entry) {
            return Ok(None);
        }
        let keeping = &self.keeping;
        let stored = read(entry)?;
        let api_version = stored["apiVersion"].as_str().unwrap_or_default();
        let mut object = stored.clone();
        if let Some(schema) = keeping.schema(api_version).or_else(|| keeping.schema(&self.stored)) {
            schema.prune(&mut object);
            schema.default(&mut object);
        }
        if object == stored && api_version == self.stored {
            lock(&keeping.found).insert(entry.version);
            return Ok(None);
        }
        Ok(Some(object))
    }

    /// Returns a stored object as its schema has it now, in the version in which it was stored.
    pub fn object(&self, entry: &Entry) -> Result<Value, Unreadable> {
        match self.renewed(entry)? {
            Some(object) => Ok(object),
            None => read(entry),
        }
    }

    /// Turns an object of any version into the one that is stored, as its schema has it.
    pub fn kept(&self, mut object: Value) -> Value {
        let Some(schema) = self.keeping.schema(&self.stored) else {
            return object;
        };
        if object["apiVersion"] != self.stored.as_str() {
            object["apiVersion"] = self.stored.as_str().into();
            // What only the other version knows is not stored.
            schema.prune(&mut object);
        }
        // What was taken off on the way may have a default; it would be filled in by the next read.
        schema.default(&mut object);
        object
    }

    /// Tells whether objects are kept as another definition of the kind has them: in the same version, with the same
    /// schemas.
    pub fn keeps_as(&self, other: &Self) -> bool {
        self.stored == other.stored
            && self.keeping.schemas.len() == other.keeping.schemas.len()
            && self
                .keeping
                .schemas
                .iter()
                .zip(&other.keeping.schemas)
                .all(|(a, b)| a.api_version == b.api_version && a.raw == b.raw)
    }
}
