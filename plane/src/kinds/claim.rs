//! PersistentVolumeClaims.

use serde_json::{Value, json};

use super::builtin::Stamp;

/// Makes a new claim wait for its volume.
pub fn create(claim: &mut Value, _: &Stamp) {
    claim["status"] = json!({"phase": "Pending"});
    let metadata = crate::object::meta_mut(claim);
    let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
    // No controller here protects claims in use: the finalizer would never be taken off.
    if let Some(list) = finalizers.as_array_mut() {
        list.retain(|name| name != "kubernetes.io/pvc-protection");
        if list.is_empty() {
            metadata.remove("finalizers");
        }
    }
}
