use super::*;

#[tokio::test]
async fn an_object_is_made_read_changed_and_deleted() {
    let f = Fixture::new().await;
    let made = f.post(CMS, config_map("a")).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let meta = &made.body["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    let again = f.post(CMS, config_map("a")).await;
    assert_eq!(again.code, 409);
    assert_eq!(again.body["message"], "configmaps \"a\" already exists");
    assert_eq!(again.body["reason"], "AlreadyExists");
    assert_eq!(again.body["details"], json!({"name": "a", "kind": "configmaps"}));
    let path = format!("{CMS}/a");
    assert_eq!(f.get(&path).await.body, made.body);
    let mut new = made.body.clone();
    new["data"]["k"] = json!("w");
    let put = f.put(&path, &new).await;
    assert_eq!((put.code, &put.body["data"]["k"]), (200, &json!("w")));
    let stale = f.put(&path, &new).await;
    assert_eq!(stale.code, 409);
    assert_eq!(
        stale.body["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let gone = f.delete(&path, json!({})).await;
    assert_eq!((gone.code, &gone.body["status"]), (200, &json!("Success")));
    assert_eq!(gone.body["details"]["uid"], meta["uid"]);
    let missing = f.get(&path).await;
    assert_eq!(missing.code, 404);
    assert_eq!(missing.body["message"], "configmaps \"a\" not found");
}

#[tokio::test]
async fn requests_that_cannot_be_served_are_refused_as_kube_apiserver_does() {
    let f = Fixture::with_things().await;
    f.post(CMS, config_map("a")).await;
    let rows = [
        (Method::GET, "/apis/apps/v1/deployments", 404, ""),
        (Method::GET, "/api/v1/nodes", 404, "NotFound"),
        (
            Method::GET,
            "/api/v1/namespaces/default/configmaps/a/status",
            404,
            "NotFound",
        ),
        (Method::GET, "/api/v1/configmaps/a", 404, "NotFound"),
        (Method::GET, "/apis/example.com/v2/things", 404, ""),
        (
            Method::POST,
            "/api/v1/namespaces/default/configmaps/a",
            405,
            "MethodNotAllowed",
        ),
        (
            Method::GET,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            405,
            "MethodNotAllowed",
        ),
        (Method::DELETE, "/api/v1/namespaces", 405, "MethodNotAllowed"),
        (Method::GET, "/api/v1/configmaps?limit=x", 400, "BadRequest"),
        (Method::GET, "/api/v1/configmaps?continue=x", 400, "BadRequest"),
        (
            Method::GET,
            "/api/v1/configmaps?fieldSelector=data.k%3Dv",
            400,
            "BadRequest",
        ),
        (
            Method::GET,
            "/api/v1/configmaps?labelSelector=a%3D%3D%3D",
            400,
            "BadRequest",
        ),
        (Method::GET, "/api/v1/configmaps?resourceVersion=999999", 504, "Timeout"),
        (
            Method::GET,
            "/api/v1/configmaps?resourceVersionMatch=Exact",
            422,
            "Invalid",
        ),
    ];
    for (method, path, code, reason) in rows {
        let answer = f.send(method.clone(), path, "", Body::empty()).await;
        assert_eq!(answer.code, code, "{method} {path}: {}", answer.text);
        assert_eq!(answer.body["reason"].as_str().unwrap_or(""), reason, "{method} {path}");
    }
    let told = f.get("/api/v1").await;
    let resources = told.body["resources"].as_array().unwrap();
    let told_of = |name: &str| {
        let resource = resources.iter().find(|resource| resource["name"] == name).unwrap();
        resource["verbs"]
            .as_array()
            .unwrap()
            .contains(&json!("deletecollection"))
    };
    assert!(told_of("configmaps") && !told_of("namespaces"), "{}", told.text);
    let document = f.get("/openapi/v3/api/v1").await;
    assert!(document.body["paths"]["/api/v1/namespaces"].get("delete").is_none());
}

#[tokio::test]
async fn bodies_that_do_not_fit_the_request_are_refused() {
    let f = Fixture::new().await;
    let mut elsewhere = config_map("a");
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut versioned = config_map("a");
    versioned["metadata"]["resourceVersion"] = json!("3");
    let mut wrong = config_map("a");
    wrong["kind"] = json!("Secret");
    let mut typed = config_map("a");
    typed["data"] = json!(["x"]);
    // kube-apiserver calls this its own failure.
    assert_eq!(f.post(CMS, versioned).await.code, 500);
    for body in [elsewhere, wrong, typed, json!([]), json!("x")] {
        let answer = f.post(CMS, body.clone()).await;
        assert_eq!(
            (answer.code, &answer.body["reason"]),
            (400, &json!("BadRequest")),
            "{body}"
        );
    }
    let bad = f.post(CMS, config_map("Not_A_Name")).await;
    assert_eq!((bad.code, &bad.body["reason"]), (422, &json!("Invalid")));
    assert_eq!(bad.body["details"]["causes"][0]["field"], "metadata.name");
    let none = f.post("/api/v1/namespaces/none/configmaps", config_map("a")).await;
    assert_eq!(none.body["message"], "namespaces \"none\" not found");
    let text = f.send(Method::POST, CMS, "application/json", "{").await;
    assert_eq!(text.code, 400);
    let pod = &b"k8s\0\n\t\n\x02v1\x12\x03Pod"[..];
    let media = f
        .send(Method::POST, CMS, "application/vnd.kubernetes.protobuf", pod)
        .await;
    assert_eq!(media.code, 415);
    let media = f.send(Method::POST, CMS, "application/cbor", "x").await;
    assert_eq!(media.code, 415);
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n";
    let yaml = f.send(Method::POST, CMS, "application/yaml", yaml).await;
    assert_eq!(yaml.code, 201, "{}", yaml.text);
    let large = "x".repeat(crate::server::BODY_LIMIT + 1);
    let large = f.send(Method::POST, CMS, "application/json", large).await;
    assert_eq!(large.code, 413);
    let path = "/api/v1/namespaces/default/configmaps/y";
    assert_eq!(f.accept(path, "application/vnd.kubernetes.protobuf").await.code, 406);
}

#[tokio::test]
async fn unknown_fields_are_dropped_warned_of_or_refused() {
    let f = Fixture::new().await;
    let mut map = config_map("a");
    map["typo"] = json!(1);
    let strict = f.post(&format!("{CMS}?fieldValidation=Strict"), map.clone()).await;
    assert_eq!(strict.code, 400);
    assert!(strict.text.contains("unknown field \\\"typo\\\""), "{}", strict.text);
    let ignored = f
        .post(&format!("{CMS}?fieldValidation=Ignore&dryRun=All"), map.clone())
        .await;
    assert_eq!((ignored.code, ignored.headers.get("warning")), (201, None));
    let warned = f.post(CMS, map).await;
    assert_eq!(warned.code, 201);
    assert!(warned.body.get("typo").is_none());
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"typo\\\"\"");
}

#[tokio::test]
async fn a_dry_run_answers_like_a_write_and_stores_nothing() {
    let f = Fixture::new().await;
    let before = f.plane.latest_version();
    let made = f.post(&format!("{CMS}?dryRun=All"), config_map("a")).await;
    assert_eq!(made.code, 201);
    assert!(made.body["metadata"].get("resourceVersion").is_none());
    assert_eq!(f.plane.latest_version(), before);
    f.post(CMS, config_map("b")).await;
    let path = format!("{CMS}/b?dryRun=All");
    let merged = f.merge(&path, json!({"data": {"k": "w"}})).await;
    assert_eq!(merged.body["data"]["k"], "w");
    assert_eq!(f.send(Method::DELETE, &path, "", Body::empty()).await.code, 200);
    assert_eq!(
        f.delete(&format!("{CMS}/b"), json!({"dryRun": ["All"]})).await.code,
        200
    );
    assert_eq!(f.get(&format!("{CMS}/b")).await.body["data"]["k"], "v");
    assert_eq!(f.plane.latest_version(), before + 1);
    // The query of a deletion that has a body says nothing, not even what is wrong.
    assert_eq!(
        f.delete(&format!("{path}&propagationPolicy=Odd"), json!({})).await.code,
        200
    );
    assert_eq!(f.get(&format!("{CMS}/b")).await.code, 404);
}

#[tokio::test]
async fn names_can_be_generated() {
    let f = Fixture::new().await;
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let mut map = config_map("");
        map["metadata"] = json!({"generateName": "run-"});
        let made = f.post(CMS, map).await;
        let name = made.body["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("run-") && name.len() == 9, "{name}");
        names.insert(name);
    }
    assert_eq!(names.len(), 20);
}

#[tokio::test]
async fn a_list_in_pages_is_one_moment_however_much_is_written_meanwhile() {
    let f = Fixture::new().await;
    for n in 0..7 {
        f.post(CMS, config_map(&format!("m{n}"))).await;
    }
    let names = |answer: &Answer| -> Vec<String> {
        answer.body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut page = f.get(&format!("{CMS}?limit=3")).await;
    assert_eq!(page.body["metadata"]["remainingItemCount"], 4);
    let version = page.body["metadata"]["resourceVersion"].clone();
    let mut seen = names(&page);
    f.delete(&format!("{CMS}/m4"), json!({})).await;
    f.post(CMS, config_map("m5-new")).await;
    while let Some(token) = page.body["metadata"]["continue"].as_str() {
        page = f.get(&format!("{CMS}?limit=3&continue={token}")).await;
        assert_eq!(page.body["metadata"]["resourceVersion"], version);
        seen.extend(names(&page));
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    let now = f.get(CMS).await;
    assert_eq!(names(&now), ["m0", "m1", "m2", "m3", "m5", "m5-new", "m6"]);
    let exact = format!(
        "{CMS}?resourceVersionMatch=Exact&resourceVersion={}",
        version.as_str().unwrap()
    );
    assert_eq!(names(&f.get(&exact).await), seen);
}

#[tokio::test]
async fn a_page_that_waited_too_long_is_expired() {
    let f = Fixture::forgetful(4).await;
    for n in 0..3 {
        f.post(CMS, config_map(&format!("m{n}"))).await;
    }
    let page = f.get(&format!("{CMS}?limit=1")).await;
    let token = page.body["metadata"]["continue"].as_str().unwrap().to_owned();
    for n in 3..9 {
        f.post(CMS, config_map(&format!("m{n}"))).await;
    }
    let late = f.get(&format!("{CMS}?limit=1&continue={token}")).await;
    assert_eq!((late.code, &late.body["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn a_large_list_arrives_whole() {
    let f = Fixture::new().await;
    for n in 0..40 {
        let mut map = config_map(&format!("m{n:02}"));
        map["data"]["k"] = json!("x".repeat(8 << 10));
        f.post(CMS, map).await;
    }
    let list = f.get("/api/v1/configmaps").await;
    assert_eq!(list.body["items"].as_array().unwrap().len(), 40);
    assert_eq!(list.body["kind"], "ConfigMapList");
}

#[tokio::test]
async fn selectors_pick_by_label_and_field() {
    let f = Fixture::new().await;
    for (name, tier) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"tier": tier});
        f.post(CMS, map).await;
    }
    let rows = [
        ("labelSelector=tier%3Dx", vec!["a", "c"]),
        ("labelSelector=tier%20in%20(y,z)", vec!["b"]),
        ("labelSelector=!tier", vec![]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.name!%3Db&labelSelector=tier", vec!["a", "c"]),
        ("labelSelector=tier%3Dx&limit=1", vec!["a"]),
    ];
    for (query, expected) in rows {
        let list = f.get(&format!("{CMS}?{query}")).await;
        let names: Vec<&str> = list.body["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|item| item["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{query}");
    }
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_not_stored() {
    let f = Fixture::new().await;
    let made = f.post(CMS, config_map("a")).await;
    let version = f.plane.latest_version();
    let path = format!("{CMS}/a");
    let merged = f.merge(&path, json!({"data": {"k": "v"}})).await;
    assert_eq!(
        merged.body["metadata"]["resourceVersion"],
        made.body["metadata"]["resourceVersion"]
    );
    assert_eq!(f.put(&path, &made.body).await.code, 200);
    assert_eq!(f.plane.latest_version(), version);
}

#[tokio::test]
async fn deletions_hold_to_their_preconditions() {
    let f = Fixture::new().await;
    let made = f.post(CMS, config_map("a")).await;
    let path = format!("{CMS}/a");
    for preconditions in [json!({"uid": "other"}), json!({"resourceVersion": "1"})] {
        let refused = f.delete(&path, json!({"preconditions": preconditions})).await;
        assert_eq!((refused.code, &refused.body["reason"]), (409, &json!("Conflict")));
    }
    let meta = &made.body["metadata"];
    let right = json!({"preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]}});
    assert_eq!(f.delete(&path, right).await.code, 200);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let f = Fixture::new().await;
    for (name, keep) in [("a", "no"), ("b", "yes"), ("c", "no")] {
        let mut map = config_map(name);
        map["metadata"]["labels"] = json!({"keep": keep});
        f.post(CMS, map).await;
    }
    let gone = f.delete(&format!("{CMS}?labelSelector=keep%3Dno"), json!({})).await;
    assert_eq!(gone.body["items"].as_array().unwrap().len(), 2, "{}", gone.text);
    let left = f.get(CMS).await;
    assert_eq!(left.body["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn discovery_tells_what_is_served() {
    let f = Fixture::with_things().await;
    let groups = f.get("/apis").await;
    let names: Vec<&str> = groups.body["groups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|group| group["name"].as_str().unwrap())
        .collect();
    assert!(names.contains(&"batch") && names.contains(&"example.com"), "{names:?}");
    let things = f.get("/apis/example.com/v1").await;
    assert_eq!(things.body["resources"][0]["name"], "things");
    assert_eq!(things.body["resources"][0]["shortNames"], json!(["th"]));
    assert_eq!(things.body["resources"][1]["name"], "things/status");
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let all = f.accept("/apis", accept).await;
    assert_eq!(all.body["kind"], "APIGroupDiscoveryList");
    assert_eq!(
        all.headers["content-type"],
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let version = f.get("/version").await;
    assert_eq!(
        (&version.body["major"], &version.body["minor"]),
        (&json!("1"), &json!("34"))
    );
    assert!(version.body["gitVersion"].as_str().unwrap().starts_with("v1.34."));
    for path in ["/healthz", "/readyz", "/livez"] {
        assert_eq!(f.get(path).await.text, "ok");
    }
}

#[tokio::test]
async fn requests_are_counted_by_verb_and_resource() {
    let f = Fixture::new().await;
    f.post(CMS, config_map("a")).await;
    f.get(&format!("{CMS}/a")).await;
    f.get(CMS).await;
    f.get(CMS).await;
    let counts = f.plane.request_counters();
    let of = |verb| counts.get(&(verb, "core/configmaps".to_owned())).copied();
    assert_eq!((of("create"), of("get"), of("list")), (Some(1), Some(1), Some(2)));
    assert_eq!(of("update"), None);
}

#[tokio::test]
async fn reviews_allow_everything() {
    let f = Fixture::new().await;
    let review = json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"verb": "create", "resource": "pods"}}});
    let answer = f
        .post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
        .await;
    assert_eq!((answer.code, &answer.body["status"]["allowed"]), (201, &json!(true)));
}

#[tokio::test]
async fn events_are_the_same_in_both_groups() {
    let f = Fixture::new().await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"},
        "reason": "Started", "message": "it runs", "type": "Normal", "count": 1,
        "reportingComponent": "c", "reportingInstance": "i"});
    let made = f.post("/api/v1/namespaces/default/events", event).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let seen = f.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!(seen.body["note"], "it runs", "{}", seen.text);
    assert_eq!(seen.body["regarding"]["name"], "p");
    assert_eq!(seen.body["apiVersion"], "events.k8s.io/v1");
    let picked = f
        .get("/api/v1/events?fieldSelector=involvedObject.name%3Dp,involvedObject.kind%3DPod")
        .await;
    assert_eq!(picked.body["items"].as_array().unwrap().len(), 1, "{}", picked.text);
    let none = f.get("/api/v1/events?fieldSelector=involvedObject.name%3Dq").await;
    assert_eq!(none.body["items"], json!([]));
}

#[tokio::test]
async fn a_secret_keeps_its_words_to_itself() {
    let f = Fixture::new().await;
    let path = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"token": "hunter2"}, "immutable": true});
    let made = f.post(path, secret).await;
    assert_eq!(made.body["data"]["token"], "aHVudGVyMg==", "{}", made.text);
    assert!(made.body.get("stringData").is_none());
    assert_eq!(made.body["type"], "Opaque");
    let refused = f
        .merge(&format!("{path}/s"), json!({"data": {"token": "c2VjcmV0"}}))
        .await;
    assert_eq!(refused.code, 422);
    assert!(!refused.text.contains("c2VjcmV0"), "{}", refused.text);
}

#[tokio::test]
async fn a_lease_can_be_made_by_an_update() {
    let f = Fixture::new().await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/l";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15}});
    let made = f.put(path, &lease).await;
    assert_eq!(made.code, 201);
    // Once it is there, an update says which version it is of.
    for version in ["", "0"] {
        let mut blind = lease.clone();
        blind["metadata"]["resourceVersion"] = json!(version);
        let refused = f.put(path, &blind).await;
        assert_eq!(refused.code, 422, "{}", refused.text);
        assert_eq!(
            refused.body["message"],
            "leases.coordination.k8s.io \"l\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
        );
    }
    assert_eq!(f.put(path, &made.body).await.code, 200);
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    assert_eq!(f.post(definitions, things()).await.code, 201);
    assert_eq!(
        f.put(&format!("{definitions}/things.example.com"), &things())
            .await
            .code,
        422
    );
    f.post(CMS, config_map("a")).await;
    assert_eq!(f.put(&format!("{CMS}/a"), &config_map("a")).await.code, 200);
    assert_eq!(f.put(&format!("{CMS}/none"), &config_map("none")).await.code, 404);
}
