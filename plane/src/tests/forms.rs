//! The one form in which built-in kinds are written, whatever was sent.

use super::*;

#[tokio::test]
async fn times_of_built_in_kinds_are_read_and_written_as_go_does() {
    let f = Fixture::new().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |time: &str| json!({"metadata": {"name": "l"}, "spec": {"renewTime": time}});
    for wrong in [
        "2020-01-01T00:00:00Z",
        "2020-01-01T00:00:00.123Z",
        "2020-01-01t00:00:00.123456Z",
    ] {
        let refused = f.post(path, lease(wrong)).await;
        assert_eq!(refused.code, 400, "{wrong}: {}", refused.text);
        assert!(
            refused.text.contains("2006-01-02T15:04:05.000000Z07:00"),
            "{}",
            refused.text
        );
    }
    let made = f.post(path, lease("2020-01-01T03:00:00.123456+02:30")).await;
    assert_eq!(
        made.body["spec"]["renewTime"], "2020-01-01T00:30:00.123456Z",
        "{}",
        made.text
    );
}

#[tokio::test]
async fn quantities_are_written_in_one_way_and_a_template_requests_nothing_by_itself() {
    let f = Fixture::new().await;
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}});
    let made = f.post("/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    assert_eq!(
        made.body["spec"]["resources"]["requests"]["storage"], "1Gi",
        "{}",
        made.text
    );
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "0.5", "memory": 1024}}}]});
    let written = json!({"cpu": "500m", "memory": "1024"});
    let job = json!({"metadata": {"name": "j"}, "spec": {"suspend": true, "template": {"spec": pod}}});
    let made = f.post("/apis/batch/v1/namespaces/default/jobs", job).await;
    let resources = &made.body["spec"]["template"]["spec"]["containers"][0]["resources"];
    assert_eq!(resources, &json!({"limits": written}), "{}", made.text);
    let made = f
        .post(
            "/api/v1/namespaces/default/pods",
            json!({"metadata": {"name": "p"}, "spec": pod}),
        )
        .await;
    let resources = &made.body["spec"]["containers"][0]["resources"];
    assert_eq!(
        resources,
        &json!({"limits": written, "requests": written}),
        "{}",
        made.text
    );
}
