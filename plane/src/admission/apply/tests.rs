#![allow(clippy::unwrap_used, clippy::panic)]
use serde_json::json;

use super::last_applied::LAST_APPLIED;
use super::*;
use proptest::prelude::*;

fn writer(manager: &'static str, now: &'static str) -> Writer<'static> {
    Writer {
        manager,
        api_version: "v1",
        subresource: "",
        now,
    }
}

const T1: &str = "2024-01-01T00:00:01Z";
const T2: &str = "2024-01-01T00:00:02Z";

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
}

fn types() -> &'static TypeInfo {
    TypeInfo::builtin("v1", "ConfigMap").unwrap()
}

fn run(live: Option<&Value>, data: Value, who: &'static str, force: bool) -> Result<Value, ApplyError> {
    apply(live, &config_map(data), force, types(), &writer(who, T1))
}

#[test]
fn a_manager_owns_what_it_applied_and_no_more() {
    let object = run(None, json!({"a": "1"}), "one", false).unwrap();
    assert_eq!(
        object["metadata"]["managedFields"],
        json!([{"manager": "one", "operation": "Apply", "apiVersion": "v1", "time": T1, "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}])
    );
}

#[test]
fn what_is_no_longer_applied_goes_unless_somebody_else_owns_it() {
    let one = run(None, json!({"a": "1", "b": "2"}), "one", false).unwrap();
    let two = run(Some(&one), json!({"a": "1"}), "two", false).unwrap();
    let less = run(Some(&two), json!({}), "one", false).unwrap();
    assert_eq!(less["data"], json!({"a": "1"}));
    let none = run(Some(&less), json!({}), "two", false).unwrap();
    assert_eq!(none["data"].as_object().map(Map::len).unwrap_or_default(), 0);
}

#[test]
fn an_owned_field_is_not_changed_without_force() {
    let one = run(None, json!({"a": "1"}), "one", false).unwrap();
    let error = run(Some(&one), json!({"a": "2"}), "two", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        r#"Apply failed with 1 conflict: conflict with "one": .data.a"#
    );
    let forced = run(Some(&one), json!({"a": "2"}), "two", true).unwrap();
    assert_eq!(forced["data"]["a"], "2");
    let managers: Vec<&str> = forced["metadata"]["managedFields"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| m["manager"].as_str().unwrap())
        .collect();
    assert_eq!(managers, ["two"]);
}

#[test]
fn an_updater_is_named_with_its_version() {
    let mut object = config_map(json!({"a": "1", "b": "2"}));
    update_managed_fields(None, &mut object, types(), &writer("kubectl-edit", T1));
    let error = run(Some(&object), json!({"a": "2", "b": "3"}), "one", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using v1:\n- .data.a\n- .data.b"
    );
    let ApplyError::Conflicts(conflicts) = error else {
        panic!("conflicts")
    };
    assert_eq!(
        conflict_status(&conflicts)["details"]["causes"][0]["message"],
        "conflict with \"kubectl-edit\" using v1"
    );
}

#[test]
fn applying_again_changes_nothing_at_all() {
    let one = run(None, json!({"a": "1"}), "one", false).unwrap();
    let again = apply(
        Some(&one),
        &config_map(json!({"a": "1"})),
        false,
        types(),
        &writer("one", T2),
    )
    .unwrap();
    assert_eq!(again, one);
}

#[test]
fn an_update_takes_what_it_changes() {
    let one = run(None, json!({"a": "1", "b": "1"}), "one", false).unwrap();
    let mut edited = one.clone();
    edited["data"]["a"] = json!("9");
    update_managed_fields(Some(&one), &mut edited, types(), &writer("edit", T2));
    assert_eq!(
        edited["metadata"]["managedFields"],
        json!([
            {"manager": "one", "operation": "Apply", "apiVersion": "v1", "time": T1, "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:b": {}}}},
            {"manager": "edit", "operation": "Update", "apiVersion": "v1", "time": T2, "fieldsType": "FieldsV1", "fieldsV1": {"f:data": {"f:a": {}}}}
        ])
    );
    let mut same = edited.clone();
    update_managed_fields(
        Some(&edited),
        &mut same,
        types(),
        &writer("edit", "2025-01-01T00:00:00Z"),
    );
    assert_eq!(same, edited);
}

#[test]
fn an_empty_list_forgets_all_managers() {
    let one = run(None, json!({"a": "1"}), "one", false).unwrap();
    for empty in [json!([]), json!([{}])] {
        let mut object = one.clone();
        object["metadata"]["managedFields"] = empty;
        update_managed_fields(Some(&one), &mut object, types(), &writer("edit", T2));
        assert_eq!(object["metadata"].get("managedFields"), None);
        let applied = run(Some(&object), json!({"a": "1"}), "two", false).unwrap();
        let names: Vec<&Value> = applied["metadata"]["managedFields"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| &m["manager"])
            .collect();
        assert_eq!(names, ["two", "before-first-apply"]);
    }
}

#[test]
fn an_update_without_managers_keeps_those_that_are_stored() {
    let one = run(None, json!({"a": "1"}), "one", false).unwrap();
    let mut object = one.clone();
    object["metadata"].as_object_mut().unwrap().remove("managedFields");
    update_managed_fields(Some(&one), &mut object, types(), &writer("edit", T2));
    assert_eq!(object, one);
}

#[test]
fn the_oldest_updaters_are_merged() {
    let mut live = config_map(json!({}));
    update_managed_fields(None, &mut live, types(), &writer("w", T1));
    let names: Vec<String> = (0..14).map(|i| format!("w{i:02}")).collect();
    for (i, name) in names.iter().enumerate() {
        let now = format!("2024-01-01T00:01:{i:02}Z");
        let mut next = live.clone();
        next["data"][name] = json!("x");
        update_managed_fields(
            Some(&live),
            &mut next,
            types(),
            &Writer {
                manager: name,
                api_version: "v1",
                subresource: "",
                now: &now,
            },
        );
        live = next;
    }
    let list = live["metadata"]["managedFields"].as_array().unwrap();
    assert_eq!(list.len(), 10);
    assert_eq!(list[0]["manager"], "ancient-changes");
}

#[test]
fn list_maps_merge_by_key_and_keep_others_entries() {
    let types = TypeInfo::builtin("v1", "Pod").unwrap();
    let pod = |containers: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": containers}});
    let w = |m| Writer {
        manager: m,
        api_version: "v1",
        subresource: "",
        now: T1,
    };
    let one = apply(
        None,
        &pod(json!([{"name": "a", "image": "x", "ports": [{"containerPort": 80}]}])),
        false,
        types,
        &w("one"),
    )
    .unwrap();
    let fields = &one["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:containers"]["k:{\"name\":\"a\"}"];
    assert_eq!(
        *fields,
        json!({".": {}, "f:image": {}, "f:name": {}, "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}})
    );
    let two = apply(
        Some(&one),
        &pod(json!([{"name": "b", "image": "y"}])),
        false,
        types,
        &w("two"),
    )
    .unwrap();
    let names: Vec<&Value> = two["spec"]["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["name"])
        .collect();
    assert_eq!(names, ["a", "b"]);
    let gone = apply(Some(&two), &pod(json!([])), false, types, &w("one")).unwrap();
    assert_eq!(gone["spec"]["containers"], json!([{"name": "b", "image": "y"}]));
    let error = apply(
        None,
        &pod(json!([{"name": "a"}, {"name": "a"}])),
        false,
        types,
        &w("one"),
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (/p; /v1, Kind=Pod): .spec.containers: duplicate entries for key [name=\"a\"]"
    );
}

#[test]
fn configurations_that_do_not_fit_are_refused() {
    let error = run(None, json!({"a": 1}), "one", false).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (n/c; /v1, Kind=ConfigMap): .data.a: expected string, got &value.valueUnstructured{Value:1}"
    );
    let mut unknown = config_map(json!({}));
    unknown["nope"] = json!(1);
    let error = apply(None, &unknown, false, types(), &writer("one", T1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to create typed patch object (n/c; /v1, Kind=ConfigMap): .nope: field not declared in schema"
    );
    let mut managed = config_map(json!({}));
    managed["metadata"]["managedFields"] = json!([]);
    assert_eq!(
        apply(None, &managed, false, types(), &writer("one", T1)),
        Err(ApplyError::BadRequest("metadata.managedFields must be nil".into()))
    );
}

#[test]
fn the_status_belongs_to_its_subresource() {
    let types = TypeInfo::builtin("v1", "Pod").unwrap();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "x"}, "status": {"phase": "Running"}});
    update_managed_fields(None, &mut pod, types, &writer("create", T1));
    assert_eq!(
        pod["metadata"]["managedFields"][0]["fieldsV1"],
        json!({"f:spec": {"f:nodeName": {}}})
    );
    let mut status = pod.clone();
    status["status"]["phase"] = json!("Failed");
    status["spec"]["nodeName"] = json!("ignored");
    let w = Writer {
        manager: "kubelet",
        api_version: "v1",
        subresource: "status",
        now: T2,
    };
    update_managed_fields(Some(&pod), &mut status, types, &w);
    assert_eq!(
        status["metadata"]["managedFields"][1]["fieldsV1"],
        json!({"f:status": {"f:phase": {}}})
    );
    assert_eq!(status["metadata"]["managedFields"][1]["subresource"], "status");
}

#[test]
fn kubectl_takes_over_what_its_client_side_apply_wrote() {
    let mut live = config_map(json!({"a": "1", "b": "1"}));
    let last = config_map(json!({"a": "1"}));
    live["metadata"]["annotations"] = json!({LAST_APPLIED: last.to_string()});
    update_managed_fields(None, &mut live, types(), &writer("kubectl-client-side-apply", T1));
    let error = apply(
        Some(&live),
        &config_map(json!({"a": "2"})),
        false,
        types(),
        &writer("other", T2),
    )
    .unwrap_err();
    assert!(matches!(error, ApplyError::Conflicts(_)));
    let taken = apply(
        Some(&live),
        &config_map(json!({"a": "2"})),
        false,
        types(),
        &writer("kubectl", T2),
    )
    .unwrap();
    assert_eq!(taken["data"], json!({"a": "2", "b": "1"}));
    assert!(
        taken["metadata"]["annotations"][LAST_APPLIED]
            .as_str()
            .unwrap()
            .contains("\"a\":\"2\"")
    );
    assert!(
        apply(
            Some(&live),
            &config_map(json!({"b": "2"})),
            false,
            types(),
            &writer("kubectl", T2)
        )
        .is_err()
    );
}

fn data() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-c]", "[xy]", 0..3).prop_map(|m| serde_json::to_value(m).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn applying_twice_is_applying_once(steps in prop::collection::vec((data(), 0..3usize), 1..5)) {
        let names = ["one", "two", "three"];
        let mut live: Option<Value> = None;
        for (data, who) in steps {
            let applied = config_map(data.clone());
            let once = apply(live.as_ref(), &applied, true, types(), &writer(names[who], T1)).unwrap();
            let twice = apply(Some(&once), &applied, true, types(), &writer(names[who], T2)).unwrap();
            prop_assert_eq!(&once, &twice);
            for (key, value) in data.as_object().unwrap() {
                prop_assert_eq!(&once["data"][key], value);
            }
            live = Some(once);
        }
    }

    #[test]
    fn the_last_applier_gone_leaves_nothing(first in data(), second in data()) {
        let one = run(None, first, "one", true).unwrap();
        let two = run(Some(&one), second, "two", true).unwrap();
        let three = run(Some(&two), json!({}), "one", true).unwrap();
        let four = run(Some(&three), json!({}), "two", true).unwrap();
        prop_assert_eq!(four["data"].as_object().map(Map::len).unwrap_or_default(), 0);
    }

    #[test]
    fn no_object_breaks_apply(live in crate::admission::schema::tests::any_json(), applied in crate::admission::schema::tests::any_json()) {
        for types in [types(), TypeInfo::builtin("v1", "Pod").unwrap()] {
            let _ = apply(Some(&live), &applied, false, types, &writer("a", T1));
            let mut after = applied.clone();
            update_managed_fields(Some(&live), &mut after, types, &writer("a", T1));
        }
    }
}
