//! What requests meet at the edges: sizes, forms for people, options that say nothing.

use super::*;

#[tokio::test]
async fn people_are_answered_in_indented_json() {
    let f = Fixture::new().await;
    f.post(CMS, config_map("a")).await;
    let asked = async |path: &str, agent: &str| {
        let request = Request::builder().uri(path).header("user-agent", agent);
        f.request(request.body(Body::empty()).unwrap()).await
    };
    let one = format!("{CMS}/a");
    let indented = asked(&one, "curl/8.5.0").await;
    assert!(indented.text.starts_with("{\n  \""), "{}", indented.text);
    assert!(indented.text.ends_with("}\n"));
    assert_eq!(indented.body, f.get(&one).await.body);
    for (path, agent, lines) in [
        (format!("{one}?pretty=false"), "curl/8.5.0", false),
        (one.clone(), "kubectl/v1.34.4", false),
        (format!("{one}?pretty=1"), "kubectl/v1.34.4", true),
        (format!("{CMS}/none"), "Wget/1.21", true),
        ("/healthz".to_owned(), "curl/8.5.0", false),
    ] {
        assert_eq!(asked(&path, agent).await.text.contains("\n  "), lines, "{path} {agent}");
    }
}

#[tokio::test]
async fn what_the_store_of_a_cluster_would_refuse_is_refused() {
    let f = Fixture::with_things().await;
    let text = |length: usize| "x".repeat(length);
    let refused = f
        .post(THINGS, thing("a", json!({"size": 1, "fixed": text(1_600_000)})))
        .await;
    assert_eq!(refused.code, 500, "{:.200}", refused.text);
    assert_eq!(refused.body["message"], "etcdserver: request is too large");
    let made = f
        .post(THINGS, thing("a", json!({"size": 1, "fixed": text(1_500_000)})))
        .await;
    assert_eq!(made.code, 201, "{:.200}", made.text);
    let labels: serde_json::Map<String, Value> = (0..1500).map(|i| (format!("k{i}"), text(63).into())).collect();
    let grown = f
        .merge(&format!("{THINGS}/a"), json!({"metadata": {"labels": labels}}))
        .await;
    assert_eq!(grown.body["message"], "etcdserver: request is too large");
    assert!(f.get(&format!("{THINGS}/a")).await.body["metadata"]["labels"].is_null());
    let mut map = config_map("full");
    map["data"]["k"] = text(1 << 20).into();
    assert_eq!(f.post(CMS, map.clone()).await.code, 201);
    map["data"]["k"] = text((1 << 20) + 1).into();
    let refused = f.put(&format!("{CMS}/full"), &map).await;
    assert_eq!(
        refused.body["message"],
        "ConfigMap \"full\" is invalid: []: Too long: may not be more than 1048576 bytes"
    );
}

#[tokio::test]
async fn a_list_of_any_version_has_no_pages() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c"] {
        f.post(CMS, config_map(name)).await;
    }
    let whole = f.get(&format!("{CMS}?limit=1&resourceVersion=0")).await;
    assert_eq!(whole.body["items"].as_array().unwrap().len(), 3);
    let page = f.get(&format!("{CMS}?limit=1")).await;
    assert_eq!(page.body["metadata"]["remainingItemCount"], 2);
}

#[tokio::test]
async fn a_watch_from_nowhere_marks_the_end_of_what_there_is() {
    let f = Fixture::new().await;
    f.post(CMS, config_map("a")).await;
    for query in ["", "&resourceVersion=0"] {
        let mut events = f
            .watch(&format!("{CMS}?watch=true&allowWatchBookmarks=true{query}"))
            .await;
        assert_eq!(events.words().await, "ADDED a");
        events.marks_the_end().await;
    }
}

#[tokio::test]
async fn a_collection_is_shown_as_it_was_before_it_went() {
    let f = Fixture::new().await;
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/f"]);
    f.post(CMS, held).await;
    for query in ["?dryRun=All", ""] {
        let shown = f
            .send(Method::DELETE, &format!("{CMS}{query}"), "", Body::empty())
            .await;
        let metadata = &shown.body["items"][0]["metadata"];
        assert_eq!(metadata["name"], "held", "{}", shown.text);
        assert!(metadata["deletionTimestamp"].is_null(), "{}", shown.text);
    }
    let marked = f.get(&format!("{CMS}/held")).await;
    assert!(!marked.body["metadata"]["deletionTimestamp"].is_null());
}

#[tokio::test]
async fn questions_that_are_none_are_refused() {
    let f = Fixture::new().await;
    f.post(CMS, config_map("a")).await;
    let one = format!("{CMS}/a");
    for (method, path, code) in [
        (Method::HEAD, one.as_str(), 405),
        (Method::HEAD, CMS, 405),
        (Method::GET, "/healthz/none", 404),
        (Method::GET, "/livez/ping", 200),
        (Method::GET, "/api/v1/configmaps?timeout=soon", 400),
        (Method::GET, "/api/v1/configmaps?timeout=1m", 200),
        (Method::DELETE, "/api/v1/namespaces/default/configmaps/a?dryRun=", 422),
    ] {
        let answer = f.send(method.clone(), path, "", Body::empty()).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
    }
    assert_eq!(f.get("/readyz?verbose").await.text, "[+]ping ok\nreadyz check passed\n");
}

#[tokio::test]
async fn whatever_is_asked_of_a_deprecated_version_warns() {
    let f = Fixture::new().await;
    let mut crd = things();
    crd["spec"]["versions"][0]["deprecated"] = json!(true);
    f.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        .await;
    f.post(THINGS, thing("a", json!({"size": 1}))).await;
    let one = format!("{THINGS}/a");
    for (path, code) in [(&one, 200), (&one, 404), (&THINGS.to_owned(), 200)] {
        let answer = f.delete(path, json!({})).await;
        assert_eq!(answer.code, code, "{path}");
        assert_eq!(answer.headers.get_all("warning").iter().count(), 1, "{path} {code}");
    }
}

#[tokio::test]
async fn a_namespace_is_not_given_finalizers_that_are_none() {
    let f = Fixture::new().await;
    f.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let refused = f
        .put(
            "/api/v1/namespaces/n/finalize",
            &json!({"metadata": {"name": "n"}, "spec": {"finalizers": ["odd"]}}),
        )
        .await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.finalizers[0]");
}

#[tokio::test]
async fn a_patch_may_drop_an_identity_but_neither_a_name_nor_a_version() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("a", json!({"size": 1}))).await;
    let one = format!("{THINGS}/a");
    let told = async |path: &str, patch: Value| {
        let answer = f.merge(path, patch).await;
        let message = answer.body["message"].as_str().unwrap_or_default().to_owned();
        (answer.code, message)
    };
    assert_eq!(told(&one, json!({"metadata": {"uid": null}})).await.0, 200);
    let nameless = "the name of the object (a based on URL) was undeterminable: name must be provided";
    for patch in [json!({"metadata": null}), json!({"metadata": {"name": null}})] {
        assert_eq!(told(&one, patch).await, (400, nameless.to_owned()));
    }
    let (code, message) = told(&one, json!({"metadata": {"resourceVersion": null}})).await;
    assert_eq!(code, 422);
    assert!(message.ends_with("must be specified for an update"), "{message}");
    f.post(CMS, config_map("a")).await;
    let map = format!("{CMS}/a");
    assert_eq!(
        told(&map, json!({"metadata": {"resourceVersion": null}, "data": {"k": "w"}}))
            .await
            .0,
        200
    );
}
