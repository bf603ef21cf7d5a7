//! Server-side apply, and who manages which field.
//!
//! What a manager owns is kept in `metadata.managedFields`. An apply merges a
//! configuration into the live object, takes over what it mentions, gives up
//! (and, where nobody else owns it, removes) what it no longer mentions, and
//! refuses to change what somebody else owns unless it is forced. Any other
//! write takes over what it changes.

mod fieldset;
mod fit;
mod managed;
mod walk;

use serde_json::{Map, Value, json};

use self::fieldset::{FieldSet, path_text};
use self::managed::{Manager, Managers, Owned};
use self::walk::Difference;
use super::gofmt;
use super::types::TypeInfo;

/// Annotation in which client-side apply keeps its configuration.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// One field that somebody else manages.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The other side, as kube-apiserver describes it: `"kubectl" using v1`.
    pub manager: String,
    /// The field: `.data.key`.
    pub path: String,
}

/// Why an apply was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// 409: somebody else manages fields that would change.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// 400: the request is not an apply configuration.
    #[error("{0}")]
    BadRequest(String),
    /// 500, as kube-apiserver answers a configuration that does not fit the type.
    #[error("{0}")]
    Internal(String),
}

/// Words the message of an apply conflict.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.path
        );
    }
    let mut lines = Vec::new();
    let mut last = None;
    for conflict in conflicts {
        if last != Some(&conflict.manager) {
            lines.push(format!("conflicts with {}:", conflict.manager));
            last = Some(&conflict.manager);
        }
        lines.push(format!("- {}", conflict.path));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Builds the 409 `Status` object that answers an apply conflict.
pub fn conflict_status(conflicts: &[Conflict]) -> Value {
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager), "field": c.path}))
        .collect();
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": conflict_message(conflicts), "reason": "Conflict", "details": {"causes": causes}, "code": 409,
    })
}

/// Who writes, how and when.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// Field manager.
    pub manager: &'a str,
    /// `apiVersion` through which the request came.
    pub api_version: &'a str,
    /// Subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Now, as an RFC 3339 time in seconds with `Z`.
    pub now: &'a str,
}

impl Writer<'_> {
    fn manager(&self, apply: bool) -> Manager {
        Manager::new(self.manager, apply, self.api_version, self.subresource)
    }
}

impl TypeInfo {
    /// Drops the fields that writers through a subresource do not write.
    fn written(&self, subresource: &str, set: FieldSet) -> FieldSet {
        if self.resets.object.is_empty() {
            return set;
        }
        let without = |set: FieldSet, paths: &[Vec<&str>]| paths.iter().fold(set, |set, path| set.without(path));
        match (subresource, &self.resets.status) {
            ("status", Some(paths)) => without(set, paths),
            ("status", None) => set.only(&["status"]),
            _ => without(set, &self.resets.object),
        }
    }
}

/// Applies a configuration; an unchanged object comes back equal to `live`.
///
/// The caller then prunes, defaults and validates the result like any other write,
/// and may skip a write that changes nothing. `applied` must be of the served version.
///
/// # Errors
/// See [`ApplyError`].
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    force: bool,
    types: &TypeInfo,
    writer: &Writer<'_>,
) -> Result<Value, ApplyError> {
    if applied["metadata"].get("managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_owned()));
    }
    fit::check(&types.root, applied).map_err(|e| {
        ApplyError::Internal(format!(
            "failed to create typed patch object ({}): {e}",
            describe(applied)
        ))
    })?;
    let mut managers = match live {
        None => Managers::default(),
        Some(live) => Managers::decode(live).unwrap_or_default(),
    };
    let base = live.map(without_managed);
    if let Some(base) = base.as_ref().filter(|_| managers.0.is_empty()) {
        // Fields that were there before managers were tracked belong to nobody in particular.
        let writer = Writer {
            manager: "before-first-apply",
            ..*writer
        };
        track(&mut managers, &types.blank, base, types, &writer);
    }
    let empty = empty_object();
    let before = base.as_ref().unwrap_or(&empty);
    let mut outcome = merged(before, applied, force, types, writer, managers.clone());
    if let Err(conflicts) = &outcome
        && writer.manager == "kubectl"
    {
        // kubectl may take over what its client-side apply wrote.
        let allowed = last_applied_fields(before, types);
        let rest: Vec<Taken> = conflicts.iter().filter(|c| !allowed.covers(&c.set)).cloned().collect();
        outcome = if rest.is_empty() {
            merged(before, applied, true, types, writer, managers.clone())
        } else {
            Err(rest)
        };
    }
    let (mut object, mut managers) = outcome.map_err(|taken| ApplyError::Conflicts(conflicts_of(&taken)))?;
    let manager = writer.manager(true);
    managers.strip(&manager);
    let changed = base.as_ref().is_none_or(|base| !walk::same(base, &object));
    if changed && let Some(owned) = managers.0.get_mut(&manager) {
        owned.time = Some(writer.now.to_owned());
    }
    if writer.manager == "kubectl" {
        refresh_last_applied(&mut object, applied);
    }
    write_managers(&mut object, &managers);
    Ok(match live {
        Some(live) if unchanged(live, &object) => live.clone(),
        _ => object,
    })
}

