//! List and map topology, shared by strategic merge and apply.

use std::collections::{BTreeMap, HashMap};
use std::sync::{LazyLock, Mutex, PoisonError};

use serde_json::{Value, json};

use super::builtin::definitions;
use super::schema::Structural;
use super::schema::node::{self, Additional, Node};

/// What a scalar may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// An integer or a float.
    Number,
    /// A string.
    Text,
    /// A boolean.
    Bool,
    /// Any of them.
    Untyped,
}

/// A map or structure.
#[derive(Clone, Debug, PartialEq)]
pub struct MapType {
    /// Declared fields.
    pub fields: BTreeMap<String, Type>,
    /// Type of all other fields; without one they are not declared.
    pub element: Option<Box<Type>>,
    /// Whether it is one value.
    pub atomic: bool,
}

/// How entries of a list are told apart by apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Relation {
    /// They are not: the list is one value.
    Atomic,
    /// By value.
    Set,
    /// By these keys.
    Keys(Vec<String>),
}

/// What a strategic merge patch does to a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Replaces it.
    Replace,
    /// Merges scalars.
    Values,
    /// Merges maps by this key.
    Key(String),
}

/// A list.
#[derive(Clone, Debug, PartialEq)]
pub struct ListType {
    /// Type of entries.
    pub element: Box<Type>,
    /// Topology for apply.
    pub relation: Relation,
    /// Values of keys that an entry leaves out.
    pub defaults: BTreeMap<String, Value>,
    /// Topology for strategic merge.
    pub strategy: Strategy,
}

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// A scalar.
    Scalar(Scalar),
    /// A map or structure.
    Map(MapType),
    /// A list.
    List(ListType),
    /// Anything: maps merge, lists are single values.
    Any,
}

static ANY: Type = Type::Any;

impl Type {
    /// Returns the type of a field.
    pub fn field(&self, name: &str) -> &Type {
        match self {
            Type::Map(map) => map.fields.get(name).or(map.element.as_deref()).unwrap_or(&ANY),
            _ => &ANY,
        }
    }

    /// Returns the type of entries.
    pub fn element(&self) -> &Type {
        match self {
            Type::List(list) => &list.element,
            Type::Map(map) => map.element.as_deref().unwrap_or(&ANY),
            _ => &ANY,
        }
    }

    /// Says whether a field is declared by name.
    pub fn declares(&self, name: &str) -> bool {
        matches!(self, Type::Map(map) if map.fields.contains_key(name))
    }
}

/// Which fields a writer cannot change, by subresource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Resets {
    /// Fields that the object itself does not write.
    pub(super) object: Vec<Vec<&'static str>>,
    /// Fields that the status subresource does not write; `None`: only `status` is written.
    pub(super) status: Option<Vec<Vec<&'static str>>>,
}

/// How lists and maps of one kind merge.
#[derive(Clone, Debug)]
pub struct TypeInfo {
    pub(super) root: Type,
    pub(super) resets: Resets,
    /// What an object of the kind holds before anybody wrote to it.
    pub(super) blank: Value,
}

impl TypeInfo {
    /// Finds the description of a built-in kind, e.g. `("batch/v1", "Job")`.
    pub fn builtin(api_version: &str, kind: &str) -> Option<&'static TypeInfo> {
        static CACHE: LazyLock<Mutex<HashMap<&'static str, &'static TypeInfo>>> = LazyLock::new(Mutex::default);
        let name = definitions::name_of(api_version, kind)?;
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = cache.get(name) {
            return Some(found);
        }
        let root = from_definition(name, &mut Vec::new());
        let status = || vec![vec!["status"]];
        let resets = match kind {
            "Pod" => Resets {
                object: status(),
                status: Some(vec![
                    vec!["spec"],
                    vec!["metadata", "deletionTimestamp"],
                    vec!["metadata", "ownerReferences"],
                ]),
            },
            "Job" | "Namespace" | "PersistentVolumeClaim" => Resets {
                object: status(),
                status: Some(vec![vec!["spec"]]),
            },
            "CustomResourceDefinition" => Resets {
                object: status(),
                status: Some(vec![vec!["spec"], vec!["metadata"]]),
            },
            _ => Resets::default(),
        };
        // One description per built-in kind, kept for the life of the process.
        let found: &'static TypeInfo = Box::leak(Box::new(TypeInfo {
            root,
            resets,
            blank: blank(api_version, kind),
        }));
        cache.insert(name, found);
        Some(found)
    }

    /// Derives the description of a custom resource from its schema.
    ///
    /// `status`: whether the CRD version has a status subresource, which keeps the
    /// object's own writers out of `status`.
    pub fn from_structural(schema: &Structural, status: bool) -> TypeInfo {
        let mut root = match from_node(schema.root()) {
            Type::Map(map) => Type::Map(map),
            // Nothing is said of the fields, but metadata are what they are everywhere.
            _ => Type::Map(MapType {
                fields: BTreeMap::new(),
                element: Some(Box::new(Type::Any)),
                atomic: false,
            }),
        };
        if let Type::Map(map) = &mut root {
            for key in ["apiVersion", "kind"] {
                map.fields.insert(key.to_owned(), Type::Scalar(Scalar::Text));
            }
            map.fields.insert("metadata".to_owned(), metadata().clone());
        }
        let resets = if status {
            Resets {
                object: vec![vec!["status"]],
                status: None,
            }
        } else {
            Resets::default()
        };
        TypeInfo {
            root,
            resets,
            blank: json!({}),
        }
    }

    /// Returns the type of the whole object.
    pub fn root(&self) -> &Type {
        &self.root
    }
}

