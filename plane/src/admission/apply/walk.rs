//! Walks over typed values: which fields they hold, how two of them differ, their merge.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fieldset::{FieldSet, Scalar, Step};
use crate::admission::gofmt;
use crate::admission::types::{ListType, MapType, Relation, Scalar as ScalarType, Type};

/// A type, narrowed to what a value is.
#[derive(Clone, Copy, PartialEq)]
enum Atom<'a> {
    Scalar(ScalarType),
    Map(Option<&'a MapType>),
    List(Option<&'a ListType>),
}

/// Narrows a type by a value; where they disagree the type stands.
fn narrow<'a>(of: &'a Type, value: &Value) -> Atom<'a> {
    match of {
        Type::Scalar(s) => Atom::Scalar(*s),
        Type::Map(m) => Atom::Map(Some(m)),
        Type::List(l) => Atom::List(Some(l)),
        Type::Any => match value {
            Value::Array(_) => Atom::List(None),
            Value::Object(_) | Value::Null => Atom::Map(None),
            _ => Atom::Scalar(ScalarType::Untyped),
        },
    }
}

fn is_atomic_map(map: Option<&MapType>) -> bool {
    map.is_some_and(|m| m.atomic)
}

fn empty(value: Option<&Value>) -> bool {
    match value {
        Some(Value::Object(m)) => m.is_empty(),
        Some(Value::Array(l)) => l.is_empty(),
        _ => true,
    }
}

/// Tells an entry of a list apart.
pub(super) fn step_of(list: &ListType, item: &Value) -> Result<Step, String> {
    match &list.relation {
        Relation::Atomic => Err("invalid indexing of non-associative list".to_owned()),
        Relation::Set => match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
            scalar => Ok(Step::Value(Scalar(scalar.clone()))),
        },
        Relation::Keys(names) => {
            let map = match item {
                Value::Object(map) => map,
                Value::Null => {
                    return Err("associative list with keys may not have a null element".to_owned());
                }
                _ => {
                    return Err("associative list with keys may not have non-map elements".to_owned());
                }
            };
            let mut keys: Vec<(String, Scalar)> = names
                .iter()
                .filter_map(|name| {
                    let value = map.get(name).or_else(|| list.defaults.get(name))?;
                    Some((name.clone(), Scalar(value.clone())))
                })
                .collect();
            if keys.is_empty() {
                let shown: Vec<String> = names.iter().map(|n| gofmt::quote(n)).collect();
                return Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    shown.join(" ")
                ));
            }
            keys.sort();
            Ok(Step::Key(keys))
        }
    }
}

fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn field_type<'a>(map: Option<&'a MapType>, key: &str) -> &'a Type {
    map.and_then(|m| m.fields.get(key).or(m.element.as_deref()))
        .unwrap_or(&Type::Any)
}

/// Collects every leaf and every list entry that a value mentions.
pub(super) fn field_set(of: &Type, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(of, value, &mut Vec::new(), &mut set);
    set
}

fn collect(of: &Type, value: &Value, path: &mut Vec<Step>, set: &mut FieldSet) {
    match narrow(of, value) {
        Atom::Scalar(_) => set.insert(path),
        Atom::List(list) => {
            let Some(list) = list.filter(|l| l.relation != Relation::Atomic) else {
                set.insert(path);
                return;
            };
            let mut seen: BTreeMap<Step, usize> = BTreeMap::new();
            let entries = items(Some(value));
            for item in entries {
                if let Ok(step) = step_of(list, item) {
                    *seen.entry(step).or_default() += 1;
                }
            }
            for item in entries {
                let Ok(step) = step_of(list, item) else {
                    continue;
                };
                let once = seen.get(&step) == Some(&1);
                path.push(step);
                if once {
                    collect(&list.element, item, path, set);
                }
                set.insert(path);
                path.pop();
            }
        }
        Atom::Map(map) if is_atomic_map(map) => set.insert(path),
        Atom::Map(map) => {
            let Value::Object(object) = value else { return };
            for (key, item) in object {
                path.push(Step::Field(key.clone()));
                collect(field_type(map, key), item, path, set);
                let declared = map.is_some_and(|m| m.fields.contains_key(key));
                if item.is_null() || item.as_object().is_some_and(Map::is_empty) || !declared {
                    set.insert(path);
                }
                path.pop();
            }
        }
    }
}

/// How one value differs from another.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) removed: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) added: FieldSet,
}

/// Compares two values of one type.
pub(super) fn compare(of: &Type, old: &Value, new: &Value) -> Difference {
    let mut out = Difference::default();
    differ(of, Some(old), Some(new), &mut Vec::new(), &mut out);
    out
}

