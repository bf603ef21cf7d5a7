//! Manifests in files: `apiVersion`, `kind`, `metadata` and `spec`, checked strictly with places.

use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::document::{Content, Node};
use crate::file_error::{FileError, Place, closest, quote};
use crate::names;
use crate::structural::{self, Checker};
use crate::{GROUP, VERSION, labels};

/// A manifest whose shape is right.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// The whole, without nulls and without defaults.
    pub value: Value,
    /// Where it begins.
    pub at: Place,
    /// Where its name stands.
    pub name_at: Place,
}

impl Manifest {
    /// Reads the manifest as a type; its shape was checked, so that an error here is one of schema and type.
    pub fn read<T: DeserializeOwned>(&self, path: &str) -> Result<T, FileError> {
        serde_json::from_value(self.value.clone())
            .map_err(|error| FileError::new(path, self.at, format!("{} cannot be read: {error}", self.kind)))
    }
}

/// Annotations and labels that only a queue writes.
const RESERVED: [&str; 5] = [
    labels::QUEUE,
    labels::QUEUE_UID,
    labels::SOURCE_PATH,
    labels::SOURCE_REVISION,
    labels::RUN_KEY,
];

/// The mark by which Argo CD knows what it manages, as it stands in a manifest that was read from a cluster. On an object
/// that a queue makes it would make Argo CD delete the object again.
const OF_ARGO_CD: &str = "argocd.argoproj.io/tracking-id";

/// Keys of a manifest beside its spec.
fn metadata_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let texts = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        json!({
            "type": "object",
            "required": ["name"],
            "properties": {
                "name": { "type": "string", "minLength": 1 },
                "namespace": { "type": "string" },
                "labels": texts,
                "annotations": texts,
            }
        })
    })
}

/// Checks one document as a manifest of one of `kinds`; what is wrong goes to the checker.
///
/// `elsewhere` says of other kinds of ours where they belong.
pub fn check(path: &str, node: &Node, kinds: &[&str], elsewhere: &str, checker: &mut Checker<'_>) -> Option<Manifest> {
    let Content::Map(entries) = &node.content else {
        let message = format!("the document is {}", node.describe());
        checker.push(FileError::new(path, node.at, message).expected("a map with apiVersion, kind, metadata and spec"));
        return None;
    };
    let kind = check_kind(path, node, kinds, elsewhere, checker)?;
    check_version(path, node, checker);
    for entry in entries {
        let known = ["apiVersion", "kind", "metadata", "spec"];
        let empty_status = entry.key == "status"
            && match &entry.value.content {
                Content::Map(entries) => entries.is_empty(),
                _ => entry.value.is_null(),
            };
        if known.contains(&entry.key.as_str()) || empty_status {
            continue;
        }
        let error = FileError::new(
            path,
            entry.at,
            format!("unknown key {} in the manifest", quote(&entry.key)),
        );
        let below = structural::spec_of(kind)
            .and_then(|spec| spec.get("properties")?.as_object())
            .is_some_and(|properties| properties.contains_key(&entry.key));
        checker.push(if entry.key == "status" {
            error.suggestion("remove it: only Foreman writes a status")
        } else if below {
            error.suggestion(format!("{:?} belongs at spec.{}", entry.key, entry.key))
        } else if let Some(key) = closest(&entry.key, known) {
            error.suggestion(format!("did you mean {key:?}?"))
        } else {
            error.expected("apiVersion, kind, metadata and spec only")
        });
    }
    let (metadata, name_at) = check_metadata(path, node, checker);
    let spec = match (node.get("spec"), structural::spec_of(kind)) {
        (Some(spec), Some(schema)) => checker.check(spec, schema, "spec"),
        _ => {
            checker.push(FileError::new(path, node.at, format!("the {kind} has no spec")).expected("a map under spec"));
            Value::Null
        }
    };
    let name = metadata
        .get("name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let value = json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": kind, "metadata": metadata, "spec": spec
    });
    Some(Manifest {
        kind: kind.to_owned(),
        name,
        value,
        at: node.at,
        name_at,
    })
}

fn check_kind<'k>(
    path: &str,
    node: &Node,
    kinds: &[&'k str],
    elsewhere: &str,
    checker: &mut Checker<'_>,
) -> Option<&'k str> {
    let expected = kinds.join(" or ");
    let Some(found) = node.get("kind") else {
        checker.push(FileError::new(path, node.at, "the document has no kind").expected(format!("kind: {expected}")));
        return None;
    };
    if let Some(kind) = kinds.iter().find(|kind| found.as_str() == Some(**kind)) {
        return Some(kind);
    }
    let mut error = FileError::new(path, found.at, format!("kind is {}", found.describe())).expected(expected);
    if let Some(word) = found.as_str() {
        if structural::spec_of(word).is_some() {
            error = error.suggestion(elsewhere);
        } else if let Some(kind) = closest(word, kinds.iter().copied()) {
            error = error.suggestion(format!("did you mean {kind:?}?"));
        }
    }
    checker.push(error);
    None
}

fn check_version(path: &str, node: &Node, checker: &mut Checker<'_>) {
    let expected = format!("{GROUP}/{VERSION}");
    match node.get("apiVersion") {
        Some(found) if found.as_str() == Some(&expected) => {}
        Some(found) => {
            let message = format!("apiVersion is {}", found.describe());
            checker.push(FileError::new(path, found.at, message).expected(expected));
        }
        None => {
            let error = FileError::new(path, node.at, "the document has no apiVersion");
            checker.push(error.expected(format!("apiVersion: {expected}")));
        }
    }
}

fn check_metadata(path: &str, node: &Node, checker: &mut Checker<'_>) -> (Value, Place) {
    let Some(metadata) = node.get("metadata") else {
        let error = FileError::new(path, node.at, "the document has no metadata");
        checker.push(error.expected("metadata with a name"));
        return (Value::Null, node.at);
    };
    // Generators print a null creationTimestamp; it says nothing.
    let bare = match &metadata.content {
        Content::Map(entries) => Node {
            at: metadata.at,
            content: Content::Map(
                entries
                    .iter()
                    .filter(|entry| entry.key != "creationTimestamp" || !entry.value.is_null())
                    .cloned()
                    .collect(),
            ),
        },
        _ => metadata.clone(),
    };
    let value = checker.check(&bare, metadata_schema(), "metadata");
    let name_at = metadata.locate(&["name"]);
    if let Some(name) = value
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty())
        && !names::is_object_name(name)
    {
        let error = FileError::new(path, name_at, format!("metadata.name is {}", quote(name)))
            .expected("lower-case letters, digits, hyphens and dots, a letter or digit at both ends, at most 253");
        let slug = names::node_name(name);
        checker.push(error.suggestion(format!("write {slug:?}")));
    }
    for part in ["labels", "annotations"] {
        let Some(Content::Map(entries)) = metadata.get(part).map(|part| &part.content) else {
            continue;
        };
        for entry in entries {
            let advice = match entry.key.as_str() {
                key if RESERVED.contains(&key) => "remove it: only a queue writes it",
                OF_ARGO_CD => "remove it: Argo CD would take the object for its own, and prune it",
                _ => continue,
            };
            let message = format!("metadata.{part} has {}", quote(&entry.key));
            checker.push(FileError::new(path, entry.at, message).suggestion(advice));
        }
    }
    (value, name_at)
}
