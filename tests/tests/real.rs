//! The tier of tests on a real control plane: etcd, kube-apiserver and kube-controller-manager.
//!
//! `cargo xtask test --real` starts one, names its kubeconfig and the built programs in the environment, and runs the
//! ignored tests that lie in a module named `real`. They share the servers and may run at the same time: each makes a
//! namespace of its own, and none takes away what belongs to the whole cluster.

mod chart;
mod crds;
mod kubectl;
mod node;

use std::path::Path;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Client, ResourceExt};

use crate::foreman::LIMIT;
pub use crate::served::namespace;

/// Connects to the real API as its administrator.
pub async fn client() -> Client {
    let kubeconfig = crate::served::real_kubeconfig()
        .expect("FOREMAN_REAL_KUBECONFIG names a real control plane; run this by `cargo xtask test --real`");
    crate::served::connect(&kubeconfig).await
}

/// Reads the CustomResourceDefinitions as the chart installs them.
pub fn crds() -> Vec<CustomResourceDefinition> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/foreman/templates/crds");
    let files = std::fs::read_dir(folder).unwrap();
    let read = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        // What a chart's template says of the file, and what is escaped from it.
        let lines = text.lines().filter(|line| !line.starts_with("{{"));
        let plain: String = lines.map(|line| format!("{line}\n")).collect();
        let value = schemas::yaml::parse_value(&plain.replace("{{ \"{{\" }}", "{{")).unwrap();
        serde_json::from_value(value).unwrap()
    };
    files.map(|entry| read(&entry.unwrap().path())).collect()
}

/// Makes the kinds known to the API and waits until they are served; does no harm where they are.
pub async fn install_crds(client: &Client) {
    for crd in crds() {
        let waited = tokio::time::timeout(LIMIT, crate::served::define(client, &crd)).await;
        assert!(waited.is_ok(), "{} is not established", crd.name_any());
    }
}