fn differ(of: &Type, old: Option<&Value>, new: Option<&Value>, path: &mut Vec<Step>, out: &mut Difference) {
    let leaf = match (old.map(|v| narrow(of, v)), new.map(|v| narrow(of, v))) {
        (None, None) => return,
        (Some(a), None) => differ_as(a, old, new, path, out),
        (None, Some(b)) => differ_as(b, old, new, path, out),
        (Some(a), Some(b)) if a == b => differ_as(b, old, new, path, out),
        (Some(a), Some(b)) => {
            differ_as(a, old, new, path, out);
            differ_as(b, old, new, path, out)
        }
    };
    if !leaf {
        if old.is_none() {
            out.added.insert(path);
        } else if new.is_none() {
            out.removed.insert(path);
        }
    }
}

fn leaf(old: Option<&Value>, new: Option<&Value>, path: &[Step], out: &mut Difference) -> bool {
    match (old, new) {
        (None, _) => out.added.insert(path),
        (_, None) => out.removed.insert(path),
        (Some(a), Some(b)) if !same(a, b) => out.modified.insert(path),
        _ => {}
    }
    true
}

/// Compares values; numbers by what they count.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            x == y || (x.as_i64().is_none() || y.as_i64().is_none()) && x.as_f64() == y.as_f64()
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| same(a, b)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(k, a)| y.get(k).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

/// Returns whether the node was a leaf.
fn differ_as(
    atom: Atom<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<Step>,
    out: &mut Difference,
) -> bool {
    match atom {
        Atom::Scalar(_) => leaf(old, new, path, out),
        Atom::List(list) => {
            let (left, right) = (items(old), items(new));
            match list {
                Some(list) if list.relation != Relation::Atomic && !(left.is_empty() && right.is_empty()) => {
                    differ_items(list, left, right, path, out);
                    false
                }
                _ => leaf(old, new, path, out),
            }
        }
        Atom::Map(map) => {
            let (left, right) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            if is_atomic_map(map) || (left.is_none_or(Map::is_empty) && right.is_none_or(Map::is_empty)) {
                return leaf(old, new, path, out);
            }
            let keys = left.into_iter().flat_map(Map::keys).chain(
                right
                    .into_iter()
                    .flat_map(Map::keys)
                    .filter(|k| !left.is_some_and(|l| l.contains_key(*k))),
            );
            for key in keys {
                path.push(Step::Field(key.clone()));
                differ(
                    field_type(map, key),
                    left.and_then(|l| l.get(key)),
                    right.and_then(|r| r.get(key)),
                    path,
                    out,
                );
                path.pop();
            }
            false
        }
    }
}

fn differ_items(list: &ListType, old: &[Value], new: &[Value], path: &mut Vec<Step>, out: &mut Difference) {
    let mut entries: BTreeMap<Step, (Vec<&Value>, Vec<&Value>)> = BTreeMap::new();
    for item in old {
        if let Ok(step) = step_of(list, item) {
            entries.entry(step).or_default().0.push(item);
        }
    }
    for item in new {
        if let Ok(step) = step_of(list, item) {
            entries.entry(step).or_default().1.push(item);
        }
    }
    for (step, (left, right)) in entries {
        path.push(step);
        match (left.len(), right.len()) {
            (0..=1, 0..=1) => differ(&list.element, left.first().copied(), right.first().copied(), path, out),
            (2.., 2..) => {
                if left.len() != right.len() || !left.iter().zip(&right).all(|(a, b)| same(a, b)) {
                    out.modified.insert(path);
                }
            }
            (2.., _) => {
                if let Some(item) = right.first() {
                    differ(&list.element, None, Some(item), path, out);
                }
                out.removed.insert(path);
            }
            _ => {
                if let Some(item) = left.first() {
                    differ(&list.element, Some(item), None, path, out);
                }
                out.added.insert(path);
            }
        }
        path.pop();
    }
}

