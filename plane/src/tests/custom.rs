use super::*;

#[tokio::test]
async fn objects_are_held_to_their_schema() {
    let f = Fixture::with_things().await;
    let made = f.post(THINGS, thing("a", json!({"size": 2, "unknown": 1}))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["spec"], json!({"size": 2, "color": "red"}));
    assert!(made.headers["warning"].to_str().unwrap().contains("spec.unknown"));
    let rows = [
        (json!({}), "spec.size", "FieldValueRequired"),
        (json!({"size": 0}), "spec.size", "FieldValueInvalid"),
        (json!({"size": "x"}), "spec.size", "FieldValueTypeInvalid"),
        (
            json!({"size": 1, "color": "green"}),
            "spec.color",
            "FieldValueNotSupported",
        ),
    ];
    for (spec, field, reason) in rows {
        let refused = f.post(THINGS, thing("b", spec.clone())).await;
        assert_eq!(refused.code, 422, "{spec}: {}", refused.text);
        let cause = &refused.body["details"]["causes"][0];
        assert_eq!(
            (&cause["field"], &cause["reason"]),
            (&json!(field), &json!(reason)),
            "{spec}"
        );
        assert_eq!(refused.body["details"]["kind"], "Thing");
    }
}

#[tokio::test]
async fn transition_rules_see_the_old_value() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("a", json!({"size": 2, "fixed": "x"}))).await;
    let path = format!("{THINGS}/a");
    assert_eq!(f.merge(&path, json!({"spec": {"size": 3}})).await.code, 200);
    let refused = f.merge(&path, json!({"spec": {"fixed": "y"}})).await;
    assert_eq!(refused.code, 422);
    assert!(refused.text.contains("fixed stays"), "{}", refused.text);
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_generation_counts_the_spec() {
    let f = Fixture::with_things().await;
    let mut sent = thing("a", json!({"size": 1}));
    sent["status"] = json!({"phase": "Forged"});
    let made = f.post(THINGS, sent).await;
    assert!(made.body.get("status").is_none());
    assert_eq!(made.body["metadata"]["generation"], 1);
    let path = format!("{THINGS}/a");
    let both = json!({"status": {"phase": "Ready"}, "spec": {"size": 9}, "metadata": {"labels": {"a": "b"}}});
    let status = f.merge(&format!("{path}/status"), both.clone()).await;
    assert_eq!(status.body["status"]["phase"], "Ready", "{}", status.text);
    assert_eq!(status.body["spec"]["size"], 1);
    assert_eq!(status.body["metadata"]["generation"], 1);
    assert!(status.body["metadata"].get("labels").is_none());
    let both = json!({"status": {"phase": "Forged"}, "spec": {"size": 9}});
    let main = f.merge(&path, both).await;
    assert_eq!(main.body["status"]["phase"], "Ready");
    assert_eq!(main.body["metadata"]["generation"], 2);
    let labels = f.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labels.body["metadata"]["generation"], 2);
    let blind = f.put(&path, &thing("a", json!({"size": 1}))).await;
    assert_eq!(blind.code, 422, "{}", blind.text);
    assert!(blind.text.contains("must be specified for an update"));
}

#[tokio::test]
async fn two_patches_at_once_are_both_kept_and_of_two_updates_one_is_refused() {
    let f = Fixture::with_things().await;
    let made = f.post(THINGS, thing("a", json!({"size": 1}))).await.body;
    let path = format!("{THINGS}/a");
    let (one, two) = tokio::join!(
        f.merge(&path, json!({"metadata": {"labels": {"one": "1"}}})),
        f.merge(&path, json!({"metadata": {"labels": {"two": "2"}}})),
    );
    assert_eq!((one.code, two.code), (200, 200));
    let now = f.get(&path).await.body;
    assert_eq!(now["metadata"]["labels"], json!({"one": "1", "two": "2"}));
    let version = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {"size": 5}});
    assert_eq!(f.merge(&path, version).await.code, 409, "a patch may name its version");
    let mut a = now.clone();
    let mut b = now.clone();
    a["spec"]["size"] = json!(7);
    b["spec"]["size"] = json!(8);
    let (one, two) = tokio::join!(f.put(&path, &a), f.put(&path, &b));
    let mut codes = [one.code, two.code];
    codes.sort_unstable();
    assert_eq!(codes, [200, 409]);
}

