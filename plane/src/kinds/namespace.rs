//! Namespaces.

use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::object::{map_mut, meta_mut};

/// The finalizer that keeps a namespace until its content is gone.
pub const FINALIZER: &str = "kubernetes";

/// Makes a new namespace active.
pub fn create(namespace: &mut Value, _: &Stamp) {
    // A name that was generated came after the defaults.
    let name = namespace["metadata"]["name"].clone();
    if let Some(labels) = meta_mut(namespace)
        .entry("labels")
        .or_insert_with(|| json!({}))
        .as_object_mut()
    {
        labels.insert("kubernetes.io/metadata.name".to_owned(), name);
    }
    map_mut(namespace, "spec").insert("finalizers".into(), json!([FINALIZER]));
    namespace["status"] = json!({"phase": "Active"});
}
