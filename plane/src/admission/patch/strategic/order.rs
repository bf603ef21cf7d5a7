//! The order of a list that two lists are merged into.

use std::cmp::Ordering;

use serde_json::Value;

use super::directive::{DIRECTIVE, ORDER};
use super::entry::{internal, key_of, same_entry};
use crate::admission::gofmt;
use crate::admission::patch::error::PatchError;

/// The order must name the patch's entries, in the patch's order.
pub(super) fn check_order(change: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    if change.is_empty() || order.is_empty() {
        return Ok(());
    }
    let kept: Vec<&Value> = change.iter().filter(|v| v.get(DIRECTIVE).is_none()).collect();
    let mut at = 0;
    for entry in order {
        if at < kept.len() && same_entry(kept[at], entry, key)? {
            at += 1;
        }
    }
    if at < kept.len() {
        return internal(format!(
            "The order in patch list:\n{}\n doesn't match {ORDER} list:\n{}\n",
            gofmt::plain(&Value::from(change.to_vec())),
            gofmt::plain(&Value::from(order.to_vec()))
        ));
    }
    Ok(())
}

pub(super) fn place(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    list.iter().position(|other| match key {
        None => other == item,
        Some(key) => other.get(key).is_some() && other.get(key) == item.get(key),
    })
}

/// Sorts entries by `order`, and those that it does not name by where they stood in `before`.
pub(super) fn arranged(
    merged: Vec<Value>,
    order: &[Value],
    before: &[Value],
    key: Option<&str>,
) -> Result<Vec<Value>, PatchError> {
    if let Some(key) = key {
        for item in merged.iter().chain(order).chain(before) {
            key_of(item, key)?;
        }
    }
    let (mut named, mut rest): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|v| place(order, v, key).is_some());
    let by = |list: &[Value], a: &Value, b: &Value| match (place(list, a, key), place(list, b, key)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (None, None) => Ordering::Equal,
    };
    named.sort_by(|a, b| by(order, a, b));
    rest.sort_by(|a, b| by(before, a, b));
    let mut out = Vec::with_capacity(named.len() + rest.len());
    let mut named = named.into_iter().peekable();
    let mut rest = rest.into_iter().peekable();
    while let (Some(other), Some(one)) = (rest.peek(), named.peek()) {
        let first = matches!((place(before, other, key), place(before, one, key)), (Some(o), Some(n)) if o < n);
        out.extend(if first { rest.next() } else { named.next() });
    }
    out.extend(rest);
    out.extend(named);
    Ok(out)
}