/// Structures that every object of a built-in kind has, so that nobody owns them.
fn blank(api_version: &str, kind: &str) -> Value {
    match kind {
        "Event" if api_version != "v1" => json!({
            "metadata": {}, "regarding": {}, "deprecatedSource": {}, "eventTime": null,
            "deprecatedFirstTimestamp": null, "deprecatedLastTimestamp": null,
        }),
        "Pod" => json!({"metadata": {}, "spec": {"containers": null}, "status": {}}),
        "Job" => {
            json!({"metadata": {}, "spec": {"template": {"metadata": {}, "spec": {"containers": null}}}, "status": {}})
        }
        "Namespace" => json!({"metadata": {}, "spec": {}, "status": {}}),
        "PersistentVolumeClaim" => json!({"metadata": {}, "spec": {"resources": {}}, "status": {}}),
        "Event" => json!({
            "metadata": {}, "involvedObject": {}, "source": {}, "eventTime": null, "firstTimestamp": null,
            "lastTimestamp": null, "reportingComponent": "", "reportingInstance": "",
        }),
        "Lease" | "SelfSubjectAccessReview" => json!({"metadata": {}, "spec": {}}),
        "CustomResourceDefinition" => {
            json!({"metadata": {}, "spec": {"names": {}, "versions": null}, "status": {"acceptedNames": {"plural": "", "kind": ""}, "conditions": null, "storedVersions": null}})
        }
        _ => json!({"metadata": {}}),
    }
}

fn metadata() -> &'static Type {
    static METADATA: LazyLock<Type> = LazyLock::new(|| from_definition(definitions::OBJECT_META, &mut Vec::new()));
    &METADATA
}

fn from_definition(name: &str, above: &mut Vec<String>) -> Type {
    let Some(schema) = definitions::get(name) else {
        return Type::Any;
    };
    if above.iter().any(|n| n == name) {
        return Type::Any;
    }
    above.push(name.to_owned());
    let found = from_schema(schema, above);
    above.pop();
    found
}

/// Reads a built-in schema, with the topology that `definitions` wrote into it.
fn from_schema(schema: &Value, above: &mut Vec<String>) -> Type {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let mut found = from_definition(definitions::ref_name(reference), above);
        if let (Type::Map(map), Some("atomic")) =
            (&mut found, schema.get("x-kubernetes-map-type").and_then(Value::as_str))
        {
            map.atomic = true;
        }
        return found;
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return Type::Scalar(Scalar::Untyped);
    }
    let atomic = schema.get("x-kubernetes-map-type").is_some_and(|t| t == "atomic");
    match schema.get("type").and_then(Value::as_str).unwrap_or_default() {
        "string" if schema.get("format").is_some_and(|f| f == "date-time") => Type::Scalar(Scalar::Untyped),
        "string" => Type::Scalar(Scalar::Text),
        "integer" | "number" => Type::Scalar(Scalar::Number),
        "boolean" => Type::Scalar(Scalar::Bool),
        "array" => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            let keys = || -> Vec<String> {
                schema
                    .get("x-kubernetes-list-map-keys")
                    .and_then(Value::as_array)
                    .map(|l| l.iter().filter_map(Value::as_str).map(str::to_owned).collect())
                    .unwrap_or_default()
            };
            let relation = match schema.get("x-kubernetes-list-type").and_then(Value::as_str) {
                Some("map") => Relation::Keys(keys()),
                Some("set") => Relation::Set,
                _ => Relation::Atomic,
            };
            let merges = schema
                .get("x-kubernetes-patch-strategy")
                .and_then(Value::as_str)
                .is_some_and(|s| s.split(',').any(|s| s == "merge"));
            let strategy = match schema.get("x-kubernetes-patch-merge-key").and_then(Value::as_str) {
                Some(key) if merges => Strategy::Key(key.to_owned()),
                _ if merges => Strategy::Values,
                _ => Strategy::Replace,
            };
            let element = from_schema(items, above);
            let entry = items
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|r| definitions::get(definitions::ref_name(r)))
                .unwrap_or(items);
            let mut defaults = BTreeMap::new();
            if let Relation::Keys(keys) = &relation {
                for key in keys {
                    if let Some(default) = entry.pointer(&format!("/properties/{key}/default")) {
                        defaults.insert(key.clone(), default.clone());
                    }
                }
            }
            Type::List(ListType {
                element: Box::new(element),
                relation,
                defaults,
                strategy,
            })
        }
        "object" => {
            let fields: BTreeMap<String, Type> = schema
                .get("properties")
                .and_then(Value::as_object)
                .map(|p| p.iter().map(|(k, v)| (k.clone(), from_schema(v, above))).collect())
                .unwrap_or_default();
            let element = schema
                .get("additionalProperties")
                .filter(|a| a.is_object())
                .map(|a| Box::new(from_schema(a, above)));
            if fields.is_empty() && element.is_none() && !atomic {
                return Type::Any;
            }
            Type::Map(MapType {
                fields,
                element,
                atomic,
            })
        }
        _ => Type::Any,
    }
}

