//! Volumes: a default storage class, and volumes of it that lie in the state folder.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::api::Api;
use super::super::state::State;
use super::NODE;

/// The name of the class.
const CLASS: &str = "local";
/// How many claims can be served; a volume is used once.
const VOLUMES: usize = 24;

/// Makes the class, and volumes that claims of any access mode are bound to.
pub fn make(state: &State, api: &Api) -> Result<()> {
    api.create("/apis/storage.k8s.io/v1/storageclasses", &class())?;
    for index in 0..VOLUMES {
        let name = format!("local-{index}");
        let folder = state.file("volumes").join(&name);
        std::fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
        let volume = volume(&name, &folder.display().to_string());
        api.create("/api/v1/persistentvolumes", &volume)?;
    }
    Ok(())
}

fn class() -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Retain",
    })
}

fn volume(name: &str, folder: &str) -> Value {
    let node = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]});
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": CLASS,
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [node]}]}},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_of_the_default_class_and_of_the_node() {
        let (class, volume) = (class(), volume("local-0", "/s/volumes/local-0"));
        assert_eq!(volume["spec"]["storageClassName"], class["metadata"]["name"]);
        assert!(volume["spec"]["nodeAffinity"].to_string().contains(NODE));
    }
}
