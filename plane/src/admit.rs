//! What becomes of an object on its way into the store: pure functions over JSON.

mod decode;

use bytes::Bytes;
use serde_json::Value;

use crate::admission::apply::{self, Writer};
use crate::admission::builtin;
use crate::admission::names::{
    validate_builtin_finalizers, validate_finalizers_at, validate_metadata, validate_metadata_update,
};
use crate::kinds::stamp::Stamp;
use crate::kinds::{Kind, Served, event};
use crate::object::{Unreadable, finalizers, meta_mut, meta_str, read, time};
use crate::status::{ApiError, Named};
use crate::storage::{Entry, Version};

pub use decode::{REPEATED_IN_YAML, decode, duplicate_field, each_warning};

/// The part of an object that a write is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The object itself.
    Main,
    /// Its `status` subresource.
    Status,
    /// A namespace's content finalizers.
    Finalize,
}

impl Part {
    /// Returns the name of the subresource, empty for the object itself.
    pub fn name(self) -> &'static str {
        match self {
            Part::Main => "",
            Part::Status => "status",
            Part::Finalize => "finalize",
        }
    }
}

/// What is done about fields that the schema does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldValidation {
    /// They are dropped in silence.
    Ignore,
    /// They are dropped with a warning.
    Warn,
    /// They are refused.
    Strict,
}

/// Who writes.
#[derive(Debug, Clone)]
pub struct Manager {
    /// The field manager's name.
    pub name: String,
    /// Whether `managedFields` are settled already, by an apply.
    pub settled: bool,
}

/// A kind in the version in which a request speaks of it.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// The kind.
    pub kind: &'a Kind,
    /// The version.
    pub served: &'a Served,
}

impl View<'_> {
    fn api_version(&self) -> String {
        self.kind.api_version(self.served)
    }

    /// Reads a stored object in this version.
    pub fn read(&self, entry: &Entry) -> Result<Value, Unreadable> {
        Ok(self.from_stored(self.kind.object(entry)?))
    }

    /// Returns the bytes of a stored object in this version: those that are stored, where they can be handed out.
    pub fn bytes(&self, entry: &Entry) -> Result<Bytes, Unreadable> {
        match self.kind.renewed(entry)? {
            None if self.is_stored_form() => Ok(entry.bytes.clone()),
            None => Ok(self.from_stored(read(entry)?).to_string().into()),
            Some(object) => Ok(self.from_stored(object).to_string().into()),
        }
    }

    /// Returns the bytes of an object that another change removed, in this version.
    pub fn last_bytes(&self, entry: &Entry, removed: Version) -> Result<Bytes, Unreadable> {
        if self.is_stored_form() && self.kind.renewed(entry)?.is_none() {
            return Ok(entry.bytes_at(removed));
        }
        Ok(self.last(entry, removed)?.to_string().into())
    }

    /// Reads an object that another change removed, in this version.
    pub fn last(&self, entry: &Entry, removed: Version) -> Result<Value, Unreadable> {
        let mut object = self.read(entry)?;
        meta_mut(&mut object).insert("resourceVersion".into(), removed.to_string().into());
        Ok(object)
    }

    /// Tells whether stored bytes can be handed out as they are.
    pub fn is_stored_form(&self) -> bool {
        self.kind.stored == self.api_version()
    }

    fn is_new_event(&self) -> bool {
        self.kind.group == "events.k8s.io"
    }

    /// Turns a stored object into this version.
    pub fn from_stored(&self, mut object: Value) -> Value {
        if self.is_new_event() {
            return event::from_core(object);
        }
        let api_version = self.api_version();
        if object["apiVersion"] != api_version {
            object["apiVersion"] = api_version.into();
            // What only the other version knows is not shown.
            if let Some(schema) = &self.served.schema {
                schema.prune(&mut object);
            }
        }
        object
    }

    /// Turns an object of this version into the stored form.
    pub fn to_stored(&self, object: Value) -> Value {
        if self.is_new_event() {
            event::to_core(object)
        } else {
            self.kind.kept(object)
        }
    }
}

