use std::time::Duration;

use futures::StreamExt;

use super::*;

/// The lines of a watch.
pub(super) struct Events {
    stream: axum::body::BodyDataStream,
    buffer: Vec<u8>,
}

impl Fixture {
    pub(super) async fn watch(&self, path: &str) -> Events {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = self.plane.router().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Events {
            stream: response.into_body().into_data_stream(),
            buffer: Vec::new(),
        }
    }
}

impl Events {
    /// The next event, or nothing when the watch ended.
    pub(super) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.stream.next())
                .await
                .expect("an event in time")?;
            self.buffer.extend_from_slice(&chunk.unwrap());
        }
    }

    /// Fails unless the mark comes next that ends what was there.
    pub(super) async fn marks_the_end(&mut self) {
        let mark = self.next().await.unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        let annotations = &mark["object"]["metadata"]["annotations"];
        assert_eq!(annotations["k8s.io/initial-events-end"], "true");
    }

    pub(super) async fn words(&mut self) -> String {
        let event = self.next().await.unwrap();
        format!(
            "{} {}",
            event["type"].as_str().unwrap(),
            event["object"]["metadata"]["name"].as_str().unwrap_or("-")
        )
    }
}

#[tokio::test]
async fn a_watch_tells_what_is_there_and_then_what_changes_in_order() {
    let f = Fixture::new().await;
    f.post(CMS, config_map("a")).await;
    let mut events = f.watch(&format!("{CMS}?watch=true")).await;
    assert_eq!(events.words().await, "ADDED a");
    f.post(CMS, config_map("b")).await;
    f.merge(&format!("{CMS}/a"), json!({"data": {"k": "w"}})).await;
    f.delete(&format!("{CMS}/a"), json!({})).await;
    f.post("/api/v1/namespaces/kube-system/configmaps", config_map("c"))
        .await;
    f.post(CMS, config_map("d")).await;
    assert_eq!(events.words().await, "ADDED b");
    assert_eq!(events.words().await, "MODIFIED a");
    let gone = events.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["data"]["k"], "w");
    let deleted_at: u64 = gone["object"]["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(events.words().await, "ADDED d");
    assert_eq!(deleted_at, f.plane.latest_version() - 2);
}

#[tokio::test]
async fn a_watch_resumes_where_it_ended() {
    let f = Fixture::new().await;
    let list = f.get(CMS).await;
    let version = list.body["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    for name in ["a", "b", "c"] {
        f.post(CMS, config_map(name)).await;
    }
    let mut events = f.watch(&format!("{CMS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(events.words().await, "ADDED a");
    let b = events.next().await.unwrap();
    let version = b["object"]["metadata"]["resourceVersion"].as_str().unwrap();
    let mut again = f.watch(&format!("{CMS}?watch=1&resourceVersion={version}")).await;
    assert_eq!(again.words().await, "ADDED c");
}

#[tokio::test]
async fn a_watch_from_before_the_log_is_told_so_and_ends() {
    let f = Fixture::forgetful(3).await;
    for n in 0..8 {
        f.post(CMS, config_map(&format!("m{n}"))).await;
    }
    let mut events = f.watch(&format!("{CMS}?watch=1&resourceVersion=2")).await;
    let event = events.next().await.unwrap();
    assert_eq!(event["type"], "ERROR");
    assert_eq!(event["object"]["kind"], "Status");
    assert_eq!(
        (&event["object"]["code"], &event["object"]["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn bookmarks_come_when_asked_for_and_at_the_end() {
    let f = Fixture::with(|config| PlaneConfig {
        bookmark_every: Duration::from_millis(20),
        ..config
    })
    .await;
    let mut events = f.watch(&format!("{CMS}?watch=1&allowWatchBookmarks=true")).await;
    // Something changes elsewhere: the bookmark moves on all the same.
    f.post("/api/v1/namespaces/kube-system/configmaps", config_map("c"))
        .await;
    let latest = f.plane.latest_version().to_string();
    loop {
        let event = events.next().await.unwrap();
        assert_eq!(event["type"], "BOOKMARK");
        assert_eq!(event["object"]["kind"], "ConfigMap");
        if event["object"]["metadata"]["resourceVersion"] == latest {
            break;
        }
    }
    let mut short = f.watch(&format!("{CMS}?watch=1&timeoutSeconds=1")).await;
    assert!(short.next().await.is_none(), "no bookmark was asked for");
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let f = Fixture::new().await;
    f.post(CMS, config_map("a")).await;
    let path = format!("{CMS}?watch=1&sendInitialEvents=true&allowWatchBookmarks=true");
    assert_eq!(f.get(&path).await.code, 422);
    let mut events = f.watch(&format!("{path}&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(events.words().await, "ADDED a");
    events.marks_the_end().await;
}

#[tokio::test]
async fn a_selected_watch_sees_objects_come_and_go_as_they_match() {
    let f = Fixture::new().await;
    let mut events = f.watch(&format!("{CMS}?watch=1&labelSelector=on%3Dyes")).await;
    f.post(CMS, config_map("a")).await;
    let path = format!("{CMS}/a");
    f.merge(&path, json!({"metadata": {"labels": {"on": "yes"}}})).await;
    f.merge(&path, json!({"data": {"k": "x"}})).await;
    f.merge(&path, json!({"metadata": {"labels": {"on": "no"}}})).await;
    let last = f.plane.latest_version().to_string();
    assert_eq!(events.words().await, "ADDED a");
    assert_eq!(events.words().await, "MODIFIED a");
    let gone = events.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], last);
    assert_eq!(gone["object"]["metadata"]["labels"]["on"], "yes");
}

#[tokio::test]
async fn watches_end_when_the_plane_stops_and_when_their_kind_goes() {
    let f = Fixture::with_things().await;
    let mut things = f.watch("/apis/example.com/v1/things?watch=1").await;
    let mut maps = f.watch(&format!("{CMS}?watch=1")).await;
    let crd = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com";
    f.delete(crd, json!({})).await;
    assert!(things.next().await.is_none());
    f.until(crd, 404).await;
    assert_eq!(f.get("/apis/example.com/v1/things").await.code, 404);
    f.plane.shutdown().await;
    assert!(maps.next().await.is_none());
}
