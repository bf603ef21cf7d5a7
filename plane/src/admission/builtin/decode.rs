//! Decoding of built-in kinds: unknown fields, wrong types, empty values.

use serde_json::Value;

use super::{definitions, gotime, quantity};
use crate::admission::gofmt;

fn resolve(schema: &Value) -> (&Value, Option<&str>) {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let name = definitions::ref_name(reference);
            (definitions::get(name).unwrap_or(&Value::Null), Some(name))
        }
        None => (schema, None),
    }
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// Says whether a structure takes any field (raw JSON, quantities and the like).
fn is_open(schema: &Value) -> bool {
    schema.get("properties").is_none() && schema.get("additionalProperties").is_none()
}

/// Removes unknown fields and lists their paths.
pub(in crate::admission) fn prune(schema: &Value, value: &mut Value, path: &str, paths: &mut Vec<String>) {
    let (schema, _) = resolve(schema);
    match value {
        Value::Object(map) => {
            if is_open(schema) {
                return;
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties");
            map.retain(|key, item| {
                let at = join(path, key);
                match properties.and_then(|p| p.get(key)).or(additional) {
                    Some(below) => {
                        prune(below, item, &at, paths);
                        true
                    }
                    None => {
                        paths.push(at);
                        false
                    }
                }
            });
        }
        Value::Array(items) => {
            if let Some(below) = schema.get("items") {
                for (i, item) in items.iter_mut().enumerate() {
                    prune(below, item, &format!("{path}[{i}]"), paths);
                }
            }
        }
        _ => {}
    }
}

fn is_quantity(name: &str) -> bool {
    name.ends_with(".Quantity")
}

/// Writes a quantity as the server does; what is none was refused before.
fn write_quantity(value: &mut Value, listed: bool) {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(written) = quantity::canonical(&text, listed) {
        *value = written.into();
    }
}

/// Tells the two types of times apart.
fn is_micro(name: Option<&str>) -> bool {
    name.is_some_and(|name| name.ends_with(".MicroTime"))
}

/// Drops nulls, and empty maps and lists that the kind leaves out when it is written; writes times and
/// quantities as the server does.
pub(super) fn normalize(schema: &Value, value: &mut Value, root: bool) {
    let (schema, name) = resolve(schema);
    if name.is_some_and(is_quantity) {
        write_quantity(value, false);
        return;
    }
    match value {
        Value::String(text) if schema.get("format").is_some_and(|format| format == "date-time") => {
            // What is no time was refused before.
            if let Ok(written) = gotime::canonical(text, is_micro(name)) {
                *text = written;
            }
        }
        Value::Object(map) => {
            if is_open(schema) {
                return;
            }
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties");
            map.retain(|key, item| {
                let Some(below) = properties.and_then(|p| p.get(key)).or(additional) else {
                    return true;
                };
                if item.is_null() {
                    // A null in a map of strings is an empty string to the decoder.
                    if properties.is_none() && resolve(below).0.get("type").is_some_and(|t| t == "string") {
                        *item = "".into();
                        return true;
                    }
                    return false;
                }
                let (target, name) = resolve(below);
                // A map of quantities is a list of resources.
                if properties.is_none() && name.is_some_and(is_quantity) {
                    write_quantity(item, true);
                } else {
                    normalize(below, item, false);
                }
                let kind = target.get("type").and_then(Value::as_str).unwrap_or_default();
                let is_map = target.get("additionalProperties").is_some();
                // Raw documents (schemas of a CRD) say something by being empty.
                let written = item.is_null() || (properties.is_none() && !is_map && kind != "array");
                let empty = match item {
                    Value::Array(list) => list.is_empty() && kind == "array",
                    Value::Object(map) => map.is_empty() && is_map,
                    _ => false,
                };
                written || !empty || (root && key == "metadata")
            });
        }
        Value::Array(items) => {
            if let Some(below) = schema.get("items") {
                for item in items {
                    normalize(below, item, false);
                }
            }
        }
        _ => {}
    }
}

/// Checks JSON types; `Err` is the decoder's message.
pub(super) fn check(name: &str, value: &Value) -> Result<(), String> {
    let schema = definitions::get(name).unwrap_or(&Value::Null);
    check_at(schema, Some(name), value, short(name), "")
}

fn short(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or_default()
}

/// Names a type as Go does.
fn go_type(schema: &Value) -> String {
    let (target, name) = resolve(schema);
    let format = target.get("format").and_then(Value::as_str).unwrap_or_default();
    match (target.get("type").and_then(Value::as_str).unwrap_or_default(), name) {
        ("object", Some(name)) => {
            let mut parts = name.rsplit('.');
            let kind = parts.next().unwrap_or_default();
            format!("{}.{kind}", parts.next().unwrap_or_default())
        }
        ("object", None) => format!(
            "map[string]{}",
            go_type(target.get("additionalProperties").unwrap_or(&Value::Null))
        ),
        ("array", _) => format!("[]{}", go_type(target.get("items").unwrap_or(&Value::Null))),
        ("integer", _) if format == "int32" => "int32".to_owned(),
        ("integer", _) => "int64".to_owned(),
        ("number", _) => "float64".to_owned(),
        ("boolean", _) => "bool".to_owned(),
        ("string", _) if format == "byte" => "[]uint8".to_owned(),
        _ => "string".to_owned(),
    }
}

fn check_at(schema: &Value, name: Option<&str>, value: &Value, owner: &str, path: &str) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    if name.is_some_and(is_quantity) {
        let text = match value {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            _ => String::new(),
        };
        return quantity::canonical(&text, false).map(|_| ()).map_err(str::to_owned);
    }
    // Parts of a schema that are one thing or another, and raw JSON.
    if name.is_some_and(|n| n.ends_with(".JSON") || n.contains("JSONSchemaPropsOr") || n.ends_with(".RawExtension")) {
        return Ok(());
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return match value {
            Value::Number(_) | Value::String(_) => Ok(()),
            _ => Err(format!(
                "json: cannot unmarshal {} into Go value of type string",
                gofmt::json_type(value)
            )),
        };
    }
    let mismatch = || {
        let found = match value {
            Value::Number(n) if n.is_f64() => format!("number {n}"),
            other => gofmt::json_type(other).to_owned(),
        };
        let reference = name.map(|n| serde_json::json!({"$ref": format!("#/{n}")}));
        let wanted = go_type(reference.as_ref().unwrap_or(schema));
        if path.is_empty() {
            format!("json: cannot unmarshal {found} into Go value of type {wanted}")
        } else {
            format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {wanted}")
        }
    };
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    match (schema.get("type").and_then(Value::as_str).unwrap_or_default(), value) {
        ("object", Value::Object(map)) => {
            let owner = name.map_or(owner, short);
            let properties = schema.get("properties").and_then(Value::as_object);
            let additional = schema.get("additionalProperties");
            for (key, item) in map {
                if let Some(below) = properties.and_then(|p| p.get(key)) {
                    let (target, name) = resolve(below);
                    check_at(target, name, item, owner, &join(path, key))?;
                } else if let Some(below) = additional {
                    let (target, name) = resolve(below);
                    check_at(target, name, item, owner, path)?;
                }
            }
            Ok(())
        }
        ("array", Value::Array(items)) => {
            let (target, name) = resolve(schema.get("items").unwrap_or(&Value::Null));
            items
                .iter()
                .try_for_each(|item| check_at(target, name, item, owner, path))
        }
        ("string", Value::String(text)) if format == "date-time" => gotime::canonical(text, is_micro(name)).map(|_| ()),
        ("string", Value::String(text)) if format == "byte" => {
            use base64::Engine as _;
            base64::engine::general_purpose::STANDARD
                .decode(text)
                .map(|_| ())
                .map_err(|error| {
                    let at = match error {
                        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                        _ => text.len() / 4 * 4,
                    };
                    format!("illegal base64 data at input byte {at}")
                })
        }
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) | ("", _) => Ok(()),
        ("integer", Value::Number(n)) => {
            let fits = n
                .as_i64()
                .is_some_and(|i| format != "int32" || i32::try_from(i).is_ok());
            if fits { Ok(()) } else { Err(mismatch()) }
        }
        _ => Err(mismatch()),
    }
}
