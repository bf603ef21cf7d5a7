//! The schemas of what is served, and of what they refer to.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::served::{Dialect, Served};
use crate::admission::builtin::definitions;

/// Collects the schemas of what is served, and of what they refer to.
pub(super) fn schemas(served: &[Served<'_>], dialect: Dialect) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    let mut open: Vec<String> = ["Status", "DeleteOptions", "ListMeta"]
        .map(|k| format!("io.k8s.apimachinery.pkg.apis.meta.v1.{k}"))
        .into();
    for one in served {
        let name = one.definition();
        match one.schema {
            None => open.push(name.clone()),
            Some(schema) => {
                out.insert(name.clone(), custom(one, schema, dialect));
                open.push(definitions::OBJECT_META.to_owned());
            }
        }
        out.insert(format!("{name}List"), list(one, &name, dialect));
    }
    while let Some(name) = open.pop() {
        if out.contains_key(&name) {
            continue;
        }
        let Some(schema) = definitions::get(&name) else {
            continue;
        };
        let written = translate(schema, dialect, &mut open);
        out.insert(name, written);
    }
    out
}

fn reference(name: &str, description: &str, dialect: Dialect) -> Value {
    let target = json!({"$ref": dialect.reference(name)});
    match dialect {
        Dialect::V2 => json!({"$ref": dialect.reference(name), "description": description}),
        Dialect::V3 => json!({"allOf": [target], "default": {}, "description": description}),
    }
}

/// Rewrites references, and in version 2 leaves out what it does not know.
fn translate(schema: &Value, dialect: Dialect, open: &mut Vec<String>) -> Value {
    match schema {
        Value::Object(map) => {
            if let Some(target) = map.get("$ref").and_then(Value::as_str) {
                let name = definitions::ref_name(target);
                open.push(name.to_owned());
                return match map.get("description").and_then(Value::as_str) {
                    Some(description) => reference(name, description, dialect),
                    None => json!({"$ref": dialect.reference(name)}),
                };
            }
            let mut out: Map<String, Value> = map
                .iter()
                .map(|(k, v)| (k.clone(), translate(v, dialect, open)))
                .collect();
            drop_defaulted(&mut out);
            Value::Object(out)
        }
        Value::Array(items) => items.iter().map(|i| translate(i, dialect, open)).collect(),
        other => other.clone(),
    }
}

/// Says in the descriptions of Kubernetes that a field is empty where it is not given.
const DEFAULTED: &str = "effectively required, but due to backwards compatibility is allowed to be empty";

/// Takes out of a type's required fields what kube-apiserver does not ask for: the types that the descriptions come from
/// always hold a value there.
fn drop_defaulted(schema: &mut Map<String, Value>) {
    let Some(Value::Array(mut required)) = schema.remove("required") else {
        return;
    };
    let described = |name: &str| schema.get("properties")?.get(name)?.get("description")?.as_str();
    required.retain(|name| match name.as_str() {
        Some("metadata") => false,
        Some(name) => !described(name).is_some_and(|words| words.contains(DEFAULTED)),
        None => true,
    });
    if !required.is_empty() {
        schema.insert("required".to_owned(), required.into());
    }
}

/// Leaves out what swagger 2 has no word for.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let open = map.get("x-kubernetes-int-or-string").is_some_and(|v| v == true)
                || map.get("nullable").is_some_and(|v| v == true);
            for key in ["anyOf", "oneOf", "allOf", "not", "nullable", "x-kubernetes-validations"] {
                map.shift_remove(key);
            }
            if open {
                map.shift_remove("type");
                map.shift_remove("items");
                map.shift_remove("properties");
            }
            map.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// Says of what is an integer or a string that it is either, in words that every reader of schemas knows.
fn spell_out(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.get("x-kubernetes-int-or-string").is_some_and(|v| v == true) && !map.contains_key("type") {
                map.entry("anyOf")
                    .or_insert_with(|| json!([{"type": "integer"}, {"type": "string"}]));
            }
            map.values_mut().for_each(spell_out);
        }
        Value::Array(items) => items.iter_mut().for_each(spell_out),
        _ => {}
    }
}

/// Publishes a custom resource's schema with the fields that every object has.
fn custom(one: &Served<'_>, schema: &Value, dialect: Dialect) -> Value {
    let mut out = schema.clone();
    if dialect == Dialect::V2 {
        simplify(&mut out);
    } else {
        spell_out(&mut out);
    }
    let Value::Object(map) = &mut out else {
        return out;
    };
    let about = |field: &str| -> Value {
        definitions::get("io.k8s.api.core.v1.ConfigMap")
            .and_then(|d| d.pointer(&format!("/properties/{field}")))
            .cloned()
            .unwrap_or_default()
    };
    let properties = map.entry("properties").or_insert_with(|| Value::Object(Map::new()));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("apiVersion".to_owned(), about("apiVersion"));
        properties.insert("kind".to_owned(), about("kind"));
        let words = about("metadata")["description"].as_str().unwrap_or_default().to_owned();
        properties.insert(
            "metadata".to_owned(),
            reference(definitions::OBJECT_META, &words, dialect),
        );
    }
    map.entry("type").or_insert_with(|| "object".into());
    map.insert("x-kubernetes-group-version-kind".to_owned(), json!([one.gvk()]));
    out
}

fn list(one: &Served<'_>, name: &str, dialect: Dialect) -> Value {
    let kind = format!("{}List", one.kind);
    json!({
        "description": format!("{kind} is a list of {}", one.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of the list's schema."},
            "kind": {"type": "string", "description": "Kind of the list."},
            "metadata": reference(definitions::LIST_META, "Standard list metadata.", dialect),
            "items": {"type": "array", "description": "The objects.", "items": {"$ref": dialect.reference(name)}},
        },
        "x-kubernetes-group-version-kind": [{"group": one.group, "version": one.version, "kind": kind}],
    })
}
