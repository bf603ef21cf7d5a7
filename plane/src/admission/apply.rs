//! Server-side apply, and who manages which field.
//!
//! What a manager owns is kept in `metadata.managedFields`. An apply merges a
//! configuration into the live object, takes over what it mentions, gives up
//! (and, where nobody else owns it, removes) what it no longer mentions, and
//! refuses to change what somebody else owns unless it is forced. Any other
//! write takes over what it changes.

mod conflict;
mod fieldset;
mod fit;
mod last_applied;
mod managed;
mod record;
mod walk;

use serde_json::{Map, Value};

pub use self::conflict::{Conflict, conflict_message, conflict_status};
use self::conflict::{Taken, conflicts_of};
use self::fieldset::FieldSet;
use self::last_applied::{last_applied_fields, refresh_last_applied};
use self::managed::{Manager, Managers, Owned};
use self::record::{empty_object, resets_managers, set_managed, unchanged, without_managed, write_managers};
use self::walk::Difference;
use super::types::TypeInfo;

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

#[cfg(test)]
mod tests;
