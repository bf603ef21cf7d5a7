//! Objects that are older than the schema of their kind.

use super::*;

const CRD: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";

/// Gives Things a field with a default that can be selected by, and takes one away.
async fn grow(f: &Fixture) {
    let mut crd = f.get(CRD).await.body;
    let version = &mut crd["spec"]["versions"][0];
    let spec = &mut version["schema"]["openAPIV3Schema"]["properties"]["spec"];
    spec["properties"]["shape"] = json!({"type": "string", "default": "round"});
    spec["properties"].as_object_mut().unwrap().remove("fixed");
    version["selectableFields"] = json!([{"jsonPath": ".spec.shape"}]);
    version["additionalPrinterColumns"] = json!([{"name": "Shape", "type": "string", "jsonPath": ".spec.shape"}]);
    let changed = f.put(CRD, &crd).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
}

fn grown() -> Value {
    json!({"size": 1, "color": "red", "shape": "round"})
}

/// A Thing that was applied before its kind grew.
async fn with_old_thing() -> (Fixture, String) {
    let f = Fixture::with_things().await;
    let path = format!("{THINGS}/a?fieldManager=one");
    let made = f.apply(&path, thing("a", json!({"size": 1, "fixed": "x"}))).await;
    assert_eq!(made.code, 201, "{}", made.text);
    grow(&f).await;
    (f, path)
}

/// The names of the managers that own a field of the spec.
fn owners(object: &Value, field: &str) -> Vec<String> {
    let managers = object["metadata"]["managedFields"].as_array().unwrap().iter();
    managers
        .filter(|entry| entry["fieldsV1"]["f:spec"].get(format!("f:{field}")).is_some())
        .map(|entry| entry["manager"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn every_way_of_reading_shows_it_as_the_schema_has_it_now() {
    let (f, _) = with_old_thing().await;
    let version = f.plane.latest_version();
    let old = f.get(&format!("{THINGS}/a")).await.body;
    assert_eq!(old["spec"], grown());
    assert_eq!(f.get(THINGS).await.body["items"][0], old);
    let round = f.get(&format!("{THINGS}?fieldSelector=spec.shape%3Dround")).await;
    assert_eq!(round.body["items"][0], old, "{}", round.text);
    let table = f.accept(THINGS, TABLE).await;
    assert_eq!(table.body["rows"][0]["cells"], json!(["a", "round"]), "{}", table.text);
    assert_eq!(f.plane.latest_version(), version, "reading changes nothing");
    let mut events = f.watch(&format!("{THINGS}?watch=true")).await;
    assert_eq!(events.next().await.unwrap()["object"], old);
    f.delete(&format!("{THINGS}/a"), json!({})).await;
    let gone = events.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["spec"]), (&json!("DELETED"), &grown()));
    let version = f.plane.latest_version().to_string();
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], version);
}

#[tokio::test]
async fn who_writes_something_else_does_not_come_to_own_what_the_schema_added() {
    let (f, path) = with_old_thing().await;
    let note = json!({"metadata": {"annotations": {"a": "b"}}});
    let noted = f.merge(&format!("{THINGS}/a?fieldManager=two"), note).await;
    assert_eq!(noted.code, 200, "{}", noted.text);
    assert_eq!(
        (&noted.body["spec"], &noted.body["metadata"]["generation"]),
        (&grown(), &json!(1))
    );
    assert_eq!(owners(&noted.body, "shape"), Vec::<String>::new());
    let version = f.plane.latest_version();
    let same = f.apply(&path, thing("a", json!({"size": 1}))).await;
    assert_eq!(same.body["metadata"]["generation"], 1, "{}", same.text);
    let again = f.apply(&path, thing("a", json!({"size": 1}))).await;
    assert_eq!(again.body, same.body);
    assert!(
        f.plane.latest_version() <= version + 1,
        "an apply of the same is no write"
    );
}

#[tokio::test]
async fn a_write_that_changes_nothing_stores_it_as_the_schema_has_it() {
    let (f, _) = with_old_thing().await;
    let stored = || {
        let entry = f.plane.shared.server.store.get("example.com/things/default/a").unwrap();
        crate::object::read(&entry).unwrap()
    };
    assert_eq!(stored()["spec"]["fixed"], "x");
    let nothing = f.merge(&format!("{THINGS}/a"), json!({})).await;
    assert_eq!((&nothing.body["spec"], &stored()["spec"]), (&grown(), &grown()));
    let version = f.plane.latest_version();
    f.merge(&format!("{THINGS}/a"), json!({})).await;
    assert_eq!(f.plane.latest_version(), version, "once is enough");
}