#[tokio::test]
async fn applies_merge_by_owner_and_conflict_over_fields() {
    let f = Fixture::with_things().await;
    let path = format!("{THINGS}/a");
    let no_manager = f.apply(&path, thing("a", json!({"size": 1}))).await;
    assert_eq!(no_manager.code, 422);
    let made = f
        .apply(
            &format!("{path}?fieldManager=one"),
            thing("a", json!({"size": 1, "color": "blue"})),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(made.body["metadata"]["managedFields"][0]["operation"], "Apply");
    let version = f.plane.latest_version();
    let same = f
        .apply(
            &format!("{path}?fieldManager=one"),
            thing("a", json!({"size": 1, "color": "blue"})),
        )
        .await;
    assert_eq!((same.code, f.plane.latest_version()), (200, version), "nothing changed");
    let clash = f
        .apply(&format!("{path}?fieldManager=two"), thing("a", json!({"size": 2})))
        .await;
    assert_eq!(
        (clash.code, &clash.body["reason"]),
        (409, &json!("Conflict")),
        "{}",
        clash.text
    );
    assert_eq!(clash.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(clash.body["details"]["causes"][0]["field"], ".spec.size");
    let forced = f
        .apply(
            &format!("{path}?fieldManager=two&force=true"),
            thing("a", json!({"size": 2})),
        )
        .await;
    assert_eq!(
        (forced.code, &forced.body["spec"]),
        (200, &json!({"size": 2, "color": "blue"})),
        "{}",
        forced.text
    );
    let dropped = f
        .apply(&format!("{path}?fieldManager=one"), thing("a", json!({})))
        .await;
    assert_eq!(
        dropped.body["spec"],
        json!({"size": 2, "color": "red"}),
        "{}",
        dropped.text
    );
    let yaml = "apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: b}\nspec: {size: 4}\n";
    let made = f
        .send(
            Method::PATCH,
            &format!("{THINGS}/b?fieldManager=y"),
            "application/apply-patch+yaml",
            yaml,
        )
        .await;
    assert_eq!(
        (made.code, &made.body["spec"]["size"]),
        (201, &json!(4)),
        "{}",
        made.text
    );
}

#[tokio::test]
async fn each_kind_of_patch_does_what_its_media_type_says() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("a", json!({"size": 1}))).await;
    let path = format!("{THINGS}/a");
    let json_patch =
        json!([{"op": "test", "path": "/spec/size", "value": 1}, {"op": "replace", "path": "/spec/size", "value": 6}]);
    let patched = f
        .send(
            Method::PATCH,
            &path,
            "application/json-patch+json",
            json_patch.to_string(),
        )
        .await;
    assert_eq!(patched.body["spec"]["size"], 6, "{}", patched.text);
    let failed = f
        .send(
            Method::PATCH,
            &path,
            "application/json-patch+json",
            json_patch.to_string(),
        )
        .await;
    assert_eq!(failed.code, 422, "{}", failed.text);
    let strategic = f
        .send(Method::PATCH, &path, "application/strategic-merge-patch+json", "{}")
        .await;
    assert_eq!(strategic.code, 415);
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"}, "spec": {"suspend": true, "template": {"spec": {"restartPolicy": "Never",
        "containers": [{"name": "a", "image": "i", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "i"}]}}}});
    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let made = f.post(jobs, job).await;
    assert_eq!(made.code, 201, "{}", made.text);
    assert_eq!(made.body["spec"]["backoffLimit"], 6);
    let path = format!("{jobs}/j");
    let strategic = "application/strategic-merge-patch+json";
    let fixed = json!({"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "other"}]}}}});
    let refused = f.send(Method::PATCH, &path, strategic, fixed.to_string()).await;
    assert_eq!(refused.code, 422, "{}", refused.text);
    assert_eq!(refused.body["details"]["causes"][0]["field"], "spec.template");
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}]}});
    f.post(pods, pod).await;
    let image = json!({"spec": {"containers": [{"name": "b", "image": "other"}]}});
    let merged = f
        .send(Method::PATCH, &format!("{pods}/p"), strategic, image.to_string())
        .await;
    let containers = &merged.body["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 2, "{}", merged.text);
    assert_eq!(
        (&containers[0]["image"], &containers[1]["image"]),
        (&json!("i"), &json!("other"))
    );
}