/// Prepares an object that is made, and checks it; what is wrong but allowed becomes a warning.
pub fn create(
    view: View<'_>,
    mut object: Value,
    namespace: &str,
    stamp: &Stamp,
    manager: &Manager,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let kind = view.kind;
    place(&mut object, kind, namespace)?;
    let metadata = meta_mut(&mut object);
    for gone in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(gone);
    }
    if metadata.get("resourceVersion").is_some_and(|version| version == "") {
        metadata.remove("resourceVersion");
    }
    metadata.insert("uid".into(), stamp.uid.as_str().into());
    metadata.insert("creationTimestamp".into(), time(stamp.now).into());
    if kind.has_generation() {
        metadata.insert("generation".into(), 1.into());
    }
    // What the server itself sets belongs to no manager.
    if !manager.settled {
        track(view, None, &mut object, Part::Main, stamp, manager);
    }
    match kind.builtin() {
        Some(builtin) => (builtin.create)(&mut object, stamp),
        None if view.served.status => {
            if let Some(map) = object.as_object_mut() {
                map.remove("status");
            }
        }
        None => {}
    }
    check(view, &object, None, Part::Main, warnings)?;
    if kind.builtin().is_some() {
        warnings.extend(builtin::warnings(&view.api_version(), &kind.kind, &object));
    }
    Ok(object)
}

/// Checks the namespace that an object names against the one it was sent to.
fn place(object: &mut Value, kind: &Kind, namespace: &str) -> Result<(), ApiError> {
    let found = meta_str(object, "namespace");
    if kind.namespaced {
        if !found.is_empty() && found != namespace {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta_mut(object).insert("namespace".into(), namespace.into());
    } else {
        meta_mut(object).remove("namespace");
    }
    Ok(())
}

fn check(
    view: View<'_>,
    new: &Value,
    old: Option<&Value>,
    part: Part,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let kind = view.kind;
    let metadata = &new["metadata"];
    let mut errors = match old {
        Some(old) => validate_metadata_update(metadata, &old["metadata"]),
        None => Vec::new(),
    };
    if errors.is_empty() {
        errors = validate_metadata(metadata, kind.namespaced, kind.name_rule());
    }
    match (&view.served.schema, kind.builtin()) {
        (Some(schema), _) => {
            let (found, forgiven) = match old {
                Some(old) if part == Part::Status => schema.validate_status(errors, new, old),
                _ => schema.validate_reporting(errors, new, old),
            };
            errors = found;
            warnings.extend(forgiven);
            if errors.is_empty() {
                warnings.extend(odd_finalizers(new, old));
            }
        }
        (None, Some(rules)) => {
            errors.extend(validate_builtin_finalizers(metadata));
            if part == Part::Finalize {
                errors.extend(validate_finalizers_at(&new["spec"], "spec"));
            }
            // What only the status says is not checked again.
            if part == Part::Main {
                let api_version = view.api_version();
                errors.extend(builtin::validate(&api_version, &kind.kind, new, old));
                errors.extend((rules.validate)(new, old));
            }
        }
        (None, None) => {}
    }
    if errors.is_empty() {
        return Ok(());
    }
    // Both groups of events share the rules, and the name in errors.
    let named = match kind.prefix.as_str() {
        "core/events/" => Named {
            group: "",
            ..kind.named()
        },
        _ => kind.named(),
    };
    Err(ApiError::invalid(named, meta_str(new, "name"), &errors))
}

/// Warns of finalizers that another writer may use for something else.
fn odd_finalizers(new: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.map(finalizers).unwrap_or_default();
    finalizers(new)
        .into_iter()
        .filter(|name| !known.contains(name) && !name.contains('/'))
        .filter(|name| !matches!(*name, "orphan" | "foregroundDeletion" | "kubernetes"))
        .map(|name| {
            let path = if name.contains('.') { " including a path (/)" } else { "" };
            format!(
                "metadata.finalizers: {name:?}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
            )
        })
        .collect()
}

/// Notes who made an object that is answered and not stored.
pub fn note_maker(view: View<'_>, object: &mut Value, stamp: &Stamp, manager: &Manager) {
    track(view, None, object, Part::Main, stamp, manager);
}

fn track(view: View<'_>, before: Option<&Value>, after: &mut Value, part: Part, stamp: &Stamp, manager: &Manager) {
    let Some(types) = view.served.types.get() else {
        return;
    };
    let writer = Writer {
        manager: &manager.name,
        api_version: &view.api_version(),
        subresource: part.name(),
        now: &time(stamp.now),
    };
    apply::update_managed_fields(before, after, types, &writer);
}

/// Prepares the change of an object from `old` to `new`, and checks it. The object's
/// version and identity, where `new` names them, must be those of `old`.
pub fn update(
    view: View<'_>,
    old: &Value,
    mut new: Value,
    part: Part,
    stamp: &Stamp,
    manager: &Manager,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let kind = view.kind;
    let name = meta_str(old, "name");
    place(&mut new, kind, meta_str(old, "namespace"))?;
    let sent = meta_str(&new, "name");
    if sent != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({sent}) does not match the name on the URL ({name})"
        )));
    }
    let uid = meta_str(&new, "uid");
    if !uid.is_empty() && uid != meta_str(old, "uid") {
        return Err(ApiError::conflict_because(
            kind.named(),
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta_str(old, "uid")
            ),
        ));
    }
    let version = meta_str(&new, "resourceVersion");
    if !version.is_empty() && version != "0" && version != meta_str(old, "resourceVersion") {
        return Err(ApiError::conflict(kind.named(), name));
    }
    new = merge_part(view, old, new, part);
    let metadata = meta_mut(&mut new);
    metadata.remove("selfLink");
    for fixed in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "resourceVersion",
    ] {
        match old["metadata"].get(fixed) {
            Some(value) => metadata.insert(fixed.into(), value.clone()),
            None => metadata.remove(fixed),
        };
    }
    if !manager.settled {
        track(view, Some(old), &mut new, part, stamp, manager);
    }
    if part == Part::Main
        && let Some(builtin) = kind.builtin()
    {
        (builtin.update)(&mut new, stamp);
    }
    if kind.has_generation() && part == Part::Main && generation_changes(view, old, &new) {
        let next = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        meta_mut(&mut new).insert("generation".into(), next.into());
    }
    check(view, &new, Some(old), part, warnings)?;
    Ok(new)
}

