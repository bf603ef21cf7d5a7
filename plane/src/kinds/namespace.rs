//! Namespaces.

use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::object::map_mut;

/// The finalizer that keeps a namespace until its content is gone.
pub const FINALIZER: &str = "kubernetes";

/// Makes a new namespace active.
pub fn create(namespace: &mut Value, _: &Stamp) {
    map_mut(namespace, "spec").insert("finalizers".into(), json!([FINALIZER]));
    namespace["status"] = json!({"phase": "Active"});
}
