//! JSON values as CEL sees them through a schema.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use kube_cel::cel::objects::{Key, Map};
use kube_cel::cel::{Program, Value as Cel};
use serde_json::Value;

use super::cel::with_scope;
use super::format;
use super::node::{Additional, ListType, Node};

thread_local! {
    static TIMESTAMP: RefCell<Option<Program>> = RefCell::new(Program::compile("timestamp(text)").ok());
    static DURATION: RefCell<Option<Program>> = RefCell::new(Program::compile("duration(text)").ok());
}

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Escapes a property's name as rules must write it; `None` when rules cannot reach it.
pub(super) fn escape(name: &str) -> Option<String> {
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut chars = name.chars();
    if !chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') {
        return None;
    }
    if !chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '/')) {
        return None;
    }
    Some(
        name.replace("__", "__underscores__")
            .replace('.', "__dot__")
            .replace('-', "__dash__")
            .replace('/', "__slash__"),
    )
}

fn map(entries: HashMap<Key, Cel>) -> Cel {
    Cel::Map(Map { map: Arc::new(entries) })
}

fn text(value: &str) -> Cel {
    Cel::String(Arc::new(value.to_owned()))
}

/// Converts a value; `resource` is set at the root of an object and of embedded ones.
pub(super) fn convert(value: &Value, node: Option<&Node>, resource: bool) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(b) => Cel::Bool(*b),
        Value::Number(n) => {
            let float = node.is_some_and(|n| n.kind == "number");
            match (n.as_i64(), n.as_f64()) {
                (Some(i), _) if !float => Cel::Int(i),
                (_, Some(f)) if node.is_some_and(|n| n.kind == "integer") && f.fract() == 0.0 && f.abs() < 9e18 => {
                    Cel::Int(f as i64)
                }
                (_, Some(f)) => Cel::Float(f),
                _ => Cel::Null,
            }
        }
        Value::String(s) => string(s, node),
        Value::Array(items) => {
            let below = node.and_then(|n| n.items.as_deref());
            Cel::List(Arc::new(
                items
                    .iter()
                    .map(|i| convert(i, below, below.is_some_and(|b| b.embedded)))
                    .collect(),
            ))
        }
        Value::Object(object) => {
            let mut entries = HashMap::with_capacity(object.len());
            let is_map = node.is_none_or(|n| matches!(n.additional, Additional::Node(_) | Additional::Any));
            for (key, item) in object {
                let below = node.and_then(|n| n.child(key));
                if resource && key == "metadata" {
                    entries.insert(Key::String(Arc::new(key.clone())), metadata(item));
                    continue;
                }
                let known = is_map
                    || below.is_some()
                    || node.is_some_and(|n| n.preserve)
                    || (resource && matches!(key.as_str(), "apiVersion" | "kind"));
                if !known {
                    continue;
                }
                let name = if is_map { Some(key.clone()) } else { escape(key) };
                if let Some(name) = name {
                    let item = convert(item, below, below.is_some_and(|b| b.embedded));
                    entries.insert(Key::String(Arc::new(name)), item);
                }
            }
            map(entries)
        }
    }
}

/// Rules see only the names in metadata.
fn metadata(value: &Value) -> Cel {
    let mut entries = HashMap::new();
    for key in ["name", "generateName"] {
        if let Some(found) = value.get(key).and_then(Value::as_str) {
            entries.insert(Key::String(Arc::new(key.to_owned())), text(found));
        }
    }
    map(entries)
}

fn call(program: &'static std::thread::LocalKey<RefCell<Option<Program>>>, argument: &str) -> Option<Cel> {
    program.with(|program| {
        let program = program.borrow();
        with_scope(|base| {
            let mut scope = base.new_inner_scope();
            scope.add_variable_from_value("text", argument.to_owned());
            program.as_ref()?.execute(&scope).ok()
        })
    })
}

fn string(value: &str, node: Option<&Node>) -> Cel {
    let format = node
        .filter(|n| n.kind == "string")
        .map(|n| n.format.replace('-', ""))
        .unwrap_or_default();
    let converted = match format.as_str() {
        "byte" => base64::engine::general_purpose::STANDARD
            .decode(value)
            .ok()
            .map(|b| Cel::Bytes(Arc::new(b))),
        "datetime" => call(&TIMESTAMP, value),
        "date" => call(&TIMESTAMP, &format!("{value}T00:00:00Z")),
        "duration" => format::duration_nanos(value).and_then(|_| call(&DURATION, value)),
        _ => None,
    };
    converted.unwrap_or_else(|| text(value))
}

/// Reorders the sets and list maps in `old` as they stand in `new`, so that comparing
/// them ignores order, as it does for the server.
pub(super) fn aligned(node: &Node, new: &Value, old: &Value) -> Value {
    match (new, old) {
        (Value::Array(a), Value::Array(b)) => {
            let below = node.items.as_deref();
            let matches = |x: &Value, y: &Value| match &node.list_type {
                ListType::Atomic => false,
                ListType::Set => x == y,
                ListType::Map(keys) => keys.iter().all(|k| x.get(k) == y.get(k)),
            };
            if node.list_type == ListType::Atomic
                || a.len() != b.len()
                || !a.iter().all(|x| b.iter().any(|y| matches(x, y)))
            {
                return old.clone();
            }
            let order = a.iter().filter_map(|x| {
                let y = b.iter().find(|y| matches(x, y))?;
                Some(below.map_or_else(|| y.clone(), |n| aligned(n, x, y)))
            });
            Value::Array(order.collect())
        }
        (Value::Object(a), Value::Object(b)) => Value::Object(
            b.iter()
                .map(|(key, y)| {
                    let y = match (node.child(key), a.get(key)) {
                        (Some(below), Some(x)) => aligned(below, x, y),
                        _ => y.clone(),
                    };
                    (key.clone(), y)
                })
                .collect(),
        ),
        _ => old.clone(),
    }
}
