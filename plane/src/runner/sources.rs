//! What a Pod refers to, read before it runs.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::ResourceExt;
use kube::api::Api;

use super::Desk;
use super::environment::Sources;

/// Reads what the containers and volumes of a Pod refer to.
pub async fn sources(desk: &Desk, pod: &Pod) -> Result<Sources, String> {
    let (config_names, secret_names) = references(pod);
    let namespace = pod.namespace().unwrap_or_default();
    let mut sources = Sources {
        node: desk.config.node.clone(),
        ..Sources::default()
    };
    let configs: Api<ConfigMap> = Api::namespaced(desk.client.clone(), &namespace);
    for name in config_names {
        if let Some(found) = configs.get_opt(&name).await.map_err(|error| error.to_string())? {
            sources.config_maps.insert(name, found);
        }
    }
    let secrets: Api<Secret> = Api::namespaced(desk.client.clone(), &namespace);
    for name in secret_names {
        if let Some(found) = secrets.get_opt(&name).await.map_err(|error| error.to_string())? {
            sources.secrets.insert(name, found);
        }
    }
    Ok(sources)
}

/// Returns the names of the ConfigMaps and Secrets that a Pod refers to.
fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut configs, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let spec = pod.spec.clone().unwrap_or_default();
    for volume in spec.volumes.iter().flatten() {
        configs.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
    }
    for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
        for from in container.env_from.iter().flatten() {
            configs.extend(from.config_map_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|reference| reference.name.clone()));
        }
        for source in container
            .env
            .iter()
            .flatten()
            .filter_map(|variable| variable.value_from.as_ref())
        {
            configs.extend(source.config_map_key_ref.iter().map(|reference| reference.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|reference| reference.name.clone()));
        }
    }
    (configs, secrets)
}