fn from_node(node: &Node) -> Type {
    if node.int_or_string {
        return Type::Scalar(Scalar::Untyped);
    }
    match node.kind.as_str() {
        "string" => Type::Scalar(Scalar::Text),
        "integer" | "number" => Type::Scalar(Scalar::Number),
        "boolean" => Type::Scalar(Scalar::Bool),
        "array" => {
            let relation = match &node.list_type {
                node::ListType::Atomic => Relation::Atomic,
                node::ListType::Set => Relation::Set,
                node::ListType::Map(keys) => Relation::Keys(keys.clone()),
            };
            let mut defaults = BTreeMap::new();
            if let (Relation::Keys(keys), Some(items)) = (&relation, &node.items) {
                for key in keys {
                    if let Some(default) = items.properties.get(key).and_then(|p| p.default.clone()) {
                        defaults.insert(key.clone(), default);
                    }
                }
            }
            let element = node.items.as_deref().map_or(Type::Any, from_node);
            Type::List(ListType {
                element: Box::new(element),
                relation,
                defaults,
                strategy: Strategy::Replace,
            })
        }
        "object" => {
            let mut fields: BTreeMap<String, Type> =
                node.properties.iter().map(|(k, v)| (k.clone(), from_node(v))).collect();
            if node.embedded {
                for key in ["apiVersion", "kind"] {
                    fields.insert(key.to_owned(), Type::Scalar(Scalar::Text));
                }
                fields.insert("metadata".to_owned(), metadata().clone());
            }
            let element = match &node.additional {
                Additional::Node(child) => Some(Box::new(from_node(child))),
                Additional::Any => Some(Box::new(Type::Any)),
                Additional::None if node.preserve => Some(Box::new(Type::Any)),
                Additional::None | Additional::Forbidden => None,
            };
            if fields.is_empty() && element.is_none() && !node.map_atomic {
                return Type::Any;
            }
            Type::Map(MapType {
                fields,
                element,
                atomic: node.map_atomic,
            })
        }
        _ => Type::Any,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn at<'a>(mut t: &'a Type, path: &[&str]) -> &'a Type {
        for name in path {
            t = if *name == "[]" { t.element() } else { t.field(name) };
        }
        t
    }

    #[test]
    fn built_in_kinds_know_their_lists() {
        let pod = TypeInfo::builtin("v1", "Pod").unwrap().root();
        let Type::List(ports) = at(pod, &["spec", "containers", "[]", "ports"]) else {
            panic!("ports is a list")
        };
        assert_eq!(
            ports.relation,
            Relation::Keys(vec!["containerPort".into(), "protocol".into()])
        );
        assert_eq!(ports.strategy, Strategy::Key("containerPort".into()));
        assert_eq!(ports.defaults.get("protocol"), Some(&json!("TCP")));
        let Type::List(finalizers) = at(pod, &["metadata", "finalizers"]) else {
            panic!("finalizers is a list")
        };
        assert_eq!(
            (&finalizers.relation, &finalizers.strategy),
            (&Relation::Set, &Strategy::Values)
        );
        let Type::List(tolerations) = at(pod, &["spec", "tolerations"]) else {
            panic!("tolerations is a list")
        };
        assert_eq!(tolerations.relation, Relation::Atomic);
        let Type::Map(reference) = at(pod, &["spec", "imagePullSecrets", "[]"]) else {
            panic!("an entry is a map")
        };
        assert!(reference.atomic);
        let job = TypeInfo::builtin("batch/v1", "Job").unwrap().root();
        assert!(
            matches!(at(job, &["spec", "template", "spec", "volumes"]), Type::List(l) if l.strategy == Strategy::Key("name".into()))
        );
        let Type::Map(selector) = at(pod, &["spec", "nodeSelector"]) else {
            panic!("nodeSelector is a map")
        };
        assert!(selector.atomic);
        assert!(TypeInfo::builtin("v1", "Service").is_none());
    }
}
