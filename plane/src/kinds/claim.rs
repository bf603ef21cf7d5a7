//! PersistentVolumeClaims.

use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::object::{finalizers, meta_mut};

/// The finalizer that keeps a claim while a Pod uses it.
pub const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Makes a new claim wait for its volume, and protects it while it is in use.
pub fn create(claim: &mut Value, _: &Stamp) {
    claim["status"] = json!({"phase": "Pending"});
    if !finalizers(claim).contains(&FINALIZER) {
        let metadata = meta_mut(claim);
        let list = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(FINALIZER.into());
        }
    }
}

/// Tells whether a Pod that has not ended mounts the claim.
pub fn is_used_by(claim: &str, pod: &Value) -> bool {
    let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    !ended
        && pod["spec"]["volumes"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|volume| volume["persistentVolumeClaim"]["claimName"] == claim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_used_until_its_pods_have_ended() {
        let mut pod = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
        assert!(is_used_by("c", &pod) && !is_used_by("d", &pod));
        pod["status"] = json!({"phase": "Failed"});
        assert!(!is_used_by("c", &pod));
    }
}
