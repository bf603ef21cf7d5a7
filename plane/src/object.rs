//! Reading and writing the parts of an object that the API itself owns.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::storage::{Document, Entry};

/// Stored bytes that are no object.
#[derive(Debug, thiserror::Error)]
#[error("failed to read the stored object {key} back: {source}")]
pub struct Unreadable {
    /// The object's key.
    pub key: Arc<str>,
    /// The cause.
    pub source: serde_json::Error,
}

/// The metadata that selectors and the collector need, read without the rest of the object.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// The object's name.
    pub name: String,
    /// The object's namespace, empty for cluster-scoped kinds.
    pub namespace: String,
    /// The object's identity.
    pub uid: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// When deletion was asked for.
    pub deletion_timestamp: Option<String>,
    /// What still has to happen before the object goes away.
    pub finalizers: Vec<String>,
    /// The owners.
    pub owner_references: Vec<Owner>,
}

/// A reference to an owner.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// The owner's API version.
    pub api_version: String,
    /// The owner's kind.
    pub kind: String,
    /// The owner's name.
    pub name: String,
    /// The owner's identity.
    pub uid: String,
    /// Whether the owner's foreground deletion waits for this object.
    pub block_owner_deletion: bool,
}

#[derive(Deserialize)]
struct Partial {
    #[serde(default)]
    metadata: Meta,
}

/// Reads the metadata of a stored object.
pub fn meta_of(entry: &Entry) -> Result<Meta, Unreadable> {
    read_as::<Partial>(entry).map(|partial| partial.metadata)
}

/// Reads a stored object back into a value.
pub fn read(entry: &Entry) -> Result<Value, Unreadable> {
    read_as(entry)
}

fn read_as<T: DeserializeOwned>(entry: &Entry) -> Result<T, Unreadable> {
    serde_json::from_slice(&entry.bytes).map_err(|source| Unreadable {
        key: Arc::clone(&entry.key),
        source,
    })
}

/// Returns a string field of the metadata, or an empty string.
pub fn meta_str<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get("metadata")
        .and_then(|metadata| metadata.get(field))
        .and_then(Value::as_str)
        .unwrap_or("")
}

/// Returns the metadata as a map, making it if it is missing or no object.
pub fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    map_mut(object, "metadata")
}

/// Returns the map under `field`, making it if it is missing or no object.
pub fn map_mut<'a>(object: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let slot = &mut object[field];
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("it was just made an object")
}

/// Returns the object's finalizers.
pub fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect()
}

/// Formats a time the way the API writes it, to the second.
pub fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Turns an object into bytes with a place for its version, identity first.
pub fn to_document(object: &Value) -> Document {
    let mut bytes = Vec::with_capacity(1024);
    let mut version_at = 0;
    // Writing to a vector cannot fail.
    let mut emit = |bytes: &mut Vec<u8>| -> std::io::Result<()> {
        bytes.write_all(b"{")?;
        for field in ["apiVersion", "kind"] {
            if let Some(value) = object.get(field) {
                write!(bytes, "\"{field}\":")?;
                serde_json::to_writer(&mut *bytes, value)?;
                bytes.write_all(b",")?;
            }
        }
        bytes.write_all(b"\"metadata\":{\"resourceVersion\":\"")?;
        version_at = bytes.len();
        bytes.write_all(b"\"")?;
        fields(bytes, &object["metadata"], &["resourceVersion"])?;
        bytes.write_all(b"}")?;
        fields(bytes, object, &["apiVersion", "kind", "metadata"])?;
        bytes.write_all(b"}")
    };
    if let Err(error) = emit(&mut bytes) {
        tracing::error!(%error, "failed to serialise an object");
    }
    Document { bytes, version_at }
}

/// Writes further fields, each after a comma.
fn fields(bytes: &mut Vec<u8>, object: &Value, except: &[&str]) -> std::io::Result<()> {
    for (key, value) in object.as_object().into_iter().flatten() {
        if except.contains(&key.as_str()) {
            continue;
        }
        bytes.write_all(b",")?;
        serde_json::to_writer(&mut *bytes, key)?;
        bytes.write_all(b":")?;
        serde_json::to_writer(&mut *bytes, value)?;
    }
    Ok(())
}

/// Tells whether two objects say the same, whatever their versions and the times in
/// `managedFields` are: such a write changes nothing.
pub fn same(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else {
        return a == b;
    };
    let rest = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key("metadata"));
    if rest(a) != rest(b) {
        return false;
    }
    a.iter().all(|(key, value)| {
        if key == "metadata" {
            same_metadata(value, b.get("metadata").unwrap_or(&Value::Null))
        } else {
            b.get(key) == Some(value)
        }
    })
}

fn same_metadata(a: &Value, b: &Value) -> bool {
    const OWN: [&str; 2] = ["resourceVersion", "managedFields"];
    let count = |value: &Value| {
        value
            .as_object()
            .map_or(0, |map| map.keys().filter(|key| !OWN.contains(&key.as_str())).count())
    };
    count(a) == count(b)
        && a.as_object()
            .into_iter()
            .flatten()
            .all(|(key, value)| OWN.contains(&key.as_str()) || b.get(key) == Some(value))
        && same_managers(&a["managedFields"], &b["managedFields"])
}

fn same_managers(a: &Value, b: &Value) -> bool {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (a, b) = (list(a), list(b));
    a.len() == b.len()
        && a.iter().zip(&b).all(|(a, b)| {
            ["manager", "operation", "apiVersion", "subresource", "fieldsV1"]
                .iter()
                .all(|field| a[*field] == b[*field])
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_holds_the_object_and_a_place_for_its_version() {
        let object = json!({"spec": {"a": 1}, "kind": "K", "metadata": {"name": "n", "resourceVersion": "7"}, "apiVersion": "v1"});
        let document = to_document(&object);
        let mut bytes = document.bytes.clone();
        bytes.splice(document.version_at..document.version_at, *b"42");
        let back: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            back,
            json!({"apiVersion": "v1", "kind": "K", "metadata": {"resourceVersion": "42", "name": "n"}, "spec": {"a": 1}})
        );
        assert!(bytes.starts_with(b"{\"apiVersion\":\"v1\",\"kind\":\"K\""));
    }

    #[test]
    fn only_times_and_versions_are_no_change() {
        let a = json!({"metadata": {"name": "n", "resourceVersion": "1", "managedFields": [{"manager": "m", "time": "t1"}]}, "spec": 1});
        let mut b = a.clone();
        b["metadata"]["resourceVersion"] = json!("2");
        b["metadata"]["managedFields"][0]["time"] = json!("t2");
        assert!(same(&a, &b));
        b["metadata"]["managedFields"][0]["manager"] = json!("other");
        assert!(!same(&a, &b));
        let mut c = a.clone();
        c["metadata"]["labels"] = json!({"x": "y"});
        assert!(!same(&a, &c));
        assert!(!same(&c, &a));
        let mut d = a.clone();
        d["status"] = json!({});
        assert!(!same(&a, &d));
        assert!(!same(&d, &a));
    }
}