/// Merges `new` into `old`: nothing is removed, and where both say something `new` wins.
pub(super) fn merge(of: &Type, old: Option<&Value>, new: Option<&Value>) -> Option<Value> {
    let chosen = || new.or(old).cloned();
    let atom = match (old, new) {
        (None, None) => return None,
        (Some(old), None) => narrow(of, old),
        (_, Some(new)) => narrow(of, new),
    };
    match atom {
        Atom::Scalar(_) => chosen(),
        Atom::Map(map) => {
            if is_atomic_map(map) || (empty(old) && empty(new)) {
                return chosen();
            }
            let (left, right) = (old.and_then(Value::as_object), new.and_then(Value::as_object));
            let mut out = Map::new();
            for (key, item) in left.into_iter().flatten() {
                if let Some(merged) = merge(field_type(map, key), Some(item), right.and_then(|r| r.get(key))) {
                    out.insert(key.clone(), merged);
                }
            }
            for (key, item) in right.into_iter().flatten() {
                if !left.is_some_and(|l| l.contains_key(key))
                    && let Some(merged) = merge(field_type(map, key), None, Some(item))
                {
                    out.insert(key.clone(), merged);
                }
            }
            (!out.is_empty()).then_some(Value::Object(out))
        }
        Atom::List(list) => match list {
            Some(list) if list.relation != Relation::Atomic && (!empty(old) || !empty(new)) => {
                merge_items(list, items(old), items(new))
            }
            _ => chosen(),
        },
    }
}

/// Merges entries. Shared entries take the order of `new`; those of `old` alone keep their
/// place before the shared one that they preceded.
fn merge_items(list: &ListType, old: &[Value], new: &[Value]) -> Option<Value> {
    let left: Vec<(Step, &Value)> = old
        .iter()
        .filter_map(|v| step_of(list, v).ok().map(|s| (s, v)))
        .collect();
    let right: Vec<(Step, &Value)> = new
        .iter()
        .filter_map(|v| step_of(list, v).ok().map(|s| (s, v)))
        .collect();
    let find = |side: &[(Step, &Value)], step: &Step| -> Option<Value> {
        let mut found = side.iter().filter(|(s, _)| s == step).map(|(_, v)| (*v).clone());
        let first = found.next()?;
        // An entry that stands twice merges with nothing.
        if found.next().is_some() { None } else { Some(first) }
    };
    let in_left = |step: &Step| left.iter().any(|(s, _)| s == step);
    let in_right = |step: &Step| right.iter().any(|(s, _)| s == step);
    let mut shared = right.iter().map(|(s, _)| s).filter(|s| in_left(s));
    let mut next = shared.next();
    let mut taken: Vec<&Step> = Vec::new();
    let mut out = Vec::new();
    let (mut l, mut r) = (0, 0);
    while l < left.len() || r < right.len() {
        if let (Some((ls, _)), Some((rs, rv))) = (left.get(l), right.get(r)) {
            if ls == rs {
                taken.push(ls);
                out.extend(merge(&list.element, find(&left, ls).as_ref(), Some(rv)));
                l += 1;
                r += 1;
                next = shared.next();
                continue;
            }
            if in_right(ls) && next.is_some_and(|n| n != ls) {
                l += 1;
                continue;
            }
        }
        if let Some((ls, lv)) = left.get(l) {
            if !in_right(ls) {
                out.extend(merge(&list.element, Some(lv), None));
                l += 1;
                continue;
            }
            if taken.contains(&ls) {
                l += 1;
            }
        }
        if let Some((rs, rv)) = right.get(r) {
            taken.push(rs);
            out.extend(merge(&list.element, find(&left, rs).as_ref(), Some(rv)));
            r += 1;
            if next == Some(rs) {
                next = shared.next();
            }
        }
    }
    (!out.is_empty()).then_some(Value::Array(out))
}

/// Removes fields and entries; what becomes empty becomes null.
pub(super) fn remove(of: &Type, value: &Value, gone: &FieldSet) -> Value {
    match narrow(of, value) {
        Atom::Scalar(_) => value.clone(),
        Atom::List(list) => {
            let Some(list) = list.filter(|l| l.relation != Relation::Atomic) else {
                return Value::Null;
            };
            let kept: Vec<Value> = items(Some(value))
                .iter()
                .filter_map(|item| {
                    let Ok(step) = step_of(list, item) else {
                        return Some(item.clone());
                    };
                    if gone.has(&step) {
                        return None;
                    }
                    Some(
                        gone.below(&step)
                            .map_or_else(|| item.clone(), |below| remove(&list.element, item, below)),
                    )
                })
                .collect();
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Array(kept)
            }
        }
        Atom::Map(map) => {
            if is_atomic_map(map) {
                return Value::Null;
            }
            let mut kept = Map::new();
            for (key, item) in value.as_object().into_iter().flatten() {
                let step = Step::Field(key.clone());
                if gone.has(&step) {
                    continue;
                }
                let item = gone
                    .below(&step)
                    .map_or_else(|| item.clone(), |below| remove(field_type(map, key), item, below));
                kept.insert(key.clone(), item);
            }
            if kept.is_empty() {
                Value::Null
            } else {
                Value::Object(kept)
            }
        }
    }
}