#[tokio::test]
async fn tables_and_metadata_are_shown_when_asked_for() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("a", json!({"size": 1, "color": "blue"}))).await;
    let table = f
        .accept(THINGS, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
        .await;
    assert_eq!(table.body["kind"], "Table", "{}", table.text);
    assert_eq!(table.body["rows"][0]["cells"][1], "blue");
    assert_eq!(table.body["columnDefinitions"][1]["name"], "Color");
    let partial = f
        .accept(
            THINGS,
            "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        )
        .await;
    assert_eq!(partial.body["kind"], "PartialObjectMetadataList");
    assert_eq!(partial.body["items"][0]["metadata"]["name"], "a");
    assert!(partial.body["items"][0].get("spec").is_none());
}

#[tokio::test]
async fn selectable_fields_select() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("a", json!({"size": 1, "color": "blue"}))).await;
    f.post(THINGS, thing("b", json!({"size": 1}))).await;
    let blue = f.get(&format!("{THINGS}?fieldSelector=spec.color%3Dblue")).await;
    assert_eq!(blue.body["items"].as_array().unwrap().len(), 1, "{}", blue.text);
    assert_eq!(f.get(&format!("{THINGS}?fieldSelector=spec.size%3D1")).await.code, 400);
}

#[tokio::test]
async fn a_definition_that_is_wrong_is_refused_and_a_changed_one_takes_effect_at_once() {
    let f = Fixture::with_things().await;
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let mut bad = things();
    bad["metadata"]["name"] = json!("wrong.example.com");
    assert_eq!(f.post(crds, bad).await.code, 422);
    let path = format!("{crds}/things.example.com");
    let mut crd = f.get(&path).await.body;
    assert_eq!(crd["status"]["conditions"][1]["type"], "Established");
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] =
        json!({"type": "string"});
    let changed = f.put(&path, &crd).await;
    assert_eq!(
        (changed.code, &changed.body["metadata"]["generation"]),
        (200, &json!(2)),
        "{}",
        changed.text
    );
    let made = f.post(THINGS, thing("a", json!({"size": 1, "extra": "x"}))).await;
    assert_eq!(made.body["spec"]["extra"], "x");
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A request whose body is sent later, already under way.
async fn begun(
    f: &Fixture,
    method: Method,
    path: &str,
    media: &str,
) -> (
    std::pin::Pin<Box<dyn Future<Output = Answer>>>,
    futures::channel::mpsc::UnboundedSender<Result<String, std::io::Error>>,
) {
    let (sender, chunks) = futures::channel::mpsc::unbounded();
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", media)
        .body(Body::from_stream(chunks))
        .unwrap();
    let router = f.plane.router();
    let mut answer: std::pin::Pin<Box<dyn Future<Output = Answer>>> =
        Box::pin(async move { Answer::of(router.oneshot(request).await.unwrap()).await });
    assert!(futures::poll!(&mut answer).is_pending(), "the body is waited for");
    (answer, sender)
}

