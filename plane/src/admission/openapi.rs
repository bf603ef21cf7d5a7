//! OpenAPI v2 and v3 documents of what is served.
//!
//! They hold what kubectl asks of them: schemas with descriptions (`explain`), and per
//! kind the query parameters of its requests (whether fields are validated by the server).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::builtin::definitions;

/// One resource that is served.
#[derive(Clone, Debug)]
pub struct Served<'a> {
    /// Group; empty for the core group.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Plural resource name.
    pub plural: &'a str,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether there is a status subresource.
    pub status: bool,
    /// `openAPIV3Schema` of a CRD version; `None` for a built-in kind.
    pub schema: Option<&'a Value>,
}

impl Served<'_> {
    /// Returns the path of the group version, e.g. `api/v1` or `apis/batch/v1`.
    pub fn root(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }

    fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Names the definition: the group's labels in reverse, version, kind.
    fn definition(&self) -> String {
        if let Some(name) = definitions::name_of(&self.api_version(), self.kind) {
            return name.to_owned();
        }
        let mut labels: Vec<&str> = self.group.split('.').collect();
        labels.reverse();
        format!("{}.{}.{}", labels.join("."), self.version, self.kind)
    }

    fn gvk(&self) -> Value {
        json!({"group": self.group, "version": self.version, "kind": self.kind})
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Dialect {
    V2,
    V3,
}

impl Dialect {
    fn reference(self, name: &str) -> String {
        match self {
            Self::V2 => format!("#/definitions/{name}"),
            Self::V3 => format!("#/components/schemas/{name}"),
        }
    }
}

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

/// Collects the schemas of what is served, and of what they refer to.
fn schemas(served: &[Served<'_>], dialect: Dialect) -> BTreeMap<String, Value> {
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

fn paths(served: &[Served<'_>], dialect: Dialect) -> BTreeMap<String, Value> {
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
