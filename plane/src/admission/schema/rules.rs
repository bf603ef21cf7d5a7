//! Running CEL rules on an object.

use kube_cel::cel::{ExecutionError, Value as Cel};
use serde_json::Value;

use super::cel::{PATTERN, Spent, begin_object, optional, with_scope};
use super::celvalue::{aligned, convert};
use super::correlate;
use super::node::Node;
use crate::admission::error::{ErrorKind, FieldError};

fn join(path: &str, child: &str) -> String {
    match (path, child) {
        ("", child) => child.to_owned(),
        (path, "") => path.to_owned(),
        (path, child) => format!("{path}.{child}"),
    }
}

/// What rules found.
#[derive(Default)]
struct Found {
    errors: Vec<FieldError>,
    /// Failures in what did not change.
    forgiven: Vec<FieldError>,
    /// Set once too much was spent: no rule is run any more.
    stopped: bool,
}

/// A value and the old one it correlates with.
#[derive(Clone, Copy)]
struct Pair<'a> {
    node: &'a Node,
    new: &'a Value,
    old: &'a Value,
}

impl Pair<'_> {
    fn unchanged(&self) -> bool {
        correlate::equal(Some(self.node), self.new, self.old)
    }
}

/// What decides whether an error is forgiven because nothing changed.
#[derive(Clone, Copy, Default)]
struct Ratchet<'a> {
    current: Option<Pair<'a>>,
    parent: Option<Pair<'a>>,
}

impl<'a> Ratchet<'a> {
    fn forgives(&self) -> bool {
        self.current.or(self.parent).is_some_and(|p| p.unchanged())
    }

    fn below(self, pair: Option<Pair<'a>>) -> Self {
        if self.current.is_none() {
            self
        } else {
            Self {
                current: pair,
                parent: self.current,
            }
        }
    }
}

/// Runs every rule of `root` on `new`, and on its transition from `old`.
pub(super) fn validate(root: &Node, new: &Value, old: Option<&Value>, warnings: &mut Vec<String>) -> Vec<FieldError> {
    let mut found = Found::default();
    let current = old.map(|old| Pair { node: root, new, old });
    let ratchet = Ratchet { current, parent: None };
    begin_object();
    walk(root, new, old, ratchet, "", true, &mut found);
    warnings.extend(found.forgiven.iter().map(ToString::to_string));
    found.errors
}

fn walk<'a>(
    node: &'a Node,
    new: &'a Value,
    old: Option<&'a Value>,
    ratchet: Ratchet<'a>,
    path: &str,
    resource: bool,
    found: &mut Found,
) {
    if new.is_null() || !node.has_rules() || found.stopped {
        return;
    }
    let old = old.filter(|o| !o.is_null());
    if !node.rules.is_empty() {
        evaluate(node, new, old, ratchet, path, resource, found);
    }
    match new {
        Value::Array(items) => {
            let Some(below) = node.items.as_deref() else {
                return;
            };
            for (i, item) in items.iter().enumerate() {
                let before = correlate::entry(node, old, item);
                let ratchet_before = ratchet.current.and_then(|p| correlate::entry(node, Some(p.old), item));
                let pair = ratchet_before.map(|old| Pair {
                    node: below,
                    new: item,
                    old,
                });
                walk(
                    below,
                    item,
                    before,
                    ratchet.below(pair),
                    &format!("{path}[{i}]"),
                    below.embedded,
                    found,
                );
            }
        }
        Value::Object(map) => {
            for (key, item) in map {
                let Some(below) = node.child(key) else {
                    continue;
                };
                let before = correlate::key(old, key);
                let at = if node.properties.contains_key(key) {
                    join(path, key)
                } else {
                    format!("{path}[{key}]")
                };
                let root_type =
                    ratchet.parent.is_none() && path.is_empty() && matches!(key.as_str(), "apiVersion" | "kind");
                let below_ratchet = if root_type {
                    Ratchet::default()
                } else {
                    let pair = ratchet.current.and_then(|p| correlate::key(Some(p.old), key));
                    ratchet.below(pair.map(|old| Pair {
                        node: below,
                        new: item,
                        old,
                    }))
                };
                walk(below, item, before, below_ratchet, &at, below.embedded, found);
            }
        }
        _ => {}
    }
}