#[tokio::test]
async fn a_definition_is_served_though_the_request_that_made_it_was_dropped() {
    let f = Fixture::new().await;
    let mut request = Box::pin(f.post(CRDS, things()));
    assert!(futures::poll!(&mut request).is_pending(), "the writer has it");
    drop(request);
    f.until(THINGS, 200).await;
    // The same of its end.
    let path = format!("{CRDS}/things.example.com");
    let mut request = Box::pin(f.delete(&path, json!({})));
    assert!(futures::poll!(&mut request).is_pending());
    drop(request);
    f.until(THINGS, 404).await;
}

#[tokio::test]
async fn an_object_is_not_stored_for_a_definition_that_went_while_its_body_was_under_way() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("old", json!({"size": 1}))).await;
    let (made, body) = begun(&f, Method::POST, THINGS, "application/json").await;
    let (applied, patch) = begun(
        &f,
        Method::PATCH,
        &format!("{THINGS}/old?fieldManager=m"),
        "application/apply-patch+yaml",
    )
    .await;
    f.delete(&format!("{CRDS}/things.example.com"), json!({})).await;
    f.until(&format!("{CRDS}/things.example.com"), 404).await;
    body.unbounded_send(Ok(thing("late", json!({"size": 1})).to_string()))
        .unwrap();
    patch
        .unbounded_send(Ok(thing("old", json!({"size": 2})).to_string()))
        .unwrap();
    drop((body, patch));
    assert_eq!(made.await.code, 404);
    assert_eq!(applied.await.code, 404);
    assert_eq!(f.post(CRDS, things()).await.code, 201);
    assert_eq!(f.get(THINGS).await.body["items"], json!([]));
}

#[tokio::test]
async fn an_object_read_by_one_schema_is_not_stored_under_another() {
    let f = Fixture::with_things().await;
    let (made, body) = begun(&f, Method::POST, THINGS, "application/json").await;
    let (told, other) = begun(&f, Method::POST, THINGS, "application/json").await;
    let path = format!("{CRDS}/things.example.com");
    // What is said of the definition beside its schemas does not matter.
    assert_eq!(
        f.merge(&path, json!({"metadata": {"labels": {"a": "b"}}})).await.code,
        200
    );
    other
        .unbounded_send(Ok(thing("a", json!({"size": 1})).to_string()))
        .unwrap();
    drop(other);
    assert_eq!(told.await.code, 201);
    let mut crd = f.get(&path).await.body;
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["extra"] =
        json!({"type": "string", "default": "x"});
    assert_eq!(f.put(&path, &crd).await.code, 200);
    body.unbounded_send(Ok(thing("b", json!({"size": 1})).to_string()))
        .unwrap();
    drop(body);
    let refused = made.await;
    assert_eq!(
        (refused.code, &refused.body["reason"]),
        (503, &json!("ServiceUnavailable")),
        "{}",
        refused.text
    );
    assert_eq!(f.get(&format!("{THINGS}/b")).await.code, 404);
}

#[tokio::test]
async fn the_documents_describe_the_kinds() {
    let f = Fixture::with_things().await;
    let index = f.get("/openapi/v3").await;
    assert!(
        index.body["paths"]["apis/example.com/v1"]["serverRelativeURL"].is_string(),
        "{}",
        index.text
    );
    let document = f.get("/openapi/v3/apis/example.com/v1").await;
    assert!(document.text.contains("com.example.v1.Thing"), "{}", document.text);
    let strategic = "application/strategic-merge-patch+json";
    assert!(!document.text.contains(strategic), "kubectl would send one");
    assert!(f.get("/openapi/v3/apis/batch/v1").await.text.contains(strategic));
    assert_eq!(f.get("/openapi/v3/apis/none/v1").await.code, 404);
    assert_eq!(f.get("/openapi/v2").await.body["swagger"], "2.0");
    let proto = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
    let other = f.accept("/openapi/v2", proto).await;
    assert_eq!(other.code, 200, "kubectl asks so for a kind that is not served");
    assert!(other.text.contains("2.0"), "{}", other.text);
    assert_eq!(f.accept("/openapi/v2", "application/xml").await.code, 406);
}

