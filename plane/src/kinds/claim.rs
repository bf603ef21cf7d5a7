//! PersistentVolumeClaims.

use serde_json::{Value, json};

use super::stamp::Stamp;
use crate::object::{finalizers, meta_mut};

/// The finalizer that keeps a claim while a Pod uses it.
pub const FINALIZER: &str = "kubernetes.io/pvc-protection";

/// Makes a new claim wait for its volume, and protects it while it is in use.
pub fn create(claim: &mut Value, stamp: &Stamp) {
    update(claim, stamp);
    claim["status"] = json!({"phase": "Pending"});
    if !finalizers(claim).contains(&FINALIZER) {
        let metadata = meta_mut(claim);
        let list = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(FINALIZER.into());
        }
    }
}

/// Says twice where a claim's data come from, as long as both ways can say it, and not at all that they come from nowhere.
pub fn update(claim: &mut Value, _: &Stamp) {
    let Some(spec) = claim["spec"].as_object_mut() else {
        return;
    };
    let nothing = |source: &Value| {
        ["kind", "name"]
            .iter()
            .all(|key| source[*key].as_str().unwrap_or("").is_empty())
    };
    for key in ["dataSource", "dataSourceRef"] {
        if spec.get(key).is_some_and(nothing) {
            spec.shift_remove(key);
        }
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => spec.insert("dataSourceRef".into(), source),
        (None, Some(source)) if source["namespace"].as_str().unwrap_or("").is_empty() => {
            spec.insert("dataSource".into(), source)
        }
        _ => None,
    };
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
    fn where_data_come_from_is_said_twice() {
        let stamp = Stamp {
            now: jiff::Timestamp::UNIX_EPOCH,
            uid: String::new(),
        };
        let source = json!({"kind": "PersistentVolumeClaim", "name": "b"});
        let mut claim = json!({"spec": {"dataSource": source}});
        update(&mut claim, &stamp);
        assert_eq!(claim["spec"]["dataSourceRef"], source);
        let mut nowhere = json!({"spec": {"dataSource": {"kind": "", "name": ""}}});
        update(&mut nowhere, &stamp);
        assert_eq!(nowhere, json!({"spec": {}}));
    }

    #[test]
    fn a_claim_is_used_until_its_pods_have_ended() {
        let mut pod = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]}});
        assert!(is_used_by("c", &pod) && !is_used_by("d", &pod));
        pod["status"] = json!({"phase": "Failed"});
        assert!(!is_used_by("c", &pod));
    }
}
