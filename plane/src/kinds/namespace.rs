//! Namespaces.

use serde_json::{Value, json};

use super::builtin::Stamp;
use crate::object::{map_mut, meta_str};

/// The finalizer that keeps a namespace until its content is gone.
pub const FINALIZER: &str = "kubernetes";

/// Labels the namespace with its own name.
pub fn default(namespace: &mut Value) {
    let name = meta_str(namespace, "name").to_owned();
    if !name.is_empty() {
        let metadata = crate::object::meta_mut(namespace);
        let labels = metadata.entry("labels").or_insert_with(|| json!({}));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }
    let spec = map_mut(namespace, "spec");
    if !spec.get("finalizers").is_some_and(Value::is_array) {
        spec.insert("finalizers".into(), json!([FINALIZER]));
    }
}

/// Makes a new namespace active.
pub fn create(namespace: &mut Value, _: &Stamp) {
    map_mut(namespace, "spec").insert("finalizers".into(), json!([FINALIZER]));
    namespace["status"] = json!({"phase": "Active"});
}
