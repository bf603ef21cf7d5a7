//! OpenAPI v2 and v3 documents of what is served.
//!
//! They hold what kubectl asks of them: schemas with descriptions (`explain`), and per
//! kind the query parameters of its requests (whether fields are validated by the server).

mod paths;
mod schemas;
mod served;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use self::paths::paths;
use self::schemas::schemas;
use self::served::Dialect;
pub use self::served::Served;

fn info() -> Value {
    json!({"title": "Kubernetes", "version": "v1.34.4"})
}

/// Builds `/openapi/v2`.
pub fn v2(served: &[Served<'_>]) -> Value {
    json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths(served, Dialect::V2),
        "definitions": schemas(served, Dialect::V2),
    })
}

/// Builds the index `/openapi/v3`: where each group version's document is found.
pub fn v3_index(served: &[Served<'_>]) -> Value {
    let mut index = BTreeMap::new();
    for one in served {
        let root = one.root();
        if index.contains_key(&root) {
            continue;
        }
        let document = v3_group_version(&root, served).unwrap_or(Value::Null);
        let hash = hex::encode_upper(Sha256::digest(document.to_string()));
        index.insert(
            root.clone(),
            json!({"serverRelativeURL": format!("/openapi/v3/{root}?hash={hash}")}),
        );
    }
    json!({"paths": index})
}

/// Builds the document of one group version, e.g. `api/v1` or `apis/batch/v1`.
pub fn v3_group_version(path: &str, served: &[Served<'_>]) -> Option<Value> {
    let mine: Vec<Served<'_>> = served.iter().filter(|s| s.root() == path).cloned().collect();
    if mine.is_empty() {
        return None;
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths(&mine, Dialect::V3),
        "components": {"schemas": schemas(&mine, Dialect::V3)},
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn served(schema: &Value) -> Vec<Served<'_>> {
        let builtin = |group, version, kind, plural| Served {
            group,
            version,
            kind,
            plural,
            namespaced: true,
            status: false,
            schema: None,
        };
        vec![
            builtin("", "v1", "Pod", "pods"),
            builtin("", "v1", "ConfigMap", "configmaps"),
            builtin("batch", "v1", "Job", "jobs"),
            Served {
                group: "example.com",
                version: "v1",
                kind: "Widget",
                plural: "widgets",
                namespaced: true,
                status: true,
                schema: Some(schema),
            },
        ]
    }

    fn widget() -> Value {
        json!({"type": "object", "description": "A widget.", "properties": {"spec": {"type": "object", "nullable": true, "properties": {"size": {"type": "integer", "description": "How large."}, "port": {"x-kubernetes-int-or-string": true}}}}})
    }

    fn dangling(document: &Value, at: &Value, out: &mut Vec<String>) {
        match at {
            Value::Object(map) => {
                if let Some(Value::String(target)) = map.get("$ref")
                    && document.pointer(target.trim_start_matches('#')).is_none()
                {
                    out.push(target.clone());
                }
                map.values().for_each(|v| dangling(document, v, out));
            }
            Value::Array(items) => items.iter().for_each(|v| dangling(document, v, out)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_has_its_definition() {
        let schema = widget();
        let served = served(&schema);
        let mut documents = vec![v2(&served)];
        for root in ["api/v1", "apis/batch/v1", "apis/example.com/v1"] {
            documents.push(v3_group_version(root, &served).unwrap());
        }
        for document in &documents {
            let mut missing = Vec::new();
            dangling(document, document, &mut missing);
            assert_eq!(missing, Vec::<String>::new());
        }
        assert_eq!(v3_group_version("apis/nothing/v1", &served), None);
    }

    #[test]
    fn custom_resources_are_described_with_their_own_words() {
        let schema = widget();
        let document = v3_group_version("apis/example.com/v1", &served(&schema)).unwrap();
        let widget = &document["components"]["schemas"]["com.example.v1.Widget"];
        assert_eq!(
            widget["properties"]["spec"]["properties"]["size"]["description"],
            "How large."
        );
        assert_eq!(
            widget["properties"]["spec"]["properties"]["port"]["anyOf"],
            json!([{"type": "integer"}, {"type": "string"}])
        );
        assert_eq!(widget["x-kubernetes-group-version-kind"][0]["kind"], "Widget");
        let patch = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
        assert!(
            patch["parameters"]
                .as_array()
                .unwrap()
                .iter()
                .any(|p| p["name"] == "fieldValidation")
        );
        assert!(
            document["paths"]
                .get("/apis/example.com/v1/namespaces/{namespace}/widgets/{name}/status")
                .is_some()
        );
        assert_eq!(
            v2(&served(&schema))["definitions"]["com.example.v1.Widget"]["properties"]["spec"].get("nullable"),
            None
        );
    }

    #[test]
    fn the_index_changes_when_a_schema_does() {
        let (one, mut two) = (widget(), widget());
        two["description"] = json!("Another widget.");
        let (a, b) = (v3_index(&served(&one)), v3_index(&served(&two)));
        assert_eq!(a["paths"]["api/v1"], b["paths"]["api/v1"]);
        assert_ne!(a["paths"]["apis/example.com/v1"], b["paths"]["apis/example.com/v1"]);
    }
}
