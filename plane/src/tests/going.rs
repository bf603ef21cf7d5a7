//! How objects go: evictions, what watchers see, collections at once.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    let spec = json!({"nodeName": "elsewhere", "containers": [{"name": "c", "image": "i"}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn eviction(name: &str, options: Value) -> Value {
    json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}, "deleteOptions": options})
}

#[tokio::test]
async fn an_evicted_pod_is_told_why_and_given_its_time() {
    let f = Fixture::new().await;
    let (one, evict) = (format!("{PODS}/a"), format!("{PODS}/a/eviction"));
    let made = f.post(PODS, pod("a")).await;
    let tried = f.post(&format!("{evict}?dryRun=All"), eviction("a", json!({}))).await;
    assert_eq!((tried.code, tried.body["status"].as_str()), (201, Some("Success")));
    assert_eq!(f.get(&one).await.body, made.body);
    let stale = json!({"preconditions": {"resourceVersion": "1"}});
    assert_eq!(f.post(&evict, eviction("a", stale)).await.code, 409);
    assert_eq!(f.get(&one).await.body, made.body);

    let version = json!({"preconditions": {"resourceVersion": made.body["metadata"]["resourceVersion"]}});
    assert_eq!(f.post(&evict, eviction("a", version)).await.code, 201);
    let going = f.get(&one).await.body;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert_eq!(going["status"]["conditions"][0]["reason"], "EvictionByEvictionAPI");
    assert_eq!(
        f.post(&evict, eviction("a", json!({"gracePeriodSeconds": 0})))
            .await
            .code,
        201
    );
    assert_eq!(f.post(&evict, eviction("a", json!({}))).await.code, 404);
}

#[tokio::test]
async fn what_is_no_eviction_of_the_pod_is_refused() {
    let f = Fixture::new().await;
    f.post(PODS, pod("a")).await;
    let evict = format!("{PODS}/a/eviction");
    let mut elsewhere = eviction("a", json!({}));
    elsewhere["metadata"]["namespace"] = "kube-system".into();
    for (body, why) in [
        (
            eviction("b", json!({})),
            "name in URL does not match name in Eviction object",
        ),
        (elsewhere, "does not match the namespace sent on the request"),
        (pod("a"), "Pod in version \"v1\" cannot be handled as a Eviction"),
    ] {
        let refused = f.post(&evict, body).await;
        let told = refused.body["message"].as_str().unwrap_or_default();
        assert!(refused.code == 400 && told.contains(why), "{} {told}", refused.code);
    }
    assert_eq!(f.get(&evict).await.code, 405);
    assert_eq!(f.get(&format!("{PODS}/a")).await.code, 200);
    let listed = f.get("/api/v1").await.body;
    let resources = listed["resources"].as_array().unwrap();
    let found = resources.iter().find(|one| one["name"] == "pods/eviction").unwrap();
    assert_eq!(
        (&found["group"], &found["kind"]),
        (&json!("policy"), &json!("Eviction"))
    );
}

#[tokio::test]
async fn a_pod_that_goes_is_shown_once_more_without_time() {
    let f = Fixture::new().await;
    let mut events = f.watch(&format!("{PODS}?watch=1")).await;
    let mut left = pod("a");
    left["spec"]["schedulerName"] = "none".into();
    left["spec"].as_object_mut().unwrap().remove("nodeName");
    f.post(PODS, left).await;
    let gone = f.delete(&format!("{PODS}/a"), json!({})).await;
    assert_eq!(gone.body["metadata"]["deletionGracePeriodSeconds"], 0);
    assert_eq!(events.words().await, "ADDED a");
    for kind in ["MODIFIED", "DELETED"] {
        let event = events.next().await.unwrap();
        assert_eq!(event["type"], kind);
        assert_eq!(event["object"]["metadata"]["deletionGracePeriodSeconds"], 0);
    }
}

#[tokio::test]
async fn a_collection_is_deleted_in_pages_and_shown_in_the_form_that_was_asked_for() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c"] {
        f.post(CMS, config_map(name)).await;
    }
    let first = f.delete(&format!("{CMS}?limit=1"), json!({})).await;
    assert_eq!(first.body["items"][0]["metadata"]["name"], "a");
    assert_eq!(first.body["metadata"]["remainingItemCount"], 2);
    let next = first.body["metadata"]["continue"].as_str().unwrap();
    f.delete(&format!("{CMS}?limit=1&continue={next}"), json!({})).await;
    assert_eq!(f.get(CMS).await.body["items"][0]["metadata"]["name"], "c");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let request = Request::builder()
        .method(Method::DELETE)
        .uri(CMS)
        .header("accept", table);
    let shown = f.request(request.body(Body::empty()).unwrap()).await;
    assert_eq!(
        (&shown.body["kind"], &shown.body["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("c"))
    );
    assert_eq!(f.get(CMS).await.body["items"], json!([]));
}

#[tokio::test]
async fn a_name_that_no_object_can_have_is_refused_by_name() {
    let f = Fixture::with_things().await;
    for (name, why) in [
        ("..", "may not be '..'"),
        (".", "may not be '.'"),
        ("a%25b", "may not contain '%'"),
    ] {
        for collection in [CMS, THINGS] {
            let refused = f.get(&format!("{collection}/{name}")).await;
            let told = refused.body["message"].as_str().unwrap_or_default();
            assert!(
                refused.code == 400 && told.starts_with("Name parameter invalid:") && told.ends_with(why),
                "{} {told}",
                refused.code
            );
        }
    }
    // Custom kinds of all namespaces have no collection to write to.
    assert_eq!(
        f.post("/apis/example.com/v1/things", thing("a", json!({"size": 1})))
            .await
            .code,
        404
    );
    assert_eq!(f.post("/api/v1/configmaps", config_map("a")).await.code, 405);
}
