use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::api::{DeleteParams, ListParams, LogParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, ResourceExt};

use super::*;

fn map(name: &str) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(name.into()),
            ..ObjectMeta::default()
        },
        data: Some([("k".to_owned(), "v".to_owned())].into()),
        ..ConfigMap::default()
    }
}

#[tokio::test]
async fn the_client_of_kube_works_without_a_socket() {
    let f = Fixture::new().await;
    let api: Api<ConfigMap> = Api::default_namespaced(f.plane.client());
    let made = api.create(&PostParams::default(), &map("a")).await.unwrap();
    assert!(made.uid().is_some());
    let refused = api.create(&PostParams::default(), &map("a")).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists"));
    let patch = json!({"data": {"x": "y"}});
    let patched = api
        .patch("a", &PatchParams::default(), &Patch::Strategic(&patch))
        .await
        .unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);
    let mut applied = map("b");
    applied.metadata.managed_fields = None;
    api.patch("b", &PatchParams::apply("me"), &Patch::Apply(&applied))
        .await
        .unwrap();
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 2);
    assert!(api.get_opt("none").await.unwrap().is_none());
    api.delete("a", &DeleteParams::default()).await.unwrap();
    assert!(api.get_opt("a").await.unwrap().is_none());
    let version = f.plane.client().apiserver_version().await.unwrap();
    assert_eq!(version.minor, "34");
}

#[tokio::test]
async fn a_reflector_follows_the_plane_in_both_ways_of_starting() {
    let f = Fixture::new().await;
    let api: Api<ConfigMap> = Api::default_namespaced(f.plane.client());
    api.create(&PostParams::default(), &map("a")).await.unwrap();
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (store, writer) = reflector::store();
        let mut stream = watcher(api.clone(), config).reflect(writer).applied_objects().boxed();
        let first = stream.try_next().await.unwrap().unwrap();
        assert_eq!(first.name_any(), "a");
        let name = format!("b{}", store.len());
        api.create(&PostParams::default(), &map(&name)).await.unwrap();
        while stream.try_next().await.unwrap().unwrap().name_any() != name {}
        let known: BTreeSet<String> = store.state().iter().map(|map| map.name_any()).collect();
        assert!(known.contains("a") && known.contains(&name), "{known:?}");
        api.delete(&name, &DeleteParams::default()).await.unwrap();
    }
}

#[tokio::test]
async fn a_recorder_can_publish_events() {
    use kube::Resource;
    use kube::runtime::events::{Event, EventType, Recorder, Reporter};
    let f = Fixture::new().await;
    let api: Api<ConfigMap> = Api::default_namespaced(f.plane.client());
    let made = api.create(&PostParams::default(), &map("a")).await.unwrap();
    let recorder = Recorder::new(f.plane.client(), Reporter::from("tester"));
    let event = || Event {
        type_: EventType::Normal,
        reason: "Tried".into(),
        note: Some("it was tried".into()),
        action: "Trying".into(),
        secondary: None,
    };
    let reference = made.object_ref(&());
    recorder.publish(&event(), &reference).await.unwrap();
    recorder.publish(&event(), &reference).await.unwrap();
    let events = f.get("/api/v1/namespaces/default/events").await;
    let items = events.body["items"].as_array().unwrap();
    assert_eq!(items.len(), 1, "{}", events.text);
    assert_eq!(items[0]["message"], "it was tried");
    assert_eq!(items[0]["series"]["count"], 2, "{}", events.text);
}

struct Echo;

impl crate::pod_logs::PodLogs for Echo {
    fn open<'a>(
        &'a self,
        request: crate::pod_logs::LogRequest,
    ) -> futures::future::BoxFuture<
        'a,
        Result<futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>, crate::pod_logs::LogError>,
    > {
        Box::pin(async move {
            if request.previous {
                return Err(crate::pod_logs::LogError::NotFound(
                    "previous terminated container not found".into(),
                ));
            }
            let text = format!("{} {:?}\n", request.container, request.tail_lines);
            Ok(futures::stream::iter([Ok(bytes::Bytes::from(text))]).boxed())
        })
    }
}

#[tokio::test]
async fn logs_come_from_the_runner() {
    let f = Fixture::new().await;
    let pods: Api<Pod> = Api::default_namespaced(f.plane.client());
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"initContainers": [{"name": "i", "image": "x"}], "containers": [{"name": "c", "image": "x"}]}});
    f.post("/api/v1/namespaces/default/pods", pod).await;
    assert!(pods.logs("p", &LogParams::default()).await.is_err(), "no runner yet");
    f.plane.set_pod_logs(std::sync::Arc::new(Echo));
    let tail = LogParams {
        tail_lines: Some(3),
        ..LogParams::default()
    };
    assert_eq!(pods.logs("p", &tail).await.unwrap(), "c Some(3)\n");
    let first = LogParams {
        container: Some("i".into()),
        ..LogParams::default()
    };
    assert_eq!(pods.logs("p", &first).await.unwrap(), "i None\n");
    let path = "/api/v1/namespaces/default/pods/p/log";
    assert_eq!(f.get(&format!("{path}?container=none")).await.code, 400);
    assert_eq!(f.get(&format!("{path}?previous=true")).await.code, 400);
}
