//! JSON Schemas for editors: task files and the files of `.foreman/`.

use serde_json::{Map, Value, json};

use crate::front_matter::FrontMatter;
use crate::{GROUP, VERSION, config, structural};

/// Returns every schema with the name of its file.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        (
            "agents.json",
            manifests(
                "Agents and model profiles (.foreman/agents.yaml)",
                &["Agent", "ModelProfile"],
            ),
        ),
        (
            "gate.json",
            document("Gate definition (.foreman/gate.yaml)", closed(config::gate_schema())),
        ),
        (
            "queue.json",
            manifests("Task queue (.foreman/queue.yaml)", &["TaskQueue"]),
        ),
        (
            "task-front-matter.json",
            document("Front matter of a Markdown task file", closed(FrontMatter::schema())),
        ),
        (
            "task-manifest.json",
            manifests("Manifests of a task file", &["AgenticTask", "Workload"]),
        ),
    ]
}

fn document(title: &str, schema: Value) -> Value {
    let mut map = Map::new();
    map.insert("$schema".to_owned(), "http://json-schema.org/draft-07/schema#".into());
    map.insert("title".to_owned(), title.into());
    if let Value::Object(schema) = schema {
        map.extend(schema.into_iter().filter(|(key, _)| key != "title"));
    }
    Value::Object(map)
}

fn manifests(title: &str, kinds: &[&str]) -> Value {
    let mut kinds = kinds.iter().map(|kind| manifest(kind)).collect::<Vec<_>>();
    if kinds.len() == 1 {
        document(title, kinds.remove(0))
    } else {
        document(title, json!({ "oneOf": kinds }))
    }
}

fn manifest(kind: &str) -> Value {
    let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
    json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {
            "apiVersion": { "const": format!("{GROUP}/{VERSION}") },
            "kind": { "const": kind },
            "metadata": {
                "type": "object",
                "additionalProperties": false,
                "required": ["name"],
                "properties": {
                    "name": { "type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$", "maxLength": 253 },
                    "namespace": { "type": "string" },
                    "labels": texts,
                    "annotations": texts,
                },
            },
            "spec": structural::spec_of(kind).map(closed),
        },
    })
}

/// Turns a structural schema into a JSON Schema that knows no other keys.
fn closed(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
            let mut closed = Map::new();
            for (key, value) in map.iter().filter(|(key, _)| !key.starts_with("x-kubernetes-")) {
                let value = match (key.as_str(), value) {
                    // The keys below are names, not words of the schema.
                    ("properties", Value::Object(properties)) => properties
                        .iter()
                        .map(|(name, schema)| (name.clone(), self::closed(schema)))
                        .collect(),
                    ("default" | "enum" | "required", value) => value.clone(),
                    (_, value) => self::closed(value),
                };
                closed.insert(key.clone(), whole(value));
            }
            // What has a default need not be written.
            let properties = closed
                .get("properties")
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default();
            if let Some(Value::Array(required)) = closed.get_mut("required") {
                let has_default = |name: &Value| {
                    name.as_str()
                        .and_then(|name| properties.get(name))
                        .is_some_and(|schema| schema.get("default").is_some())
                };
                required.retain(|name| !has_default(name));
            }
            if closed
                .get("required")
                .and_then(Value::as_array)
                .is_some_and(Vec::is_empty)
            {
                closed.remove("required");
            }
            if !open && closed.contains_key("properties") {
                closed.insert("additionalProperties".to_owned(), Value::Bool(false));
            }
            Value::Object(closed)
        }
        Value::Array(items) => items.iter().map(closed).collect(),
        other => other.clone(),
    }
}

/// Writes a limit such as `1.0` as `1`.
#[allow(clippy::cast_possible_truncation)]
pub fn whole(value: Value) -> Value {
    match value.as_f64() {
        Some(number) if value.is_f64() && number.fract() == 0.0 && number.abs() < 9e15 => json!(number as i64),
        _ => value,
    }
}
