#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use schemas::FleetNode;
use serde_json::json;

fn node(version: &str, uid: &str, spec: serde_json::Value) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "foreman.llmkube.dev/v1alpha1", "kind": "FleetNode",
        "metadata": { "name": "n", "uid": uid, "resourceVersion": version }, "spec": spec
    }))
    .unwrap()
}

#[test]
fn an_object_that_is_not_what_its_kind_says_is_kept_with_the_reason() {
    let cache = Cache::<FleetNode>::default();
    cache.observe(node("1", "u", json!({ "nodeName": ["not", "a", "string"] })));
    let cached = cache.get(&Key::new("", "n")).unwrap();
    assert!(
        cached.unreadable().unwrap().contains("string"),
        "{:?}",
        cached.unreadable()
    );
    cache.observe(node("2", "u", json!({ "nodeName": "n" })));
    assert!(cache.get(&Key::new("", "n")).unwrap().readable().is_some());
}

#[test]
fn a_late_old_version_changes_nothing_and_listeners_hear_in_order() {
    let cache = Cache::<FleetNode>::default();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    cache.subscribe(move |change| {
        let version = |object: Option<&Arc<Cached<FleetNode>>>| object.and_then(|o| o.meta().resource_version.clone());
        lock(&told).push((version(change.before), version(change.after)));
    });
    let spec = json!({ "nodeName": "n" });
    cache.observe(node("9", "u", spec.clone()));
    cache.observe(node("8", "u", spec.clone()));
    cache.observe(node("10", "u", spec));
    cache.forget(&Key::new("", "n"), Some("other"));
    cache.forget(&Key::new("", "n"), Some("u"));
    let some = |version: &str| Some(version.to_owned());
    assert_eq!(
        *lock(&heard),
        [(None, some("9")), (some("9"), some("10")), (some("10"), None)]
    );
}

#[test]
fn an_answer_that_comes_after_the_deletion_brings_nothing_back() {
    let cache = Cache::<FleetNode>::default();
    let (key, spec) = (Key::new("", "n"), json!({ "nodeName": "n" }));
    cache.observe(node("9", "u", spec.clone()));
    cache.forget(&key, Some("u"));
    cache.observe(node("10", "u", spec.clone()));
    assert!(cache.get(&key).is_none(), "it was written before it was deleted");
    // The watch may be the first to tell of an object at all.
    cache.forget(&key, Some("v"));
    cache.observe(node("11", "v", spec.clone()));
    assert!(cache.get(&key).is_none());
    cache.observe(node("12", "w", spec));
    assert_eq!(
        cache.get(&key).unwrap().uid(),
        "w",
        "another one of the same name lives"
    );
}

#[test]
fn what_a_list_left_out_may_come_by_the_watch() {
    let cache = Cache::<FleetNode>::default();
    let (key, spec) = (Key::new("", "n"), json!({ "nodeName": "n" }));
    cache.observe(node("9", "u", spec.clone()));
    cache.forget(&key, None);
    cache.observe(node("9", "u", spec));
    assert!(cache.get(&key).is_some(), "it was made after the list was");
}

#[test]
fn what_is_gone_is_remembered_for_a_minute() {
    let meta = |uid: &str| ObjectMeta {
        uid: Some(uid.to_owned()),
        ..ObjectMeta::default()
    };
    let (mut gone, begun) = (Gone::default(), Instant::now());
    gone.add("a", begun);
    gone.add("a", begun);
    gone.add("", begun);
    gone.add("b", begun + REMEMBERED - Duration::from_secs(1));
    assert!(gone.has(&meta("a")) && gone.has(&meta("b")) && !gone.has(&ObjectMeta::default()));
    gone.add("c", begun + REMEMBERED);
    assert!(!gone.has(&meta("a")) && gone.has(&meta("b")) && gone.has(&meta("c")));
}
