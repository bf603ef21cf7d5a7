use super::*;

fn owned(name: &str, owner: &Value, blocking: bool) -> Value {
    let mut map = config_map(name);
    map["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "v1", "kind": "ConfigMap", "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"], "blockOwnerDeletion": blocking,
    }]);
    map
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let f = Fixture::new().await;
    let mut map = config_map("a");
    map["metadata"]["finalizers"] = json!(["example.com/one", "example.com/two"]);
    f.post(CMS, map).await;
    let path = format!("{CMS}/a");
    let waiting = f.delete(&path, json!({})).await;
    assert_eq!(waiting.body["kind"], "ConfigMap");
    assert!(waiting.body["metadata"]["deletionTimestamp"].is_string());
    let version = f.plane.latest_version();
    assert_eq!(f.delete(&path, json!({})).await.code, 200);
    assert_eq!(f.plane.latest_version(), version, "a second deletion changes nothing");
    let more = f
        .merge(
            &path,
            json!({"metadata": {"finalizers": ["example.com/one", "example.com/three"]}}),
        )
        .await;
    assert_eq!(more.code, 422, "{}", more.text);
    let one = f
        .merge(&path, json!({"metadata": {"finalizers": ["example.com/two"]}}))
        .await;
    assert_eq!(one.code, 200, "{}", one.text);
    assert_eq!(f.get(&path).await.code, 200);
    assert_eq!(
        f.merge(&path, json!({"metadata": {"finalizers": null}})).await.code,
        200
    );
    assert_eq!(f.get(&path).await.code, 404);
}

#[tokio::test]
async fn what_an_object_owned_goes_after_it() {
    let f = Fixture::new().await;
    let owner = f.post(CMS, config_map("owner")).await.body;
    let child = f.post(CMS, owned("child", &owner, false)).await.body;
    f.post(CMS, owned("grandchild", &child, false)).await;
    f.post(CMS, config_map("stranger")).await;
    f.delete(&format!("{CMS}/owner"), json!({})).await;
    f.until(&format!("{CMS}/child"), 404).await;
    f.until(&format!("{CMS}/grandchild"), 404).await;
    assert_eq!(f.get(&format!("{CMS}/stranger")).await.code, 200);
}

#[tokio::test]
async fn an_object_that_cannot_be_read_back_fails_its_requests_and_nothing_it_may_own_goes() {
    let f = Fixture::new().await;
    let owner = f.post(CMS, config_map("owner")).await.body;
    f.post(CMS, owned("child", &owner, false)).await;
    let path = format!("{CMS}/owner");
    // Nothing that the API lets in is like this; a disk may be.
    let store = &f.plane.shared.server.store;
    let entry = store.get("core/configmaps/default/owner").unwrap();
    let torn = crate::storage::Document {
        bytes: b"{\"metadata\": {\"name\": \"owner\"".to_vec(),
        version_at: 0,
    };
    let write = crate::storage::Write::Put {
        key: std::sync::Arc::clone(&entry.key),
        document: torn,
        expect: crate::storage::Expect::Version(entry.version),
    };
    store.commit(vec![write]).await.unwrap();
    let patched = f.merge(&path, json!({"data": {"k": "w"}})).await;
    assert_eq!(patched.code, 500, "{}", patched.text);
    assert!(
        patched.text.contains("core/configmaps/default/owner"),
        "{}",
        patched.text
    );
    assert_eq!(f.delete(&path, json!({})).await.code, 500);
    assert_eq!(f.get(&format!("{CMS}?labelSelector=a%3Db")).await.code, 500);
    assert!(store.get("core/configmaps/default/owner").is_some());
    // Neither the collector that knew the owner nor one that never did takes it for gone.
    collects_others(&f).await;
    assert_eq!(f.get(&format!("{CMS}/child")).await.code, 200);
    f.plane.shutdown().await;
    let plane = Plane::open(f.plane.config().clone()).await.unwrap();
    let f = Fixture {
        plane,
        folder: f.folder,
    };
    collects_others(&f).await;
    assert_eq!(f.get(&format!("{CMS}/child")).await.code, 200);
}

/// Waits until the collector has worked off all that there is.
async fn collects_others(f: &Fixture) {
    let other = f.post(CMS, config_map("other")).await.body;
    f.post(CMS, owned("of-other", &other, false)).await;
    f.delete(&format!("{CMS}/other"), json!({})).await;
    f.until(&format!("{CMS}/of-other"), 404).await;
}

