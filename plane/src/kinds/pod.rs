//! Pods.

use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::admission::builtin::defaults;
use crate::object::time;

/// Makes a new Pod pending.
pub fn create(pod: &mut Value, stamp: &Stamp) {
    let class = defaults::quality(&pod["spec"]);
    pod["status"] = json!({"phase": "Pending", "qosClass": class});
    if is_gated(pod) {
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": time(stamp.now),
            "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
        }]);
    }
}

/// Tells whether a Pod waits for somebody to let it be bound to a node.
pub fn is_gated(pod: &Value) -> bool {
    pod["spec"]["schedulingGates"]
        .as_array()
        .is_some_and(|gates| !gates.is_empty())
}

/// Tells whether a Pod can be removed at once: nothing runs that must be stopped first.
pub fn removable(pod: &Value) -> bool {
    pod["spec"]["nodeName"].as_str().unwrap_or("").is_empty()
        || matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}
