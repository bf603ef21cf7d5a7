//! Deleting objects: preconditions, grace, propagation, finalizers.

use std::sync::Arc;

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::Server;
use super::write::Target;
use crate::admit::has_content_finalizers;
use crate::kinds::stamp::Stamp;
use crate::kinds::{Kind, crd, pod};
use crate::object::{finalizers, map_mut, meta_mut, meta_str, time, to_document};
use crate::status::{ApiError, Named};
use crate::storage::{CommitError, Entry, Expect, Write};

/// The finalizer of a foreground deletion.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of a deletion that leaves dependents behind.
pub const ORPHAN: &str = "orphan";

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay and lose their owner.
    Orphan,
}

/// What a deletion asks for.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// The identity that the object must have.
    pub uid: Option<String>,
    /// The version that the object must have.
    pub version: Option<String>,
    /// How long what runs is given to stop, in seconds.
    pub grace: Option<i64>,
    /// What becomes of dependents; the kind decides if it is not said.
    pub propagation: Option<Propagation>,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
}

/// What a deletion left behind.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; this is what it was at last.
    Gone(Arc<Entry>),
    /// The object waits for its finalizers or its grace period.
    Waiting(Arc<Entry>),
}

/// What is to be written for a deletion.
enum Step {
    /// The object goes, after it was shown as this once more.
    Remove(Option<Value>),
    Mark(Value),
    Nothing,
}

