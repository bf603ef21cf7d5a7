//! The paths of what is served, with the parameters of their requests.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::served::{Dialect, Served};

pub(super) fn paths(served: &[Served<'_>], dialect: Dialect) -> BTreeMap<String, Value> {
    let mut out = BTreeMap::new();
    for one in served {
        let root = format!("/{}", one.root());
        let scope = if one.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{scope}/{}", one.plural);
        let item = format!("{collection}/{{name}}");
        let operations = |named: bool, verbs: &[&str]| {
            let mut entry: Map<String, Value> = verbs
                .iter()
                .map(|verb| ((*verb).to_owned(), operation(one, verb, named, dialect)))
                .collect();
            let mut parameters = Vec::new();
            for (name, wanted) in [("namespace", one.namespaced), ("name", named)] {
                if wanted {
                    parameters.push(parameter(name, "path", true, dialect));
                }
            }
            entry.insert("parameters".to_owned(), parameters.into());
            Value::Object(entry)
        };
        let together: &[&str] = match (one.group, one.plural) {
            // Namespaces are deleted one by one.
            ("", "namespaces") => &["get", "post"],
            _ => &["get", "post", "delete"],
        };
        out.insert(collection, operations(false, together));
        out.insert(item.clone(), operations(true, &["get", "put", "patch", "delete"]));
        if one.status {
            out.insert(format!("{item}/status"), operations(true, &["get", "put", "patch"]));
        }
        if one.namespaced {
            let all = json!({"get": operation(one, "get", false, dialect), "parameters": []});
            out.insert(format!("{root}/{}", one.plural), all);
        }
    }
    out
}

fn parameter(name: &str, place: &str, required: bool, dialect: Dialect) -> Value {
    let kind = match name {
        "force" | "watch" => "boolean",
        "limit" | "timeoutSeconds" => "integer",
        _ => "string",
    };
    let mut out = json!({"name": name, "in": place});
    if required {
        out["required"] = true.into();
    }
    match dialect {
        Dialect::V2 => {
            out["type"] = kind.into();
            out["uniqueItems"] = true.into();
        }
        Dialect::V3 => out["schema"] = json!({"type": kind, "uniqueItems": true}),
    }
    out
}

fn operation(one: &Served<'_>, verb: &str, named: bool, dialect: Dialect) -> Value {
    let (action, parameters): (&str, &[&str]) = match (verb, named) {
        ("get", true) => ("get", &["pretty"]),
        ("get", false) => (
            "list",
            &[
                "pretty",
                "continue",
                "fieldSelector",
                "labelSelector",
                "limit",
                "resourceVersion",
                "timeoutSeconds",
                "watch",
            ],
        ),
        ("post", _) => ("post", &["pretty", "dryRun", "fieldManager", "fieldValidation"]),
        ("put", _) => ("put", &["pretty", "dryRun", "fieldManager", "fieldValidation"]),
        ("patch", _) => (
            "patch",
            &["pretty", "dryRun", "fieldManager", "fieldValidation", "force"],
        ),
        (_, true) => (
            "delete",
            &["pretty", "dryRun", "gracePeriodSeconds", "propagationPolicy"],
        ),
        (_, false) => (
            "deletecollection",
            &[
                "pretty",
                "dryRun",
                "fieldSelector",
                "labelSelector",
                "propagationPolicy",
            ],
        ),
    };
    let mut parameters: Vec<Value> = parameters
        .iter()
        .map(|p| parameter(p, "query", false, dialect))
        .collect();
    let definition = one.definition();
    let status = "io.k8s.apimachinery.pkg.apis.meta.v1.Status".to_owned();
    let answer = match action {
        "list" => format!("{definition}List"),
        "delete" | "deletecollection" => status,
        _ => definition.clone(),
    };
    let schema = |name: &str| json!({"$ref": dialect.reference(name)});
    let body = match action {
        "post" | "put" => Some(schema(&definition)),
        "patch" => Some(json!({"type": "object"})),
        "delete" | "deletecollection" => Some(schema("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")),
        _ => None,
    };
    let types: &[&str] = match action {
        // kubectl reads here whether a kind takes a strategic merge patch.
        "patch" if one.schema.is_some() => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/apply-patch+yaml",
        ],
        "patch" => &[
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ],
        _ => &["*/*"],
    };
    let mut out = json!({
        "operationId": format!("{action}{}{}{}{}", one.group.replace('.', "-"), one.version, one.kind, if named { "Named" } else { "" }),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": one.gvk(),
    });
    match dialect {
        Dialect::V2 => {
            if let Some(body) = body {
                parameters.push(json!({"name": "body", "in": "body", "required": true, "schema": body}));
            }
            out["consumes"] = json!(types);
            out["produces"] = json!(["application/json"]);
            out["responses"] = json!({"200": {"description": "OK", "schema": schema(&answer)}});
        }
        Dialect::V3 => {
            if let Some(body) = body {
                let content: Map<String, Value> = types
                    .iter()
                    .map(|t| ((*t).to_owned(), json!({"schema": body})))
                    .collect();
                out["requestBody"] = json!({"required": true, "content": content});
            }
            out["responses"] =
                json!({"200": {"description": "OK", "content": {"application/json": {"schema": schema(&answer)}}}});
        }
    }
    out["parameters"] = parameters.into();
    out
}
