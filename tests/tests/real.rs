//! The tier of tests on a real control plane: etcd, kube-apiserver and kube-controller-manager.
//!
//! `cargo xtask test --real` starts one, names its kubeconfig and the built programs in the environment, and runs the
//! ignored tests that lie in a module named `real`. They share the servers and may run at the same time: each makes a
//! namespace of its own, and none takes away what belongs to the whole cluster.

mod alone;
mod argocd;
mod chart;
mod crds;
mod faults;
mod kubectl;
mod kustomize;
mod leader;
mod node;
mod site;
mod upgrade;

use std::path::Path;

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, Config, ResourceExt};

use crate::foreman::LIMIT;

/// Connects to the real API as its administrator.
pub async fn client() -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let path = std::env::var_os("FOREMAN_REAL_KUBECONFIG")
        .expect("FOREMAN_REAL_KUBECONFIG names a real control plane; run this by `cargo xtask test --real`");
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
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
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in crds() {
        let name = crd.name_any();
        let params = PatchParams::apply("foreman-tests").force();
        api.patch(&name, &params, &Patch::Apply(&crd)).await.unwrap();
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        let waited = tokio::time::timeout(LIMIT, established).await;
        assert!(matches!(waited, Ok(Ok(_))), "{name} is not established: {waited:?}");
    }
}

/// Makes a namespace that nobody else uses, and returns its name.
pub async fn namespace(client: &Client) -> String {
    let mut namespace = Namespace::default();
    namespace.metadata.generate_name = Some("test-".to_owned());
    let api: Api<Namespace> = Api::all(client.clone());
    api.create(&PostParams::default(), &namespace).await.unwrap().name_any()
}