/// Takes from `new` what a write to `part` may change, and the rest from `old`.
fn merge_part(view: View<'_>, old: &Value, mut new: Value, part: Part) -> Value {
    let managed = new["metadata"].get("managedFields").cloned();
    let set = |object: &mut Value, field: &str, value: Option<&Value>| {
        if let Some(map) = object.as_object_mut() {
            match value {
                Some(value) => map.insert(field.into(), value.clone()),
                None => map.remove(field),
            };
        }
    };
    match part {
        Part::Finalize => new,
        Part::Main => {
            if view.kind.prefix == "core/namespaces/" {
                set(&mut new["spec"], "finalizers", old["spec"].get("finalizers"));
            }
            if view.served.status {
                set(&mut new, "status", old.get("status"));
            }
            new
        }
        Part::Status if view.kind.builtin().is_some() => {
            set(&mut new, "spec", old.get("spec"));
            if let Some(owners) = old["metadata"].get("ownerReferences") {
                meta_mut(&mut new).insert("ownerReferences".into(), owners.clone());
            }
            new
        }
        Part::Status => {
            let mut merged = old.clone();
            set(&mut merged, "status", new.get("status"));
            if let Some(managed) = managed {
                meta_mut(&mut merged).insert("managedFields".into(), managed);
            }
            merged
        }
    }
}

fn generation_changes(view: View<'_>, old: &Value, new: &Value) -> bool {
    if view.kind.builtin().is_some() {
        return old.get("spec") != new.get("spec");
    }
    let rest = |object: &Value| {
        let mut map = object.as_object().cloned().unwrap_or_default();
        map.remove("metadata");
        if view.served.status {
            map.remove("status");
        }
        map
    };
    rest(old) != rest(new)
}

/// Tells whether an object that is being deleted has nothing left to wait for.
pub fn is_gone(kind: &Kind, object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    !meta_str(object, "deletionTimestamp").is_empty()
        && finalizers(object).is_empty()
        && grace.unwrap_or(0) == 0
        && !has_content_finalizers(kind, object)
}

/// Tells whether a namespace still waits for its content to go.
pub fn has_content_finalizers(kind: &Kind, object: &Value) -> bool {
    kind.group.is_empty()
        && kind.plural == "namespaces"
        && object["spec"]["finalizers"]
            .as_array()
            .is_some_and(|list| !list.is_empty())
}
