//! Requests that would bring down a server that trusts them.

use super::*;

/// Logs whose reader has a fault.
struct Broken;

impl crate::pod_logs::PodLogs for Broken {
    fn open<'a>(
        &'a self,
        _: crate::pod_logs::LogRequest,
    ) -> futures::future::BoxFuture<
        'a,
        Result<futures::stream::BoxStream<'static, std::io::Result<bytes::Bytes>>, crate::pod_logs::LogError>,
    > {
        panic!("a fault for a test")
    }
}

#[tokio::test]
async fn a_request_that_makes_the_server_panic_is_answered_and_fails_alone() {
    let f = Fixture::new().await;
    f.plane.set_pod_logs(std::sync::Arc::new(Broken));
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = f.post(pods, pod).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let log = f.get(&format!("{pods}/a/log")).await;
    assert_eq!(
        (log.code, &log.body["reason"]),
        (500, &json!("InternalError")),
        "{}",
        log.text
    );
    assert!(!log.text.contains("a fault for a test"), "{}", log.text);
    assert_eq!(f.get(&format!("{pods}/a")).await.code, 200);
}

/// Text of so many lists, one in the other.
fn nested(levels: usize) -> String {
    format!("{}1{}", "[".repeat(levels), "]".repeat(levels))
}

#[tokio::test]
async fn what_is_nested_too_deeply_to_be_read_back_is_refused_and_the_rest_can_be_changed() {
    let f = Fixture::new().await;
    let mut open = things();
    open["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    open["spec"]["versions"][0]["selectableFields"] = Value::Null;
    f.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", open)
        .await;
    let body = |levels: usize| {
        let spec = nested(levels);
        format!(
            "{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Thing\",\"metadata\":{{\"name\":\"a\"}},\"spec\":{spec}}}"
        )
    };
    let json = "application/json";
    // The parser would still take these; what is noted of their fields goes deeper.
    for levels in [100, 125] {
        let refused = f.send(Method::POST, THINGS, json, body(levels)).await;
        assert_eq!((refused.code, &refused.body["reason"]), (400, &json!("BadRequest")));
        assert!(
            refused.text.contains("nested deeper than 100 levels"),
            "{}",
            refused.text
        );
    }
    let made = f.send(Method::POST, THINGS, json, body(99)).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let path = format!("{THINGS}/a");
    let named = f.merge(&path, json!({"metadata": {"annotations": {"a": "b"}}})).await;
    assert_eq!(named.code, 200, "{}", named.text);
    let deeper = [
        ("application/merge-patch+json", format!("{{\"x\":{}}}", nested(100))),
        (
            "application/json-patch+json",
            format!("[{{\"op\":\"add\",\"path\":\"/x\",\"value\":{}}}]", nested(100)),
        ),
        (
            "application/json-patch+json",
            "[{\"op\":\"copy\",\"from\":\"/spec\",\"path\":\"/spec/0\"}]".to_owned(),
        ),
        ("application/apply-patch+yaml", body(100)),
    ];
    for (kind, patch) in deeper {
        let refused = f
            .send(Method::PATCH, &format!("{path}?fieldManager=m"), kind, patch)
            .await;
        assert!((400..500).contains(&refused.code), "{kind}: {}", refused.text);
    }
    assert_eq!(f.get(&path).await.body["metadata"]["annotations"]["a"], "b");
    assert_eq!(f.delete(&path, json!({})).await.code, 200);
    assert_eq!(f.get(&path).await.code, 404);
}
