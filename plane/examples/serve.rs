//! Serves a plane with Foreman's kinds until Ctrl-C: `serve STATE_DIR [PORT]`.

use std::net::{Ipv4Addr, SocketAddr};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use plane::{Plane, PlaneConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("a state folder is wanted")?;
    let port = arguments.next().map_or(Ok(0), |text| text.parse())?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let plane = Plane::open(PlaneConfig::new(folder, "0.1.0").listening(address)).await?;
    let served = plane.serve_tls().await?;
    let api: Api<CustomResourceDefinition> = Api::all(plane.client());
    for crd in schemas::crds::all() {
        let apply = PatchParams::apply("foreman").force();
        api.patch(&crd.name_any(), &apply, &Patch::Apply(&crd)).await?;
    }
    println!("export KUBECONFIG={}", served.kubeconfig.display());
    tokio::signal::ctrl_c().await?;
    plane.shutdown().await;
    Ok(())
}