/// Tracks a create, update or patch in `after.metadata.managedFields`.
///
/// `before` is the stored object, if there is one. A write that changes nothing
/// leaves the stored managers as they are, times included.
pub fn update_managed_fields(before: Option<&Value>, after: &mut Value, types: &TypeInfo, writer: &Writer<'_>) {
    let stored = || before.and_then(Managers::decode).unwrap_or_default();
    let mut managers = if !writer.subresource.is_empty() {
        stored()
    } else if resets_managers(after) {
        Managers::default()
    } else {
        Managers::decode(after)
            .filter(|m| !m.0.is_empty())
            .unwrap_or_else(stored)
    };
    let new = without_managed(after);
    let old = before.map(without_managed);
    // Objects whose managers were taken away stay without until somebody applies.
    if !(managers.0.is_empty() && before.is_some()) {
        track(&mut managers, old.as_ref().unwrap_or(&types.blank), &new, types, writer);
        managers.cap();
    }
    *after = new;
    write_managers(after, &managers);
    if let Some(before) = before
        && unchanged(before, after)
    {
        set_managed(after, before["metadata"].get("managedFields").cloned());
    }
}

/// Gives what changed from `old` to `new` to the writer, and takes it from everybody else.
fn track(managers: &mut Managers, old: &Value, new: &Value, types: &TypeInfo, writer: &Writer<'_>) {
    let change = difference(old, new, types, writer);
    let taken = change.modified.union(&change.added);
    for owned in managers.0.values_mut() {
        owned.set = owned.set.difference(&taken).difference(&change.removed);
    }
    managers.0.retain(|_, owned| !owned.set.is_empty());
    let manager = writer.manager(false);
    let mut mine = Managers::default();
    let owned = Owned {
        set: taken,
        api_version: writer.api_version.to_owned(),
        time: Some(writer.now.to_owned()),
    };
    mine.0.insert(manager.clone(), owned);
    mine.strip(&manager);
    if let Some(mut owned) = mine.0.remove(&manager) {
        if let Some(before) = managers.0.get(&manager) {
            owned.set = owned.set.union(&before.set);
        }
        managers.0.insert(manager, owned);
    }
}

fn difference(old: &Value, new: &Value, types: &TypeInfo, writer: &Writer<'_>) -> Difference {
    let found = walk::compare(&types.root, old, new);
    Difference {
        removed: types.written(writer.subresource, found.removed),
        modified: types.written(writer.subresource, found.modified),
        added: types.written(writer.subresource, found.added),
    }
}

/// Fields of one manager that an apply would take.
#[derive(Clone, Debug)]
struct Taken {
    manager: Manager,
    set: FieldSet,
}

fn conflicts_of(taken: &[Taken]) -> Vec<Conflict> {
    let mut conflicts = Vec::new();
    for one in taken {
        one.set.each(&mut |path| {
            conflicts.push(Conflict {
                manager: one.manager.describe(),
                path: path_text(path),
            })
        });
    }
    conflicts.sort();
    conflicts
}

/// Merges a configuration and settles ownership; `Err` names what others own.
fn merged(
    before: &Value,
    applied: &Value,
    force: bool,
    types: &TypeInfo,
    writer: &Writer<'_>,
    mut managers: Managers,
) -> Result<(Value, Managers), Vec<Taken>> {
    let manager = writer.manager(true);
    let root = &types.root;
    let last = managers.0.get(&manager).map(|o| o.set.clone()).unwrap_or_default();
    let last_time = managers.0.get(&manager).and_then(|o| o.time.clone());
    let together = walk::merge(root, Some(before), Some(applied)).unwrap_or_else(empty_object);
    let set = types.written(writer.subresource, walk::field_set(root, applied));
    managers.0.insert(
        manager.clone(),
        Owned {
            set,
            api_version: writer.api_version.to_owned(),
            time: last_time,
        },
    );
    let pruned = if last.is_empty() {
        together
    } else {
        without_abandoned(&together, &last, &managers, types)
    };
    let change = difference(before, &pruned, types, writer);
    let touched = change.modified.union(&change.added);
    let mut taken = Vec::new();
    for (other, owned) in managers.0.iter().filter(|(m, _)| **m != manager) {
        let set = owned.set.intersection(&touched);
        if !set.is_empty() {
            taken.push(Taken {
                manager: other.clone(),
                set,
            });
        }
    }
    if !force && !taken.is_empty() {
        return Err(taken);
    }
    for (other, owned) in managers.0.iter_mut() {
        if *other != manager {
            owned.set = owned.set.difference(&touched).difference(&change.removed);
        }
    }
    managers.0.retain(|_, owned| !owned.set.is_empty());
    Ok((drop_nulls(&pruned, applied), managers))
}