#[tokio::test]
async fn foreground_deletion_takes_what_is_owned_first() {
    let f = Fixture::new().await;
    let owner = f.post(CMS, config_map("owner")).await.body;
    let mut child = owned("child", &owner, true);
    child["metadata"]["finalizers"] = json!(["example.com/hold"]);
    f.post(CMS, child).await;
    let path = format!("{CMS}/owner");
    let waiting = f.delete(&path, json!({"propagationPolicy": "Foreground"})).await;
    assert_eq!(waiting.body["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    // The child is asked to go, and holds its owner while it does not.
    let mut latest = f.plane.shared.server.store.subscribe();
    while f.get(&format!("{CMS}/child")).await.body["metadata"]["deletionTimestamp"].is_null() {
        latest.changed().await.unwrap();
    }
    assert_eq!(f.get(&path).await.code, 200);
    f.merge(&format!("{CMS}/child"), json!({"metadata": {"finalizers": null}}))
        .await;
    f.until(&path, 404).await;
}

#[tokio::test]
async fn orphans_stay_and_forget_their_owner() {
    let f = Fixture::new().await;
    let owner = f.post(CMS, config_map("owner")).await.body;
    f.post(CMS, owned("child", &owner, true)).await;
    f.delete(&format!("{CMS}/owner"), json!({"propagationPolicy": "Orphan"}))
        .await;
    f.until(&format!("{CMS}/owner"), 404).await;
    let child = f.get(&format!("{CMS}/child")).await;
    assert_eq!(child.code, 200);
    assert!(
        child.body["metadata"].get("ownerReferences").is_none(),
        "{}",
        child.text
    );
}

#[tokio::test]
async fn a_namespace_takes_its_content_with_it() {
    let f = Fixture::with_things().await;
    let space = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "room"}});
    let made = f.post("/api/v1/namespaces", space).await;
    assert_eq!(made.body["status"]["phase"], "Active");
    assert_eq!(made.body["metadata"]["labels"]["kubernetes.io/metadata.name"], "room");
    f.post("/api/v1/namespaces/room/configmaps", config_map("a")).await;
    let things = "/apis/example.com/v1/namespaces/room/things";
    let mut held = thing("t", json!({"size": 1}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(f.post(things, held).await.code, 201);
    let going = f.delete("/api/v1/namespaces/room", json!({})).await;
    assert_eq!(going.body["status"]["phase"], "Terminating");
    f.until("/api/v1/namespaces/room/configmaps/a", 404).await;
    let refused = f.post("/api/v1/namespaces/room/configmaps", config_map("b")).await;
    assert_eq!(refused.code, 403, "{}", refused.text);
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "NamespaceTerminating");
    f.merge(&format!("{things}/t"), json!({"metadata": {"finalizers": null}}))
        .await;
    f.until("/api/v1/namespaces/room", 404).await;
    let forbidden = f.delete("/api/v1/namespaces/default", json!({})).await;
    assert_eq!(forbidden.code, 403);
}

#[tokio::test]
async fn a_deletion_that_was_cut_short_is_finished_after_a_restart() {
    let f = Fixture::new().await;
    let owner = f.post(CMS, config_map("owner")).await.body;
    f.post(CMS, owned("child", &owner, false)).await;
    let config = f.plane.config().clone();
    // The collector stops first: the child is left behind.
    f.plane.shutdown().await;
    let raw = rusqlite::Connection::open(config.state_dir.join("plane.db")).unwrap();
    let removed = raw.execute("DELETE FROM objects WHERE key='core/configmaps/default/owner'", []);
    assert_eq!(removed.unwrap(), 1);
    drop(raw);
    let again = Fixture {
        plane: Plane::open(config).await.unwrap(),
        folder: f.folder,
    };
    again.until(&format!("{CMS}/child"), 404).await;
}

#[tokio::test]
async fn a_running_pod_is_given_time_and_a_waiting_one_is_not() {
    let f = Fixture::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = f.post(pods, pod("waiting")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["status"]["phase"], "Pending");
    let gone = f.delete(&format!("{pods}/waiting"), json!({})).await;
    assert_eq!(gone.body["kind"], "Pod");
    assert_eq!(f.get(&format!("{pods}/waiting")).await.code, 404);
    let mut running = pod("running");
    running["spec"]["nodeName"] = json!("here");
    f.post(pods, running).await;
    let path = format!("{pods}/running");
    let asked = f.delete(&path, json!({})).await;
    assert_eq!(asked.body["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(f.get(&path).await.code, 200);
    f.delete(&path, json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(f.get(&path).await.code, 404);
}
