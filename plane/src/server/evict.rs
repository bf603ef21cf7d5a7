//! Evictions: a Pod is told why it goes, then deleted. There are no disruption budgets, so none is refused.

use serde_json::{Value, json};

use super::Server;
use super::delete::{DeleteOptions, Deleted};
use super::write::{Target, WriteOptions};
use crate::admit::Part;
use crate::object::{map_mut, time};
use crate::status::ApiError;

impl Server {
    /// Evicts a Pod.
    pub async fn evict(&self, target: &Target, name: &str, options: &DeleteOptions) -> Result<Deleted, ApiError> {
        if options.dry_run {
            return self.delete(target, name, options).await;
        }
        // What is refused changes nothing.
        let tried = DeleteOptions {
            dry_run: true,
            ..options.clone()
        };
        self.delete(target, name, &tried).await?;
        let now = time(self.stamp().now);
        let mut writer = WriteOptions::by("foreman-plane");
        // What the server says of a Pod belongs to no manager.
        writer.manager.settled = true;
        let told = self
            .update(target, name, Part::Status, &writer, &|live, _| {
                Ok(disrupted(live, &now))
            })
            .await?;
        let version = options.version.as_ref().map(|_| told.entry.version.to_string());
        let options = DeleteOptions {
            version,
            ..options.clone()
        };
        self.delete(target, name, &options).await
    }
}

/// Returns a Pod with the condition that it is evicted; one that has it already stays as it is.
fn disrupted(pod: &Value, now: &str) -> Value {
    let mut pod = pod.clone();
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "lastProbeTime": null,
        "lastTransitionTime": now,
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
    });
    let status = map_mut(&mut pod, "status");
    if let Value::Array(list) = status.entry("conditions").or_insert_with(|| json!([])) {
        match list.iter_mut().find(|known| known["type"] == condition["type"]) {
            Some(known) if known["status"] == "True" => {}
            Some(known) => *known = condition,
            None => list.push(condition),
        }
    }
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_told_once_that_it_is_evicted() {
        let pod = json!({"metadata": {"name": "a"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let once = disrupted(&pod, "2026-01-01T00:00:00Z");
        assert_eq!(once["status"]["conditions"][0], pod["status"]["conditions"][0]);
        assert_eq!(once["status"]["conditions"][1]["reason"], "EvictionByEvictionAPI");
        assert_eq!(disrupted(&once, "2026-01-01T00:00:09Z"), once);
    }
}