fn evaluate(
    node: &Node,
    new: &Value,
    old: Option<&Value>,
    ratchet: Ratchet<'_>,
    path: &str,
    resource: bool,
    found: &mut Found,
) {
    let this = convert(new, Some(node), resource);
    let needs_old = node.rules.iter().any(|r| r.transition);
    let before = old
        .filter(|_| needs_old)
        .map(|o| convert(&aligned(node, new, o), Some(node), resource));
    with_scope(|base| {
        for rule in &node.rules {
            if rule.transition && before.is_none() && !rule.optional_old {
                continue;
            }
            let mut scope = base.new_inner_scope();
            scope.add_variable_from_value("self", this.clone());
            if rule.optional_old {
                scope.add_variable_from_value("oldSelf", optional(before.clone()));
            } else if let Some(before) = &before {
                scope.add_variable_from_value("oldSelf", before.clone());
            }
            let shown = Value::from(node.kind.as_str());
            let result = match rule.program.execute(&scope) {
                Ok(result) => result,
                Err(spent) => {
                    found.stopped = true;
                    found
                        .errors
                        .push(FieldError::invalid(path, shown, spent_words(spent, rule.words())));
                    return;
                }
            };
            match result {
                Ok(Cel::Bool(true)) => {}
                Ok(Cel::Bool(false)) => {
                    let message = match rule.message_program.as_ref().map(|p| p.execute(&scope)) {
                        Some(Ok(Ok(Cel::String(text)))) if !text.trim().is_empty() && !text.contains('\n') => {
                            text.trim().to_owned()
                        }
                        _ => rule.default_message(),
                    };
                    let kind = match rule.reason.as_str() {
                        "FieldValueForbidden" => ErrorKind::Forbidden,
                        "FieldValueRequired" => ErrorKind::Required,
                        "FieldValueDuplicate" => ErrorKind::Duplicate,
                        _ => ErrorKind::Invalid,
                    };
                    let detail = if kind == ErrorKind::Duplicate {
                        String::new()
                    } else {
                        message
                    };
                    let error = FieldError::new(join(path, &rule.field_path), kind, Some(shown), detail);
                    let forgiven = !rule.transition && ratchet.forgives();
                    if forgiven {
                        &mut found.forgiven
                    } else {
                        &mut found.errors
                    }
                    .push(error);
                }
                Ok(other) => found.errors.push(FieldError::invalid(
                    path,
                    shown,
                    format!("rule must evaluate to bool, not {}: {}", other.type_of(), rule.words()),
                )),
                Err(error) => found
                    .errors
                    .push(FieldError::invalid(path, shown, failure(&error, rule.words()))),
            }
        }
    });
}

fn spent_words(spent: Spent, words: &str) -> String {
    match spent {
        Spent::Rule => {
            format!("no further validation rules will be run due to call cost exceeds limit for rule: {words}")
        }
        Spent::Object => {
            "validation failed due to running out of cost budget, no further validation rules will be run".to_owned()
        }
    }
}

fn failure(error: &ExecutionError, words: &str) -> String {
    match error {
        ExecutionError::NoSuchOverload => {
            format!(
                "'no such overload': call arguments did not match a supported operator, function or macro signature for rule: {words}"
            )
        }
        ExecutionError::FunctionError { function, message } if function == PATTERN => {
            format!("{message} evaluating rule: {words}")
        }
        ExecutionError::NoSuchKey(key) => format!("no such key: {key} evaluating rule: {words}"),
        ExecutionError::IndexOutOfBounds(Cel::Int(i)) => {
            format!("index out of bounds: {i} evaluating rule: {words}")
        }
        ExecutionError::DivisionByZero(_) => format!("division by zero evaluating rule: {words}"),
        ExecutionError::RemainderByZero(_) => format!("modulus by zero evaluating rule: {words}"),
        ExecutionError::Overflow(..) => format!("integer overflow evaluating rule: {words}"),
        other => format!("{other} evaluating rule: {words}"),
    }
}
