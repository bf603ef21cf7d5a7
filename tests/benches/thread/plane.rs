//! The plane over the wire: creates per second, and how long a watch takes to tell of one.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use ::plane::{Plane, PlaneConfig};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, PostParams, WatchEvent, WatchParams};
use kube::config::Kubeconfig;
use kube::{Client, Config, ResourceExt};

use crate::{milliseconds, quantile, say};

const CLIENTS: usize = 64;
const EACH: usize = 100;
const WATCHED: usize = 500;

fn object(name: String) -> ConfigMap {
    let mut object = ConfigMap {
        data: Some([("text".to_owned(), "x".repeat(1500))].into()),
        ..ConfigMap::default()
    };
    object.metadata.name = Some(name);
    object
}

async fn connect(kubeconfig: &std::path::Path) -> Client {
    let file = Kubeconfig::read_from(kubeconfig).unwrap();
    Client::try_from(Config::from_custom_kubeconfig(file, &Default::default()).await.unwrap()).unwrap()
}

/// Prints creates per second of 64 clients over TLS, and the time from a create's start to its event.
pub fn measure(runtime: &tokio::runtime::Runtime) {
    runtime.block_on(async {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let folder = tempfile::tempdir().unwrap();
        let config = PlaneConfig::new(folder.path().join("state"), "0.1.0")
            .listening(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let plane = Plane::open(config).await.unwrap();
        let served = plane.serve_tls().await.unwrap();

        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(connect(&served.kubeconfig).await);
        }
        let begin = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for (number, client) in clients.into_iter().enumerate() {
            tasks.spawn(async move {
                let api: Api<ConfigMap> = Api::namespaced(client, "default");
                for n in 0..EACH {
                    api.create(&PostParams::default(), &object(format!("m-{number}-{n}")))
                        .await
                        .unwrap();
                }
            });
        }
        tasks.join_all().await;
        let rate = (CLIENTS * EACH) as f64 / begin.elapsed().as_secs_f64();
        say(
            &format!("creates of 2 KB objects, {CLIENTS} clients over TLS"),
            &format!("{rate:.0}/s"),
        );

        let api: Api<ConfigMap> = Api::namespaced(connect(&served.kubeconfig).await, "default");
        let version = api
            .list(&Default::default())
            .await
            .unwrap()
            .metadata
            .resource_version
            .unwrap();
        let mut events = api.watch(&WatchParams::default(), &version).await.unwrap().boxed();
        let writer: Api<ConfigMap> = Api::namespaced(connect(&served.kubeconfig).await, "default");
        let mut times: Vec<Duration> = Vec::new();
        for n in 0..WATCHED {
            let name = format!("w-{n}");
            let begin = Instant::now();
            let create = async {
                writer
                    .create(&PostParams::default(), &object(name.clone()))
                    .await
                    .unwrap();
            };
            let seen = async {
                loop {
                    if let WatchEvent::Added(found) = events.next().await.unwrap().unwrap()
                        && found.name_any() == name
                    {
                        return begin.elapsed();
                    }
                }
            };
            times.push(tokio::join!(create, seen).1);
        }
        say(
            "from the start of a create to its watch event, p50",
            &milliseconds(quantile(&mut times, 0.5)),
        );
        say("the same, p99", &milliseconds(quantile(&mut times, 0.99)));
        plane.shutdown().await;
    });
}
