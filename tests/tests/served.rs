//! The API that a test speaks to: a plane of its own or, where `FOREMAN_REAL_KUBECONFIG` names one, a real control plane.
//!
//! This is the one place that chooses. On the real one a test has a namespace of its own, and the FleetNodes of the whole
//! cluster while its turn lasts: they belong to no namespace, and every operator looks at all of them.

use std::fs::File;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Client, Config, ResourceExt};
use plane::{Plane, PlaneConfig};
use schemas::FleetNode;

/// Names the kubeconfig of the real control plane.
const KUBECONFIG: &str = "FOREMAN_REAL_KUBECONFIG";

/// Returns the kubeconfig of the real control plane, if there is one to be used.
pub fn real_kubeconfig() -> Option<PathBuf> {
    std::env::var_os(KUBECONFIG).map(PathBuf::from)
}

/// Connects as a kubeconfig says.
pub async fn connect(kubeconfig: &Path) -> Client {
    rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// Applies a definition and waits until its kind is served.
pub async fn define(client: &Client, crd: &CustomResourceDefinition) {
    let (api, name) = (Api::<CustomResourceDefinition>::all(client.clone()), crd.name_any());
    let apply = PatchParams::apply("foreman-tests").force();
    api.patch(&name, &apply, &Patch::Apply(crd)).await.unwrap();
    await_condition(api, &name, conditions::is_crd_established())
        .await
        .unwrap();
}

/// Makes a namespace that nobody else uses, and returns its name.
pub async fn namespace(client: &Client) -> String {
    let mut namespace = Namespace::default();
    namespace.metadata.generate_name = Some("test-".to_owned());
    let api: Api<Namespace> = Api::all(client.clone());
    api.create(&PostParams::default(), &namespace).await.unwrap().name_any()
}

/// An API that serves Foreman's kinds.
pub struct Served {
    /// A client whose namespace is the test's own.
    pub client: Client,
    /// The test's own namespace.
    pub namespace: String,
    by: By,
}

enum By {
    Plane(Plane),
    Real {
        kubeconfig: PathBuf,
        /// Locked while this test has its turn, also against tests of other processes.
        _turn: File,
    },
}

impl Served {
    /// Opens a plane whose state lies in `state`, or takes a turn on the real control plane.
    pub async fn open(state: &Path) -> Self {
        match real_kubeconfig() {
            None => Self::on_plane(state).await,
            Some(kubeconfig) => Self::on_real(kubeconfig).await,
        }
    }

    /// Opens a plane whose state lies in `state`.
    pub async fn on_plane(state: &Path) -> Self {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let config = PlaneConfig::new(state, "0.1.0").listening(([127, 0, 0, 1], 0).into());
        let plane = Plane::open(config).await.unwrap();
        let served = Self {
            client: plane.client(),
            namespace: "default".to_owned(),
            by: By::Plane(plane),
        };
        served.define_all().await;
        served
    }

    async fn on_real(kubeconfig: PathBuf) -> Self {
        let lock = kubeconfig.with_extension("turn");
        let turn = tokio::task::spawn_blocking(move || {
            let file = File::create(lock).unwrap();
            file.lock().unwrap();
            file
        });
        let turn = turn.await.unwrap();
        let namespace = namespace(&connect(&kubeconfig).await).await;
        let file = Kubeconfig::read_from(&kubeconfig).unwrap();
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let mut config = config.unwrap();
        config.default_namespace.clone_from(&namespace);
        let served = Self {
            client: Client::try_from(config).unwrap(),
            namespace,
            by: By::Real {
                kubeconfig,
                _turn: turn,
            },
        };
        served.define_all().await;
        served.forget_nodes().await;
        served
    }

    async fn define_all(&self) {
        for crd in schemas::crds::all() {
            define(&self.client, &crd).await;
        }
    }

    /// Deletes the FleetNodes that there are, and waits until they are gone.
    async fn forget_nodes(&self) {
        let nodes: Api<FleetNode> = Api::all(self.client.clone());
        for node in nodes.list(&ListParams::default()).await.unwrap() {
            let (name, uid) = (node.name_any(), node.uid().unwrap());
            // What others delete meanwhile is gone too.
            let _ = nodes.delete(&name, &DeleteParams::default()).await;
            await_condition(nodes.clone(), &name, conditions::is_deleted(&uid))
                .await
                .unwrap();
        }
    }

    /// Returns the namespaces that an operator must keep to so that it leaves others' alone: none where all is its own.
    pub fn kept_to(&self) -> Vec<String> {
        match self.by {
            By::Plane(_) => Vec::new(),
            By::Real { .. } => vec![self.namespace.clone()],
        }
    }

    /// Returns a kubeconfig for other processes; a plane begins to be served by it.
    pub async fn kubeconfig(&self) -> PathBuf {
        match &self.by {
            By::Plane(plane) => plane.serve_tls().await.unwrap().kubeconfig,
            By::Real { kubeconfig, .. } => kubeconfig.clone(),
        }
    }

    /// Ends the plane, or leaves the real control plane as it was.
    pub async fn close(self) {
        match &self.by {
            By::Plane(plane) => plane.shutdown().await,
            By::Real { .. } => {
                self.forget_nodes().await;
                let spaces: Api<Namespace> = Api::all(self.client.clone());
                spaces
                    .delete(&self.namespace, &DeleteParams::background())
                    .await
                    .unwrap();
            }
        }
    }
}
