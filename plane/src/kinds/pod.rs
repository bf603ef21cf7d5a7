//! Pods.

use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::admission::builtin::defaults;

/// Makes a new Pod pending.
pub fn create(pod: &mut Value, _: &Stamp) {
    let class = defaults::quality(&pod["spec"]);
    pod["status"] = json!({"phase": "Pending", "qosClass": class});
}

/// Tells whether a Pod can be removed at once: nothing runs that must be stopped first.
pub fn removable(pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty()
        || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}