#[tokio::test]
async fn a_definition_does_not_take_the_place_of_a_built_in_kind() {
    let f = Fixture::new().await;
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {"holderIdentity": "me"}});
    assert_eq!(f.post(leases, lease).await.code, 201);
    let mut crd = things();
    crd["metadata"] = json!({"name": "leases.coordination.k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"}});
    crd["spec"]["group"] = json!("coordination.k8s.io");
    crd["spec"]["names"] = json!({"plural": "leases", "kind": "Thing"});
    let made = f.post(CRDS, crd).await;
    assert_eq!(made.code, 201, "{}", made.text);
    let accepted = &made.body["status"]["conditions"][0];
    assert_eq!(
        (&accepted["type"], &accepted["status"]),
        (&json!("NamesAccepted"), &json!("False")),
        "{}",
        made.text
    );
    assert_eq!(accepted["message"], "\"leases\" is already in use");
    // Nor does one that an earlier program accepted.
    let key = "apiextensions.k8s.io/customresourcedefinitions//leases.coordination.k8s.io";
    let store = &f.plane.shared.server.store;
    let entry = store.get(key).unwrap();
    let mut established = crate::object::read(&entry).unwrap();
    established["status"]["conditions"][1]["status"] = json!("True");
    let write = crate::storage::Write::Put {
        key: std::sync::Arc::clone(&entry.key),
        document: crate::object::to_document(&established),
        expect: crate::storage::Expect::Version(entry.version),
    };
    store.commit(vec![write]).await.unwrap();
    let found = f.get(&format!("{leases}/l")).await;
    assert_eq!(found.body["kind"], "Lease", "{}", found.text);
    let told = f.get("/apis/coordination.k8s.io/v1").await;
    assert_eq!(told.body["resources"].as_array().unwrap().len(), 1, "{}", told.text);
    // Nor do the built-in objects go with it.
    let path = format!("{CRDS}/leases.coordination.k8s.io");
    f.delete(&path, json!({})).await;
    f.until(&path, 404).await;
    assert_eq!(f.get(&format!("{leases}/l")).await.code, 200);
}

#[tokio::test]
async fn objects_that_no_version_serves_go_with_their_definition_and_their_namespace() {
    for of_namespace in [true, false] {
        let f = Fixture::with_things().await;
        f.post("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
        let made = f
            .post(
                "/apis/example.com/v1/namespaces/n/things",
                thing("a", json!({"size": 1})),
            )
            .await;
        assert_eq!(made.code, 201, "{}", made.text);
        let path = format!("{CRDS}/things.example.com");
        let mut crd = f.get(&path).await.body;
        crd["spec"]["versions"][0]["served"] = json!(false);
        assert_eq!(f.put(&path, &crd).await.code, 200);
        let gone = if of_namespace { "/api/v1/namespaces/n" } else { &path };
        f.delete(gone, json!({})).await;
        f.until(gone, 404).await;
        assert!(
            f.plane.shared.server.store.get("example.com/things/n/a").is_none(),
            "{gone}"
        );
    }
}

#[tokio::test]
async fn a_group_of_which_no_version_is_served_is_told_nowhere() {
    let f = Fixture::with_things().await;
    assert_eq!(f.get("/apis/example.com").await.code, 200);
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com";
    let mut versions = f.get(definition).await.body["spec"]["versions"].clone();
    versions[0]["served"] = false.into();
    let changed = f.merge(definition, json!({"spec": {"versions": versions}})).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    assert_eq!(f.get("/apis/example.com").await.code, 404);
    assert!(!f.get("/apis").await.text.contains("example.com"));
    let both = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    assert!(!f.accept("/apis", both).await.text.contains("example.com"));
}