impl Server {
    /// Deletes one object.
    pub async fn delete(&self, target: &Target, name: &str, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        let kind = &target.kind;
        loop {
            let entry = self.entry(kind, &target.namespace, name)?;
            let object = kind.object(&entry)?;
            check(kind, &object, name, options)?;
            let step = plan(kind, &object, options, &self.stamp());
            if options.dry_run {
                return Ok(match step {
                    Step::Remove(None) => Deleted::Gone(entry),
                    Step::Remove(Some(last)) => Deleted::Gone(tried(&entry, &kind.kept(last))),
                    Step::Mark(new) => Deleted::Waiting(tried(&entry, &kind.kept(new))),
                    Step::Nothing => Deleted::Waiting(entry),
                });
            }
            let put = |new: Value| Write::Put {
                key: Arc::clone(&entry.key),
                document: to_document(&kind.kept(new)),
                expect: Expect::Version(entry.version),
            };
            let writes = match step {
                Step::Nothing => return Ok(Deleted::Waiting(entry)),
                Step::Mark(new) => vec![put(new)],
                Step::Remove(last) => last.map(put).into_iter().chain([remove(&entry)]).collect(),
            };
            match self.store.commit(writes).await {
                Ok(changes) => {
                    let removed = changes.last().is_some_and(|change| change.after.is_none());
                    let marked = changes.iter().find_map(|change| change.after.clone());
                    return Ok(match (removed, marked) {
                        (true, last) => Deleted::Gone(last.unwrap_or(entry)),
                        (false, marked) => Deleted::Waiting(marked.unwrap_or(entry)),
                    });
                }
                Err(CommitError::Precondition { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn remove(entry: &Entry) -> Write {
    Write::Delete {
        key: Arc::clone(&entry.key),
        expect: entry.version,
    }
}

fn check(kind: &Kind, object: &Value, name: &str, options: &DeleteOptions) -> Result<(), ApiError> {
    // Here kube-apiserver names the kind where else it names the resource.
    let named = Named {
        plural: &kind.kind,
        ..kind.named()
    };
    let uid = meta_str(object, "uid");
    if let Some(wanted) = &options.uid
        && wanted != uid
    {
        return Err(ApiError::conflict_because(
            named,
            name,
            &format!(
                "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            ),
        ));
    }
    if kind.prefix == "core/namespaces/" && matches!(name, "default" | "kube-system") {
        return Err(ApiError::forbidden(
            kind.named(),
            name,
            "this namespace may not be deleted",
        ));
    }
    let version = meta_str(object, "resourceVersion");
    if let Some(wanted) = &options.version
        && wanted != version
    {
        return Err(ApiError::conflict_because(
            named,
            name,
            &format!(
                "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
            ),
        ));
    }
    Ok(())
}

/// Decides what a deletion writes.
fn plan(kind: &Kind, object: &Value, options: &DeleteOptions, stamp: &Stamp) -> Step {
    let before: Vec<&str> = finalizers(object);
    let marked = !meta_str(object, "deletionTimestamp").is_empty();
    let mut after: Vec<&str> = before.clone();
    let propagation = options.propagation.or_else(|| {
        let said = before.contains(&ORPHAN) || before.contains(&FOREGROUND);
        (!said && kind.group == "batch" && kind.plural == "jobs").then_some(Propagation::Orphan)
    });
    if let Some(propagation) = propagation {
        after.retain(|name| *name != ORPHAN && *name != FOREGROUND);
        match propagation {
            Propagation::Background => {}
            Propagation::Foreground => after.push(FOREGROUND),
            Propagation::Orphan => after.push(ORPHAN),
        }
    }
    if kind.prefix == crd::PREFIX && !marked && !after.contains(&crd::FINALIZER) {
        after.push(crd::FINALIZER);
    }
    let grace = grace_of(kind, object, options);
    if after.is_empty() && grace == 0 && !has_content_finalizers(kind, object) {
        return Step::Remove(last_sight(kind, object, stamp));
    }
    let mut new = object.clone();
    let metadata = meta_mut(&mut new);
    if before != after {
        if after.is_empty() {
            metadata.remove("finalizers");
        } else {
            metadata.insert("finalizers".into(), json!(after));
        }
    }
    // Namespaces and definitions are marked in a way of their own.
    let emptied = kind.prefix == crd::PREFIX || kind.prefix == "core/namespaces/";
    let granted = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    if !marked || granted.is_some_and(|granted| grace < granted) {
        let at = end_of_grace(stamp.now, grace);
        metadata.insert("deletionTimestamp".into(), time(at).into());
        if !emptied {
            metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        }
    }
    if !marked {
        if !emptied && let Some(generation) = object["metadata"]["generation"].as_i64() {
            metadata.insert("generation".into(), (generation + 1).into());
        }
        if has_content_finalizers(kind, object) {
            map_mut(&mut new, "status").insert("phase".into(), "Terminating".into());
        }
        if kind.prefix == crd::PREFIX {
            crd::terminating(&mut new, stamp);
        }
    }
    if new == *object { Step::Nothing } else { Step::Mark(new) }
}

/// Returns a Pod that goes as it is shown once more: that it is given no time. Nothing if it is shown so already, or if
/// the object is no Pod.
fn last_sight(kind: &Kind, object: &Value, stamp: &Stamp) -> Option<Value> {
    if kind.prefix != "core/pods/" || object["metadata"]["deletionGracePeriodSeconds"] == 0 {
        return None;
    }
    let mut object = object.clone();
    let generation = object["metadata"]["generation"].as_i64();
    let metadata = meta_mut(&mut object);
    metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
    if !metadata.contains_key("deletionTimestamp") {
        metadata.insert("deletionTimestamp".into(), time(stamp.now).into());
        if let Some(generation) = generation {
            metadata.insert("generation".into(), (generation + 1).into());
        }
    }
    Some(object)
}

fn tried(entry: &Entry, object: &Value) -> Arc<Entry> {
    Arc::new(Entry::tried(Arc::clone(&entry.key), Bytes::from(object.to_string())))
}

fn end_of_grace(now: Timestamp, grace: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now)
}

/// Only Pods whose processes may be running are given time.
fn grace_of(kind: &Kind, object: &Value, options: &DeleteOptions) -> i64 {
    if !kind.group.is_empty() || kind.plural != "pods" || pod::removable(object) {
        return 0;
    }
    let asked = options
        .grace
        .or_else(|| object["spec"]["terminationGracePeriodSeconds"].as_i64())
        .unwrap_or(30);
    let asked = if asked < 0 { 1 } else { asked.min(86_400) };
    match object["metadata"]["deletionGracePeriodSeconds"].as_i64() {
        Some(granted) => asked.min(granted),
        None => asked,
    }
}