/// Removes what the last configuration owned and neither this one nor anybody else does.
fn without_abandoned(together: &Value, last: &FieldSet, managers: &Managers, types: &TypeInfo) -> Value {
    let root = &types.root;
    let named = |set: &FieldSet| set.with_named_fields(root);
    let owned = managers
        .0
        .values()
        .fold(FieldSet::default(), |all, o| all.union(&o.set));
    let all = named(&walk::field_set(root, together));
    // First everything of the last configuration goes, then what somebody owns comes back.
    let rest = walk::remove(root, together, &named(last));
    let kept = named(&walk::field_set(root, &rest)).union(&named(&owned));
    let kept = walk::remove(root, together, &all.difference(&kept));
    // What stood there without an owner and was not in the last configuration stays.
    let kept = named(&walk::field_set(root, &kept));
    walk::remove(root, together, &all.difference(&kept).intersection(&named(last)))
}

/// Drops the nulls that removal left behind; where the configuration has a null or an
/// empty map or list, that stands instead.
fn drop_nulls(value: &Value, applied: &Value) -> Value {
    let Value::Object(map) = value else {
        return value.clone();
    };
    let kept = map.iter().filter_map(|(key, item)| {
        let wanted = applied.get(key).unwrap_or(&Value::Null);
        if !item.is_null() {
            return Some((key.clone(), drop_nulls(item, wanted)));
        }
        let stands = match wanted {
            Value::Null => applied.get(key).is_some(),
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        stands.then(|| (key.clone(), wanted.clone()))
    });
    Value::Object(kept.collect::<Map<_, _>>())
}

fn empty_object() -> Value {
    Value::Object(Map::new())
}

fn describe(object: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let api_version = text(&object["apiVersion"]);
    let gv = if api_version.contains('/') {
        api_version
    } else {
        format!("/{api_version}")
    };
    let metadata = &object["metadata"];
    format!(
        "{}/{}; {gv}, Kind={}",
        text(&metadata["namespace"]),
        text(&metadata["name"]),
        text(&object["kind"])
    )
}

fn without_managed(object: &Value) -> Value {
    let mut out = object.clone();
    if let Some(metadata) = out.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    out
}

fn set_managed(object: &mut Value, managed: Option<Value>) {
    let Some(root) = object.as_object_mut() else {
        return;
    };
    let metadata = root.entry("metadata").or_insert_with(empty_object);
    if let Some(metadata) = metadata.as_object_mut() {
        match managed {
            Some(managed) => {
                metadata.insert("managedFields".to_owned(), managed);
            }
            None => {
                metadata.shift_remove("managedFields");
            }
        }
    }
}

fn write_managers(object: &mut Value, managers: &Managers) {
    if managers.0.is_empty() && object.get("metadata").is_none() {
        return;
    }
    set_managed(object, managers.encode());
}

/// An empty list, or a list of one empty entry, asks to forget all managers.
fn resets_managers(object: &Value) -> bool {
    match &object["metadata"]["managedFields"] {
        Value::Array(list) => match list.as_slice() {
            [] => true,
            [Value::Object(one)] => one.is_empty(),
            _ => false,
        },
        _ => false,
    }
}

/// Says whether two objects differ in nothing but the times of their managers.
fn unchanged(a: &Value, b: &Value) -> bool {
    let timeless = |object: &Value| -> Value {
        let list = object["metadata"]["managedFields"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.into_iter()
            .map(|mut entry| {
                if let Some(entry) = entry.as_object_mut() {
                    entry.shift_remove("time");
                }
                gofmt::json(&entry)
            })
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect()
    };
    walk::same(&without_managed(a), &without_managed(b)) && timeless(a) == timeless(b)
}

/// Returns the fields that client-side apply wrote and that still stand as it wrote them.
fn last_applied_fields(live: &Value, types: &TypeInfo) -> LastApplied {
    let text = live["metadata"]["annotations"][LAST_APPLIED]
        .as_str()
        .unwrap_or_default();
    let Ok(last) = serde_json::from_str::<Value>(text) else {
        return LastApplied(FieldSet::default());
    };
    if last["apiVersion"] != live["apiVersion"] || fit::check(&types.root, &last).is_err() {
        return LastApplied(FieldSet::default());
    }
    let change = walk::compare(&types.root, &last, live);
    let set = walk::field_set(&types.root, &last);
    LastApplied(
        set.difference(&change.modified)
            .difference(&change.added)
            .difference(&change.removed),
    )
}

struct LastApplied(FieldSet);

impl LastApplied {
    fn covers(&self, set: &FieldSet) -> bool {
        set.difference(&self.0).is_empty()
    }
}

/// Keeps the annotation of client-side apply in step, where there is one.
fn refresh_last_applied(object: &mut Value, applied: &Value) {
    let Some(annotation) = object
        .pointer_mut("/metadata/annotations")
        .and_then(|a| a.get_mut(LAST_APPLIED))
    else {
        return;
    };
    if annotation.as_str().is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(metadata) = applied.get_mut("metadata").and_then(Value::as_object_mut) {
        let emptied = metadata
            .get_mut("annotations")
            .and_then(Value::as_object_mut)
            .is_some_and(|a| {
                a.shift_remove(LAST_APPLIED);
                a.is_empty()
            });
        if emptied {
            metadata.shift_remove("annotations");
        }
    }
    *annotation = Value::String(format!("{}\n", gofmt::json(&applied)));
}

#[cfg(test)]
mod tests;
