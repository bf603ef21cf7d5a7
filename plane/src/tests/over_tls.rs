use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};

use super::*;

async fn client(path: &std::path::Path) -> Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(path).unwrap();
    let options = KubeConfigOptions::default();
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
    Client::try_from(config.unwrap()).unwrap()
}

#[tokio::test]
async fn a_kubeconfig_connects_over_tls_and_outlives_a_restart() {
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let f = Fixture::with(|config| config.listening(local)).await;
    let served = f.plane.serve_tls().await.unwrap();
    assert!(served.address.ip().is_loopback() && served.address.port() > 0);
    for name in ["kubeconfig", "ca.key", "ca.crt", "token", "plane.db"] {
        let path = f.plane.config().state_dir.join(name);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    let spaces: Api<Namespace> = Api::all(client(&served.kubeconfig).await);
    assert!(spaces.get_opt("default").await.unwrap().is_some());
    let ca = std::fs::read(f.plane.config().state_dir.join("ca.crt")).unwrap();
    let plain = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&ca).unwrap()])
        .build()
        .unwrap();
    let url = |path: &str| format!("https://{}{path}", served.address);
    let refused = plain.get(url("/api/v1/namespaces")).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.json::<Value>().await.unwrap()["reason"], "Unauthorized");
    let wrong = plain.get(url("/version")).bearer_auth("x").send().await.unwrap();
    assert_eq!(wrong.status(), 401);
    assert_eq!(plain.get(url("/readyz")).send().await.unwrap().status(), 200);

    let config = PlaneConfig {
        listen: Some(served.address),
        ..f.plane.config().clone()
    };
    let before = client(&served.kubeconfig).await;
    f.plane.shutdown().await;
    let plane = Plane::open(config).await.unwrap();
    plane.serve_tls().await.unwrap();
    let spaces: Api<Namespace> = Api::all(before);
    assert!(spaces.get_opt("default").await.unwrap().is_some());
    plane.shutdown().await;
}

#[tokio::test]
async fn an_address_that_others_can_reach_is_refused() {
    let open = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    let f = Fixture::with(|config| config.listening(open)).await;
    let error = f.plane.serve_tls().await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
}