#[tokio::test]
async fn a_restart_and_a_change_beside_the_schema_forget_nothing() {
    let (f, _) = with_old_thing().await;
    f.merge(CRD, json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(f.get(&format!("{THINGS}/a")).await.body["spec"], grown());
    f.plane.shutdown().await;
    let plane = Plane::open(f.plane.config().clone()).await.unwrap();
    let f = Fixture {
        plane,
        folder: f.folder,
    };
    assert_eq!(f.get(&format!("{THINGS}/a")).await.body["spec"], grown());
}

#[tokio::test]
async fn only_what_is_older_than_the_schema_is_looked_at_and_only_once_where_nothing_is_to_do() {
    let f = Fixture::with_things().await;
    let kept = |name: &str| {
        let kinds = f.plane.shared.server.catalog.kinds();
        let kind = std::sync::Arc::clone(kinds.resource("example.com", "things").unwrap());
        let entry = f.plane.shared.server.store.get(&kind.key("default", name)).unwrap();
        (kind, entry)
    };
    f.post(THINGS, thing("a", json!({"size": 1}))).await;
    let (kind, entry) = kept("a");
    assert!(!kind.is_older(&entry), "it was written under this schema");
    // A schema that says the same of this object.
    let mut crd = f.get(CRD).await.body;
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = json!("Things.");
    assert_eq!(f.put(CRD, &crd).await.code, 200);
    let (kind, entry) = kept("a");
    assert!(kind.is_older(&entry));
    let before = f.get(&format!("{THINGS}/a")).await.text;
    assert!(!kind.is_older(&entry), "it was found to be as the schema has it");
    assert_eq!(before.as_bytes(), &entry.bytes[..]);
    f.merge(CRD, json!({"metadata": {"labels": {"a": "b"}}})).await;
    let (kind, entry) = kept("a");
    assert!(!kind.is_older(&entry), "that is remembered");
    f.post(THINGS, thing("b", json!({"size": 1}))).await;
    let (kind, entry) = kept("b");
    assert!(!kind.is_older(&entry));
}

#[tokio::test]
async fn objects_of_two_versions_are_shown_in_each_as_their_own_schema_and_the_shown_one_have_them() {
    let f = Fixture::with_things().await;
    f.post(THINGS, thing("a", json!({"size": 1, "fixed": "x"}))).await;
    // The next version knows no `fixed`, has a default of its own, and is the one that is stored from now on.
    let mut crd = f.get(CRD).await.body;
    let mut next = crd["spec"]["versions"][0].clone();
    next["name"] = json!("v2");
    let spec = &mut next["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"];
    spec.as_object_mut().unwrap().remove("fixed");
    spec["shape"] = json!({"type": "string", "default": "round"});
    crd["spec"]["versions"][0]["storage"] = json!(false);
    crd["spec"]["versions"].as_array_mut().unwrap().push(next);
    let changed = f.put(CRD, &crd).await;
    assert_eq!(changed.code, 200, "{}", changed.text);
    let second = "/apis/example.com/v2/namespaces/default/things";
    let first = f.get(&format!("{THINGS}/a")).await.body;
    assert_eq!(first["apiVersion"], "example.com/v1");
    assert_eq!(first["spec"], json!({"size": 1, "color": "red", "fixed": "x"}));
    let other = f.get(&format!("{second}/a")).await.body;
    assert_eq!(other["apiVersion"], "example.com/v2");
    assert_eq!(other["spec"], json!({"size": 1, "color": "red"}));
    assert_eq!(f.get(second).await.body["items"][0], other);
    // Written through the old version, it is stored in the new one, whose default the next read fills in.
    let note = json!({"metadata": {"annotations": {"a": "b"}}});
    assert_eq!(f.merge(&format!("{THINGS}/a"), note).await.code, 200);
    assert_eq!(f.get(&format!("{second}/a")).await.body["spec"], grown());
    assert_eq!(
        f.get(&format!("{THINGS}/a")).await.body["spec"],
        json!({"size": 1, "color": "red"})
    );
}

#[tokio::test]
async fn a_watch_ends_when_the_schema_changes() {
    let f = Fixture::with_things().await;
    let mut events = f.watch(&format!("{THINGS}?watch=true")).await;
    f.merge(CRD, json!({"metadata": {"labels": {"a": "b"}}})).await;
    f.post(THINGS, thing("a", json!({"size": 1}))).await;
    assert_eq!(events.words().await, "ADDED a");
    grow(&f).await;
    assert_eq!(events.next().await, None);
}
